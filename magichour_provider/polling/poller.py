"""One wait for a job: when to poll, and what the answer means. No I/O, no clock of its own.

Invariants. A failed poll is not a failed job: polling continues, with backoff, until the deadline. The
deadline is absolute: a restarted process gains no time. A pause precedes every poll.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magichour_provider.client.models import JobStatus, VideoProject
from magichour_provider.exceptions import MagicHourError, NotFoundError
from magichour_provider.polling.intervals import (
    FRESH_JOB_SECONDS,
    MIN_INTERVAL_SECONDS,
    UNKNOWN_KIND,
    JobKind,
    PollIntervals,
    process_intervals,
)
from magichour_provider.polling.outcome import Outcome, TerminalStatus, from_error, from_project, status_text
from magichour_provider.polling.rate_limit import MAX_RETRY_AFTER_SECONDS

if TYPE_CHECKING:
    from magichour_provider.client.sync import MagicHourClient

log = logging.getLogger(__name__)

NOT_FOUND_RETRY_SECONDS = (1.0, 2.0)
"""Pauses before a 404 is believed: a paid job is not given up for one answer."""
_MAX_BACKOFF_SECONDS = 60.0
_JITTER = 0.1
_MAX_JITTER_SECONDS = 1.5
EARLY_SECONDS = 0.1
"""A poll may come so much before it is due."""
_WARN_AGAIN_SECONDS = 300.0
_CLOCK_SKEW_SECONDS = 5.0
_QUIET_SPREAD_SECONDS = 3.0
"""Polls that a quiet time has held back are spread over this time."""
_UNKNOWN_AGE_SECONDS = (1.0, 4.0)
"""Pause before the first poll of a job of unknown age."""


@dataclass(eq=False)
class Poller:
    """The state of one wait.

    :param deadline: epoch seconds after which the wait ends as `TerminalStatus.TIMEOUT`.
    :param started: epoch seconds at which the wait began.
    :param poll_interval: seconds between polls; None: adaptive.
    :param submitted: epoch seconds at which the job was submitted; None: the first poll tells, if Magic Hour
        knows it.
    :param kind: what the job makes, as far as it is known.
    :param quiet_until: epoch seconds before which the wait neither polls nor ends.
    :param poll_immediately: whether no pause precedes the first poll.
    :param has_polled: whether the job was polled for this wait before, in another process.
    :param logs_status: whether each new status is logged.

    `status` and `credits_charged` are the job's at the last poll; `unfinished_at` is the time of the last
    poll that saw it unfinished. After a failed poll the next one comes `not_before` that time.
    """

    project_id: str
    deadline: float
    started: float
    poll_interval: float | None = None
    submitted: float | None = None
    kind: JobKind = UNKNOWN_KIND
    quiet_until: float = 0.0
    poll_immediately: bool = False
    has_polled: bool = False
    logs_status: bool = True
    intervals: PollIntervals = process_intervals
    status: str | None = None
    credits_charged: int | None = None
    not_before: float = 0.0
    _failures: int = 0
    _warned_at: float = -math.inf

    def __post_init__(self) -> None:
        self.unfinished_at = self.started
        self._age_counts_from = self.submitted
        self._follow()

    def seconds_to_next_poll(self, now: float) -> float:
        """Pause until the next poll: not beyond the deadline, and not less than the API asked for."""
        is_first = not self.has_polled
        if self.poll_immediately and is_first and not self._failures:
            pause = 0.0
        elif self.poll_interval is not None:
            # Waits that start together, as after a restart, spread over the first interval.
            share = random.random() if is_first else random.uniform(1 - _JITTER, 1 + _JITTER)
            pause = self.poll_interval * share
        elif self._failures:
            pause = 0.0  # `not_before` is the pause
        elif self._age_counts_from is None:
            pause = random.uniform(*_UNKNOWN_AGE_SECONDS)
        else:
            pause = self.intervals.next_poll(self.kind, max(0.0, now - self._age_counts_from))
            if is_first and self.started - self._age_counts_from > FRESH_JOB_SECONDS:
                pause *= random.random()
            else:
                jitter = min(_JITTER * pause, _MAX_JITTER_SECONDS)
                pause += random.uniform(-jitter, jitter)
            pause = max(MIN_INTERVAL_SECONDS + EARLY_SECONDS, pause)
        next_poll = max(now + pause, self.not_before)
        if next_poll < self.quiet_until:
            spread = min(_QUIET_SPREAD_SECONDS, self.poll_interval or _QUIET_SPREAD_SECONDS)
            next_poll = self.quiet_until + random.random() * spread
        return max(0.0, max(min(next_poll, self.deadline), self.quiet_until) - now)

    def can_rely_on_webhook(self, now: float, seconds: float) -> bool:
        """Whether the next poll may come `seconds` later, because a webhook would tell the job's end sooner.

        Not if the user has chosen the interval, after a failed poll, or if the job may have ended before.
        """
        is_fresh = self.submitted is not None and self.started - self.submitted <= FRESH_JOB_SECONDS
        is_seen = self.has_polled or (is_fresh and not self.poll_immediately)
        return is_seen and self.poll_interval is None and not self._failures and now + seconds < self.deadline

    def on_status(self, project: VideoProject, now: float) -> Outcome | None:
        """Process a poll's answer, and learn from it; an Outcome ends the wait."""
        self._failures, self.not_before = 0, 0.0
        self.credits_charged = project.credits_charged
        status = status_text(project)
        if status != self.status:
            self.status = status
            if self.logs_status:
                log.info("Job %s is %s.", self.project_id, status)
            if not isinstance(project.status, JobStatus):
                log.warning(
                    "Job %s has the status %r, which this provider does not know. Polling continues until "
                    "the deadline.",
                    self.project_id,
                    status,
                )
        if self._age_counts_from is None:
            created = project.created_at.timestamp() if project.created_at is not None else math.inf
            if created <= now + _CLOCK_SKEW_SECONDS:
                self.submitted = min(created, now)
            self._age_counts_from = self.started if self.submitted is None else self.submitted
        if self.kind.end_seconds is None:
            self.kind = self.kind._replace(end_seconds=project.end_seconds)
        if not self.has_polled:
            self.has_polled = True
            self._follow()
        outcome = from_project(project)
        if outcome is None:
            self.unfinished_at = now
            return self.timeout() if now >= self.deadline else None
        if project.status is JobStatus.COMPLETE:
            start = self._age_counts_from
            shortest = self.unfinished_at - start if self.unfinished_at > self.started else 0.0
            self.intervals.ended(self.kind, self, shortest, max(now - start, 0.1))
        return outcome

    def on_error(self, error: Exception, now: float) -> Outcome | None:
        """Process a failed poll; an Outcome ends the wait, if polling again cannot help."""
        outcome = from_error(self.project_id, error)
        if outcome is not None:
            return outcome
        self._failures += 1
        if self._failures == 1 and now > self._warned_at + _WARN_AGAIN_SECONDS:
            self._warned_at = now
            was_raised = f"{type(error).__name__} was raised."
            reason = error.what if isinstance(error, MagicHourError) else was_raised
            log.warning("Polling job %s failed; it will be polled again. %s", self.project_id, reason)
        first = min(1.0, self.poll_interval or 1.0)
        backoff = min(_MAX_BACKOFF_SECONDS, first * 2 ** min(self._failures - 1, 10))
        backoff *= random.uniform(0.75, 1.25)
        retry_after = getattr(error, "retry_after", None) or 0.0
        self.not_before = now + max(backoff, min(retry_after, MAX_RETRY_AFTER_SECONDS))
        return self.timeout() if now >= self.deadline else None

    def timeout(self) -> Outcome:
        """The end of a wait whose deadline has passed."""
        return Outcome(TerminalStatus.TIMEOUT, self.project_id, status=self.status)

    def _follow(self) -> None:
        """Have the job's duration learned, if this wait sees the job from its start."""
        if self.submitted is None or self.poll_interval is not None or self.kind.end_seconds is None:
            return
        if self.started - self.submitted <= FRESH_JOB_SECONDS:
            self.intervals.follow(self.kind, self)


# Waiting in a worker --------------------------------------------------------------------------------


def wait_in_worker(
    client: MagicHourClient, poller: Poller, raise_if_stopped: Callable[[], None] = lambda: None
) -> Outcome:
    """Block until the job has ended or the deadline has passed.

    :param raise_if_stopped: called every second; what it raises ends the wait.
    """
    while True:
        resume_at = time.monotonic() + poller.seconds_to_next_poll(time.time())
        while (remaining := resume_at - time.monotonic()) > 0:
            raise_if_stopped()
            time.sleep(min(remaining, 1.0))
        outcome = poll_once(client, poller)
        if outcome is not None:
            return outcome


def poll_once(client: MagicHourClient, poller: Poller) -> Outcome | None:
    """Poll once; None if the job is unfinished, or if the poll failed in a way that may pass."""
    try:
        project = get_video(client, poller.project_id)
    except MagicHourError as error:
        return poller.on_error(error, time.time())
    return poller.on_status(project, time.time())


def get_video(client: MagicHourClient, project_id: str) -> VideoProject:
    """Read a job. Raises NotFoundError only if it is not found three times in a row."""
    for pause in NOT_FOUND_RETRY_SECONDS:
        try:
            return client.get_video(project_id)
        except NotFoundError:
            time.sleep(pause)
    return client.get_video(project_id)
