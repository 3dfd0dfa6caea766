"""Read a clip wherever it lies, for a decoder that asks for whatever the clip's own index claims.

Only what the decoder asks for is read, so padding costs nothing, and of an index or a frame no more than
`MAX_BYTES`, so that a clip which is made to hurt fills no memory.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from magichour_provider.exceptions import MagicHourError, NetworkError, PictureError
from magichour_provider.storage.locations import ObjectPath, brief, diagnose, display, locate
from magichour_provider.storage.sniff import describe_start

MAX_BYTES = 64 << 20
"""The most that is read for a clip's index, and for one frame of it."""

_BLOCK_BYTES = 1 << 20


class UnusableClip(Exception):
    """Why no picture can be made of a clip that can be read; `open_clip` makes a PictureError of it."""


class ClipFile:
    """What PyAV reads through. PyAV may take an error of the store for the clip's end: `error` keeps it."""

    def __init__(self, handle: BinaryIO) -> None:
        self.error: Exception | None = None
        self._handle = handle
        self._left = MAX_BYTES

    def allow_more(self) -> None:
        """Let another `MAX_BYTES` be read."""
        self._left = MAX_BYTES

    def read(self, size: int) -> bytes:
        """The next bytes."""
        self._left -= size
        if self._left < 0:
            raise UnusableClip(f"its index or one of its frames is larger than {MAX_BYTES >> 20} MiB")
        try:
            return self._handle.read(size)
        except Exception as error:
            self.error = error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to an offset; one that a damaged index has made up is no trouble of the store's."""
        return self._handle.seek(offset, whence)

    def tell(self) -> int:
        """The offset of the next byte."""
        return self._handle.tell()

    def describe(self, error: Exception) -> str:
        """Why a decoder gave up, in words."""
        self.allow_more()
        self.seek(0)
        head = self.read(64)
        if not head:
            return "it is empty"
        if head[4:8] != b"ftyp":
            return f"it {describe_start(head)}"
        return f"it is damaged, or not a video that can be decoded ({brief(error)})"


@contextmanager
def open_clip(clip: str, conn_id: str | None = None) -> Iterator[ClipFile]:
    """Open a local path, `file://` or an object store's URL; errors of the `with` block become the tree's.

    Raises PictureError, which no retry mends, or NetworkError where a store is out of reach for now.
    """
    shown = display(clip)
    try:
        place = locate(clip, conn_id)
    except ValueError as error:
        raise PictureError(f"Clip {shown} cannot be read: {error}.") from error
    with _open(place, shown) as handle:
        file = ClipFile(handle)
        try:
            yield file
        except Exception as error:
            raise _explained(error, file, place, shown) from error
        if file.error is not None:
            raise _unreadable(file.error, place, shown) from file.error


def _open(place: Path | ObjectPath, shown: str) -> AbstractContextManager[BinaryIO]:
    try:
        if isinstance(place, Path):
            return _open_local(place, shown)
        filesystem, path = place.connect()
        return cast("AbstractContextManager[BinaryIO]", filesystem.open(path, "rb", block_size=_BLOCK_BYTES))
    except MagicHourError:
        raise
    except Exception as error:
        raise _unreadable(error, place, shown) from error


def _open_local(path: Path, shown: str) -> BinaryIO:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # to open a pipe is to wait for its other end
        raise PictureError(f"Clip {shown} is not a regular file.")
    return path.open("rb")


def _explained(error: Exception, file: ClipFile, place: Path | ObjectPath, shown: str) -> MagicHourError:
    if file.error is not None:
        return _unreadable(file.error, place, shown)
    if isinstance(error, MagicHourError):
        return error
    try:
        cause = str(error) if isinstance(error, UnusableClip) else file.describe(error)
    except Exception as trouble:
        return _unreadable(trouble, place, shown)
    return PictureError(f"No picture can be made of clip {shown}: {cause}.")


def _unreadable(error: Exception, place: Path | ObjectPath, shown: str) -> MagicHourError:
    trouble = diagnose(error, place)
    what = f"Clip {shown} cannot be read: {trouble.cause}."
    if trouble.permanent:
        return PictureError(what, remedy=trouble.remedy)
    return NetworkError(what, consequence=PictureError.default_consequence)
