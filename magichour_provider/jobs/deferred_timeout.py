"""Airflow's alarm for `execution_timeout`, made to wait while a create is in flight.

Airflow raises in the middle of whatever runs. Inside a create that loses the id of a job that may be paid
for, when a few seconds more would have brought it.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class DeferredTimeout:
    """Hold the alarm for at most `grace` seconds beyond its time; it rings on release.

    A context manager, which gives the alarm back at its end and lets an error go before it. Does nothing
    outside the main thread, where Airflow sets no alarm either.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._before: Any = None
        self._rang = False

    def hold(self) -> None:
        """Let the alarm wait from now on."""
        if threading.current_thread() is threading.main_thread() and callable(
            signal.getsignal(signal.SIGALRM)
        ):
            self._before = signal.signal(signal.SIGALRM, self._ring_later)

    def release(self) -> None:
        """Let the alarm ring again; at once, where it was due."""
        self._give_back()
        if self._rang:
            self._rang = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.raise_signal(signal.SIGALRM)

    def __enter__(self) -> DeferredTimeout:
        return self

    def __exit__(self, *_error: object) -> None:
        self._give_back()

    def _ring_later(self, _signum: int, _frame: FrameType | None) -> None:
        self._rang = True
        self._give_back()
        signal.setitimer(signal.ITIMER_REAL, self._grace)

    def _give_back(self) -> None:
        before, self._before = self._before, None
        if before is not None:
            signal.signal(signal.SIGALRM, before)
