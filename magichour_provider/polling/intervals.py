"""When a job is polled, and until when. Pure: ages and limits go in, seconds come out.

Jobs of one kind (model, resolution, length of the video) take similar times. So the first poll waits for the
shortest of the last durations, and the polls after it follow at `_INTERVAL_SECONDS`. Far beyond the usual
duration the interval grows with the job's age. Much longer durations are a group of their own: a job that
outlives the first group is polled next when the shortest jobs of the second group end.

The reasons and measurements are in docs/design.md. Until durations are known: Magic Hour publishes medians of
33 s to 74 s for image-to-video jobs (https://docs.magichour.ai/api-reference/processing-times).
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict, deque
from datetime import timedelta
from typing import NamedTuple
from weakref import WeakSet

MIN_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS = 1.0, 60.0
"""Between two polls of one job."""
_INTERVAL_SECONDS = 4.6
"""While a job may end at any moment: an end is noticed 2.3 s later on average."""
_FIRST_POLL_SECONDS, _BACKOFF_SECONDS = 20.0, 120.0
"""Age at the first poll, and from which the interval grows, until durations are known."""
_SAMPLE_SIZE, _MIN_SAMPLE_SIZE = 48, 4
_GAP_RATIO, _GROUP_MARGIN = 2.0, 1.2
"""A duration so many times the one before it begins a group; a job that lasted so many times the longest
duration of a group belongs to the next one."""
_MAX_KINDS = 128
FRESH_JOB_SECONDS = 15.0
"""A wait that begins within this time after the submission follows its job from the start."""

ALARM_MARGIN_SECONDS = 5.0
"""A wait in a worker ends so much before `execution_timeout`, whose alarm would not name the job."""
TIMEOUT_GRACE_SECONDS = 3.0
"""A wait whose deadline has passed may still get the answer of the poll that is due then."""
TRIGGER_TIMEOUT_MARGIN_SECONDS = 60.0
"""Airflow's trigger timeout comes so much after our deadline: it fails the task without calling our code."""


class JobKind(NamedTuple):
    """What durations are learned by; None if it is not known. `end_seconds`: length of the video."""

    model: str | None = None
    resolution: str | None = None
    end_seconds: float | None = None


UNKNOWN_KIND = JobKind()


class _Group(NamedTuple):
    """Durations of similar length: ages in seconds at the first poll, and from which the interval grows.

    A job older than `until` belongs to the next group.
    """

    first_poll: float = _FIRST_POLL_SECONDS
    backoff_from: float = _BACKOFF_SECONDS
    until: float = math.inf


_PRIOR = [_Group()]


class _Durations:
    """The last durations of one kind of job, in seconds, in groups from short to long."""

    def __init__(self) -> None:
        self.groups = _PRIOR
        self.followed: WeakSet[object] = WeakSet()
        self._sample: deque[float] = deque(maxlen=_SAMPLE_SIZE)

    def add(self, shortest: float, longest: float) -> None:
        # If the first poll found the end, the lower bound is low, so that shorter durations are discovered.
        self._sample.append(random.uniform(shortest or longest / 2, longest))
        if len(self._sample) < _MIN_SAMPLE_SIZE:
            return
        ordered = sorted(self._sample)
        starts = [0]
        for start in range(_MIN_SAMPLE_SIZE, len(ordered) - _MIN_SAMPLE_SIZE + 1):
            is_far = ordered[start] > _GAP_RATIO * ordered[start - 1]
            if is_far and start - starts[-1] >= _MIN_SAMPLE_SIZE:
                starts.append(start)
        self.groups = []
        for start, end in zip(starts, [*starts[1:], len(ordered)], strict=True):
            group = ordered[start:end]
            spread = _quantile(group, 0.9) - _quantile(group, 0.1)
            # The first poll should find no more jobs ended than each of the following ones.
            share = min(0.3, _INTERVAL_SECONDS / 2 / max(spread, 0.1))
            first_poll = _quantile(group, share) + 0.6 * _INTERVAL_SECONDS
            backoff_from = max(1.5 * _quantile(group, 0.75), first_poll)
            self.groups.append(_Group(first_poll, backoff_from, _GROUP_MARGIN * group[-1]))


class PollIntervals:
    """The poll intervals of every kind of job, learned from the jobs that are waited for."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[JobKind, _Durations] = OrderedDict()

    def next_poll(self, kind: JobKind, age: float) -> float:
        """Seconds until the next poll of a job that was submitted `age` seconds ago."""
        groups = self._kinds[kind].groups if kind in self._kinds else _PRIOR
        group = next((each for each in groups if age < each.until), groups[-1])
        if age < group.first_poll - MIN_INTERVAL_SECONDS:
            return min(group.first_poll - age, MAX_INTERVAL_SECONDS)
        return min(_INTERVAL_SECONDS * max(1.0, age / group.backoff_from), MAX_INTERVAL_SECONDS)

    def follow(self, kind: JobKind, wait: object) -> None:
        """Learn the duration of the job of this wait, if the sample has room. The wait is held weakly."""
        durations = self._kinds.setdefault(kind, _Durations())
        self._kinds.move_to_end(kind)
        if len(self._kinds) > _MAX_KINDS:
            self._kinds.popitem(last=False)
        if len(durations.followed) < _SAMPLE_SIZE:
            durations.followed.add(wait)

    def ended(self, kind: JobKind, wait: object, shortest: float, longest: float) -> None:
        """Record that the job of a followed wait ended at an age between two polls, in seconds.

        :param shortest: age at the last poll that saw it unfinished; 0 if none did.
        """
        durations = self._kinds.get(kind)
        if durations is not None and wait in durations.followed:
            durations.followed.discard(wait)
            durations.add(max(shortest, 0.0), longest)


process_intervals = PollIntervals()
"""What this process has learned, for all its event loops and accounts."""


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[int(share * (len(ordered) - 1) + 0.5)]


def seconds(name: str, value: float | timedelta) -> float:
    """Read a duration. Raises ValueError unless it is positive and at most a year."""
    try:
        number = value.total_seconds() if isinstance(value, timedelta) else float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number <= timedelta(days=365).total_seconds():
        raise ValueError(f"{name} must be a positive number of seconds or a timedelta, not {value!r}.")
    return number


def get_deadline(
    start: float, timeout: timedelta, execution_timeout: timedelta | None, *, in_worker: bool
) -> float:
    """Epoch seconds at which a wait that began at `start` must end: the earlier of both limits.

    Airflow does not enforce `execution_timeout` while a task is deferred (airflow#73475). In a worker it
    does, with an alarm that does not name the job, so a wait in a worker ends a little earlier.
    """
    limits = [timeout.total_seconds()]
    if execution_timeout is not None:
        limit = execution_timeout.total_seconds()
        limits.append(limit - min(ALARM_MARGIN_SECONDS, limit * 0.1) if in_worker else limit)
    return start + min(limits)
