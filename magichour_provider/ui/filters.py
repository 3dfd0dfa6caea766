"""Values as text for people: the filters of the templates. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from magichour_provider.storage.locations import format_bytes

_STATUSES: Mapping[str, str] = {
    "draft": "Draft",
    "queued": "In Magic Hour's queue",
    "rendering": "Rendering",
    "complete": "Rendered",
    "error": "Failed at Magic Hour",
    "canceled": "Canceled at Magic Hour",
}

_STATE_SENTENCES: Mapping[str | None, str] = {
    None: "The task has not started.",
    "awaiting_input": "The task is waiting for a user's answer.",
    "deferred": "The task is waiting in the triggerer. It occupies no worker.",
    "failed": "The task failed.",
    "queued": "The task is waiting for a worker.",
    "removed": "The task was removed from its Dag.",
    "restarting": "The task is restarting.",
    "running": "The task is running on a worker.",
    "scheduled": "The task will be queued soon.",
    "skipped": "The task was skipped.",
    "success": "The task succeeded.",
    "up_for_reschedule": "The task will check again soon. It occupies no worker.",
    "up_for_retry": "The task failed. Airflow will retry it.",
    "upstream_failed": "The task did not run because an upstream task failed.",
}


def seconds(value: float) -> str:
    """A duration: `5 s`, `3.5 s`, `1 min 12 s`, `1 h 2 min`."""
    if round(value, 1) < 10:
        return f"{round(value, 1):g} s" if value >= 0.05 else "under 0.1 s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    parts = {"h": hours, "min": minutes, "s": 0 if hours else rest}
    return " ".join(f"{number:,} {unit}" for unit, number in parts.items() if number)


def credits_text(value: int) -> str:
    """`1 credit`, `1,200 credits`."""
    return f"{value:,} credit{'' if value == 1 else 's'}"


def moment(value: datetime) -> str:
    """A time as Airflow writes it, in UTC; page.js replaces it with the user's time zone."""
    return f"{value.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def state_name(value: str | None) -> str:
    """A task instance's state as Airflow's UI writes it: `Up for retry`."""
    return "Not started" if value is None else value.replace("_", " ").capitalize()


def state_class(value: str | None) -> str:
    """The state as part of a CSS class: one of a closed set."""
    return value if value is not None and value in _STATE_SENTENCES else "none"


def state_sentence(value: str | None) -> str:
    """What the state means."""
    return _STATE_SENTENCES.get(value) or f"The state of the task in Airflow is {value}."


def status_name(value: str) -> str:
    """The name of a job's status; an unknown one stays as it is."""
    return _STATUSES.get(value, value)


FILTERS: Mapping[str, Callable[[Any], str]] = {
    "credits": credits_text,
    "moment": moment,
    "seconds": seconds,
    "size": format_bytes,
    "state_class": state_class,
    "state_name": state_name,
    "state_sentence": state_sentence,
    "status_name": status_name,
}
"""For the templates' environment, by their names in the templates."""
