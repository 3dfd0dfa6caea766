"""The videos of a batch, for the tab of its task: from its result manifest, before that from its state.

Both files are read as videos are: below a root, at a place that cannot be forged; and block by block.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from magichour_provider.client import is_project_id, library_url
from magichour_provider.exceptions import MagicHourError
from magichour_provider.jobs.batch_state import STATE_NAME, ItemStage, parse_states
from magichour_provider.storage.locations import (
    Location,
    LocationError,
    format_bytes,
    join,
    parse_location,
    redact,
)
from magichour_provider.ui import media
from magichour_provider.ui.media_files import MediaError, MediaRefusedError, OpenFile
from magichour_provider.ui.queries import TaskRow, as_integer, as_text
from magichour_provider.ui.view_models import BatchFilter, BatchVideo, BatchVideos, Player

STATUSES: Mapping[str, frozenset[str]] = {
    "complete": frozenset({"complete"}),
    "rendering": frozenset({"submitted"}),
    "failed": frozenset({"failed", "refused"}),
    "unknown": frozenset({"unknown"}),
    "not submitted": frozenset({"not_submitted"}),
}
"""The filters, and the statuses that they choose."""
VIDEOS_PER_PAGE = 100
_MAX_FILE_BYTES = 64 << 20
_CHANGED = "Another run has written the result manifest since. The list is that of the other run."
_NOT_YET = "The list contains an item as soon as it is submitted, and all items when the task has ended."


def read_videos(row: TaskRow, chosen: str | None, page: int) -> tuple[BatchVideos | None, tuple[str, ...]]:
    """One page of the videos of a batch, and notes; None if no file of the batch may be read. Blocks.

    :param chosen: one of `STATUSES`; None for all.
    :param page: from 1 on; beyond the last one, the last one.
    """
    found: Counter[str] = Counter()
    shown: list[Mapping[str, Any]] = []
    number = 1
    try:
        file, is_manifest = _open(row)
        for entry in _entries(row, file, is_manifest):
            found[entry["status"]] += 1
            if chosen is None or entry["status"] in STATUSES[chosen]:
                if len(shown) == VIDEOS_PER_PAGE and number < page:
                    shown, number = [], number + 1
                if len(shown) < VIDEOS_PER_PAGE:
                    shown.append(entry)
    except MediaError as error:
        return None, (str(error),) if row.batch else ()

    def address(name: str | None, page: int = 1, item: str | None = None) -> str:
        given = {"status": name, "page": page if page > 1 else None, "item": item}
        return f"task?{row.key.query}&{urlencode({key: value for key, value in given.items() if value})}"

    counts = {name: sum(found[status] for status in statuses) for name, statuses in STATUSES.items()}
    total = found.total() if chosen is None else counts[chosen]
    first = (number - 1) * VIDEOS_PER_PAGE
    is_of_others = is_manifest and any(
        row.batch.get(status, found[status]) != found[status] for status in set().union(*STATUSES.values())
    )
    notes = ((_CHANGED, is_of_others), (_NOT_YET, not is_manifest and row.batch.get("not_submitted")))
    videos = BatchVideos(
        videos=tuple(_video(row, entry, address(chosen, number, entry["key"])) for entry in shown),
        filters=(
            BatchFilter("all", found.total(), address(None), chosen is None),
            *(BatchFilter(name, counts[name], address(name), name == chosen) for name in STATUSES),
        ),
        first=first + 1 if total else 0,
        last=first + len(shown),
        total=total,
        source=redact(_as_text(file.location)),
        previous=address(chosen, number - 1) if number > 1 else None,
        next=address(chosen, number + 1) if first + len(shown) < total else None,
    )
    return videos, tuple(note for note, is_shown in notes if is_shown)


def _video(row: TaskRow, entry: Mapping[str, Any], play: str) -> BatchVideo:
    project_id, path = as_text(entry.get("project_id")), as_text(entry.get("path"))
    return BatchVideo(
        key=entry["key"],
        status=entry["status"],
        credits_charged=as_integer(entry.get("credits")),
        library_url=library_url(project_id) if project_id and is_project_id(project_id) else None,
        size=as_integer(entry.get("size")),
        play=play if path is not None and media.may_open(row, path) else None,
        code=as_text(entry.get("code")),
        message=as_text(entry.get("message")),
    )


def player(row: TaskRow, key: str) -> Player:
    """The player of an item's video. Raises MediaError if the file cannot be played."""
    file = open_video(row, key)
    file.handle.close()
    return Player(f"video?{row.key.query}&{urlencode({'item': key})}", path=redact(_as_text(file.location)))


def open_video(row: TaskRow, key: str) -> OpenFile:
    """Open the video of an item, at the path that the file of the batch names. Raises MediaError."""
    entries = _entries(row, *_open(row), about=key)
    path = next((as_text(entry.get("path")) for entry in entries if entry["key"] == key), None)
    if path is None:
        raise MediaRefusedError("The batch has no such video.")
    return media.open_at(row, path, "video")


def _open(row: TaskRow) -> tuple[OpenFile, bool]:
    """Open a file of the batch; and whether it is the result manifest. Raises MediaError."""
    manifest, field = as_text(row.batch.get("manifest")), "state_path"
    if manifest is not None:
        with suppress(MediaError):  # as that of a batch without a folder: its path is no rendered field
            return media.open_at(row, manifest, "batch"), True
    if row.field(field) is None:
        field = "path"
    try:
        place = parse_location(row.field(field) or "")
    except LocationError:
        raise MediaRefusedError("Airflow does not know any more where the files of this batch are.") from None
    path = _as_text(place if field == "state_path" else join(place, STATE_NAME))
    return media.open_at(row, path, "batch", confirmed_by=field), False


def _entries(
    row: TaskRow, file: OpenFile, is_manifest: bool, about: str | None = None
) -> Iterator[Mapping[str, Any]]:
    """The entries of the result manifest, or those that the state would give. Raises MediaError.

    :param about: the key of the only item that is wanted: other lines are not parsed.
    """
    if file.size > _MAX_FILE_BYTES:
        file.handle.close()
        raise MediaRefusedError(f"The file of the batch has more than {format_bytes(_MAX_FILE_BYTES)}.")
    lines: Iterable[bytes] = file.lines()
    if about is not None:
        texts = [json.dumps(about, ensure_ascii=is_ascii).encode() for is_ascii in (True, False)]
        lines = (line for line in lines if any(text in line for text in texts))
    entries: Iterable[Any] = map(_parse_entry, lines) if is_manifest else _parse_state(row, lines)
    for entry in entries:
        if isinstance(entry, dict) and as_text(entry.get("key")) and as_text(entry.get("status")):
            yield entry


def _parse_entry(line: bytes) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(line)


def _parse_state(row: TaskRow, lines: Iterable[bytes]) -> Iterator[Mapping[str, Any]]:
    try:
        states, _ = parse_states(lines, "the state")
    except MagicHourError as error:
        raise MediaRefusedError(error.what) from None
    for state in states.values():
        is_being_sent = state.stage is ItemStage.INTENT and not state.error and row.state == "running"
        yield {**state.result(), **({"status": "submitted"} if is_being_sent else {})}


def _as_text(location: Location) -> str:
    return str(location) if isinstance(location, Path) else location.url
