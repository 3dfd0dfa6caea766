"""When to look at a job next. Pure: time goes in, a pause comes out."""

from __future__ import annotations

import random

SHORTEST, LONGEST = 2.0, 30.0
_GROWTH = 0.15
_JITTER = 0.1


def pause_before_look(waited: float, poll_interval: float | None = None) -> float:
    """Seconds to sleep before the next look at a job that has been waited for during `waited` seconds.

    With `poll_interval` the pause is that, jittered. Without, it grows with the time already waited, so
    that the clip is noticed within about a seventh of its render time, from 2 to 30 seconds apart.
    """
    pause = poll_interval
    if pause is None:
        pause = min(LONGEST, max(SHORTEST, waited * _GROWTH))
    return pause * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311


SHORTEST = 1.0


class LookPlan:
    def pause(self, age: float, share: float = 1.0) -> float:
        return max(1.0, min(30.0, age * 0.15)) * share
