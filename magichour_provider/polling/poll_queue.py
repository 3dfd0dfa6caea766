"""The jobs that are waited for, ordered by the time of their next poll. No I/O, no clock of its own."""

from __future__ import annotations

import itertools
import math
from asyncio import Future
from contextvars import Context
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from magichour_provider.polling.outcome import Outcome
from magichour_provider.polling.poller import EARLY_SECONDS, NOT_FOUND_RETRY_SECONDS, Poller

_MAX_STALE_ENTRIES = 64


@dataclass(eq=False, slots=True)
class Subscriber:
    """One wait for a job: its poller, the future of its outcome, and the context that it logs in."""

    poller: Poller
    outcome: Future[Outcome]
    context: Context

    def resolve(self, outcome: Outcome | None) -> None:
        """End the wait, if there is an outcome."""
        if outcome is not None and not self.outcome.done():
            self.outcome.set_result(outcome)


@dataclass(eq=False, slots=True)
class Job:
    """A job with its waits.

    :param due: when to poll, by the clock of the event loop; infinite during a poll.
    :param not_found: how many polls in a row did not find the job.
    :param is_postponed: whether its next poll was put off once, because webhooks come.
    :param webhook_at: epoch seconds at which a webhook reported the job's end.
    """

    project_id: str
    subscribers: list[Subscriber] = field(default_factory=list)
    due: float = math.inf
    is_polled: bool = False
    not_found: int = 0
    is_postponed: bool = False
    webhook_at: float | None = None

    def seconds_to_next_poll(self, now: float) -> float:
        """Pause until the next poll, from `now` (epoch seconds): the shortest that a wait asks for."""
        if self.not_found:
            return NOT_FOUND_RETRY_SECONDS[self.not_found - 1]
        waits = [each.poller for each in self.subscribers if not each.outcome.done()]
        return min((poller.seconds_to_next_poll(now) for poller in waits), default=math.inf)

    def ready(self, now: float) -> list[Subscriber]:
        """The waits whose quiet time is over at `now` (epoch seconds)."""
        return [each for each in self.subscribers if now >= each.poller.quiet_until - EARLY_SECONDS]


class PollQueue:
    """All jobs that are waited for, by their ids in `jobs`, and in a heap by the time of their next poll."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self._heap: list[tuple[float, int, Job]] = []
        self._order = itertools.count()

    def subscribe(self, subscriber: Subscriber) -> Job:
        """Add a wait to its job."""
        project_id = subscriber.poller.project_id
        job = self.jobs.setdefault(project_id, Job(project_id))
        job.subscribers.append(subscriber)
        return job

    def unsubscribe(self, job: Job, subscriber: Subscriber) -> None:
        """Remove a wait, and its job if nothing else waits for it."""
        job.subscribers.remove(subscriber)
        if not job.subscribers:
            job.due = math.inf
            del self.jobs[job.project_id]

    def push(self, job: Job, due: float) -> None:
        """Have a job polled when it is `due`, unless it is polled now, or sooner."""
        if job.is_polled or due >= job.due:
            return
        job.due = due
        heappush(self._heap, (due, next(self._order), job))
        if len(self._heap) > 2 * len(self.jobs) + _MAX_STALE_ENTRIES:
            self._heap = [entry for entry in self._heap if entry[0] == entry[2].due]
            heapify(self._heap)

    def peek(self) -> Job | None:
        """The job that is due first."""
        while self._heap:
            due, _, job = self._heap[0]
            if due == job.due:
                return job
            heappop(self._heap)  # a sooner entry of the same job has replaced this one
        return None

    def pop_due(self, now: float) -> Job | None:
        """Take the first job that is due by `now`, to poll it; None if there is none."""
        job = self.peek()
        if job is None or job.due > now:
            return None
        heappop(self._heap)
        job.due, job.is_polled = math.inf, True
        return job
