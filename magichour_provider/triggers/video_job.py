"""`VideoJobTrigger`: wait for a job in the triggerer."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from datetime import timedelta
from functools import partial
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from magichour_provider.airflow_internals import core_stats, min_deferral_seconds, read_variable, task_state
from magichour_provider.jobs.reference import DEFAULT_CONN_ID
from magichour_provider.operators._base import kill_message
from magichour_provider.polling.intervals import (
    TIMEOUT_GRACE_SECONDS,
    TRIGGER_TIMEOUT_MARGIN_SECONDS,
    JobKind,
)
from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS, AIRFLOW_V_3_4_PLUS

if TYPE_CHECKING:
    from magichour_provider.polling.outcome import Outcome

log = logging.getLogger(__name__)
_HEAVY_MODULES = ("magichour_provider.polling.scheduler", "magichour_provider.hooks.magichour", "httpx")
_IMPORT_CHECK_SECONDS = 0.5, 2.5
_import_lock = threading.Lock()
_is_imported = False
_kill_reports: set[asyncio.Task[None]] = set()


class VideoJobTrigger(BaseTrigger):
    """Fires one event when the job has ended, or when the deadline has passed.

    The event is `polling.outcome.Outcome.as_event()`: ending, ids, credits, error code and message. Airflow
    stores the trigger's arguments in its database: they are ids and numbers only.

    :param project_id: the job.
    :param magichour_conn_id: the connection.
    :param deadline: epoch seconds; absolute, so that a restarted triggerer grants no new time.
    :param poll_interval: seconds between polls; None: adaptive.
    :param credits_charged: what the job costs in credits, for the message of a kill.
    :param submitted: epoch seconds at which the job was submitted; None: the first poll tells.
    :param model: with `resolution` and `end_seconds` (length of the video), the kind of job, by which poll
        intervals are learned.
    :param ignored: arguments of another version of this package, while a deployment is upgraded.
    """

    def __init__(
        self,
        project_id: str,
        magichour_conn_id: str = DEFAULT_CONN_ID,
        *,
        deadline: float,
        poll_interval: float | None = None,
        credits_charged: int | None = None,
        submitted: float | None = None,
        model: str | None = None,
        resolution: str | None = None,
        end_seconds: float | None = None,
        **ignored: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.project_id, self.magichour_conn_id = project_id, magichour_conn_id
        self.deadline, self.poll_interval = deadline, poll_interval
        self.credits_charged, self.submitted = credits_charged, submitted
        self.model, self.resolution, self.end_seconds = model, resolution, end_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, from which Airflow makes this trigger again."""
        names = [name for name in signature(type(self)).parameters if name != "ignored"]
        return f"{self.__module__}.{type(self).__name__}", {name: getattr(self, name) for name in names}

    def as_deferral(self) -> dict[str, Any]:
        """Arguments for `BaseOperator.defer`. Airflow's timeout comes later than ours: it skips our code."""
        remaining = max(0.0, self.deadline - time.time())
        return {
            "trigger": self,
            "method_name": "execute_complete",
            "timeout": timedelta(seconds=remaining + TRIGGER_TIMEOUT_MARGIN_SECONDS),
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the one event."""
        outcome = await self.wait_for(self.project_id, self.deadline, quiet_seconds=min_deferral_seconds())
        yield TriggerEvent(outcome.as_event())  # type: ignore[no-untyped-call]

    async def wait_for(
        self,
        project_id: str,
        deadline: float,
        *,
        quiet_seconds: float = 0.0,
        poll_immediately: bool = False,
        grace_seconds: float = TIMEOUT_GRACE_SECONDS,
        logs_status: bool = True,
    ) -> Outcome:
        """Wait until the job has ended or the deadline has passed.

        :param quiet_seconds: time in which the wait neither polls nor ends.
        :param poll_immediately: whether no pause precedes the first poll.
        :param grace_seconds: how long the last poll may take after the deadline.
        :param logs_status: whether each new status of the job is logged.
        """
        await import_async()
        from magichour_provider.hooks.magichour import MagicHourHook
        from magichour_provider.polling.poller import Poller
        from magichour_provider.polling.scheduler import get_scheduler
        from magichour_provider.polling.webhooks import mailbox_key

        now = time.time()
        poller = Poller(
            project_id,
            deadline=deadline,
            started=now,
            poll_interval=self.poll_interval,
            submitted=self.submitted,
            kind=JobKind(self.model, self.resolution, self.end_seconds),
            quiet_until=now + quiet_seconds,
            poll_immediately=poll_immediately,
            logs_status=logs_status,
        )
        hook = MagicHourHook(self.magichour_conn_id)
        # The pages' application, which receives webhooks, needs Airflow 3.1.
        read_mailbox = (
            partial(read_variable, mailbox_key(hook.magichour_conn_id)) if AIRFLOW_V_3_1_PLUS else None
        )
        scheduler = get_scheduler(self.magichour_conn_id, hook.get_settings_async, core_stats(), read_mailbox)
        outcome = await scheduler.wait(poller, grace_seconds)
        self.credits_charged = self.credits_charged or poller.credits_charged
        return outcome

    async def on_kill(self) -> None:
        """Log what keeps running, if a user has ended the task: the API cannot cancel a job.

        Before 3.4 Airflow also calls it when another triggerer has adopted the trigger and nothing was
        killed (airflow#73454); then the task is still deferred, or has ended with its job.
        """
        if self.project_id:  # else a `VideoSensorTrigger` that does not know its job yet
            await run_shielded(self._report_kill())

    async def _report_kill(self) -> None:
        if not await was_killed(self):
            return
        if not AIRFLOW_V_3_4_PLUS:
            # The deadline has come, so the first poll is the last.
            now = time.time()
            outcome = await self.wait_for(self.project_id, now, poll_immediately=True, grace_seconds=30.0)
            if outcome.ending not in ("timeout", "refused"):
                log.info("This task no longer waits for job %s, which has ended.", self.project_id)
                return
        log.warning("%s", kill_message(self.project_id, self.credits_charged))


async def was_killed(trigger: BaseTrigger) -> bool:
    """Whether a user has ended the task of a trigger whose `on_kill` Airflow has called."""
    if AIRFLOW_V_3_4_PLUS:
        return True
    try:
        return await asyncio.to_thread(task_state, trigger.task_instance) != "deferred"
    except Exception as error:
        log.warning("Whether the task was killed could not be determined (%s).", type(error).__name__)
        return False


async def run_shielded(report: Coroutine[Any, Any, None]) -> None:
    """Run the report of a kill to its end: Airflow cancels `on_kill` after about a second."""
    task = asyncio.create_task(report)
    _kill_reports.add(task)
    task.add_done_callback(_kill_reports.discard)
    await asyncio.shield(task)


async def import_async() -> None:
    """Import the HTTP client in a thread: that takes half a second, too long for the event loop.

    Triggers that find the import under way check again at moments of their own: thousands that continue in
    the same step would block the event loop.
    """
    global _is_imported
    while not _is_imported:
        if _import_lock.acquire(blocking=False):
            try:
                await asyncio.to_thread(_import)
                _is_imported = True
            finally:
                _import_lock.release()
        else:
            await asyncio.sleep(random.uniform(*_IMPORT_CHECK_SECONDS))


def _import() -> None:
    """Import without a garbage collection, and spare later ones what lives as long as the process.

    A full collection of a triggerer's heap blocks it for 0.1 to 0.3 s; frozen objects are not traversed.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for module in _HEAVY_MODULES:
            import_module(module)
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
