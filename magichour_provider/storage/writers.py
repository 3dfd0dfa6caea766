"""Write a file so that its name shows all of it or nothing.

On a disk: a temporary file beside the target, then a rename. In S3, Google Cloud Storage and Azure: the
store's own upload, which publishes at its end and can be given up before. In any other store: a temporary
name, then the store's move, which is as atomic as the store makes it.

Writers let the errors of the file system and the store through; `landing` explains them.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from magichour_provider.storage.place import StorePath
from magichour_provider.storage.target import Target

log = logging.getLogger(__name__)

_PUBLISH_ON_CLOSE = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})
_STORE_BLOCK_BYTES = 8 << 20
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


class Writer(Protocol):
    """Opened on construction; then `write`s, and one `commit` or `abort`. `abort` never raises."""

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""

    def commit(self) -> None:
        """Publish what was written under the target's name; durable when it returns."""

    def abort(self) -> None:
        """Throw away what was written; what stood under the target's name stays."""


def open_writer(target: Target, *, exclusive: bool) -> Writer:
    """A writer for `target`; an exclusive one refuses an existing target, now and at `commit`."""
    if isinstance(target.place, StorePath):
        return StoreWriter(target, target.place, exclusive)
    return LocalWriter(target, target.place, exclusive)


class LocalWriter:
    """Writes `.<name>.<random>.part` beside the target, with the mode that the umask gives."""

    def __init__(self, target: Target, path: Path, exclusive: bool) -> None:
        self._target, self._path, self._exclusive = target, path, exclusive
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if _stands(path) and exclusive:
            raise target.exists_already()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._part = path.with_name(_part_name(path.name))
        self._file = self._part.open("xb", buffering=1 << 20)

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._file.write(chunk)

    def commit(self) -> None:
        """Sync the bytes to the disk, then let the name show them."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if self._exclusive:
            self._link()
        else:
            self._part.replace(self._path)
        _sync_folder(self._path.parent)

    def abort(self) -> None:
        """Remove the temporary file."""
        with suppress(OSError):  # the flush in close() fails again on a full disk
            self._file.close()
        with suppress(OSError):
            self._part.unlink(missing_ok=True)

    def _link(self) -> None:
        """A hard link refuses an existing name, so only one of two writers wins."""
        try:
            os.link(self._part, self._path)
        except FileExistsError:
            raise self._target.exists_already() from None
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            if _stands(self._path):
                raise self._target.exists_already() from None
            self._part.replace(self._path)
        else:
            with suppress(OSError):  # published already: a leftover must not fail the landing
                self._part.unlink()


class StoreWriter:
    """Writes through fsspec. Nothing but `commit` may publish: neither `close` nor the garbage collector."""

    def __init__(self, target: Target, place: StorePath, exclusive: bool) -> None:
        self._target, self._exclusive = target, exclusive
        self._filesystem, self._path = place.connect()
        self._refuse_existing()
        self._part: str | None = None
        if place.scheme not in _PUBLISH_ON_CLOSE:
            folder, _, name = self._path.rpartition("/")
            if folder:
                self._filesystem.makedirs(folder, exist_ok=True)
            self._part = f"{folder}/{_part_name(name)}"
        self._file: Any = self._filesystem.open(self._part or self._path, "wb", block_size=_STORE_BLOCK_BYTES)

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._file.write(chunk)

    def commit(self) -> None:
        """End the upload; the store then shows the object."""
        self._refuse_existing()
        self._file.close()
        if self._part is not None:
            self._filesystem.mv(self._part, self._path)
            self._part = None

    def abort(self) -> None:
        """Give the upload up."""
        try:
            _give_up(self._file)
        except Exception as error:
            log.debug("The upload to %s could not be given up cleanly: %s", self._target.display, error)
        if self._part is not None:
            with suppress(Exception):
                self._filesystem.rm(self._part)

    def _refuse_existing(self) -> None:
        if self._exclusive and self._filesystem.exists(self._path):
            raise self._target.exists_already()


def _give_up(file: Any) -> None:
    from fsspec.spec import AbstractBufferedFile  # type: ignore[import-untyped]

    if not isinstance(file, AbstractBufferedFile):
        file.close()
        return
    file.closed = True  # close() and __del__ upload the rest and publish, unless this says they have run
    file.discard()


def _stands(path: Path) -> bool:
    """Whether anything has this name; unlike `os.path.lexists`, raises what makes the name impossible."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _part_name(name: str) -> str:
    return f".{name[:40]}.{secrets.token_hex(6)}.part"


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some file systems cannot; the file itself is synced
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
