"""Read which clips a contact sheet is to show, from whatever the tasks before it returned. Needs no extra."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from magichour_provider.exceptions import InvalidRequestError
from magichour_provider.storage.locations import display

_OF_THE_PROJECT = ("project_id", "name", "model", "credits_charged", "credits")
"""What the downloads of a project have in common."""


@dataclass(frozen=True)
class ListedClip:
    """A clip to show: where it is, and what is known of it; `width` and `height` in pixels."""

    path: str = field(repr=False)
    project_id: str | None = None
    name: str | None = None
    seconds: float | None = None
    width: int | None = None
    height: int | None = None
    credits: int | None = None
    model: str | None = None

    @property
    def label(self) -> str:
        """Its name, or else its file's."""
        file_name = display(self.path).rstrip("/").rpartition("/")[2]
        return self.name or file_name.rpartition(".")[0] or file_name


def listed_clips(clips: object, jobs: object = None) -> list[ListedClip]:
    """Read clips, in their order, each path once.

    :param clips: paths, and what `DownloadVideoOperator` returns: one, or a sequence of them, or a template's
        text of either. None stands for a task that was skipped.
    :param jobs: what `ImageToVideoOperator` or `VideoJobSensor` returned for them, in the same forms: gives
        names, models and credits.

    Raises InvalidRequestError for anything else.
    """
    known = {job["project_id"]: job for job in _items(jobs) if _text(job, "project_id")}
    found: dict[str, ListedClip] = {}
    for item in _items(clips):
        for clip in _clips_of(item):
            found.setdefault(clip.path, _with_job(clip, known.get(clip.project_id, {})))
    return list(found.values())


def _items(value: object) -> Iterator[Any]:
    if isinstance(value, str):
        value = _literal(value)
    if value is None or value == "":
        return
    if isinstance(value, (str, Mapping)):
        yield value
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        for item in value:
            yield from _items(item)
    else:
        raise InvalidRequestError(f"{type(value).__name__} {value!r:.80} is not a clip, nor a list of clips.")


def _literal(text: str) -> object:
    """The value that a template has rendered as text; the text itself where it is a path."""
    if text.strip() == "None":
        return None
    if not text.lstrip().startswith(("[", "{", "(")):
        return text
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def _clips_of(item: str | Mapping[str, Any]) -> Iterator[ListedClip]:
    """The clips of one download, which for a project with several downloads are several."""
    if isinstance(item, str):
        yield ListedClip(item)
        return
    downloads = item.get("clips") or [item]
    for each in downloads if isinstance(downloads, (list, tuple)) else [item]:
        if not isinstance(each, Mapping) or not _text(each, "path"):
            raise InvalidRequestError(
                f"A clip with the keys {', '.join(map(str, item))} has no path: give the output of "
                "DownloadVideoOperator, or paths."
            )
        yield _listed({**{key: item[key] for key in _OF_THE_PROJECT if key in item}, **each})


def _listed(clip: Mapping[str, Any]) -> ListedClip:
    return ListedClip(
        path=clip["path"],
        project_id=_text(clip, "project_id"),
        name=_text(clip, "name"),
        seconds=_number(clip, "duration", "end_seconds"),
        width=_whole(clip, "width"),
        height=_whole(clip, "height"),
        credits=_whole(clip, "credits_charged", "credits"),
        model=_text(clip, "model"),
    )


def _with_job(clip: ListedClip, job: Mapping[str, Any]) -> ListedClip:
    return replace(
        clip,
        name=clip.name or _text(job, "name"),
        credits=_whole(job, "credits_charged") if clip.credits is None else clip.credits,
        model=clip.model or _text(job, "model"),
    )


def _text(values: object, key: str) -> str | None:
    value = values.get(key) if isinstance(values, Mapping) else None
    return value if isinstance(value, str) and value else None


def _number(values: Mapping[str, Any], *keys: str) -> float | None:
    for key in keys:
        value = values.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 10**7:
            return float(value)
    return None


def _whole(values: Mapping[str, Any], *keys: str) -> int | None:
    found = _number(values, *keys)
    return None if found is None else round(found)
