"""Bring a clip home: stream, check, publish atomically.

    target = resolve_target("s3://clips/", project_id)
    with Landing(target) as landing:
        for chunk in download:
            landing.write(chunk)
        landed = landing.publish(expected_size)

Invariant, not to be relaxed: under the target's name there is, at every moment, either what stood there
before or a whole mp4. Leaving the `with` block in any way but through `publish` leaves nothing behind; only a
killed process leaves its temporary file. Memory stays flat whatever the size of the clip.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from magichour_provider.exceptions import (
    DestinationError,
    DownloadError,
    MagicHourError,
    NotAVideoError,
)
from magichour_provider.jobs.request import IfExists
from magichour_provider.storage.mp4 import Mp4Scanner
from magichour_provider.storage.publish import Writer, open_writer
from magichour_provider.storage.target import Target

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20
_STORE_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class DownloadedFile:
    """A whole clip under its name. `size` in bytes, `duration` in seconds, `width` and `height` in pixels."""

    path: str
    size: int
    sha256: str
    duration: float
    width: int
    height: int
    fps: float


class AtomicDownload:
    """A clip on its way to `target`; use it in a `with` block.

    Unless `if_exists` is "overwrite", an existing target is refused at the start and at the publication,
    where on a disk and in S3 only one of two writers wins. For "skip", ask `existing` before; a clip that
    another writer has landed meanwhile is then taken instead of this one.
    Raises DestinationError, or TransferError where a retry may help.
    """

    def __init__(self, target: Target, *, if_exists: IfExists = "overwrite") -> None:
        self._target = target
        self._if_exists = if_exists
        self._tally = StreamDigest()
        self._writer: Writer | None = None

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._tally.size

    def __enter__(self) -> AtomicDownload:
        try:
            self._open()
        except BaseException:  # interrupted after it was opened
            self._discard()
            raise
        return self

    def begin_anew(self, algorithms: Iterable[str] = ()) -> None:
        """Throw away what was written, if anything was, and take the clip from its first byte.

        :param algorithms: the digests to compute besides SHA-256, as hashlib calls them.
        """
        self._tally = StreamDigest(algorithms)
        if self._writer is None or self._written:
            self._discard()
            self._open()

    def write(self, chunk: bytes) -> None:
        """Take the next bytes. Raises NotAVideoError as soon as they cannot be an mp4."""
        writer = self._opened()
        with self._discarding_on_error():
            self._tally.feed(chunk)
            self._written = True
            writer.write(chunk)

    def digest(self, algorithm: str) -> str:
        """The digest of what was written so far, in hex."""
        return self._tally.digest(algorithm)

    def publish(self, expected_size: int | None = None) -> DownloadedFile:
        """Check the whole, and let the target's name show it.

        :param expected_size: the announced length in bytes; None where none was.

        Raises DownloadError for another length, NotAVideoError for anything but a whole mp4.
        """
        writer = self._opened()
        try:
            with self._discarding_on_error():
                self._check_size(expected_size)
                landed = self._tally.landed_at(self._target.path)
                writer.commit()
        except DestinationError:
            found = existing(self._target) if self._if_exists == "skip" else None
            if found is None or found.sha256 != self.digest("sha256"):
                raise
            return found
        self._writer = None
        return landed

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    def _open(self) -> None:
        with _explaining(self._target):
            self._writer = open_writer(self._target, exclusive=self._if_exists != "overwrite")
        self._written = False

    def _check_size(self, expected_size: int | None) -> None:
        if expected_size is not None and self.size != expected_size:
            raise DownloadError(f"{self.size} bytes of the clip arrived, and {expected_size} were announced.")

    @contextmanager
    def _discarding_on_error(self) -> Iterator[None]:
        """After a failed step the bytes have a gap, so nothing of them may be published any more."""
        try:
            with _explaining(self._target):
                yield
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        if self._writer is not None:
            self._writer.abort()
            self._writer = None

    def _opened(self) -> Writer:
        if self._writer is None:
            raise RuntimeError("Landing is written to inside its `with` block, and published once")
        return self._writer


def existing(target: Target) -> DownloadedFile | None:
    """Read back what stands under the target's name; None where nothing does, or no whole mp4.

    Streams the file. Raises DestinationError, or TransferError where a retry may help.
    """
    found = read_back(target)
    return None if found is None else found.landed_at(target.path)


def read_back(target: Target, algorithms: Iterable[str] = ()) -> StreamDigest | None:
    """As `existing`, and to be asked for digests besides SHA-256, as hashlib calls them."""
    tally = StreamDigest(algorithms)
    try:
        for chunk in _chunks_of(target):
            tally.feed(chunk)
        tally.landed_at(target.path)
    except FileNotFoundError:
        return None
    except NotAVideoError as error:
        log.warning("%s exists and is not taken for a clip: %s", target.display, error.what)
        return None
    return tally


def _chunks_of(target: Target) -> Iterator[bytes]:
    with _explaining(target, missing_is_fine=True):
        if isinstance(target.place, Path):
            if target.place.is_fifo() or target.place.is_socket() or target.place.is_char_device():
                raise DestinationError(f"{target.display} exists and is not a regular file.")
            handle = target.place.open("rb")
        else:
            filesystem, path = target.place.connect()
            handle = filesystem.open(path, "rb", block_size=_STORE_BLOCK_BYTES)
        with handle:
            while chunk := handle.read(_CHUNK_BYTES):
                yield chunk


class StreamDigest:
    """Length, digests and mp4 structure of the bytes that pass."""

    def __init__(self, algorithms: Iterable[str] = ()) -> None:
        self.size = 0
        names = {"sha256", *algorithms}
        self._digests = {name: hashlib.new(name, usedforsecurity=False) for name in names}
        self._mp4 = Mp4Scanner()

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes. Raises NotAVideoError as soon as they cannot be an mp4."""
        self._mp4.feed(chunk)
        for digest in self._digests.values():
            digest.update(chunk)
        self.size += len(chunk)

    def digest(self, algorithm: str) -> str:
        """The digest so far, in hex."""
        return self._digests[algorithm].hexdigest()

    def landed_at(self, path: str) -> DownloadedFile:
        """What has passed, as a whole clip. Raises NotAVideoError where it is none."""
        clip = self._mp4.finish()
        return DownloadedFile(
            path, self.size, self.digest("sha256"), clip.duration, clip.width, clip.height, clip.fps
        )


@contextmanager
def _explaining(target: Target, *, missing_is_fine: bool = False) -> Iterator[None]:
    """Turn what the file system or the store raises into an error of the tree."""
    try:
        yield
    except MagicHourError:
        raise
    except Exception as error:
        if missing_is_fine and isinstance(error, FileNotFoundError):
            raise
        raise target.failure(error) from error
