"""Contact sheets: frames of many videos on one picture, which shows at a glance what a run has made.

Memory stays flat: only small frames of each video are kept. A video that cannot be read becomes a cell with
the reason, and a warning in the log; only if no video can be read, there is no sheet.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, cast

from magichour_provider.exceptions import InvalidRequestError, MagicHourError, PictureError
from magichour_provider.jobs.arguments import unrender
from magichour_provider.storage.drawing import SEPARATOR, Cell, SheetPlan, draw_sheet, plan_sheet
from magichour_provider.storage.frames import Frames, read_frames
from magichour_provider.storage.locations import address_of, get_hostname, redact
from magichour_provider.storage.posters import encode_picture, picture_target
from magichour_provider.storage.publish import publish_bytes

if TYPE_CHECKING:
    from magichour_provider.storage.locations import PathArgument

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListedVideo:
    """A video to show, with what is known of it; `width` and `height` in pixels."""

    path: str = field(repr=False)
    project_id: str | None = None
    name: str | None = None
    seconds: float | None = None
    width: int | None = None
    height: int | None = None
    credits: int | None = None
    model: str | None = None
    hostname: str | None = None
    """The worker that saved it to its own disk, or to one that others share."""

    @property
    def label(self) -> str:
        """Its name, or else its file's."""
        file_name = redact(self.path).rstrip("/").rpartition("/")[2]
        return self.name or file_name.rpartition(".")[0] or file_name


def parse_videos(videos: object, jobs: object = None) -> list[ListedVideo]:
    """Read videos, in their order, each path once. Raises InvalidRequestError for other values.

    :param videos: paths, and what `DownloadVideoOperator` returns: one, a sequence, or a rendered template of
        either. None, from a skipped task, is left out.
    :param jobs: what `ImageToVideoOperator` or `VideoJobSensor` returned for them, in the same forms; gives
        names, models and credits.
    """
    known = {job["project_id"]: job for job in _flatten(jobs) if _text(job, "project_id")}
    found: dict[str, ListedVideo] = {}
    for item in _flatten(videos):
        download = {"path": item} if isinstance(item, str) else item
        listed = download.get("videos") or [download]
        for each in listed if isinstance(listed, (list, tuple)) else [download]:
            if _text(each, "path") is None:
                raise InvalidRequestError(
                    f"A video with the keys {', '.join(map(str, download))} has no path. Give the output of "
                    "DownloadVideoOperator, or paths."
                )
            shared = ("project_id", "name", "model", "credits_charged", "credits")  # by all videos of a job
            video = {**{key: download[key] for key in shared if key in download}, **each}
            project_id = _text(video, "project_id")
            job = known.get(project_id or "", {})
            credits = _whole(video, "credits_charged", "credits")
            found.setdefault(
                video["path"],
                ListedVideo(
                    path=video["path"],
                    project_id=project_id,
                    name=_text(video, "name") or _text(job, "name"),
                    seconds=_number(video, "duration", "end_seconds"),
                    width=_whole(video, "width"),
                    height=_whole(video, "height"),
                    credits=_whole(job, "credits_charged") if credits is None else credits,
                    model=_text(video, "model") or _text(job, "model"),
                    hostname=_text(video, "hostname"),
                ),
            )
    return list(found.values())


def _flatten(value: object) -> Iterator[Any]:
    """The paths and dicts in a value, in any depth of sequences; a text may be a rendered template."""
    value = unrender(value)
    if value is None:
        return
    if isinstance(value, (str, Mapping)):
        yield value
    elif isinstance(value, os.PathLike) or hasattr(value, "joinpath"):
        yield address_of(cast("PathArgument", value))
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        for item in value:
            yield from _flatten(item)
    else:
        what = f"{type(value).__name__} {value!r:.80} is not a video, nor a list of videos."
        raise InvalidRequestError(what)


def _text(values: object, key: str) -> str | None:
    value = values.get(key) if isinstance(values, Mapping) else None
    return value if isinstance(value, str) and value else None


def _number(values: Mapping[str, Any], *keys: str) -> float | None:
    for value in map(values.get, keys):
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 10**7:
            return float(value)
    return None


def _whole(values: Mapping[str, Any], *keys: str) -> int | None:
    found = _number(values, *keys)
    return None if found is None else round(found)


def make_contact_sheet(
    videos: Sequence[ListedVideo],
    path: PathArgument,
    *,
    path_conn_id: str | None = None,
    videos_conn_id: str | None = None,
    columns: int | None = None,
    frames: int = 3,
    title: str = "Contact sheet",
    subtitle: str = "",
) -> dict[str, Any]:
    """Write a sheet of `videos`, at least one, and describe it; arguments and result as in the operator.

    Raises DestinationError or TransferError for the sheet; if no video can be read, the error of the first
    one.
    """
    target = picture_target(path, path_conn_id, folder_name="contact-sheet.jpg")
    plan = plan_sheet(len(videos), frames=frames, aspect=_usual_aspect(videos), columns=columns)
    left_out = plan.left_out
    shown = videos[: len(videos) - left_out]
    results = [_read(video, plan, videos_conn_id) for video in shown]
    errors = [result for result in results if isinstance(result, MagicHourError)]
    readable = [result for result in results if not isinstance(result, MagicHourError)]
    if not readable:
        raise errors[0]
    aspect = _usual_aspect(readable)
    plan = plan_sheet(len(shown), frames=plan.frames, aspect=aspect, columns=columns, left_out=left_out)
    cells = [_cell(video, result) for video, result in zip(shown, results, strict=True)]
    charged = {video.project_id or video.path: video.credits for video in videos}
    known = [credits for credits in charged.values() if credits is not None]
    count = "1 video" if len(videos) == 1 else f"{len(videos):,} videos"
    total = _credits(sum(known)) if len(known) == len(charged) else None
    cells = cells[: len(videos) - plan.left_out]
    sheet = draw_sheet(cells, plan, title=title, subtitle=_joined(count, total, subtitle))
    data = encode_picture(sheet, target)
    publish_bytes(data, target)
    summary = {"width": sheet.width, "height": sheet.height, "videos": len(videos), "unreadable": len(errors)}
    return {"path": target.path, "size": len(data), **summary}


def _usual_aspect(shapes: Sequence[ListedVideo | Frames]) -> float:
    """Width over height of the videos: the median of the known ones."""
    known = [shape.width / shape.height for shape in shapes if shape.width and shape.height]
    return median(known) if known else 16 / 9


def _read(video: ListedVideo, plan: SheetPlan, conn_id: str | None) -> Frames | MagicHourError:
    within = plan.frame_width, round(plan.frame_width * 16 / 9)  # no frame is shown taller
    moments = [0.5] if plan.frames == 1 else [index / (plan.frames - 1) for index in range(plan.frames)]
    try:
        return read_frames(video.path, moments, within=within, conn_id=conn_id)
    except MagicHourError as error:
        is_missing = isinstance(error.__cause__, FileNotFoundError)
        if is_missing and video.hostname not in (None, here := get_hostname()):
            what = (
                f"Worker {video.hostname} saved {redact(video.path)}. This worker ({here}) has no such file."
            )
            error = PictureError(
                what, remedy="Save videos to object storage, or to a disk that workers share."
            )
        log.warning("A video is missing on the contact sheet. %s", error)
        return error


def _cell(video: ListedVideo, result: Frames | MagicHourError) -> Cell:
    seconds, size = video.seconds, None
    if isinstance(result, Frames):
        seconds, size = seconds or result.duration, f"{result.width} x {result.height}"
    length = f"{round(seconds, 1):g} s" if seconds else None
    detail = _joined(length, _credits(video.credits), video.model, size)
    if isinstance(result, Frames):
        return Cell(video.label, detail, result.images)
    return Cell(video.label, detail, problem=result.what)


def _credits(number: int | None) -> str | None:
    return None if number is None else "1 credit" if number == 1 else f"{number:,} credits"


def _joined(*parts: str | None) -> str:
    return SEPARATOR.join(part for part in parts if part)
