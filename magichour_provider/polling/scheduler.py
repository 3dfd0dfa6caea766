"""Waiting in the triggerer: many waiters, few requests. One hub for each event loop and connection.

Nobody sleeps here. Jobs stand in an agenda by the time of their next look; a timer of the event loop wakes
the hub for the first of them, and so many looks are under way at once as there are sockets. So a waiting
job is an entry in a heap, a crowd that is due at one moment is served in the order in which it came due, and
the loop is never held for longer than a few answers take to read.

Invariants: a job is looked at by one request at a time, whoever waits for it; nothing but an outcome or a
cancellation ends a wait; the deadline ends every wait, though no look be answered; the last to leave closes
the client.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any

from magichour_provider.client.models import VideoProject
from magichour_provider.exceptions import (
    APIError,
    AuthenticationError,
    MagicHourError,
    NotFoundError,
    RateLimitError,
)
from magichour_provider.polling.intervals import SHORTEST
from magichour_provider.polling.metrics import PollMetrics, Stats
from magichour_provider.polling.outcome import Outcome
from magichour_provider.polling.poll_queue import Job, PollQueue, Subscriber
from magichour_provider.polling.poller import NOT_FOUND_PAUSES, Poller
from magichour_provider.polling.rate_limit import ConcurrencyLimit, Limiter
from magichour_provider.polling.shared_client import ReadSettings, SharedClient

log = logging.getLogger(__name__)
_closings: set[asyncio.Task[None]] = set()

_DEADLINE_GRACE = 3.0
"""Seconds in which a wait whose deadline has passed may still get the look that is due then."""
_BEAT = 0.1
"""Looks are begun on a beat: those due between two share rounds of the event loop."""
_WARN_AGAIN = 60.0
"""Seconds between two warnings that Magic Hour asks for fewer requests."""
_TICK = 5.0
"""Seconds between two reports of metrics."""
_TICKS_TO_REREAD = 4
"""So many ticks are between two readings of the connection."""


class PollScheduler:
    """The waiters of one connection on one event loop.

    :param read_settings: reads the connection.
    :param stats: where metrics go.
    :param tags: put on every metric.
    :param on_empty: called when the last waiter has left; the hub is not used after that.
    """

    def __init__(
        self, read_settings: ReadSettings, stats: Stats, tags: dict[str, str], on_empty: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._width = ConcurrencyLimit()
        self._limiter = Limiter()
        self._client = SharedClient(read_settings, self._width.most, self._begin_anew)
        self._stats, self._tags = stats, tags
        self._on_empty = on_empty
        self._counts = PollMetrics()
        self._agenda = PollQueue()
        self._visitors = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way = 0
        # What is done for all is logged as nobody's: a trigger's context would send it to one task's log.
        self._nobody = Context()
        self._timer: asyncio.TimerHandle | None = None
        self._warned_at = -math.inf
        self._ticks = 0
        self._ticked_at = (self._loop.time(), time.thread_time())
        self._ticker = self._loop.call_later(_TICK, self._tick, context=self._nobody)

    async def wait(self, watch: Poller) -> Outcome:
        """Look from time to time until the job has ended or the watch's deadline has passed."""
        now = time.time()
        waiter = Subscriber(watch, self._loop.create_future(), copy_context())
        job = self._enter(watch.project_id)
        job.waiters.append(waiter)
        latest = max(watch.deadline, watch.quiet_until, now) + _DEADLINE_GRACE
        expiry = self._loop.call_later(latest - now, waiter.expire)
        try:
            self._plan(job, watch.pause(now))
            return await waiter.ended
        finally:
            expiry.cancel()
            job.waiters.remove(waiter)
            await self._leave(job)

    async def look(self, project_id: str) -> VideoProject:
        """Look once, together with those who wait for the job. Raises MagicHourError."""
        seen: asyncio.Future[VideoProject] = self._loop.create_future()
        job = self._enter(project_id)
        job.askers.append(seen)
        self._plan(job, 0.0)
        try:
            return await seen
        finally:
            if seen in job.askers:
                job.askers.remove(seen)
            await self._leave(job)

    # -----------------------------------------------------------------------------------------------
    # Coming and going.

    def _enter(self, project_id: str) -> Job:
        self._visitors += 1
        return self._agenda.get(project_id)

    async def _leave(self, job: Job) -> None:
        self._visitors -= 1
        self._agenda.drop_if_unwanted(job)
        if self._visitors > 0:
            return
        self._on_empty()
        if not self._loop.is_closed():
            # Shielded: Airflow cancels a killed trigger again and again, and the sockets must be closed.
            closing = self._loop.create_task(self._close())
            _closings.add(closing)
            closing.add_done_callback(_closings.discard)
            await asyncio.shield(closing)

    async def _close(self) -> None:
        self._ticker.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()
        self._report()

    # -----------------------------------------------------------------------------------------------
    # Whose turn it is.

    def _plan(self, job: Job, pause: float) -> None:
        if self._agenda.put(job, self._loop.time() + pause):
            self._set_timer()

    def _set_timer(self) -> None:
        """Wake up when the next look may be made; where all sockets are busy, the end of a look wakes."""
        job = self._agenda.first()
        if job is None or self._is_full():
            return
        when = max(round(job.due / _BEAT) * _BEAT, self._limiter.free_at())
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._wake_up, context=self._nobody)

    def _wake_up(self) -> None:
        self._timer = None
        self._start_looks()

    def _start_looks(self) -> None:
        now = self._loop.time()
        self._limiter.per_second = self._client.requests_per_second
        while not self._is_full() and self._limiter.free_at() <= now:
            job = self._agenda.take(now + _BEAT / 2)
            if job is None:
                break
            self._limiter.take(now)
            self._under_way += 1
            self._run(self._look(job))
        self._set_timer()

    def _begin_anew(self) -> None:
        """Let a new connection not suffer from what limited the looks by the old one."""
        is_paused = self._limiter.free_at() > self._loop.time()
        self._limiter = Limiter()
        if is_paused:
            for job in self._agenda.forget_silence():
                self._plan(job, job.pause(time.time()))

    def _is_full(self) -> bool:
        """Whether no more looks may begin now; the first makes the client, and learns what its limits are."""
        return self._under_way >= (self._width.allowed if self._client.is_there else 1)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -----------------------------------------------------------------------------------------------
    # A look, and what it means.

    async def _look(self, job: Job) -> None:
        began, began_at = self._loop.time(), time.time()
        self._counts.looks += 1
        try:
            self._saw(job, await self._ask(job.project_id), time.time())
        except MagicHourError as error:
            self._missed(job, error, time.time())
        except Exception as error:  # the connection could not be looked up, or worse: the wait goes on
            self._stumbled(job, error, time.time())
        finally:
            self._under_way -= 1
            job.is_looked_at = False
        # Counted from the beginning of the look, or the time for an answer would stretch every interval.
        pause = job.pause(began_at)
        rest = began - self._loop.time() + pause
        self._plan(job, max(rest, min(pause, SHORTEST), 0.0 if job.askers else _BEAT))
        self._start_looks()

    async def _ask(self, project_id: str) -> VideoProject:
        """Look by the shared client; where its key is refused, by the next one: the key may have changed."""
        if not self._client.is_there:
            await self._client.refresh()
        with self._client.lease() as client:
            try:
                return await client.get_video(project_id)
            except AuthenticationError:
                if not await self._client.renew(client):
                    raise
        with self._client.lease() as client:
            return await client.get_video(project_id)

    def _saw(self, job: Job, project: VideoProject, now: float) -> None:
        self._limiter.answered(self._loop.time())
        job.not_found = 0
        job.answer(project)
        for waiter in job.awake(now):
            watch = waiter.watch
            unseen_since = watch.unseen_since
            ended = waiter.context.run(watch.saw, project, now)
            if ended is not None:
                self._counts.delays.append(now - unseen_since)
            waiter.tell(ended or watch.overdue(now))

    def _missed(self, job: Job, error: MagicHourError, now: float) -> None:
        self._counts.look_errors += 1
        self._slow_down(error)
        job.answer(error)
        if isinstance(error, NotFoundError) and job.not_found < len(NOT_FOUND_PAUSES):
            job.not_found += 1
            return
        job.not_found = 0
        for waiter in job.awake(now):
            waiter.tell(waiter.context.run(waiter.watch.missed, error, now) or waiter.watch.overdue(now))

    def _slow_down(self, error: MagicHourError) -> None:
        if not isinstance(error, APIError):
            return
        if error.retry_after is None and not isinstance(error, RateLimitError):
            return
        now = self._loop.time()
        if not self._limiter.refused(now, error.retry_after):
            return
        self._counts.pauses += 1
        if now > self._warned_at + _WARN_AGAIN:
            self._warned_at = now
            seconds = self._limiter.free_at() - now
            log.warning(
                "Magic Hour asks for fewer requests (%d): nobody looks for %.0f s.", error.status, seconds
            )

    def _stumbled(self, job: Job, error: Exception, now: float) -> None:
        self._counts.look_errors += 1
        log.debug("Where it came from:", exc_info=error)
        job.answer(error)
        job.not_found = 0
        for waiter in job.awake(now):
            waiter.context.run(waiter.watch.stumbled, f"{type(error).__name__} was raised.", now)
            waiter.tell(waiter.watch.overdue(now))

    # -----------------------------------------------------------------------------------------------
    # From time to time.

    def _tick(self) -> None:
        self._ticks += 1
        self._ticker = self._loop.call_later(_TICK, self._tick, context=self._nobody)
        self._report()
        self._adjust_width()
        if self._ticks % _TICKS_TO_REREAD == 0 and self._client.is_there:
            self._run(self._reread_connection())
        self._start_looks()

    def _report(self) -> None:
        """Hand the metrics on in a thread: the network of a metrics system is not ours to wait for."""
        counts, self._counts = self._counts, PollMetrics()
        self._loop.run_in_executor(None, counts.report, self._stats, len(self._agenda), self._tags)

    def _adjust_width(self) -> None:
        now, worked = self._loop.time(), time.thread_time()
        passed, busy = now - self._ticked_at[0], worked - self._ticked_at[1]
        self._ticked_at = (now, worked)
        job = self._agenda.first()
        lateness = max(0.0, now - job.due) if job is not None and self._is_full() else 0.0
        self._width.adjust(lateness=lateness, busy=busy / passed)

    async def _reread_connection(self) -> None:
        try:
            await self._client.refresh()
        except Exception as error:
            log.warning("The connection could not be read again (%s).", type(error).__name__)
