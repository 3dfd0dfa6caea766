"""Waiting in the triggerer: many waiters, one client for each event loop and account.

A client costs an SSL context (some 25 ms of the loop's time) and sockets, so waiters of one account
share one: the first to come makes it, the last to leave closes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from magichour_provider.api.async_client import AsyncMagicHourClient
from magichour_provider.api.errors import AuthenticationError, MagicHourError, NotFoundError
from magichour_provider.api.models import VideoProject
from magichour_provider.waiting.outcome import Outcome
from magichour_provider.waiting.watch import NOT_FOUND_PAUSES, Watch

_FRESH_SECONDS = 5.0
"""A client younger than this holds the connection as it is now."""

ClientFactory = Callable[[], Awaitable[AsyncMagicHourClient]]


@dataclass
class Hub:
    """The waiters of one account on one event loop."""

    _client: asyncio.Future[AsyncMagicHourClient] | None = None
    _outdated: list[AsyncMagicHourClient] = field(default_factory=list)
    _made: float = 0.0
    _waiters: int = 0

    async def wait(self, watch: Watch, make_client: ClientFactory) -> Outcome:
        """Sleep and look by turns until the job has ended or the watch's deadline has passed.

        Nothing but a cancellation ends the wait otherwise: a waiter that raised would fail a task whose job
        is paid for.
        """
        async with self._present():
            while True:
                await asyncio.sleep(watch.pause(time.time()))
                ended = await self._look(watch, make_client) or watch.overdue(time.time())
                if ended is not None:
                    return ended

    async def look(self, project_id: str, make_client: ClientFactory) -> VideoProject:
        """Look once, by the shared client. Raises MagicHourError."""
        async with self._present():
            return await self._ask(project_id, make_client)

    @asynccontextmanager
    async def _present(self) -> AsyncIterator[None]:
        self._waiters += 1
        try:
            yield
        finally:
            self._waiters -= 1
            if self._waiters == 0:
                await self._close()

    async def _look(self, watch: Watch, make_client: ClientFactory) -> Outcome | None:
        remaining = max(1.0, watch.deadline - time.time())
        try:
            project = await asyncio.wait_for(self._find(watch.project_id, make_client), remaining)
            return watch.saw(project)
        except asyncio.TimeoutError:
            watch.stumbled("It took longer than the deadline allows.")
        except MagicHourError as error:
            return watch.missed(error, time.time())
        except Exception as error:
            watch.stumbled(f"{type(error).__name__} was raised.")
        return None

    async def _find(self, project_id: str, make_client: ClientFactory) -> VideoProject:
        """Look at a job; one that is not found is looked for again, before that is believed."""
        for pause in NOT_FOUND_PAUSES:
            try:
                return await self._ask(project_id, make_client)
            except NotFoundError:
                await asyncio.sleep(pause)
        return await self._ask(project_id, make_client)

    async def _ask(self, project_id: str, make_client: ClientFactory) -> VideoProject:
        """Look by the shared client; one whose key is refused is made anew: the key may have changed."""
        client = await self._get_client(make_client)
        try:
            return await client.get_video(project_id)
        except AuthenticationError:
            if self._is_current(client):
                if time.monotonic() - self._made < _FRESH_SECONDS:
                    raise
                self._client = None
                self._outdated.append(client)
            client = await self._get_client(make_client)
            return await client.get_video(project_id)

    def _is_current(self, client: AsyncMagicHourClient) -> bool:
        """Whether no other waiter has had this client made anew already."""
        current = self._client
        return current is not None and current.done() and current.result() is client

    async def _get_client(self, make_client: ClientFactory) -> AsyncMagicHourClient:
        """The shared client. One that could not be made is made anew for the next look."""
        making = self._client
        if making is None:
            making = self._client = asyncio.ensure_future(make_client())
            self._made = time.monotonic()
        try:
            # Shielded: a waiter that is cancelled here must not cancel the others' client.
            return await asyncio.shield(making)
        except Exception:
            if self._client is making:
                self._client = None
            raise

    async def _close(self) -> None:
        """Close every client, the outdated ones only now, as a look by one may have been under way."""
        making, self._client = self._client, None
        clients, self._outdated = self._outdated, []
        if making is not None and not making.done():
            making.cancel()
        elif making is not None and not making.cancelled() and making.exception() is None:
            clients.append(making.result())
        for client in clients:
            await client.aclose()


@dataclass
class _Hubs:
    """The hubs of every running event loop; a loop that is gone takes its hubs with it."""

    _by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Hub]] = field(
        default_factory=WeakKeyDictionary
    )

    def get(self, account: str) -> Hub:
        hubs = self._by_loop.setdefault(asyncio.get_running_loop(), {})
        return hubs.setdefault(account, Hub())


_hubs = _Hubs()


def hub_for(account: str) -> Hub:
    """The running event loop's hub for an account, named by its connection id."""
    return _hubs.get(account)
