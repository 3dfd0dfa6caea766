"""A resumable transfer: fetch the bytes of one video over as many connections as it takes."""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from magichour_provider.client.downloads import (
    DownloadHeaders,
    LinkExpiredError,
    ResumeNotPossibleError,
    ResumePoint,
)
from magichour_provider.exceptions import ConfigurationError, DownloadError, TransferError
from magichour_provider.storage.locations import format_bytes
from magichour_provider.storage.mp4 import Mp4Scanner

if TYPE_CHECKING:
    from magichour_provider.client.models import DownloadUrl
    from magichour_provider.client.sync import MagicHourClient

log = logging.getLogger(__name__)

Sleep = Callable[[float], object]
MAX_VIDEO_BYTES = 16 << 30
"""No video of at most a minute comes near; a storage that never ends its response does."""
_MAX_STALLED_FAILURES = 5
"""Failures without `_PROGRESS_RESET_BYTES` between them, after which the download fails."""
_PROGRESS_RESET_BYTES = 1 << 20
_MAX_LOGGED_BREAKS = 20
_MAX_RESTARTS = 4
"""How often fetched bytes may be discarded because nothing says that the rest is of the same file."""
_LONGEST_PAUSE_SECONDS = 8.0
_PROGRESS_EVERY_SECONDS = 5.0


@dataclass(frozen=True)
class SavedVideo:
    """A whole video under its name. `size` in bytes, `duration` in seconds, `width`, `height` in pixels."""

    path: str
    size: int
    sha256: str
    duration: float
    width: int
    height: int
    fps: float


class VideoDigest:
    """Length, digests and mp4 structure of the bytes of a stream.

    :param algorithms: the digests to compute besides SHA-256, by their names in hashlib.
    """

    def __init__(self, algorithms: Iterable[str] = ()) -> None:
        VideoDigest.restart(self, algorithms)

    def restart(self, algorithms: Iterable[str] = ()) -> None:
        """Forget all bytes."""
        self.size = 0
        names = {"sha256", *algorithms}
        self._digests = {name: hashlib.new(name, usedforsecurity=False) for name in names}
        self.mp4 = Mp4Scanner()

    def write(self, chunk: bytes) -> None:
        """Add the next bytes. Raises NotAVideoError as soon as they cannot be an mp4."""
        self.mp4.feed(chunk)
        for digest in self._digests.values():
            digest.update(chunk)
        self.size += len(chunk)

    def hexdigest(self, algorithm: str = "sha256") -> str:
        """The digest so far."""
        return self._digests[algorithm].hexdigest()

    def saved_at(self, path: str) -> SavedVideo:
        """The stream as a whole video at `path`. Raises NotAVideoError if it is none."""
        info = self.mp4.finish()
        return SavedVideo(path, self.size, self.hexdigest(), info.duration, info.width, info.height, info.fps)


class ResumableDownload:
    """One download into `sink`, over as many connections as it takes.

    A broken connection is resumed at the last byte (`Range`), if the storage confirms that the file is the
    same (`If-Range`); otherwise the download restarts. An expired URL is requested again.

    :param what: how the lines about its progress begin.
    """

    def __init__(
        self,
        client: MagicHourClient,
        get_url: Callable[[], DownloadUrl],
        sink: VideoDigest,
        what: str,
        *,
        sleep: Sleep = time.sleep,
    ) -> None:
        self._client, self._get_url, self._sink, self._sleep = client, get_url, sink, sleep
        self._progress = Progress(what)
        self._url: DownloadUrl | None = None
        self._headers: DownloadHeaders | None = None
        self._restarts = self._breaks = self._failures = self._failed_at_bytes = 0

    def run(self) -> DownloadHeaders:
        """Fetch every byte, from the first one on. Raises TransferError; what the sink raises."""
        self._headers = None
        return self._fetch()

    def read_headers(self) -> DownloadHeaders:
        """What the storage says of the file, without fetching it. Raises TransferError."""
        return self._fetch(headers_only=True)

    def _fetch(self, *, headers_only: bool = False) -> DownloadHeaders:
        while True:
            try:
                return self._receive(headers_only)
            except DownloadError as error:
                self._pause_after(error)
            except ConfigurationError as error:  # of the environment's proxy for this storage
                consequence = TransferError.default_consequence
                raise ConfigurationError(error.what, consequence=consequence, remedy=error.remedy) from None

    def _receive(self, headers_only: bool) -> DownloadHeaders:
        """Receive what one connection gives: the rest of the file, or all of it if that is not possible."""
        sink, known, resume_from = self._sink, self._headers, None
        if known is not None and 0 < sink.size == known.size:
            return known  # the connection broke after the last byte
        if known is not None and known.validator is not None and sink.size:
            resume_from = ResumePoint(sink.size, known.validator)
        if self._url is None:
            self._url = self._get_url()
        with self._client.open_download(self._url, resume_from) as stream:
            headers = stream.headers
            if headers_only:
                return headers
            self._progress.total = headers.size
            if known is not None and headers.start:
                if None not in (headers.size, known.size) and headers.size != known.size:
                    raise ResumeNotPossibleError("The video's storage sent a part of a file of another size.")
                if headers.validator is None and known.has_etag and not known.checksums:
                    raise ResumeNotPossibleError(
                        "The video's storage does not say of which file its part is."
                    )
                headers = known
            else:
                self._restarts += bool(sink.size)
                if self._restarts >= _MAX_RESTARTS:
                    raise TransferError(
                        f"The video's download broke {_MAX_RESTARTS} times and could not be resumed."
                    )
                sink.restart(checksum.algorithm for checksum in headers.checksums)
                sink.mp4.is_lenient = headers.size is not None and bool(headers.checksums)
                self._headers = headers
            for chunk in stream.chunks():
                sink.write(chunk)
                self._progress.update(sink.size)
                if max(sink.size, headers.size or 0) > MAX_VIDEO_BYTES:
                    raise TransferError(
                        f"The video's storage sends more than {MAX_VIDEO_BYTES} bytes, which no video has."
                    )
        if headers.size is not None and sink.size < headers.size:
            raise DownloadError(f"The video's storage sent {sink.size} of {headers.size} bytes.")
        if sink.size == 0:
            raise DownloadError("The video's storage sent nothing.")
        return headers

    def _pause_after(self, error: DownloadError) -> None:
        """Wait before the next connection, or raise if there is no progress any more.

        A download that breaks every 64 MiB is slow, not broken.
        """
        if not error.retryable:
            raise error
        if abs(self._sink.size - self._failed_at_bytes) >= _PROGRESS_RESET_BYTES:
            self._failures, self._failed_at_bytes = 0, self._sink.size
        self._failures += 1
        if self._failures >= _MAX_STALLED_FAILURES:
            raise DownloadError(error.what) from error
        if isinstance(error, ResumeNotPossibleError):
            log.info("%s Restarting the download.", error.what)
            self._headers = None
            return
        if isinstance(error, LinkExpiredError):
            log.info("The URL of the video has expired; requesting a new one.")
            self._url = None
            if self._failures == 1:
                return
        else:
            self._breaks += 1
            if self._breaks <= _MAX_LOGGED_BREAKS:
                last = " Further breaks are not logged." if self._breaks == _MAX_LOGGED_BREAKS else ""
                log.warning("%s Resuming at byte %d.%s", error.what, self._sink.size, last)
        seconds = min(_LONGEST_PAUSE_SECONDS, 2.0 ** (self._failures - 3))
        self._sleep(seconds * random.uniform(0.5, 1.0))


class Progress:
    """Logs the progress of one transfer every few seconds, and nothing for a short one.

    :param what: how the line begins, e.g. `Downloading s3://videos/a.mp4`.
    :param total: length of the whole in bytes; None if unknown.
    """

    def __init__(
        self, what: str, total: int | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what, self.total, self._clock = what, total, clock
        self._logged_at, self._logged_bytes = clock(), 0

    def update(self, done: int) -> None:
        """`done` bytes have been transferred; fewer than before after a restart."""
        now = self._clock()
        seconds = now - self._logged_at
        if seconds < _PROGRESS_EVERY_SECONDS or done == self.total:
            return
        rate = max(done - self._logged_bytes, 0) / seconds
        self._logged_at, self._logged_bytes = now, done
        share, left = format_bytes(done), ""
        if self.total:
            share += f" of {format_bytes(self.total)} ({100 * done // self.total} %)"
            left = f", {timedelta(seconds=round((self.total - done) / rate))} left" if rate else ""
        log.info("%s: %s, %s/s%s.", self._what, share, format_bytes(rate), left)

    def count(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass chunks on, and log how many bytes have passed."""
        done = 0
        for chunk in chunks:
            yield chunk
            done += len(chunk)
            self.update(done)
