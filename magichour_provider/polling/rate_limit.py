"""How fast one hub may look: a rate, a pause for all, a number of sockets. Pure: time goes in."""

from __future__ import annotations

from dataclasses import dataclass, field

LONGEST_SILENCE = 600.0
"""Seconds that a server's `Retry-After` may keep everybody from looking."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds, where the server names none."""
_CAUTION = 0.5
_UNHURRIED = 10.0
"""Looks a second below which it is hardly the crowd that was refused."""
_RECOVERY = 1.1
_RECOVERED = 2.0
"""Looks go on at this share of the rate that was refused, which grows so much a second, up to that."""
_RATE_SECONDS = 5.0
"""Seconds over which the rate of looks is taken."""
_LATE = 0.05
"""Seconds by which a look may have come late, and the next one be as early."""


@dataclass
class Limiter:
    """The one limit on the looks of all jobs.

    A refusal (429, or any answer with `Retry-After`) pauses everybody, and halves the rate at which the
    looks go on after that; the rate then recovers by a tenth each second. Without that the same crowd
    would run into the same refusal at the end of each pause.

    :param per_second: the most looks a second; None: no limit of ours.
    """

    per_second: float | None = None
    _free_at: float = 0.0
    _paused_until: float = 0.0
    _next_pause: float = _FIRST_PAUSE
    _refused_rate: float = 0.0
    _is_cautious: bool = False
    _rate: float = 0.0
    _counted_at: float = 0.0

    def free_at(self) -> float:
        """The time from which the next look may be made."""
        return max(self._free_at, self._paused_until)

    def take(self, now: float) -> None:
        """Count a look that is being made."""
        self._count(now)
        limit = self._limit(now)
        if limit is not None:
            # What was not used up for a while grants no burst; being woken up a little late costs nothing.
            self._free_at = max(self._free_at, now - min(_LATE, 1.0 / limit)) + 1.0 / limit

    def refused(self, now: float, retry_after: float | None) -> bool:
        """Pause everybody, as long as the server asks, or twice as long as last time.

        False where everybody is pausing already: those were under way when the first was refused.
        """
        asked = self._next_pause if retry_after is None else max(retry_after, _FIRST_PAUSE)
        is_new = now >= self._paused_until
        if is_new:
            self._refused_rate, self._is_cautious = max(_UNHURRIED, self._rate), True
            self._next_pause = min(_LONGEST_PAUSE, self._next_pause * 2)
        self._paused_until = max(self._paused_until, now + min(asked, LONGEST_SILENCE))
        return is_new

    def answered(self, now: float) -> None:
        """Take note that a look was answered: the next pause, if there is one, starts small again."""
        if now >= self._paused_until:
            self._next_pause = _FIRST_PAUSE

    def _limit(self, now: float) -> float | None:
        limits = [limit for limit in (self.per_second, self._recovering(now)) if limit is not None]
        return min(limits, default=None)

    def _recovering(self, now: float) -> float | None:
        if not self._is_cautious:
            return None
        seconds = max(0.0, now - self._paused_until)
        share = _CAUTION * _RECOVERY**seconds
        if share > _RECOVERED:
            self._is_cautious = False
            return None
        return float(self._refused_rate * share)

    def _count(self, now: float) -> None:
        """Keep the rate of the last seconds, older looks counting ever less."""
        passed = min(_RATE_SECONDS, max(0.0, now - self._counted_at))
        self._rate = self._rate * (1 - passed / _RATE_SECONDS) + 1.0 / _RATE_SECONDS
        self._counted_at = now


@dataclass
class ConcurrencyLimit:
    """How many looks may be under way at once, which is how many sockets there are.

    Few do, unless answers are slow. Falling behind while the thread has time to spare shows that it is the
    answers that are waited for, and only then more sockets help.
    """

    fewest: int = 8
    most: int = 32
    allowed: int = field(init=False)
    _idle_ticks: int = 0

    def __post_init__(self) -> None:
        self.allowed = self.fewest

    def adjust(self, *, lateness: float, busy: float) -> None:
        """Take in by how many seconds the first look is late, and how much of its time the thread works."""
        if lateness > 1.0 and busy < 0.7:
            self._idle_ticks = 0
            self.allowed = min(self.most, self.allowed + self.allowed // 2)
        elif lateness < 0.1:
            self._idle_ticks += 1
            if self._idle_ticks >= 12:
                self._idle_ticks = 0
                self.allowed = max(self.fewest, self.allowed * 2 // 3)
