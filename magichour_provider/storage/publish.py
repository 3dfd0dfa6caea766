"""Write a file so that its name shows all of it or nothing.

On a disk: a temporary file beside the target, then a rename (`local_writer`). In S3 its multipart upload
(`s3_writer`); in Google Cloud Storage and Azure fsspec's, which publishes at its end too and can be given up
before. In any other store: a temporary name, then the store's move, which is as atomic as the store makes it.

Writers let the errors of the file system and the store through; `landing` explains them.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from magichour_provider.storage.cleanup import part_name
from magichour_provider.storage.locations import PUBLISH_ON_CLOSE, S3_SCHEMES, ObjectPath
from magichour_provider.storage.publish_local import LocalWriter
from magichour_provider.storage.publish_s3 import S3Writer
from magichour_provider.storage.target import Target

log = logging.getLogger(__name__)

_STORE_BLOCK_BYTES = 8 << 20


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
    if isinstance(target.place, Path):
        return LocalWriter(target, target.place, exclusive=exclusive)
    if target.place.scheme in S3_SCHEMES:
        return S3Writer(target, target.place, exclusive=exclusive)
    return StoreWriter(target, target.place, exclusive=exclusive)


class StoreWriter:
    """Writes through fsspec. Nothing but `commit` may publish: neither `close` nor the garbage collector."""

    def __init__(self, target: Target, place: ObjectPath, *, exclusive: bool) -> None:
        self._target, self._exclusive = target, exclusive
        self._filesystem, self._path = place.connect()
        self._refuse_existing()
        self._part: str | None = None
        if place.scheme not in PUBLISH_ON_CLOSE:
            folder, _, name = self._path.rpartition("/")
            if folder:
                self._filesystem.makedirs(folder, exist_ok=True)
            self._part = f"{folder}/{part_name(name)}"
        self._file: Any = self._filesystem.open(self._part or self._path, "wb", block_size=_STORE_BLOCK_BYTES)

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._file.write(chunk)

    def commit(self) -> None:
        """End the upload; the store then shows the object."""
        self._refuse_existing()
        self._file.close()
        if self._part is not None:
            _move(self._filesystem, self._part, self._path)
            self._part = None

    def abort(self) -> None:
        """Give the upload up."""
        try:
            _give_up(self._file)
        except Exception as error:
            log.debug("The upload to %s could not be given up cleanly: %s", self._target.display, error)
        if self._part is not None:
            with suppress(Exception):
                self._filesystem.rm_file(self._part)

    def _refuse_existing(self) -> None:
        if self._exclusive and self._filesystem.exists(self._path):
            raise self._target.exists_already()


def _move(filesystem: Any, part: str, path: str) -> None:
    """By the store's own move where it has one; fsspec's takes names for patterns, where they look it."""
    from fsspec import AbstractFileSystem  # type: ignore[import-untyped]

    if type(filesystem).mv is AbstractFileSystem.mv:
        filesystem.cp_file(part, path)
        filesystem.rm_file(part)
    else:
        filesystem.mv(part, path)


def _give_up(file: Any) -> None:
    from fsspec.spec import AbstractBufferedFile  # type: ignore[import-untyped]

    if not isinstance(file, AbstractBufferedFile):
        file.close()
        return
    file.closed = True  # close() and __del__ upload the rest and publish, unless this says they have run
    file.discard()
