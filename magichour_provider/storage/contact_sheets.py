"""A contact sheet: frames of many clips on one picture, so that a person sees at a glance what a run made.

Memory stays flat: of each clip only small frames are kept. A clip that cannot be read becomes a cell that
says so, and a warning in the log; only where no clip at all can be read is there no sheet.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from statistics import median
from typing import Any

from magichour_provider.exceptions import MagicHourError
from magichour_provider.storage.drawing import SEPARATOR, Cell, draw_sheet
from magichour_provider.storage.frames import Stills, read_stills
from magichour_provider.storage.layout import Plan, plan_sheet
from magichour_provider.storage.listing import ListedClip
from magichour_provider.storage.picture_publishing import encode, picture_target, publish

log = logging.getLogger(__name__)

FILE_NAME = "contact-sheet.jpg"
_USUAL_ASPECT = 16 / 9
_TALLEST = 16 / 9
"""Height over width of a frame that is kept, at most."""


def make_contact_sheet(
    clips: Sequence[ListedClip],
    path: str,
    *,
    path_conn_id: str | None = None,
    clips_conn_id: str | None = None,
    columns: int | None = None,
    frames: int = 3,
    title: str = "Contact sheet",
    subtitle: str = "",
) -> dict[str, Any]:
    """Write a sheet of `clips`, at least one, and describe it.

    :param path: a file that ends in .jpg, .jpeg or .png, or a folder, which gets a `contact-sheet.jpg`.
    :param path_conn_id: Airflow connection of the object store that the sheet goes to.
    :param clips_conn_id: the one of the store where the clips are.
    :param columns: clips in a row; None: as many as suit.
    :param frames: frames of each clip, evenly spread from the first to the last; one is from the middle. Less
        where there are very many clips.
    :return: `path`, `size` in bytes, `width` and `height` in pixels, `clips` (how many there are) and
        `unreadable` (how many of them no frame could be had from).

    Raises DestinationError or TransferError for the sheet; if no clip can be read, what the first one raised.
    """
    target = picture_target(path, path_conn_id, folder_name=FILE_NAME)
    plan = plan_sheet(len(clips), frames=frames, aspect=_usual_aspect(clips), columns=columns)
    results = [_read(clip, plan, clips_conn_id) for clip in clips[: len(clips) - plan.left_out]]
    errors = [result for result in results if isinstance(result, MagicHourError)]
    stills = [result for result in results if isinstance(result, Stills)]
    if not stills:
        raise errors[0]
    plan = plan_sheet(
        len(results),
        frames=plan.frames,
        aspect=_usual_aspect(stills),
        columns=columns,
        left_out=plan.left_out,
    )
    cells = [_cell(clip, result) for clip, result in zip(clips, results, strict=False)]
    subtitle = _joined(_summary(clips), subtitle)
    sheet = draw_sheet(cells[: len(clips) - plan.left_out], plan, title=title, subtitle=subtitle)
    data = encode(sheet, target)
    publish(data, target)
    return {
        "path": target.path,
        "size": len(data),
        "width": sheet.width,
        "height": sheet.height,
        "clips": len(clips),
        "unreadable": len(errors),
    }


def _usual_aspect(shapes: Sequence[ListedClip | Stills]) -> float:
    """Width over height of the clips, the median of those that are known."""
    known = [shape.width / shape.height for shape in shapes if shape.width and shape.height]
    return median(known) if known else _USUAL_ASPECT


def _read(clip: ListedClip, plan: Plan, conn_id: str | None) -> Stills | MagicHourError:
    within = plan.frame_width, round(plan.frame_width * _TALLEST)
    try:
        return read_stills(clip.path, _moments(plan.frames), within=within, conn_id=conn_id)
    except MagicHourError as error:
        log.warning("The contact sheet has no picture of a clip. %s", error)
        return error


def _moments(frames: int) -> list[float]:
    return [0.5] if frames == 1 else [index / (frames - 1) for index in range(frames)]


def _cell(clip: ListedClip, result: Stills | MagicHourError) -> Cell:
    if isinstance(result, MagicHourError):
        return Cell(clip.label, _details(clip, clip.seconds), problem=result.what)
    size = f"{result.width} x {result.height}"
    return Cell(clip.label, _details(clip, clip.seconds or result.duration, size), result.images)


def _details(clip: ListedClip, seconds: float | None, size: str | None = None) -> str:
    return _joined(_seconds(seconds), _credits(clip.credits), clip.model, size)


def _summary(clips: Sequence[ListedClip]) -> str:
    count = "1 clip" if len(clips) == 1 else f"{len(clips):,} clips"
    charged = {clip.project_id or clip.path: clip.credits for clip in clips}
    known = [credits for credits in charged.values() if credits is not None]
    return _joined(count, _credits(sum(known)) if len(known) == len(charged) else None)


def _seconds(seconds: float | None) -> str | None:
    return f"{round(seconds, 1):g} s" if seconds else None


def _credits(number: int | None) -> str | None:
    return None if number is None else "1 credit" if number == 1 else f"{number:,} credits"


def _joined(*parts: str | None) -> str:
    return SEPARATOR.join(part for part in parts if part)
