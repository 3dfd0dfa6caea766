"""One job being waited for: when to look, and what a look means. No I/O, no clock of its own.

Invariants: a failed look is not a failed job, so everything that may pass is ridden out until the
deadline; the deadline is absolute, so no restart grants new time; every look is preceded by a pause.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from magichour_provider.api.errors import APIError, MagicHourError
from magichour_provider.api.models import JobStatus, VideoProject
from magichour_provider.waiting import outcome
from magichour_provider.waiting.outcome import Ending, Outcome
from magichour_provider.waiting.schedule import pause_before_look

log = logging.getLogger(__name__)

NOT_FOUND_PAUSES = (1.0, 2.0)
"""Seconds between the looks at a job that was not found: what is paid for is not given up for one answer."""
LONGEST_SILENCE = 600.0
"""Seconds that a server's `Retry-After` may keep a wait from looking."""


@dataclass
class Watch:
    """The state of one wait.

    :param deadline: epoch seconds after which the wait ends as `Ending.TIMEOUT`.
    :param poll_interval: seconds between looks; None: adaptive.
    :param started: epoch seconds at which the wait began.
    :param quiet_until: epoch seconds before which the wait neither looks nor ends.

    `status` and `credits_charged` are the job's, as the last look showed them.
    """

    project_id: str
    deadline: float
    started: float
    poll_interval: float | None = None
    quiet_until: float = 0.0
    status: str | None = None
    credits_charged: int | None = None
    _not_before: float = 0.0
    _failed_looks: int = 0
    _warned: set[str] = field(default_factory=set)

    def pause(self, now: float) -> float:
        """Seconds until the next look; never beyond the deadline, never sooner than the API asked."""
        wanted = max(now + pause_before_look(now - self.started, self.poll_interval), self._not_before)
        return max(0.0, max(min(wanted, self.deadline), self.quiet_until) - now)

    def saw(self, project: VideoProject) -> Outcome | None:
        """Take in what a look showed; an Outcome ends the wait."""
        self._failed_looks = 0
        self.credits_charged = project.credits_charged
        status = outcome.status_text(project)
        if status != self.status:
            log.info("Job %s is %s.", self.project_id, status)
            self.status = status
        self._warn_of_unknown(project)
        return outcome.of_project(project)

    def missed(self, error: MagicHourError, now: float) -> Outcome | None:
        """Take in that a look failed; an Outcome ends the wait."""
        ended = outcome.of_error(self.project_id, error)
        if ended is not None:
            return ended
        if isinstance(error, APIError) and error.retry_after is not None:
            self._not_before = now + min(error.retry_after, LONGEST_SILENCE)
        self.stumbled(error.what)
        return None

    def stumbled(self, why: str) -> None:
        """Take in that a look came to nothing; the first of a row is logged."""
        self._failed_looks += 1
        if self._failed_looks == 1:
            log.warning("Looking at job %s failed; the wait goes on. %s", self.project_id, why)

    def overdue(self, now: float) -> Outcome | None:
        """The end of the wait once the deadline has passed."""
        if now < self.deadline:
            return None
        return Outcome(Ending.TIMEOUT, self.project_id, status=self.status)

    def _warn_of_unknown(self, project: VideoProject) -> None:
        status = project.status
        if not isinstance(status, JobStatus) and status not in self._warned:
            self._warned.add(status)
            log.warning(
                "Job %s has the status %r, which this provider does not know; the wait goes on until its "
                "deadline.",
                self.project_id,
                status,
            )
