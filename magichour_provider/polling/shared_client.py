"""The one client of all waiters of a connection, which follows when the connection is changed."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from magichour_provider.client.aio import AsyncMagicHourClient
from magichour_provider.client.settings import ClientSettings
from magichour_provider.exceptions import ConfigurationError, NetworkError, UndefinedConnectionError

log = logging.getLogger(__name__)


_FAILURE_HOLDS = 1.0
"""Seconds in which a look-up that has failed is not made again."""
_BELIEVED_AFTER = 30.0
"""Seconds for which a connection must be missing before it is taken for deleted."""
_AIRFLOW_ANSWERS_WITHIN = 30.0
_LONGEST_LOOK = 10.0
"""Seconds: a job whose looks are not answered must not keep the sockets from all others."""
_REFUSAL_HOLDS = 5.0
"""Seconds in which the connection is not read again for a key that was refused, and is still the same."""

ReadSettings = Callable[[], Awaitable[ClientSettings]]


@dataclass(eq=False)
class _Made:
    """A client with the settings that it was made from, and the number of those who use it now."""

    settings: ClientSettings
    client: AsyncMagicHourClient
    users: int = 0
    replaced: bool = False
    refused_at: float = -math.inf


@dataclass
class SharedClient:
    """Makes the client when it is first asked for, and anew when the connection has changed.

    :param read_settings: reads the connection; ConfigurationError where it cannot be used.
    :param max_connections: how many sockets the client opens at most.
    :param on_change: called when there is another client than before.
    """

    read_settings: ReadSettings
    max_connections: int
    on_change: Callable[[], None] = lambda: None
    _made: _Made | None = None
    _was_unusable: bool = False
    _missing_since: float | None = None
    _failure: Exception | None = None
    _read_at: float = 0.0
    _reading: asyncio.Task[None] | None = None
    _closing: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def is_there(self) -> bool:
        """Whether there is a client; where not, `refresh` makes one, or says why it cannot."""
        return self._made is not None

    @property
    def requests_per_second(self) -> float | None:
        """The connection's limit."""
        return self._made.settings.requests_per_second if self._made else None

    @contextmanager
    def lease(self) -> Iterator[AsyncMagicHourClient]:
        """Lend the client, which stays open until it is given back."""
        made = self._made
        if made is None:
            raise ConfigurationError("There is no connection to look by.")
        made.users += 1
        try:
            yield made.client
        finally:
            made.users -= 1
            self._close_if_unused(made)

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
        made = self._made
        if made is not None and made.client is refused and self._is_worth_reading(made):
            await self.refresh()
            made.refused_at = time.monotonic()
        return self._made is None or self._made.client is not refused

    async def aclose(self) -> None:
        """Close every client."""
        if self._reading is not None:
            self._reading.cancel()
        made, self._made = self._made, None
        if made is not None:
            self._close(made)
        await asyncio.gather(*self._closing, return_exceptions=True)

    @staticmethod
    def _is_worth_reading(made: _Made) -> bool:
        return time.monotonic() - made.refused_at > _REFUSAL_HOLDS

    async def _read(self) -> None:
        try:
            found = await asyncio.wait_for(self.read_settings(), _AIRFLOW_ANSWERS_WITHIN)
            settings = replace(found, max_attempts=1, timeout=min(found.timeout, _LONGEST_LOOK))
            if self._made is None or self._made.settings != settings:
                client = await AsyncMagicHourClient.from_settings(
                    settings, max_connections=self.max_connections
                )
                self._retire()
                self._made = _Made(settings, client)
                self.on_change()
            self._was_unusable, self._missing_since = False, None
        except UndefinedConnectionError as error:
            self._miss(error)
        except ConfigurationError as error:
            self._take_in(error)

    def _miss(self, error: UndefinedConnectionError) -> None:
        """A connection that is not defined may be being replaced, or Airflow's secrets be away for a while.

        Airflow calls both "not defined". It is believed after some time; until then the old client serves.
        """
        now = time.monotonic()
        if self._missing_since is None:
            self._missing_since = now
            log.warning("The waits go on. %s", error)
        if now - self._missing_since >= _BELIEVED_AFTER:
            self._retire()
            raise error
        if self._made is None:
            raise NetworkError("Airflow does not give the connection at the moment.") from error

    def _take_in(self, error: ConfigurationError) -> None:
        """A connection that was good is believed to be gone when it is twice: it may be being replaced."""
        if self._made is not None and not self._was_unusable:
            log.warning("The waits go on with the connection as it was. %s", error)
            self._was_unusable = True
            return
        self._retire()
        raise error

    def _has_read(self, reading: asyncio.Task[None]) -> None:
        self._reading = None
        self._read_at = time.monotonic()
        error = None if reading.cancelled() else reading.exception()
        self._failure = error if isinstance(error, Exception) else None

    def _retire(self) -> None:
        old, self._made = self._made, None
        if old is not None:
            old.replaced = True
            self._close_if_unused(old)

    def _close_if_unused(self, made: _Made) -> None:
        if made.replaced and made.users == 0:
            self._close(made)

    def _close(self, made: _Made) -> None:
        closing = asyncio.create_task(made.client.aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
