"""One job being waited for: when to look, and what a look means. No I/O, no clock of its own.

Invariants: a failed look is not a failed job, so everything that may pass is ridden out until the
deadline; the deadline is absolute, so no restart grants new time; every look is preceded by a pause.
"""

from __future__ import annotations

import logging
import math
import random
from dataclasses import dataclass, field, replace

from magichour_provider.client.models import JobStatus, VideoProject
from magichour_provider.exceptions import APIError, MagicHourError
from magichour_provider.polling import outcome
from magichour_provider.polling.durations import ANY_KIND, RenderKind, RenderTimes, render_times
from magichour_provider.polling.intervals import SHORTEST
from magichour_provider.polling.outcome import Outcome, TerminalStatus
from magichour_provider.polling.rate_limit import LONGEST_SILENCE

log = logging.getLogger(__name__)

NOT_FOUND_PAUSES = (1.0, 2.0)
"""Seconds between the looks at a job that was not found: what is paid for is not given up for one answer."""
_LONGEST_BACKOFF = 60.0
"""Seconds between two looks that fail."""
_JITTER = 0.1
_LEAST_PAUSE = SHORTEST + 0.1
"""Seconds; a look may come a little sooner than planned, and still not twice in a second."""
_COMPLAIN_AGAIN = 300.0
"""Seconds between two warnings about looks that fail, in a time in which some do."""
_CLOCKS_DIFFER = 5.0
_SPREAD = 3.0
"""Seconds over which those are spread whose quiet ends together."""
_FRESH_JOB = 15.0
"""Seconds after which a job was not submitted for this wait, or this wait not begun for the first time."""
_IN_QUEUE = frozenset({JobStatus.DRAFT.value, JobStatus.QUEUED.value})
_SOON = (1.0, 4.0)
"""Seconds until the first look at a job of unknown age."""


@dataclass(eq=False, slots=True)
class Poller:
    """The state of one wait.

    :param deadline: epoch seconds after which the wait ends as `Ending.TIMEOUT`.
    :param started: epoch seconds at which the wait began.
    :param poll_interval: seconds between looks; None: by the schedule.
    :param submitted: epoch seconds at which the job was submitted; None: the first look tells.
    :param kind: what the job renders, by which the schedule has learned how long that takes.
    :param quiet_until: epoch seconds before which the wait neither looks nor ends.
    :param at_once: whether the first look is made without a pause.
    :param has_looked: whether somebody has looked at the job for this wait.
    :param queued_at: epoch seconds of a look that saw the job in the queue; old ones are forgotten.
    :param rendering_since: epoch seconds of the first look that saw the job render; None: not known.

    `status` and `credits_charged` are the job's, as the last look showed them; `unseen_since` is the time of
    the last look that saw the job going on.
    """

    project_id: str
    deadline: float
    started: float
    poll_interval: float | None = None
    submitted: float | None = None
    kind: RenderKind = ANY_KIND
    quiet_until: float = 0.0
    at_once: bool = False
    has_looked: bool = False
    queued_at: float | None = None
    rendering_since: float | None = None
    times: RenderTimes = render_times
    status: str | None = None
    credits_charged: int | None = None
    unseen_since: float = field(init=False)
    _told_age: float = 0.0
    _not_before: float = 0.0
    _failed_looks: int = 0
    _complained_at: float = -math.inf
    _is_age_known: bool = True
    _warned: str | None = None

    def __post_init__(self) -> None:
        self.unseen_since = self.started
        if self.rendering_since is None and self.started - (self.queued_at or 0.0) > _FRESH_JOB:
            self.queued_at = None  # somebody may have looked since, and what was seen is lost

    def pause(self, now: float) -> float:
        """Seconds until the next look; never beyond the deadline, never sooner than the API asked."""
        wanted = max(self._wanted_look(now), self._not_before)
        if wanted < self.quiet_until:
            wanted = self.quiet_until + random.random() * min(_SPREAD, self.poll_interval or _SPREAD)  # noqa: S311
        return max(0.0, max(min(wanted, self.deadline), self.quiet_until) - now)

    def saw(self, project: VideoProject, now: float) -> Outcome | None:
        """Take in what a look showed; an Outcome ends the wait."""
        self._failed_looks = 0
        self._not_before = 0.0
        self.credits_charged = project.credits_charged
        status = outcome.status_text(project)
        if status != self.status:
            log.info("Job %s is %s.", self.project_id, status)
            self.status = status
        self._warn_of_unknown(project)
        ended = outcome.of_project(project)
        try:
            self._learn(project, now, is_over=ended is not None)
        except Exception as error:  # what is learned is a convenience, and must cost nobody a clip
            log.debug("Nothing was learned of this look.", exc_info=error)
        self._note_phase(status, now)
        self.has_looked = True
        return ended if ended is None else self._with_phases(ended, now)

    def missed(self, error: MagicHourError, now: float) -> Outcome | None:
        """Take in that a look failed; an Outcome ends the wait."""
        ended = outcome.of_error(self.project_id, error)
        if ended is not None:
            return ended
        silence = error.retry_after if isinstance(error, APIError) else None
        self.stumbled(error.what, now, 0.0 if silence is None else min(silence, LONGEST_SILENCE))
        return None

    def stumbled(self, why: str, now: float, silence: float = 0.0) -> None:
        """Take in that a look came to nothing; the first of a row is logged.

        :param silence: seconds for which the API asked to be left alone.
        """
        self._failed_looks += 1
        if self._failed_looks == 1 and now > self._complained_at + _COMPLAIN_AGAIN:
            self._complained_at = now
            log.warning("Looking at job %s failed; the wait goes on. %s", self.project_id, why)
        first = min(1.0, self.poll_interval or 1.0)
        backoff = min(_LONGEST_BACKOFF, first * 2 ** min(self._failed_looks - 1, 10))
        self._not_before = now + max(silence, backoff * random.uniform(0.75, 1.25))  # noqa: S311

    def forget_silence(self) -> None:
        """Look again as soon as is wanted, whatever the API has asked for."""
        self._not_before = 0.0

    def overdue(self, now: float) -> Outcome | None:
        """The end of the wait once the deadline has passed."""
        return None if now < self.deadline else self.timed_out()

    def timed_out(self) -> Outcome:
        """The end of a wait whose time is up."""
        return Outcome(TerminalStatus.TIMEOUT, self.project_id, status=self.status)

    @property
    def known_submission(self) -> float | None:
        """Epoch seconds at which the job was submitted; None where Magic Hour's word is of no use."""
        return self.submitted if self._is_age_known else None

    def _wanted_look(self, now: float) -> float:
        if self.at_once and not self.has_looked and not self._failed_looks:
            return now
        if self.poll_interval is not None:
            return now + self.poll_interval * self._share(is_first=not self.has_looked)
        if self._failed_looks:
            return self._not_before
        if self.submitted is None:
            return now + random.uniform(*_SOON)  # noqa: S311
        is_resumed = not self.has_looked and self.started - self.submitted > _FRESH_JOB
        plan = self.times.plan_for(self.kind)
        pause = plan.pause(max(0.0, now - self.submitted), self._share(is_first=is_resumed))
        return now + max(_LEAST_PAUSE, pause)

    @staticmethod
    def _share(*, is_first: bool) -> float:
        """How much of a pause to sleep. Those who begin to wait together, after a restart, part at once."""
        return random.random() if is_first else random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311

    def _learn(self, project: VideoProject, now: float, *, is_over: bool) -> None:
        """Learn what the job is, and how long it renders, as far as this wait has followed it."""
        if self.submitted is None:
            self._take_age(project, now)
        if self.kind.end_seconds is None:
            self.kind = self.kind._replace(end_seconds=project.end_seconds)
        since, self.unseen_since = self.unseen_since, self.unseen_since if is_over else now
        if self.submitted is None or self.poll_interval is not None or not self._is_age_known:
            return
        age = now - self.submitted
        if not is_over:
            self.times.unfinished(self.kind, age, self._told_age)
            self._told_age = age
        elif project.status is JobStatus.COMPLETE and self._has_followed(since):
            self.times.learn(self.kind, since - self.submitted, age, self._told_age)

    def _note_phase(self, status: str, now: float) -> None:
        """Note when the job began to render, unless somebody else may have seen it do so."""
        if status in _IN_QUEUE:
            self.queued_at = now
        elif status == JobStatus.RENDERING.value and self.rendering_since is None:
            is_news = not self.has_looked and self._is_from_the_beginning()
            if is_news or self.queued_at is not None:
                self.rendering_since = now

    def _with_phases(self, ended: Outcome, now: float) -> Outcome:
        begun, submitted = self.rendering_since, self.known_submission
        is_queue_known = self.queued_at is not None and submitted is not None
        return replace(
            ended,
            queued_seconds=_passed(submitted, now if begun is None else begun) if is_queue_known else None,
            rendering_seconds=_passed(begun, now),
        )

    def _take_age(self, project: VideoProject, now: float) -> None:
        """Take the job's age from Magic Hour; where its clock or its answer is of no use, from this wait."""
        created = project.created_at.timestamp() if project.created_at is not None else math.inf
        self._is_age_known = created <= now + _CLOCKS_DIFFER
        self.submitted = min(created, now) if self._is_age_known else self.started

    def _has_followed(self, since: float) -> bool:
        """Whether the job was not simply found done by a wait that began late."""
        return since > self.started or self._is_from_the_beginning()

    def _is_from_the_beginning(self) -> bool:
        """Whether this wait began when its job did, so that nobody has seen more of it."""
        submitted = self.known_submission
        return submitted is not None and self.started - submitted <= _FRESH_JOB

    def _warn_of_unknown(self, project: VideoProject) -> None:
        status = project.status
        if not isinstance(status, JobStatus) and status != self._warned:
            self._warned = status
            log.warning(
                "Job %s has the status %r, which this provider does not know; the wait goes on until its "
                "deadline.",
                self.project_id,
                status,
            )


def _passed(since: float | None, until: float) -> float | None:
    """Seconds between two times, to a tenth; None where the clocks do not agree."""
    return None if since is None or until < since else round(until - since, 1)
