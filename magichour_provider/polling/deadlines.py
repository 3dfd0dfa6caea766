"""Time limits: seconds and timedeltas in, one absolute deadline out."""

from __future__ import annotations

from datetime import timedelta

ALARM_MARGIN = 5.0
LONGEST = timedelta(days=365).total_seconds()
FRAMEWORK_GRACE = 60.0
"""Seconds by which Airflow's own trigger timeout comes after our deadline: a net, as it skips our code."""


def seconds(name: str, value: float | timedelta) -> float:
    """Read a duration; ValueError unless it is positive."""
    try:
        number = value.total_seconds() if isinstance(value, timedelta) else float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number <= LONGEST:
        raise ValueError(f"{name} must be a positive number of seconds or a timedelta, not {value!r}.")
    return number


def optional_seconds(name: str, value: float | timedelta | None) -> float | None:
    """Read a duration that may be left out."""
    return None if value is None else seconds(name, value)


def deadline_from(
    start: float, timeout: timedelta, execution_timeout: timedelta | None, *, in_worker: bool
) -> float:
    """Epoch seconds at which a wait that began at `start` must end: the earlier of both limits.

    Airflow does not enforce `execution_timeout` while a task is deferred (airflow#73475). In a worker it
    does, by an alarm that tells nobody about the job: there the wait ends a little sooner.
    """
    limits = [timeout.total_seconds()]
    if execution_timeout is not None:
        limit = execution_timeout.total_seconds()
        limits.append(limit - min(ALARM_MARGIN, limit * 0.1) if in_worker else limit)
    return start + min(limits)
