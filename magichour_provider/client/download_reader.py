"""Read a clip in a thread of its own, a little ahead of the one that writes it.

The thread runs the asynchronous client, which reads twice as fast as httpx; the writing one meanwhile
hashes and writes, and keeps its signals, by which Airflow ends a task that takes too long.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, Queue
from typing import cast

from magichour_provider.client.aio import AsyncMagicHourClient
from magichour_provider.client.download_headers import DownloadHeaders, ResumePoint
from magichour_provider.client.models import DownloadUrl
from magichour_provider.client.settings import ClientSettings

_BLOCK_BYTES = 1 << 20
_BLOCKS_AHEAD = 3
_CLOSE_SECONDS = 5.0
_HELD_SECONDS = 1.0
"""How long bytes of a slow connection are held back at most."""


class ClipStream:
    """An open download: its head, and the bytes still to be read."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader
        self.head = cast("DownloadHeaders", reader.next())

    def chunks(self) -> Iterator[bytes]:
        """Yield the clip's bytes; DownloadError when the connection breaks, after all that came before."""
        while True:
            block = self._reader.next()
            if block is None:
                return
            yield cast("bytes", block)


@contextmanager
def open_clip(settings: ClientSettings, link: DownloadUrl, since: ResumePoint | None) -> Iterator[ClipStream]:
    """Open a signed link; LinkExpiredError where it is no longer good, and what `read_head` raises."""
    reader = _Reader(settings, link, since)
    try:
        reader.start()
        yield ClipStream(reader)
    finally:
        reader.close()


class _Reader(threading.Thread):
    """Puts into a queue: the head, blocks of bytes, then None or the error that ended it.

    The blocks are large, as the two threads share an interpreter: they meet seldom.
    """

    def __init__(self, settings: ClientSettings, link: DownloadUrl, since: ResumePoint | None) -> None:
        super().__init__(name="magichour-clip-reader", daemon=True)
        self._settings, self._link, self._since = settings, link, since
        self._items: Queue[DownloadHeaders | bytes | BaseException | None] = Queue(_BLOCKS_AHEAD)
        self._closed = False
        self._pump: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Read until the end."""
        end: BaseException | None = None
        try:
            asyncio.run(self._read())
        except BaseException as error:  # whatever it is belongs to who waits for the bytes
            end = error
        self._put(end)

    def next(self) -> DownloadHeaders | bytes | None:
        """Wait for the next item; raises what ended the reading."""
        item = self._items.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Give up what is still to come."""
        self._closed = True
        pump = self._pump
        if pump is not None:
            with suppress(RuntimeError):  # its loop has just ended
                pump.get_loop().call_soon_threadsafe(pump.cancel)
        with suppress(Empty):
            while True:
                self._items.get_nowait()
        if self.is_alive():
            self.join(_CLOSE_SECONDS)

    async def _read(self) -> None:
        self._pump = asyncio.current_task()
        if self._closed:
            return
        async with (
            await AsyncMagicHourClient.from_settings(self._settings, max_connections=1) as client,
            client.open_clip(self._link, self._since) as clip,
        ):
            self._put(clip.head)
            block: list[bytes] = []
            due = time.monotonic() + _HELD_SECONDS
            try:
                async for chunk in clip.chunks():
                    block.append(chunk)
                    if sum(map(len, block)) >= _BLOCK_BYTES or time.monotonic() >= due:
                        self._put(b"".join(block))
                        block, due = [], time.monotonic() + _HELD_SECONDS
            finally:
                self._put(b"".join(block))

    def _put(self, item: DownloadHeaders | bytes | BaseException | None) -> None:
        """Hand over; while the writing one is behind, the loop stands still, and so does the sender."""
        if not self._closed:
            self._items.put(item)
