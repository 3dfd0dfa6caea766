"""`VideoBatchTrigger`: wait in the triggerer for all jobs of a batch.

The ids of the jobs are in an XCom of the task, so that the trigger's arguments do not grow with the batch.
The trigger writes the ids of those that have ended into another one; its event has counts only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from inspect import signature
from types import SimpleNamespace
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from magichour_provider.airflow_internals import get_xcom, min_deferral_seconds, push_xcom
from magichour_provider.jobs.reference import DEFAULT_CONN_ID
from magichour_provider.polling.intervals import TRIGGER_TIMEOUT_MARGIN_SECONDS
from magichour_provider.polling.outcome import Outcome, TerminalStatus
from magichour_provider.triggers.video_job import VideoJobTrigger, import_async, run_shielded, was_killed

log = logging.getLogger(__name__)

JOBS_KEY, ENDED_KEY = "magichour_batch_jobs", "magichour_batch_ended"
"""XComs: what the trigger waits for, by kind of job; and the ids of the jobs that have ended."""

_PROGRESS_EVERY_SECONDS = 10.0
_WORTH_A_WORKER = 0.5
"""Share of the jobs whose end is worth a worker; a quarter if more jobs wait to be submitted."""
_STARTED_AT_ONCE = 50
"""Waits that begin in one turn of the event loop."""


class VideoBatchTrigger(BaseTrigger):
    """Fires one event when it is worth a worker.

    All jobs have ended, or half of them, or the first of them ended so long ago that its video must be
    downloaded, or a pause is over, or the deadline has passed.

    :param dag_id: with `run_id`, `task_id` and `map_index`, the task whose XCom names the jobs.
    :param deadline: epoch seconds; absolute, so that a restarted triggerer grants no new time.
    :param not_before: epoch seconds until which Magic Hour takes no more jobs; 0: it takes them.
    :param waiting: how many items wait to be submitted.
    :param download_delay: seconds after which a video that is complete is downloaded.
    :param max_jobs: how many jobs Magic Hour takes at a time, by what was seen; None: not known.
    :param pause_seconds: the last pause.
    :param poll_interval: seconds between polls; None: adaptive.
    :param done: items that have ended before, of `total`; `failed` of them failed.
    :param ignored: arguments of another version of this package, while a deployment is upgraded.
    """

    def __init__(
        self,
        *,
        dag_id: str,
        run_id: str,
        task_id: str,
        map_index: int = -1,
        magichour_conn_id: str = DEFAULT_CONN_ID,
        deadline: float,
        not_before: float = 0.0,
        waiting: int = 0,
        download_delay: float = 60.0,
        max_jobs: int | None = None,
        pause_seconds: float = 0.0,
        poll_interval: float | None = None,
        total: int = 0,
        done: int = 0,
        failed: int = 0,
        credits: int = 0,
        **ignored: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dag_id, self.run_id, self.map_index = dag_id, run_id, map_index
        self.task_id: str = task_id
        self.magichour_conn_id = magichour_conn_id
        self.deadline, self.not_before, self.download_delay = deadline, not_before, download_delay
        self.waiting, self.max_jobs, self.pause_seconds = waiting, max_jobs, pause_seconds
        self.poll_interval = poll_interval
        self.total, self.done, self.failed, self.credits = total, done, failed, credits
        self._ended: list[str] = []
        self._counts: Counter[str] = Counter()
        self._first_ended_at: float | None = None
        self._jobs = 0

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, from which Airflow makes this trigger again."""
        names = [name for name in signature(type(self)).parameters if name != "ignored"]
        return f"{self.__module__}.{type(self).__name__}", {name: getattr(self, name) for name in names}

    def as_deferral(self) -> dict[str, Any]:
        """Arguments for `BaseOperator.defer`. Airflow's timeout comes later than ours: it skips our code."""
        seconds = max(0.0, self.deadline - time.time()) + TRIGGER_TIMEOUT_MARGIN_SECONDS
        return {"trigger": self, "method_name": "execute_complete", "timeout": timedelta(seconds=seconds)}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, store the ids of the jobs that have ended, and yield the one event."""
        started, quiet = time.time(), min_deferral_seconds()
        await import_async()
        address = SimpleNamespace(
            dag_id=self.dag_id, run_id=self.run_id, task_id=self.task_id, map_index=self.map_index
        )
        jobs = [
            (project_id, submitted, kind)
            for kind in await asyncio.to_thread(get_xcom, address, self.task_id, JOBS_KEY) or []
            for project_id, submitted in kind["jobs"]
        ]
        self._jobs = len(jobs)
        waits: set[asyncio.Task[None]] = set()
        try:
            for number, (project_id, submitted, kind) in enumerate(jobs, 1):
                wait = asyncio.create_task(self._wait_for(project_id, submitted, kind, quiet))
                waits.add(wait)
                if number % _STARTED_AT_ONCE == 0:
                    await asyncio.sleep(0)
            logged_at, logged = started, -1
            while not (time.time() >= started + quiet and self._is_worth_a_worker(waits)):
                await asyncio.sleep(1.0)
                if time.time() - logged_at >= _PROGRESS_EVERY_SECONDS and logged != len(self._ended):
                    logged_at, logged = time.time(), len(self._ended)
                    self._log_progress(time.time() - started)
            for wait in waits:
                if wait.done() and not wait.cancelled() and (error := wait.exception()) is not None:
                    raise error
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        self._log_progress(time.time() - started)
        is_stored = True
        try:
            await asyncio.to_thread(push_xcom, address, ENDED_KEY, self._ended)
        except Exception as error:  # the worker then asks Magic Hour for each job
            is_stored = False
            log.warning("The ids of the ended jobs could not be stored (%s).", type(error).__name__)
        yield TriggerEvent(  # type: ignore[no-untyped-call]
            {
                "batch": self.task_id,
                "ended": len(self._ended) if is_stored else None,
                "deadline": self.deadline,
                "max_jobs": self.max_jobs,
                "pause_seconds": self.pause_seconds,
            }
        )

    async def _wait_for(
        self, project_id: str, submitted: float | None, kind: dict[str, Any], quiet_seconds: float
    ) -> None:
        single = VideoJobTrigger(
            project_id,
            self.magichour_conn_id,
            deadline=self.deadline,
            poll_interval=self.poll_interval,
            submitted=submitted,
            model=kind["model"],
            resolution=kind["resolution"],
            end_seconds=kind["end_seconds"],
        )
        outcome: Outcome = await single.wait_for(
            project_id, self.deadline, quiet_seconds=quiet_seconds, logs_status=False
        )
        if outcome.ending is not TerminalStatus.TIMEOUT:
            self._counts[outcome.ending.value] += 1
            self._ended.append(project_id)
            self._first_ended_at = self._first_ended_at or time.time()

    def _is_worth_a_worker(self, waits: set[asyncio.Task[None]]) -> bool:
        now, ended = time.time(), len(self._ended)
        is_paused = self.waiting > 0 and now < self.not_before < self.deadline
        if all(wait.done() for wait in waits):
            return not is_paused or ended > 0
        if self.waiting and self.not_before and not is_paused:
            return True
        if self._first_ended_at is not None and now - self._first_ended_at >= self.download_delay:
            return True
        share = _WORTH_A_WORKER / 2 if self.waiting and not is_paused else _WORTH_A_WORKER
        return ended >= max(1, share * self._jobs)

    def _log_progress(self, seconds: float) -> None:
        ended, left = len(self._ended), self._jobs - len(self._ended)
        remaining = (
            f", about {timedelta(seconds=round(left * seconds / ended))} left" if ended and left else ""
        )
        log.info(
            "Batch: %d of %d videos ended before, %d of them failed; %d jobs render, %d have ended since "
            "(%s); %d wait to be submitted; %d credits%s.",
            self.done,
            self.total,
            self.failed,
            left,
            ended,
            ", ".join(f"{count} {name}" for name, count in self._counts.items()) or "none",
            self.waiting,
            self.credits,
            remaining,
        )

    async def on_kill(self) -> None:
        """Log what keeps running, if a user has ended the task; see `VideoJobTrigger.on_kill`."""
        await run_shielded(self._report_kill())

    async def _report_kill(self) -> None:
        if not await was_killed(self):
            return
        log.warning(
            "Task killed. Up to %d jobs keep running at Magic Hour and their credits remain charged. Clear "
            "this task: it re-attaches to them at no cost.",
            self._jobs - len(self._ended),
        )
