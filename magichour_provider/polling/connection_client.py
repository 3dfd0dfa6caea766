"""The one client of all waits on a connection. It is replaced when the connection changes."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from magichour_provider.client.aio import AsyncMagicHourClient
from magichour_provider.client.models import VideoProject
from magichour_provider.client.settings import ClientSettings
from magichour_provider.exceptions import (
    AuthenticationError,
    ConfigurationError,
    NetworkError,
    UndefinedConnectionError,
)

log = logging.getLogger(__name__)

_FAILURE_CACHE_SECONDS = 1.0
"""A lookup that failed is not repeated within this time."""
_UNDEFINED_GRACE_SECONDS = 30.0
"""A connection must be missing for so long before it counts as deleted."""
_LOOKUP_TIMEOUT_SECONDS = 30.0
_MAX_POLL_TIMEOUT_SECONDS = 10.0
"""A job whose polls are not answered must not hold the connections that other jobs need."""
_REFUSAL_CACHE_SECONDS = 5.0
"""The connection is not read again within this time for a key that was refused and is unchanged."""


class PollClient(Protocol):
    """An `AsyncMagicHourClient`, as far as polling needs it."""

    async def get_video(self, project_id: str) -> VideoProject:
        """Poll a job."""

    async def aclose(self) -> None:
        """Close the client."""


ReadSettings = Callable[[], Awaitable[ClientSettings]]
BuildClient = Callable[[ClientSettings, int], Awaitable[PollClient]]


async def build_client(settings: ClientSettings, max_connections: int) -> PollClient:
    """The client of a scheduler, with a session of its own."""
    return await AsyncMagicHourClient.from_settings(settings, max_connections=max_connections)


@dataclass(eq=False)
class _Entry:
    """A client, the settings that it was built from, and the number of its current users."""

    settings: ClientSettings
    client: PollClient
    users: int = 0
    is_replaced: bool = False
    refused_at: float = -math.inf


class ConnectionClient:
    """Builds the client on first use, and a new one when the connection has changed.

    :param read_settings: reads the connection; ConfigurationError if it cannot be used.
    :param max_connections: the most sockets of the client.
    :param on_change: called after the client was replaced.
    :param build: makes a client for settings and a number of connections.
    """

    def __init__(
        self,
        read_settings: ReadSettings,
        max_connections: int,
        on_change: Callable[[], None],
        build: BuildClient = build_client,
    ) -> None:
        self._read_settings, self._max_connections = read_settings, max_connections
        self._on_change, self._build = on_change, build
        self._clock = asyncio.get_running_loop().time
        self._entry: _Entry | None = None
        self._was_unusable = False
        self._missing_since: float | None = None
        self._failure: Exception | None = None
        self._read_at = 0.0
        self._reading: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[Any]] = set()

    @property
    def is_ready(self) -> bool:
        """Whether there is a client."""
        return self._entry is not None

    @property
    def requests_per_second(self) -> float | None:
        """The connection's rate limit."""
        return self._entry.settings.requests_per_second if self._entry else None

    async def get_video(self, project_id: str) -> VideoProject:
        """Poll a job. If the key is refused, read the connection again: the key may have changed."""
        if self._entry is None:
            await self.refresh()
        with self._lease() as entry:
            try:
                return await entry.client.get_video(project_id)
            except AuthenticationError:
                if not await self._was_replaced(entry):
                    raise
        with self._lease() as entry:
            return await entry.client.get_video(project_id)

    async def refresh(self) -> None:
        """Read the connection, once for all concurrent callers.

        Raises ConfigurationError if there is no client and none can be built, and the error of the lookup;
        for a second after that the same error, without another lookup.
        """
        if self._failure is not None and self._clock() - self._read_at < _FAILURE_CACHE_SECONDS:
            raise self._failure.with_traceback(None)
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(self._on_read)
        # Shielded: a caller that is cancelled must not cancel the lookup of the others.
        await asyncio.shield(self._reading)

    async def aclose(self) -> None:
        """Close every client."""
        if self._reading is not None:
            self._reading.cancel()
        entry, self._entry = self._entry, None
        if entry is not None:
            self._close(entry)
        await asyncio.gather(*self._closing, return_exceptions=True)

    @contextmanager
    def _lease(self) -> Iterator[_Entry]:
        """The current client. It stays open until the lease ends, though it be replaced."""
        entry = self._entry
        if entry is None:
            raise ConfigurationError("There is no connection to poll with.")
        entry.users += 1
        try:
            yield entry
        finally:
            entry.users -= 1
            self._close_if_unused(entry)

    async def _was_replaced(self, refused: _Entry) -> bool:
        is_recent = self._clock() - refused.refused_at <= _REFUSAL_CACHE_SECONDS
        if self._entry is refused and not is_recent:
            await self.refresh()
            refused.refused_at = self._clock()
        return self._entry is not refused

    async def _read(self) -> None:
        try:
            found = await asyncio.wait_for(self._read_settings(), _LOOKUP_TIMEOUT_SECONDS)
            settings = replace(found, timeout=min(found.timeout, _MAX_POLL_TIMEOUT_SECONDS))
            if self._entry is None or self._entry.settings != settings:
                client = await self._build(settings, self._max_connections)
                self._retire()
                self._entry = _Entry(settings, client)
                self._on_change()
            self._was_unusable, self._missing_since = False, None
        except UndefinedConnectionError as error:
            self._on_undefined(error)
        except ConfigurationError as error:
            self._on_unusable(error)

    def _on_undefined(self, error: UndefinedConnectionError) -> None:
        """Believe that a connection is deleted only after some time; until then the old client serves.

        Airflow also calls a connection "not defined" while its secrets backend does not answer.
        """
        now = self._clock()
        if self._missing_since is None:
            self._missing_since = now
            log.warning("The connection could not be read; polling continues. %s", error)
        if now - self._missing_since >= _UNDEFINED_GRACE_SECONDS:
            self._retire()
            raise error
        if self._entry is None:
            raise NetworkError("Airflow does not return the connection at the moment.") from error

    def _on_unusable(self, error: ConfigurationError) -> None:
        """Give up a connection that worked before only if it is unusable twice: it may be being edited."""
        if self._entry is not None and not self._was_unusable:
            log.warning("The connection changed and cannot be used; polling continues as before. %s", error)
            self._was_unusable = True
            return
        self._retire()
        raise error

    def _on_read(self, reading: asyncio.Task[None]) -> None:
        self._reading = None
        self._read_at = self._clock()
        error = None if reading.cancelled() else reading.exception()
        self._failure = error if isinstance(error, Exception) else None

    def _retire(self) -> None:
        old, self._entry = self._entry, None
        if old is not None:
            old.is_replaced = True
            self._close_if_unused(old)

    def _close_if_unused(self, entry: _Entry) -> None:
        if entry.is_replaced and entry.users == 0:
            self._close(entry)

    def _close(self, entry: _Entry) -> None:
        closing = asyncio.create_task(entry.client.aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
