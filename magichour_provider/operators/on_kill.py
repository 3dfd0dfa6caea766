"""What a task says when it is killed: there is no way to cancel a render from here."""

from __future__ import annotations

import logging
import threading
from typing import Any

from magichour_provider.client.projects import library_url
from magichour_provider.exceptions import TaskKilledError


def killed(project_id: str, credits_charged: int | None) -> str:
    """Name the job that goes on, its page and its credits."""
    price = "its credits" if credits_charged is None else f"its {credits_charged} credits"
    return (
        f"This task was killed; job {project_id} goes on at Magic Hour and {price} stay charged: "
        f"{library_url(project_id)} VideoJobSensor and DownloadVideoOperator take it up for nothing, and so "
        "does a new run of a task that has a record of it (Airflow 3.3)."
    )


def stopped(project_id: str) -> TaskKilledError:
    """The error of a task that was told to stop while it waited, or before it could succeed."""
    return TaskKilledError(
        f"This task was told to stop; job {project_id} goes on at Magic Hour, unless it has ended: "
        f"{library_url(project_id)}",
        consequence="Its credits stay charged.",
        remedy="A new run of this task takes it up for nothing.",
    )


def say(log: logging.Logger | Any, message: str) -> None:
    """Log a warning from within a signal's handler.

    In a thread of its own, as the code that the signal has interrupted may be writing to the log, and hold
    its lock.
    """
    threading.Thread(target=log.warning, args=("%s", message), name="magichour-killed").start()
