"""Waits in the triggerer: many jobs, few requests. One `PollScheduler` for each event loop and connection.

The jobs are in a queue, ordered by the time of their next poll. One timer of the event loop starts the polls
that are due, so many at a time as there are connections. A waiting job is thus an entry in a heap, and jobs
that are due at the same moment are polled in the order in which they came due: none starves.

Invariants: one request at a time polls a job, for all that wait for it. Only an outcome or a cancellation
ends a wait. The deadline ends every wait, even if no poll is answered. The client is closed when the last
wait ends.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import replace
from typing import Any

from magichour_provider.client.aio import AsyncMagicHourClient
from magichour_provider.client.models import VideoProject
from magichour_provider.exceptions import APIError, MagicHourError, NotFoundError
from magichour_provider.polling.connection_client import BuildClient, ConnectionClient, ReadSettings
from magichour_provider.polling.intervals import MIN_INTERVAL_SECONDS, TIMEOUT_GRACE_SECONDS
from magichour_provider.polling.outcome import Outcome, TerminalStatus
from magichour_provider.polling.poll_queue import Job, PollQueue, Subscriber
from magichour_provider.polling.poller import NOT_FOUND_RETRY_SECONDS, Poller
from magichour_provider.polling.rate_limit import MAX_CONCURRENCY, ConcurrencyLimit, RateLimiter
from magichour_provider.polling.webhooks import (
    CHECK_SECONDS,
    NET_SECONDS,
    Mailbox,
    ReadMailbox,
    WebhookWatch,
)

log = logging.getLogger(__name__)

_START_INTERVAL_SECONDS = 0.1
"""Polls start at multiples of this: those due in between share rounds of the event loop."""
_WARN_AGAIN_SECONDS = 60.0
_MAINTENANCE_SECONDS = 5.0
"""Between two reports of metrics and updates of the concurrency limit."""
_MAILBOX_TIMEOUT_SECONDS = 10.0
_REREAD_EVERY = 4
"""The connection is read again at every fourth maintenance: every 20 s."""


class PollScheduler:
    """The waits on one connection in one event loop.

    :param read_settings: reads the connection; ConfigurationError if it cannot be used.
    :param stats: Airflow's `Stats`, or anything with its methods, for metrics with `tags`; None: no metrics.
    :param on_idle: called when the last wait has ended; the scheduler is not used after that.
    :param build: makes the client.
    :param clock: epoch seconds.
    :param read_mailbox: reads what webhooks have reported on this connection; None: only polls do.
    :param watch: what is known of the webhooks of this connection.
    """

    def __init__(
        self,
        read_settings: ReadSettings,
        stats: Any | None = None,
        tags: dict[str, str] | None = None,
        on_idle: Callable[[], object] = lambda: None,
        build: BuildClient = AsyncMagicHourClient.from_settings,
        clock: Callable[[], float] = time.time,
        read_mailbox: ReadMailbox | None = None,
        watch: WebhookWatch | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._concurrency, self._limiter = ConcurrencyLimit(), RateLimiter()
        self._client = ConnectionClient(read_settings, MAX_CONCURRENCY, self._on_new_connection, build)
        self._stats, self._tags, self._on_idle = stats, tags or {}, on_idle
        # Since the last report. Magic Hour does not tell when a job ended, so a lag is the time from the last
        # poll that saw the job unfinished to the one that saw its end, in seconds.
        self._counts: Counter[str] = Counter()
        self._completion_lags: list[tuple[float, str]] = []
        self._queue = PollQueue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._polls_under_way = 0
        # What concerns all jobs is logged in an empty context: a trigger's context would send it to one log.
        self._no_task = Context()
        self._timer: asyncio.TimerHandle | None = None
        self._warned_at = -math.inf
        self._maintenances = 0
        self._is_closing = False
        self._maintained_at = (self._loop.time(), time.thread_time())
        self._maintenance = self._loop.call_later(_MAINTENANCE_SECONDS, self._maintain, context=self._no_task)
        self._watch = watch or WebhookWatch()
        if read_mailbox is not None:
            self._no_task.run(self._run, self._watch_webhooks(read_mailbox))

    async def wait(self, poller: Poller, grace_seconds: float = TIMEOUT_GRACE_SECONDS) -> Outcome:
        """Poll from time to time until the job has ended or the deadline has passed.

        :param grace_seconds: how long the last poll may take after the deadline.
        """
        now = self._clock()
        subscriber = Subscriber(poller, self._loop.create_future(), copy_context())
        job = self._queue.subscribe(subscriber)
        latest = max(poller.deadline, poller.quiet_until, now) + grace_seconds
        expiry = self._loop.call_later(latest - now, lambda: subscriber.resolve(poller.timeout()))
        try:
            self._schedule(job, poller.seconds_to_next_poll(now))
            if (webhook_at := self._watch.mailbox.ended.get(job.project_id)) is not None:
                self._wake(job, webhook_at)
            return await subscriber.outcome
        finally:
            expiry.cancel()
            self._queue.unsubscribe(job, subscriber)
            if not self._queue.jobs:
                self._on_idle()
                # Shielded: Airflow cancels a killed trigger every second, and the sockets must be closed.
                closing = self._loop.create_task(self._close())
                _closings.add(closing)
                closing.add_done_callback(_closings.discard)
                await asyncio.shield(closing)

    async def _close(self) -> None:
        self._is_closing = True
        self._maintenance.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()
        self._report()

    # Starting polls ---------------------------------------------------------------------------------

    def _schedule(self, job: Job, pause: float) -> None:
        self._queue.push(job, self._loop.time() + pause)
        self._set_timer()

    def _set_timer(self) -> None:
        """Wake up for the next poll. At the concurrency limit, the end of a poll starts the next."""
        job = self._queue.peek()
        if job is None or self._is_at_limit():
            return
        start = round(job.due / _START_INTERVAL_SECONDS) * _START_INTERVAL_SECONDS
        when = max(start, self._limiter.free_at())
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._on_timer, context=self._no_task)

    def _on_timer(self) -> None:
        self._timer = None
        self._start_polls()

    def _start_polls(self) -> None:
        now = self._loop.time()
        if self._client.settings is not None:
            self._limiter.per_second = self._client.settings.requests_per_second
        while not self._is_at_limit() and self._limiter.free_at() <= now:
            job = self._queue.pop_due(now + _START_INTERVAL_SECONDS / 2)
            if job is None:
                break
            if self._can_postpone(job):
                job.is_postponed, job.is_polled = True, False
                self._queue.push(job, now + NET_SECONDS)
                continue
            self._limiter.acquire(now)
            self._polls_under_way += 1
            self._run(self._poll(job))
        self._set_timer()

    def _is_at_limit(self) -> bool:
        """Whether no poll may start now. The first poll is alone: it builds the client."""
        return self._polls_under_way >= (self._concurrency.allowed if self._client.settings else 1)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # A poll and its answer --------------------------------------------------------------------------

    async def _poll(self, job: Job) -> None:
        began, began_at, webhook_at = self._loop.time(), self._clock(), job.webhook_at
        self._counts["polls"] += 1
        try:
            self._on_status(job, await self._client.get_video(job.project_id), self._clock())
        except Exception as error:  # also one of the connection's lookup: the waits continue
            self._on_error(job, error, self._clock())
        finally:
            self._polls_under_way -= 1
            job.is_polled = job.is_postponed = False
        # Counted from the start of the poll: else the time for the answer would stretch every interval.
        pause = 0.0 if job.webhook_at != webhook_at else job.seconds_to_next_poll(began_at)
        due = max(
            began + pause, self._loop.time() + max(min(pause, MIN_INTERVAL_SECONDS), _START_INTERVAL_SECONDS)
        )
        self._queue.push(job, due)
        self._start_polls()

    def _on_status(self, job: Job, project: VideoProject, now: float) -> None:
        self._limiter.answered(self._loop.time())
        job.not_found = 0
        noticed_by = "poll" if job.webhook_at is None else "webhook"
        for each in job.ready(now):
            if job.webhook_at is not None:  # the job's end is known more exactly than by polls
                each.poller.unfinished_at = max(each.poller.unfinished_at, min(job.webhook_at, now))
            outcome = each.context.run(each.poller.on_status, project, now)
            if outcome is not None and outcome.ending is not TerminalStatus.TIMEOUT:
                self._completion_lags.append((now - each.poller.unfinished_at, noticed_by))
                outcome = replace(outcome, noticed_by=noticed_by)
                has_webhook = outcome.ending in (TerminalStatus.COMPLETE, TerminalStatus.FAILED)
                if job.is_postponed and job.webhook_at is None and has_webhook:
                    self._resume_polling()
            each.resolve(outcome)

    def _on_error(self, job: Job, error: Exception, now: float) -> None:
        self._counts["poll_errors"] += 1
        if not isinstance(error, MagicHourError):
            log.debug("A poll raised an unexpected error.", exc_info=error)
        if isinstance(error, APIError) and (error.retry_after is not None or error.status == 429):
            refused_at = self._loop.time()
            if self._limiter.refused(refused_at, error.retry_after):
                self._counts["rate_limited"] += 1
                if refused_at > self._warned_at + _WARN_AGAIN_SECONDS:
                    self._warned_at = refused_at
                    seconds = self._limiter.free_at() - refused_at
                    message = "Rate limited by Magic Hour (HTTP %d); polling paused for %.0f s."
                    log.warning(message, error.status, seconds)
        if isinstance(error, NotFoundError) and job.not_found < len(NOT_FOUND_RETRY_SECONDS):
            job.not_found += 1
            return
        job.not_found = 0
        for each in job.ready(now):
            each.resolve(each.context.run(each.poller.on_error, error, now))

    # Webhooks ---------------------------------------------------------------------------------------

    async def _watch_webhooks(self, read_mailbox: ReadMailbox) -> None:
        """Poll the jobs at once whose end a webhook has reported."""
        with suppress(Exception):  # the first poll reports it
            await self._client.refresh()
        while not self._is_closing:  # before Python 3.12, `wait_for` may swallow a cancellation
            settings = self._client.settings
            try:
                if settings is not None and settings.webhook_secret:
                    stored = await asyncio.wait_for(read_mailbox(), _MAILBOX_TIMEOUT_SECONDS)
                    mailbox = Mailbox.from_text(stored)
                    for project_id in self._watch.update(mailbox):
                        if (job := self._queue.jobs.get(project_id)) is not None:
                            self._wake(job, mailbox.ended[project_id])
            except Exception as error:
                log.debug("The mailbox of the webhooks could not be read.", exc_info=error)
            await asyncio.sleep(CHECK_SECONDS)

    def _wake(self, job: Job, webhook_at: float) -> None:
        """Poll a job as soon as its waits may end: a webhook has reported its end."""
        job.webhook_at, job.is_postponed = webhook_at, False
        quiet_until = max(each.poller.quiet_until for each in job.subscribers)
        self._schedule(job, max(0.0, quiet_until - self._clock()))

    def _can_postpone(self, job: Job) -> bool:
        """Whether a poll that is due can be put off, because a webhook would report the job's end sooner."""
        settings, now = self._client.settings, self._clock()
        if settings is None or not settings.webhook_secret or self._watch.is_failing:
            return False
        if job.is_postponed or job.webhook_at is not None or job.not_found:
            return False
        return all(each.poller.can_rely_on_webhook(now, NET_SECONDS) for each in job.subscribers)

    def _resume_polling(self) -> None:
        """Poll at the ordinary pace again: a job has ended without a webhook."""
        self._watch.is_failing = True
        log.warning("No webhook reported the end of a job. All jobs are polled as usual until one comes.")
        for job in self._queue.jobs.values():
            if job.is_postponed and not job.is_polled:
                self._queue.push(job, self._loop.time())

    # Maintenance ------------------------------------------------------------------------------------

    def _maintain(self) -> None:
        self._maintenance = self._loop.call_later(_MAINTENANCE_SECONDS, self._maintain, context=self._no_task)
        self._report()
        now, cpu = self._loop.time(), time.thread_time()
        passed, busy = now - self._maintained_at[0], cpu - self._maintained_at[1]
        self._maintained_at = (now, cpu)
        job = self._queue.peek()
        lateness = max(0.0, now - job.due) if job is not None and self._is_at_limit() else 0.0
        self._concurrency.update(lateness=lateness, busy_share=busy / passed)
        self._maintenances += 1
        if self._maintenances % _REREAD_EVERY == 0 and self._client.settings is not None:
            self._run(self._reread_connection())
        self._start_polls()

    def _report(self) -> None:
        """Send the metrics from a thread: the event loop must not wait for their network."""
        counts, lags, waiting = self._counts, self._completion_lags, len(self._queue.jobs)
        self._counts, self._completion_lags = Counter(), []
        stats, tags = self._stats, self._tags
        if stats is None:
            return

        def send() -> None:
            try:
                for name, count in counts.items():
                    stats.incr(f"magichour.{name}", count, tags=tags)
                for seconds, noticed_by in lags:
                    lag_tags = {**tags, "noticed_by": noticed_by}
                    stats.timing("magichour.completion_lag", seconds * 1000, tags=lag_tags)
                stats.gauge("magichour.jobs_waiting", waiting, tags=tags)
            except Exception as error:
                log.debug("The metrics could not be reported.", exc_info=error)

        self._loop.run_in_executor(None, send)

    async def _reread_connection(self) -> None:
        try:
            await self._client.refresh()
        except Exception as error:
            log.warning("The connection could not be read again (%s).", type(error).__name__)

    def _on_new_connection(self) -> None:
        """Drop the rate limit and the backoff of the old connection."""
        is_paused = self._limiter.free_at() > self._loop.time()
        self._limiter = RateLimiter()
        if not is_paused:
            return
        for job in self._queue.jobs.values():
            for each in job.subscribers:
                each.poller.not_before = 0.0
            self._schedule(job, job.seconds_to_next_poll(self._clock()))


_closings: set[asyncio.Task[None]] = set()
_watches: dict[str, WebhookWatch] = {}
_schedulers: dict[tuple[asyncio.AbstractEventLoop, str], PollScheduler] = {}


def get_scheduler(
    conn_id: str,
    read_settings: ReadSettings,
    stats: Any | None = None,
    read_mailbox: ReadMailbox | None = None,
) -> PollScheduler:
    """The running event loop's scheduler for a connection. Use it before the next `await`."""
    key = asyncio.get_running_loop(), conn_id
    if key not in _schedulers:
        for old in [each for each in _schedulers if each[0].is_closed()]:
            del _schedulers[old]
        _schedulers[key] = PollScheduler(
            read_settings,
            stats,
            {"conn_id": conn_id},
            on_idle=lambda: _schedulers.pop(key, None),
            read_mailbox=read_mailbox,
            watch=_watches.setdefault(conn_id, WebhookWatch()),
        )
    return _schedulers[key]
