"""Who waits for which job, and whose turn it is. No I/O, no clock of its own."""

from __future__ import annotations

import itertools
from asyncio import Future
from contextvars import Context
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from math import inf

from magichour_provider.client.models import VideoProject
from magichour_provider.polling.outcome import Outcome
from magichour_provider.polling.poller import NOT_FOUND_PAUSES, Poller

_SPARE = 64
"""Overtaken entries that are not worth the work of throwing them out."""
_EARLY = 0.1
"""Seconds by which a look may come before the time that it is due."""


@dataclass(eq=False, slots=True)
class Subscriber:
    """One who waits for a job: its watch, where it is told the end, and the context that it logs in."""

    watch: Poller
    ended: Future[Outcome]
    context: Context

    def tell(self, outcome: Outcome | None) -> None:
        """End the wait, if this is the end."""
        if outcome is not None and not self.ended.done():
            self.ended.set_result(outcome)

    def expire(self) -> None:
        """End the wait as one whose time is up."""
        self.tell(self.watch.timed_out())


@dataclass(eq=False, slots=True)
class Job:
    """A job that somebody waits for.

    :param askers: those who want one answer, whatever it is.
    :param due: when to look, by the clock of the event loop; infinite while a look is under way.
    :param not_found: how many looks in a row have not found it.
    """

    project_id: str
    waiters: list[Subscriber] = field(default_factory=list)
    askers: list[Future[VideoProject]] = field(default_factory=list)
    due: float = inf
    is_looked_at: bool = False
    not_found: int = 0

    def pause(self, now: float) -> float:
        """Seconds until the next look, counted from `now` (epoch seconds): what the most impatient wants."""
        if self.askers:
            return 0.0
        if self.not_found:
            return NOT_FOUND_PAUSES[self.not_found - 1]
        return min((each.watch.pause(now) for each in self.waiters if not each.ended.done()), default=inf)

    def awake(self, now: float) -> list[Subscriber]:
        """Those who may be told something at `now` (epoch seconds), which is not before their quiet ends."""
        return [each for each in self.waiters if now >= each.watch.quiet_until - _EARLY]

    def answer(self, answer: VideoProject | Exception) -> None:
        """Give those who ask what they asked for."""
        for asker in self.askers:
            if asker.done():
                continue
            if isinstance(answer, Exception):
                asker.set_exception(answer)
            else:
                asker.set_result(answer)
        self.askers.clear()


class PollQueue:
    """All jobs that are waited for, in the order in which their looks come due."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._heap: list[tuple[float, int, Job]] = []
        self._order = itertools.count()

    def get(self, project_id: str) -> Job:
        """The job of this id, entered now if need be."""
        return self._jobs.setdefault(project_id, Job(project_id))

    def drop_if_unwanted(self, job: Job) -> None:
        """Forget a job that nobody waits for any more."""
        if not job.waiters and not job.askers:
            job.due = inf
            if self._jobs.get(job.project_id) is job:
                del self._jobs[job.project_id]

    def put(self, job: Job, due: float) -> bool:
        """Have a job looked at when it is `due`; False where it is looked at sooner, or now."""
        if job.is_looked_at or due >= job.due:
            return False
        job.due = due
        heappush(self._heap, (due, next(self._order), job))
        if len(self._heap) > 2 * len(self._jobs) + _SPARE:
            self._heap = [entry for entry in self._heap if entry[0] == entry[2].due]
            heapify(self._heap)
        return True

    def __len__(self) -> int:
        """How many jobs are waited for."""
        return len(self._jobs)

    def forget_silence(self) -> list[Job]:
        """Let all jobs be looked at as if nobody had asked for a pause; returns them."""
        for job in self._jobs.values():
            for waiter in job.waiters:
                waiter.watch.forget_silence()
        return list(self._jobs.values())

    def first(self) -> Job | None:
        """The job that is due first. Entries that a sooner one has overtaken are dropped on the way."""
        while self._heap:
            due, _, job = self._heap[0]
            if due == job.due:
                return job
            heappop(self._heap)
        return None

    def take(self, now: float) -> Job | None:
        """The first job that is due by `now`, to be looked at; None where there is none."""
        job = self.first()
        if job is None or job.due > now:
            return None
        heappop(self._heap)
        job.due, job.is_looked_at = inf, True
        return job
