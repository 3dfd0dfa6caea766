"""Write a file on a disk so that its name shows all of it or nothing."""

from __future__ import annotations

import errno
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from magichour_provider.storage.cleanup import hold, part_name
from magichour_provider.storage.target import Target

_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
_SYNC_BYTES = 64 << 20


class LocalWriter:
    """Writes a temporary file beside the target, with the mode that the umask gives, then renames it.

    What is written goes to the disk while more is on its way, so that the end need not wait for all of it.
    """

    def __init__(self, target: Target, path: Path, *, exclusive: bool) -> None:
        self._target, self._path, self._exclusive = target, path, exclusive
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if exclusive and _stands(path):
            raise target.exists_already()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._part, self._file = _open_part(path)
        self._unsynced = 0
        self._syncing: Future[None] | None = None
        self._syncer = ThreadPoolExecutor(1, "magichour-sync")

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        view = memoryview(chunk)
        while view:
            view = view[self._file.write(view) :]
        self._unsynced += len(chunk)
        if self._unsynced >= _SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            self._finish_sync()
            self._syncing = self._syncer.submit(os.fdatasync, self._file.fileno())
            self._unsynced = 0

    def commit(self) -> None:
        """Sync the bytes to the disk, then let the name show them."""
        self._finish_sync()
        os.fsync(self._file.fileno())
        if self._exclusive:
            self._link()
        else:
            self._part.replace(self._path)
        self._close()
        _sync_folder(self._path.parent)

    def abort(self) -> None:
        """Remove the temporary file."""
        with suppress(OSError):
            self._part.unlink(missing_ok=True)
        with suppress(OSError):
            self._close()

    def _finish_sync(self) -> None:
        if self._syncing is not None:
            self._syncing.result()

    def _close(self) -> None:
        """Last of all: until then the lock says that the temporary file is somebody's."""
        self._syncer.shutdown()
        self._file.close()

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


def _open_part(path: Path) -> tuple[Path, BinaryIO]:
    while True:
        part = path.with_name(part_name(path.name))
        file = part.open("xb", buffering=0)
        if hold(file) and part.exists():  # nobody has cleaned it away in between
            return part, file
        file.close()


def _stands(path: Path) -> bool:
    """Whether anything has this name; unlike `os.path.lexists`, raises what makes the name impossible."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some file systems cannot; the file itself is synced
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
