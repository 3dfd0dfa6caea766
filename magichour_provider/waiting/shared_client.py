"""The one client of all waiters of a connection, which follows when the connection is changed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from magichour_provider.api.async_client import AsyncMagicHourClient
from magichour_provider.api.errors import ConfigurationError
from magichour_provider.api.settings import ClientSettings

log = logging.getLogger(__name__)

FRESH_SECONDS = 5.0
"""Settings that were read less than this ago are the connection's as it is now."""

_FAILURE_HOLDS = 1.0

ReadSettings = Callable[[], Awaitable[ClientSettings]]


@dataclass(eq=False)
class _Line:
    """A client with the settings that it was made from, and the number of those who use it now."""

    settings: ClientSettings
    client: AsyncMagicHourClient
    users: int = 0
    replaced: bool = False


@dataclass
class SharedClient:
    """Makes the client when it is first asked for, and anew when the connection has changed.

    :param read_settings: reads the connection; ConfigurationError where it cannot be used.
    :param max_connections: how many sockets the client opens at most.
    """

    read_settings: ReadSettings
    max_connections: int
    _line: _Line | None = None
    _is_missing: bool = False
    _failure: Exception | None = None
    _read_at: float = 0.0
    _reading: asyncio.Task[None] | None = None
    _closing: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def is_there(self) -> bool:
        """Whether there is a client; where not, `refresh` makes one, or says why it cannot."""
        return self._line is not None

    @property
    def requests_per_second(self) -> float | None:
        """The connection's limit."""
        return self._line.settings.requests_per_second if self._line else None

    @contextmanager
    def lease(self) -> Iterator[AsyncMagicHourClient]:
        """Lend the client, which stays open until it is given back."""
        line = self._line
        if line is None:
            raise ConfigurationError("There is no connection to look by.")
        line.users += 1
        try:
            yield line.client
        finally:
            line.users -= 1
            self._close_if_unused(line)

    async def refresh(self) -> None:
        """Read the connection, once for everybody who asks at the same time.

        Raises ConfigurationError where there is no client and none can be made, and what the look-up raised;
        for a second after that the same again, without a look-up.
        """
        if self._failure is not None and time.monotonic() - self._read_at < _FAILURE_HOLDS:
            raise self._failure.with_traceback(None)
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(self._has_read)
        # Shielded: one who is cancelled here must not cancel what the others wait for.
        await asyncio.shield(self._reading)

    async def renew(self, refused: AsyncMagicHourClient) -> bool:
        """Whether there is another client than the one whose key was refused: the key may have changed."""
        if self._is_current(refused) and time.monotonic() - self._read_at > FRESH_SECONDS:
            await self.refresh()
        return not self._is_current(refused)

    async def aclose(self) -> None:
        """Close every client."""
        if self._reading is not None:
            self._reading.cancel()
        line, self._line = self._line, None
        if line is not None:
            line.users = 0
            line.replaced = True
            self._close_if_unused(line)
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _is_current(self, client: AsyncMagicHourClient) -> bool:
        return self._line is not None and self._line.client is client

    async def _read(self) -> None:
        try:
            settings = replace(await self.read_settings(), max_attempts=1)
            if self._line is None or self._line.settings != settings:
                # In a thread: making an SSL context takes some 25 ms, which the event loop has not.
                client = await asyncio.to_thread(
                    AsyncMagicHourClient, settings, max_connections=self.max_connections
                )
                self._retire()
                self._line = _Line(settings, client)
            self._is_missing = False
        except ConfigurationError as error:
            self._take_in(error)

    def _take_in(self, error: ConfigurationError) -> None:
        """A connection that was good is believed to be gone when it is twice: it may be being replaced."""
        if self._line is not None and not self._is_missing:
            log.warning("The waits go on with the connection as it was. %s", error)
            self._is_missing = True
            return
        self._retire()
        raise error

    def _has_read(self, reading: asyncio.Task[None]) -> None:
        self._reading = None
        self._read_at = time.monotonic()
        error = None if reading.cancelled() else reading.exception()
        self._failure = error if isinstance(error, Exception) else None

    def _retire(self) -> None:
        old, self._line = self._line, None
        if old is not None:
            old.replaced = True
            self._close_if_unused(old)

    def _close_if_unused(self, line: _Line) -> None:
        if line.replaced and line.users == 0:
            closing = asyncio.create_task(line.client.aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
