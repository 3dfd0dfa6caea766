"""Open a landed clip, or its poster, for the pages: checked as it stands open, and read block by block.

A local file is opened folder by folder, none of which may be a link by then, so what is exchanged between a
check and the opening is noticed. Inside a root, too, only what starts like an mp4 or a JPEG is given out.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

from magichour_provider.storage.locations import ObjectPath, diagnose
from magichour_provider.ui.media_roots import (
    SETTING,
    ClipError,
    ClipRefusedError,
    ClipRoot,
    ClipUnavailableError,
    HeldClip,
    admit,
)

Kind = Literal["clip", "poster"]

LOCAL_BLOCK_BYTES = 1 << 20
STORE_BLOCK_BYTES = 4 << 20
"""What one request asks of a store: most clips come in one to five, and a seek wastes little."""

_HEAD_BYTES = 12
_MEDIA_TYPES: dict[Kind, str] = {"clip": "video/mp4", "poster": "image/jpeg"}


class _Source(Protocol):
    """Where the bytes come from. `fetch` gives at least one byte, unless there are none."""

    block_bytes: int

    def fetch(self, start: int, end: int) -> bytes: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class ClipFile:
    """A file that stands open, to be read once, or closed; `with` closes it.

    :param name: the file's name, as the store has it.
    :param size: in bytes.
    :param etag: strong and quoted, as HTTP writes it.
    """

    name: str
    size: int
    etag: str
    last_modified: datetime | None
    media_type: str
    _source: _Source = field(repr=False)

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` up to `end`, exclusive, in blocks. Closes the file.

        Raises ClipUnavailableError where they are not to be had.
        """
        try:
            while start < end:
                block = self._source.fetch(start, min(end, start + self._source.block_bytes))
                if not block:
                    raise ClipUnavailableError("The clip became shorter while it was read.")
                start += len(block)
                yield block
        finally:
            self.close()

    def close(self) -> None:
        """Close the file; once more does no harm."""
        self._source.close()

    def __enter__(self) -> ClipFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def find(
    path: str,
    *,
    dag_id: str,
    rendered_path: str | None,
    roots: Iterable[ClipRoot],
    kind: Kind = "clip",
) -> ClipFile:
    """Open the clip at `path`, or its poster, for somebody who may read this task. Never in an event loop.

    :param path: where the task says that it has landed; taken for hostile.
    :param rendered_path: the task's own field `path` as it was rendered; None where Airflow has it no more.

    Raises ClipRefusedError, or ClipUnavailableError where it cannot be had for now.
    """
    held = admit(path, dag_id=dag_id, rendered_path=rendered_path, roots=roots)
    if isinstance(held.place, Path):
        return _open_local(held.place, held, kind)
    return _open_object(held.place, kind)


def _check_start(source: _Source, kind: Kind) -> None:
    head = source.fetch(0, _HEAD_BYTES)
    is_kind = head[4:8] == b"ftyp" if kind == "clip" else head.startswith(b"\xff\xd8\xff")
    if not is_kind:
        raise ClipRefusedError(
            f"The file there is no {'mp4' if kind == 'clip' else 'JPEG'}; nothing else is shown from the "
            f"folders of {SETTING}."
        )


def _explained(error: Exception, place: Path | ObjectPath) -> ClipError:
    trouble = diagnose(error, place)
    reason = f"The clip cannot be read where it has landed, by Airflow's API server: {trouble.cause}."
    return ClipRefusedError(reason) if trouble.permanent else ClipUnavailableError(reason)


def _etag(*parts: object) -> str:
    return f'"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"'


# ---------------------------------------------------------------------------------------------------
# Files


class _LocalFile:
    block_bytes = LOCAL_BLOCK_BYTES

    def __init__(self, handle: io.FileIO, path: Path) -> None:
        self._handle = handle
        self._path = path

    def fetch(self, start: int, end: int) -> bytes:
        try:
            return os.pread(self._handle.fileno(), end - start, start)
        except OSError as error:
            raise _explained(error, self._path) from None

    def close(self) -> None:
        self._handle.close()


def _open_local(path: Path, held: HeldClip, kind: Kind) -> ClipFile:
    try:
        handle = _open_below(held.anchor, held.folder, path)
    except OSError as error:
        raise _explained(error, path) from None
    source = _LocalFile(handle, path)
    try:
        status = os.fstat(handle.fileno())
        _check_start(source, kind)
    except BaseException:
        source.close()
        raise
    return ClipFile(
        name=path.name,
        size=status.st_size,
        etag=_etag(status.st_size, status.st_mtime_ns),
        last_modified=datetime.fromtimestamp(int(status.st_mtime), timezone.utc),
        media_type=_MEDIA_TYPES[kind],
        _source=source,
    )


def _open_below(anchor: str, root: str, path: Path) -> io.FileIO:
    """Open a regular file whose folder, with all links followed, lies below `root`.

    `anchor` may be a link; what a Dag's id has added to it may not, as a Dag's author may have made that.
    """
    start, inner = os.path.realpath(anchor), os.path.realpath(path.parent)
    top = start + root.removeprefix(anchor)
    if os.path.commonpath((top, inner)) != top:
        raise ClipRefusedError(f"A link leads out of the folder that {SETTING} names; it is not followed.")
    with ExitStack() as stack:
        folder = os.open(start, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, folder)
        for part in Path(inner).relative_to(start).parts:
            folder = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            stack.callback(os.close, folder)
        return _open_regular(path.name, folder)


def _open_regular(name: str, folder: int) -> io.FileIO:
    """Open the file `name` in an open folder; to look first keeps devices and pipes from being opened."""
    seen = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(seen.st_mode):
        raise ClipRefusedError("What stands there is no regular file.")
    # Without O_NONBLOCK, a pipe that was put there just now would wait for its other end.
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    handle = os.fdopen(descriptor, "rb", buffering=0)
    if not os.path.samestat(seen, os.fstat(descriptor)):
        handle.close()
        raise ClipRefusedError("The file was replaced while it was opened. Load the page again.")
    return handle


# ---------------------------------------------------------------------------------------------------
# Objects


class _StoreObject:
    block_bytes = STORE_BLOCK_BYTES

    def __init__(self, handle: Any, place: ObjectPath) -> None:
        self._handle = handle
        self._place = place

    def fetch(self, start: int, end: int) -> bytes:
        try:
            self._handle.seek(start)
            return bytes(self._handle.read(end - start))
        except Exception as error:
            raise _explained(error, self._place) from None

    def close(self) -> None:
        self._handle.close()


def _open_object(place: ObjectPath, kind: Kind) -> ClipFile:
    try:
        filesystem, path = place.connect()
        # Without a cache, a read is one request for just these bytes; drivers that can, ask for the object
        # that they have found, and for no other that has taken its place since.
        handle = filesystem.open(path, "rb", block_size=STORE_BLOCK_BYTES, cache_type="none")
    except Exception as error:
        raise _explained(error, place) from None
    source = _StoreObject(handle, place)
    try:
        details = _details(handle, filesystem, path, place)
        _check_start(source, kind)
    except BaseException:
        source.close()
        raise
    modified = _modified(details)
    tag = details.get("ETag") or details.get("etag") or ""
    return ClipFile(
        name=place.url.rpartition("/")[2],
        size=int(details["size"]),
        etag=_etag(details["size"], tag, modified),
        last_modified=modified,
        media_type=_MEDIA_TYPES[kind],
        _source=source,
    )


def _details(handle: Any, filesystem: Any, path: str, place: ObjectPath) -> dict[str, Any]:
    """What the driver has asked the store on opening, so that it is not asked twice."""
    try:
        details: dict[str, Any] = getattr(handle, "details", None) or filesystem.info(path)
    except Exception as error:
        raise _explained(error, place) from None
    if details.get("type") != "file":
        raise ClipRefusedError("What stands there is no regular file.")
    return details


def _modified(details: dict[str, Any]) -> datetime | None:
    """By the names that the drivers of Amazon, Azure, Google and others give it."""
    for key in ("LastModified", "last_modified", "mtime", "updated", "created"):
        moment = details.get(key)
        if isinstance(moment, datetime):
            return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
    return None
