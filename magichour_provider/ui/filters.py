"""Values in a person's words: the filters of the templates. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, timezone
from typing import Any

_STATES: Mapping[str | None, str] = {
    None: "Not started",
    "awaiting_input": "Awaiting input",
    "deferred": "Deferred",
    "failed": "Failed",
    "in progress": "In progress",
    "queued": "Queued",
    "removed": "Removed",
    "restarting": "Restarting",
    "running": "Running",
    "scheduled": "Scheduled",
    "skipped": "Skipped",
    "success": "Success",
    "up_for_reschedule": "Up for reschedule",
    "up_for_retry": "Up for retry",
    "upstream_failed": "Upstream failed",
}
"""Airflow's states of a task instance, named as in its UI, and the gallery's name for several of them."""

_STATUSES: Mapping[str, str] = {
    "draft": "Draft",
    "queued": "In Magic Hour's queue",
    "rendering": "Rendering",
    "complete": "Rendered",
    "error": "Failed at Magic Hour",
    "canceled": "Canceled at Magic Hour",
}

_SENTENCES: Mapping[str | None, str] = {
    None: "The task has not started.",
    "awaiting_input": "The task awaits a person's answer.",
    "deferred": "The task waits in the triggerer; no worker is held.",
    "failed": "The task has failed.",
    "queued": "The task waits for a worker.",
    "removed": "The task is no longer part of its Dag.",
    "restarting": "The task is being restarted.",
    "running": "A worker runs the task.",
    "scheduled": "The task is about to be queued.",
    "skipped": "The task was skipped.",
    "success": "The task has succeeded.",
    "up_for_reschedule": "The task will look again soon; no worker is held.",
    "up_for_retry": "The task has failed and will be tried again.",
    "upstream_failed": "A task before this one has failed, so it did not run.",
}

_UNITS = ("kB", "MB", "GB", "TB")


def seconds(value: float) -> str:
    """A span of time: `5 s`, `3.5 s`, `1 min 12 s`, `1 h 2 min`."""
    tenths = round(value, 1)
    if tenths <= 0:
        return "under 0.1 s"
    if tenths < 10:
        return f"{tenths:g} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _pair(whole // 60, "min", whole % 60, "s")
    return _pair(whole // 3600, "h", whole % 3600 // 60, "min")


def _pair(large: int, large_unit: str, small: int, small_unit: str) -> str:
    text = f"{large:,} {large_unit}"
    return f"{text} {small} {small_unit}" if small else text


def amount(value: int) -> str:
    """A number with its thousands apart."""
    return f"{value:,}"


def credits_of(value: int) -> str:
    """`1 credit`, `1,200 credits`."""
    return f"{value:,} credit{'' if value == 1 else 's'}"


def size(value: int) -> str:
    """A number of bytes: `512 bytes`, `1.2 MB`."""
    if value < 1000:
        return f"{value} byte{'' if value == 1 else 's'}"
    power = next((power for power in range(1, len(_UNITS)) if value / 1000**power < 999.95), len(_UNITS))
    return f"{value / 1000**power:.1f} {_UNITS[power - 1]}"


def frame_rate(value: float) -> str:
    """`24 fps`, `23.976 fps`."""
    return f"{value:.3f}".rstrip("0").rstrip(".") + " fps"


def moment(value: datetime) -> str:
    """A moment as Airflow writes it, in UTC: page.js writes it anew in the person's time zone."""
    return f"{value.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def machine_moment(value: datetime) -> str:
    """A moment for an element's `datetime` attribute."""
    return value.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def day(value: date) -> str:
    """`2026-03-14`."""
    return value.isoformat()


def state_name(value: str | None) -> str:
    """The name of a task instance's state; one that is not known here stays as it is."""
    return _STATES.get(value) or str(value)


def state_tone(value: str | None) -> str:
    """The state as part of a CSS class: one of a closed set."""
    return value if value is not None and value in _SENTENCES else "none"


def state_sentence(value: str | None) -> str:
    """What the state means for the person who waits."""
    return _SENTENCES.get(value) or f"Airflow calls the task's state {value}."


def status_name(value: str) -> str:
    """The name of a job's status; one that is not known here stays as it is."""
    return _STATUSES.get(value, value)


def web_address(value: str) -> str:
    """The address if it is one of the web, which a link may lead to; else an empty text."""
    return value if value.startswith(("https://", "http://")) else ""


FILTERS: Mapping[str, Callable[[Any], str]] = {
    "amount": amount,
    "credits": credits_of,
    "day": day,
    "frame_rate": frame_rate,
    "machine_moment": machine_moment,
    "moment": moment,
    "seconds": seconds,
    "size": size,
    "state_name": state_name,
    "state_sentence": state_sentence,
    "state_tone": state_tone,
    "status_name": status_name,
    "web_address": web_address,
}
"""For the templates' environment, by the name that they have there."""
