"""What a hub counts, and hands on every few seconds: a metric for each look would cost more than it tells."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Protocol

log = logging.getLogger(__name__)

LOOKS = "magichour.polls"
LOOK_ERRORS = "magichour.poll_errors"
RATE_LIMIT_PAUSES = "magichour.rate_limited"
DETECTION_DELAY = "magichour.completion_lag"
CLIPS_WAITING = "magichour.jobs_waiting"


class Stats(Protocol):
    """Where metrics go: Airflow's `Stats`, or anything with its methods."""

    def incr(self, stat: str, count: int = 1, *, tags: dict[str, Any] | None = None) -> None:
        """Count something."""

    def gauge(self, stat: str, value: float, *, tags: dict[str, Any] | None = None) -> None:
        """Set a level."""

    def timing(self, stat: str, dt: float, *, tags: dict[str, Any] | None = None) -> None:
        """Report a duration, in milliseconds."""


class NoStats:
    """Stands in where nobody wants metrics."""

    def incr(self, stat: str, count: int = 1, *, tags: dict[str, Any] | None = None) -> None:
        """Count nothing."""

    def gauge(self, stat: str, value: float, *, tags: dict[str, Any] | None = None) -> None:
        """Set nothing."""

    def timing(self, stat: str, dt: float, *, tags: dict[str, Any] | None = None) -> None:
        """Report nothing."""


@dataclass
class PollMetrics:
    """What has happened since the last report.

    :param delays: seconds that the ends of jobs can have gone unnoticed: from the last look that saw the
        job going on to the one that saw it ended. Magic Hour does not tell when a job ended.
    """

    looks: int = 0
    look_errors: int = 0
    pauses: int = 0
    delays: list[float] = field(default_factory=list)

    def report(self, stats: Stats, waiting: int, tags: dict[str, str]) -> None:
        """Hand everything on; `waiting` is the number of clips that are waited for now. Never raises."""
        try:
            self._report(stats, waiting, tags)
        except Exception as error:
            log.debug("The metrics could not be reported.", exc_info=error)

    def _report(self, stats: Stats, waiting: int, tags: dict[str, str]) -> None:
        for name, count in (
            (LOOKS, self.looks),
            (LOOK_ERRORS, self.look_errors),
            (RATE_LIMIT_PAUSES, self.pauses),
        ):
            if count:
                stats.incr(name, count, tags=tags)
        for seconds in self.delays:
            stats.timing(DETECTION_DELAY, seconds * 1000, tags=tags)
        stats.gauge(CLIPS_WAITING, waiting, tags=tags)
