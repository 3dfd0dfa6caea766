"""The one client of all waits on a connection. It is replaced when the connection changes."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

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
_GRACE_SECONDS = 30.0
"""A connection must be missing or unusable for so long before the waits on it end."""
_LOOKUP_TIMEOUT_SECONDS = 30.0
_MAX_POLL_TIMEOUT_SECONDS = 10.0
"""A job whose polls are not answered must not hold the connections that other jobs need."""
_REFUSAL_CACHE_SECONDS = 5.0
"""The connection is not read again within this time for a key that was refused and is unchanged."""

ReadSettings = Callable[[], Awaitable[ClientSettings]]
BuildClient = Callable[..., Awaitable[AsyncMagicHourClient]]
"""`AsyncMagicHourClient.from_settings`, or anything with its arguments."""


@dataclass(eq=False)
class _Entry:
    """A client, the settings that it was built from, and the number of polls that use it now."""

    settings: ClientSettings
    client: AsyncMagicHourClient
    polls: int = 0
    is_replaced: bool = False
    refused_at: float = -math.inf

    async def get_video(self, project_id: str) -> VideoProject:
        """Poll a job. The client stays open until the answer, even if it is replaced meanwhile."""
        self.polls += 1
        try:
            return await self.client.get_video(project_id)
        finally:
            self.polls -= 1
            await self.close_if_unused()

    async def close_if_unused(self) -> None:
        if self.is_replaced and self.polls == 0:
            await self.client.aclose()


class ConnectionClient:
    """Builds the client on first use, and a new one when the connection has changed.

    :param read_settings: reads the connection; ConfigurationError if it cannot be used.
    :param max_connections: the most sockets of the client.
    :param on_change: called after the client was replaced.
    """

    def __init__(
        self,
        read_settings: ReadSettings,
        max_connections: int,
        on_change: Callable[[], None],
        build: BuildClient = AsyncMagicHourClient.from_settings,
    ) -> None:
        self._read_settings, self._max_connections = read_settings, max_connections
        self._on_change, self._build = on_change, build
        self._clock = asyncio.get_running_loop().time
        self._entry: _Entry | None = None
        self._unusable_since: float | None = None
        self._reading: asyncio.Task[_Entry] | None = None
        self._failure: Exception | None = None
        self._read_at = -math.inf

    @property
    def settings(self) -> ClientSettings | None:
        """The settings of the client; None if there is none yet."""
        return self._entry.settings if self._entry else None

    async def get_video(self, project_id: str) -> VideoProject:
        """Poll a job. If the key is refused, read the connection again: the key may have changed."""
        entry = self._entry or await self.refresh()
        try:
            return await entry.get_video(project_id)
        except AuthenticationError:
            newest = self._entry
            if newest is entry and self._clock() - entry.refused_at > _REFUSAL_CACHE_SECONDS:
                newest = await self.refresh()
                entry.refused_at = self._clock()
            if newest is None or newest is entry:
                raise
        return await newest.get_video(project_id)

    async def refresh(self) -> _Entry:
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
        return await asyncio.shield(self._reading)

    async def aclose(self) -> None:
        """Close the client. No poll may be under way."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._replace(None)

    async def _read(self) -> _Entry:
        entry = self._entry
        try:
            found = await asyncio.wait_for(self._read_settings(), _LOOKUP_TIMEOUT_SECONDS)
            settings = replace(found, timeout=min(found.timeout, _MAX_POLL_TIMEOUT_SECONDS))
            if entry is None or entry.settings != settings:
                entry = _Entry(settings, await self._build(settings, max_connections=self._max_connections))
                await self._replace(entry)
                self._on_change()
        except ConfigurationError as error:
            # One that worked before may be being edited. Airflow also calls a connection "not defined" while
            # its secrets backend does not answer.
            is_first = self._unusable_since is None
            unusable_since = self._unusable_since = self._unusable_since or self._clock()
            may_pass = entry is not None or isinstance(error, UndefinedConnectionError)
            if not may_pass or self._clock() - unusable_since >= _GRACE_SECONDS:
                await self._replace(None)
                raise
            if is_first:
                log.warning("The connection cannot be used at the moment; polling continues. %s", error)
            if entry is None:
                raise NetworkError("Airflow does not return the connection at the moment.") from error
        else:
            self._unusable_since = None
        return entry

    async def _replace(self, entry: _Entry | None) -> None:
        old, self._entry = self._entry, entry
        if old is not None:
            old.is_replaced = True
            await old.close_if_unused()

    def _on_read(self, reading: asyncio.Task[_Entry]) -> None:
        self._reading, self._read_at = None, self._clock()
        error = None if reading.cancelled() else reading.exception()
        self._failure = error if isinstance(error, Exception) else None
