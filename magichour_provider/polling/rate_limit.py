"""How fast one scheduler may poll: a rate, a pause for all jobs, a number of connections. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_RETRY_AFTER_SECONDS = 600.0
"""A longer `Retry-After` is cut to this."""
_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 1.0, 60.0
"""If the server names no pause."""
_MIN_REFUSED_RATE = 10.0
"""Polls a second below which a refusal is hardly due to their number."""
_RECOVERY_START, _RECOVERY_GROWTH_PER_SECOND, _RECOVERY_END = 0.5, 1.1, 2.0
"""After a pause: shares of the refused rate, and by how much the share grows each second."""
_MAX_RECOVERY_SECONDS = 60.0
_RATE_WINDOW_SECONDS = 5.0
_MAX_LATENESS_SECONDS = 0.05
"""A poll that came so late lets the next one come as much earlier."""
_MIN_CONCURRENCY, MAX_CONCURRENCY = 8, 32
"""Polls under way at once."""


@dataclass
class RateLimiter:
    """The one limit on the polls of all jobs. Times are those of one monotonic clock, in seconds.

    A refusal (429, or any answer with `Retry-After`) pauses all polls. After the pause they start at half the
    refused rate, which grows by a tenth each second: at the full rate the next refusal would follow at once.

    :param per_second: the most polls a second; None: unlimited.
    """

    per_second: float | None = None
    _next_at: float = 0.0
    _paused_until: float = 0.0
    _next_pause: float = _FIRST_PAUSE_SECONDS
    _refused_rate: float | None = None
    _rate: float = 0.0
    _counted_at: float = 0.0

    def free_at(self) -> float:
        """The time from which the next poll may start."""
        return max(self._next_at, self._paused_until)

    def acquire(self, now: float) -> None:
        """Count a poll that starts."""
        # The rate of the last seconds; older polls count ever less.
        passed = min(_RATE_WINDOW_SECONDS, max(0.0, now - self._counted_at))
        self._rate = self._rate * (1 - passed / _RATE_WINDOW_SECONDS) + 1.0 / _RATE_WINDOW_SECONDS
        self._counted_at = now
        limit = math.inf if self.per_second is None else self.per_second
        if self._refused_rate is not None:
            passed = min(_MAX_RECOVERY_SECONDS, max(0.0, now - self._paused_until))
            share = _RECOVERY_START * _RECOVERY_GROWTH_PER_SECOND**passed
            if share > _RECOVERY_END:
                self._refused_rate = None
            else:
                limit = min(limit, self._refused_rate * share)
        if limit < math.inf:
            # An idle time allows no burst; a small lateness of the timer is made up for.
            self._next_at = max(self._next_at, now - min(_MAX_LATENESS_SECONDS, 1.0 / limit)) + 1.0 / limit

    def refused(self, now: float, retry_after: float | None) -> bool:
        """Pause all polls: as long as the server asks, or twice as long as the last time.

        False if they are paused already: the refusal is that of a poll which was under way then.
        """
        pause = self._next_pause if retry_after is None else max(retry_after, _FIRST_PAUSE_SECONDS)
        is_new = now >= self._paused_until
        if is_new:
            self._refused_rate = max(_MIN_REFUSED_RATE, self._rate)
            self._next_pause = min(_MAX_PAUSE_SECONDS, self._next_pause * 2)
        self._paused_until = max(self._paused_until, now + min(pause, MAX_RETRY_AFTER_SECONDS))
        return is_new

    def answered(self, now: float) -> None:
        """Note a poll that was answered: the next pause is short again."""
        if now >= self._paused_until:
            self._next_pause = _FIRST_PAUSE_SECONDS


@dataclass
class ConcurrencyLimit:
    """How many polls may be under way at once, each with a connection of its own.

    More are allowed if polls come late although the thread has time to spare: then answers are slow.
    """

    allowed: int = _MIN_CONCURRENCY
    _calm_updates: int = 0

    def update(self, *, lateness: float, busy_share: float) -> None:
        """Adjust the limit, every few seconds.

        :param lateness: seconds by which the first poll in the queue is late.
        :param busy_share: share of its time that the thread used the CPU.
        """
        if lateness > 1.0 and busy_share < 0.7:
            self._calm_updates = 0
            self.allowed = min(MAX_CONCURRENCY, self.allowed + self.allowed // 2)
        elif lateness < 0.1:
            self._calm_updates += 1
            if self._calm_updates >= 12:
                self._calm_updates = 0
                self.allowed = max(_MIN_CONCURRENCY, self.allowed * 2 // 3)
