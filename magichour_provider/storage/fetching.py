"""Fetch the clip behind a link into a sink, over as many connections as it takes.

A connection that breaks is taken up from the last byte (`Range`), as long as the storage says that the
file is still the same (`If-Range`); a link that has expired is asked for again. What cannot be taken up
begins anew. Nothing here decides what is published: `landing` does.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from magichour_provider.client.downloads import (
    DownloadHeaders,
    LinkExpiredError,
    ResumeNotPossibleError,
    ResumePoint,
)
from magichour_provider.exceptions import (
    DownloadError,
    TransferError,
)
from magichour_provider.storage.progress import Progress

if TYPE_CHECKING:
    from magichour_provider.client.models import DownloadUrl
    from magichour_provider.client.sync import MagicHourClient

log = logging.getLogger(__name__)

MAX_CLIP_BYTES = 16 << 30
"""No clip of at most a minute comes near; a storage that never ends its answer does."""

_FRUITLESS = 5
"""Failures within `_FRUIT_BYTES`, after which it is given up."""
_FRUIT_BYTES = 1 << 20
_BREAKS_TOLD = 20
_LOSSES = 4
"""How often what was fetched may be lost, as nothing says that the rest is still of the same file."""
_LONGEST_PAUSE = 8.0


class Sink(Protocol):
    """Takes the bytes of one file in their order, and can be told to begin anew."""

    @property
    def size(self) -> int:
        """Bytes taken so far."""

    def begin_anew(self, algorithms: Iterable[str] = ()) -> None:
        """Forget what was taken; `algorithms` are the digests that will be asked for."""

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""


class ResumableDownload:
    """One download. `ask_link` gives a fresh link to the clip."""

    def __init__(
        self,
        client: MagicHourClient,
        ask_link: Callable[[], DownloadUrl],
        sink: Sink,
        progress: Progress,
        *,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client, self._ask_link, self._sink = client, ask_link, sink
        self._progress, self._pause = progress, pause
        self._link: DownloadUrl | None = None
        self._head: DownloadHeaders | None = None
        self._losses = 0
        self._breaks = 0
        self._failures = 0
        self._failed_at = 0

    def run(self) -> DownloadHeaders:
        """Bring every byte, and return what the storage says of the file.

        Raises TransferError when the connections lead nowhere, and what the sink raises.
        """
        return self._patiently(self._receive)

    def look(self) -> DownloadHeaders:
        """What the storage says of the file, without fetching it. Raises TransferError."""
        return self._patiently(self._open_only)

    def again(self) -> DownloadHeaders:
        """Bring every byte once more, from the first one on."""
        self._head = None
        return self.run()

    def _patiently(self, step: Callable[[], DownloadHeaders]) -> DownloadHeaders:
        while True:
            try:
                return step()
            except ResumeNotPossibleError as error:
                log.info("%s Beginning the download anew.", error.what)
                self._head = None
                self._count_failure(error)
            except DownloadError as error:
                self._count_failure(error)
                self._wait_after(error)

    def _open_only(self) -> DownloadHeaders:
        with self._client.open_download(self._current_link()) as clip:
            return clip.headersers

    def _receive(self) -> DownloadHeaders:
        if self._head is not None and 0 < self._sink.size == self._head.size:
            return self._head  # it broke after its last byte
        with self._client.open_download(self._current_link(), self._position()) as clip:
            head = self._take_up(clip.headersers)
            for chunk in clip.chunks():
                self._sink.write(chunk)
                self._check_size(self._sink.size)
                self._progress.reached(self._sink.size)
        if head.size is not None and self._sink.size < head.size:
            raise DownloadError(f"The clip's storage sent {self._sink.size} of {head.size} bytes.")
        if self._sink.size == 0:
            raise DownloadError("The clip's storage sent nothing.")
        return head

    def _current_link(self) -> DownloadUrl:
        if self._link is None:
            self._link = self._ask_link()
        return self._link

    def _position(self) -> ResumePoint | None:
        if self._head is None or self._head.validator is None or not self._sink.size:
            return None
        return ResumePoint(self._sink.size, self._head.validator)

    def _take_up(self, head: DownloadHeaders) -> DownloadHeaders:
        """Go on where the last connection ended, or begin anew where the storage does."""
        self._check_size(head.size or 0)
        self._progress.total = head.size
        if self._head is not None and head.start:
            if None not in (head.size, self._head.size) and head.size != self._head.size:
                raise ResumeNotPossibleError(
                    "The clip's storage answered with a part of a file of another size."
                )
            if head.validator is None and self._head.has_etag and not self._head.checksums:
                raise ResumeNotPossibleError("The clip's storage does not say of which file its part is.")
            return self._head
        self._losses += bool(self._sink.size)
        if self._losses >= _LOSSES:
            raise TransferError(
                f"The clip's download broke {_LOSSES} times, and could not be taken up where it broke."
            )
        self._sink.begin_anew(checksum.algorithm for checksum in head.checksums)
        self._head = head
        return head

    def _count_failure(self, error: DownloadError) -> None:
        """Give up where nothing gets on any more."""
        if abs(self._sink.size - self._failed_at) >= _FRUIT_BYTES:
            self._failures = 0
            self._failed_at = self._sink.size
        self._failures += 1
        if self._failures >= _FRUITLESS:
            raise DownloadError(error.what) from error

    def _wait_after(self, error: DownloadError) -> None:
        if isinstance(error, LinkExpiredError):
            self._link = None
            log.info("The link to the clip has expired; asking for a new one.")
            if self._failures == 1:
                return
        else:
            self._breaks += 1
            if self._breaks <= _BREAKS_TOLD:
                also = " This is the last time that it is said." if self._breaks == _BREAKS_TOLD else ""
                log.warning("%s Going on from byte %d.%s", error.what, self._sink.size, also)
        self._pause(min(_LONGEST_PAUSE, 2.0 ** (self._failures - 3)) * random.uniform(0.5, 1.0))  # noqa: S311

    @staticmethod
    def _check_size(size: int) -> None:
        if size > MAX_CLIP_BYTES:
            raise TransferError(
                f"The clip's storage sends more than {MAX_CLIP_BYTES} bytes, which no clip has."
            )
