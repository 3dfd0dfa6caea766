"""Where a waiter finds its hub: the running event loop's, for its connection."""

from __future__ import annotations

import asyncio

from magichour_provider.polling.metrics import NoStats, Stats
from magichour_provider.polling.scheduler import PollScheduler
from magichour_provider.polling.shared_client import ReadSettings


class _Hubs:
    """The hubs of every running event loop, by connection id."""

    def __init__(self) -> None:
        self._by_loop: dict[asyncio.AbstractEventLoop, dict[str, PollScheduler]] = {}

    def get(self, conn_id: str, read_settings: ReadSettings, stats: Stats) -> PollScheduler:
        loop = asyncio.get_running_loop()
        hubs = self._by_loop.get(loop) or self._first_of(loop)
        hub = hubs.get(conn_id)
        if hub is None:
            hub = hubs[conn_id] = PollScheduler(
                read_settings, stats, {"conn_id": conn_id}, lambda: self._forget(loop, conn_id)
            )
        return hub

    def _first_of(self, loop: asyncio.AbstractEventLoop) -> dict[str, PollScheduler]:
        """Room for a loop's hubs; those of loops that were closed under their waiters go."""
        for other in [other for other in self._by_loop if other.is_closed()]:
            del self._by_loop[other]
        return self._by_loop.setdefault(loop, {})

    def _forget(self, loop: asyncio.AbstractEventLoop, conn_id: str) -> None:
        hubs = self._by_loop.get(loop, {})
        hubs.pop(conn_id, None)
        if not hubs:
            self._by_loop.pop(loop, None)


_hubs = _Hubs()
_no_stats = NoStats()


def scheduler_for(conn_id: str, read_settings: ReadSettings, stats: Stats = _no_stats) -> PollScheduler:
    """The running event loop's hub for a connection. To be used before the next `await`.

    :param read_settings: reads the connection; ConfigurationError where it cannot be used.
    """
    return _hubs.get(conn_id, read_settings, stats)
