"""`VideoSensorTrigger`: a whole sensor in the triggerer, without a worker (Airflow 3.3).

Invariants. The result is stored before the event that starts downstream tasks. Only a success ends here.
Every other ending falls back to a worker, where retries, callbacks and skips work as usual. Nothing that this
trigger waits for can block it for ever.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime, timezone
from typing import Any, TypeVar

from airflow.triggers.base import TaskSuccessEvent, TriggerEvent

from magichour_provider.airflow_internals import delete_xcoms, detach_dag, get_xcom, push_link, push_xcom
from magichour_provider.client import library_url
from magichour_provider.exceptions import InvalidRequestError
from magichour_provider.jobs.reference import DEFAULT_CONN_ID, JobReference
from magichour_provider.links import VideoProjectLink
from magichour_provider.operators._base import ERROR_KEY, NOTICED_BY_KEY
from magichour_provider.polling.intervals import FRESH_JOB_SECONDS
from magichour_provider.triggers.video_job import VideoJobTrigger

log = logging.getLogger(__name__)

FALLBACK_REASON = "fallback_reason"
"""Event key: why the sensor continues in a worker; None if the event is the outcome of the wait."""
END_TIME = "end_time"
"""Event key: epoch seconds at which the task's wait must end; None if it is not known."""

AIRFLOW_TIMEOUT_SECONDS = 60.0
"""For each call to Airflow."""
_MIN_CALL_SECONDS = 3.0
_CONCURRENT_CALLS = 4
_FIRST_START_SECONDS = 30.0
"""A sensor that has waited for less has just started: this is no restart of the triggerer."""

_call_slots = asyncio.Semaphore(_CONCURRENT_CALLS)

T = TypeVar("T")


class VideoSensorTrigger(VideoJobTrigger):
    """Stands for a `VideoJobSensor`, from its start to its success.

    The Dag names its arguments, which are thus the same in every run. None has the name of a template field
    of the sensor: the triggerer would render it. The deadline follows from the time of Airflow's own timeout,
    which is stored: a restarted triggerer grants no new time.

    :param conn_id: the connection.
    :param limit: seconds that the task may wait.
    :param grace: seconds by which Airflow's own timeout comes later.
    :param poll_interval: seconds between polls; None: adaptive.
    :param job_id: the job; `model` and `resolution` are what is known of it.
    :param upstream_task_id: without a `job_id`, the task whose XCom `upstream_key` names the job.
    :param push_result: whether the result becomes an XCom.
    """

    timeout_after: datetime | None = None

    def __init__(
        self,
        *,
        conn_id: str = DEFAULT_CONN_ID,
        limit: float,
        grace: float,
        poll_interval: float | None = None,
        job_id: str | None = None,
        model: str | None = None,
        resolution: str | None = None,
        upstream_task_id: str | None = None,
        upstream_key: str | None = None,
        push_result: bool = True,
        **ignored: Any,
    ) -> None:
        super().__init__(job_id or "", conn_id, deadline=0.0, poll_interval=poll_interval)
        self.model, self.resolution = model, resolution
        self.conn_id, self.job_id = conn_id, job_id
        self.limit, self.grace = limit, grace
        self.upstream_task_id, self.upstream_key = upstream_task_id, upstream_key
        self.push_result = push_result

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, store the result and end the task; or fall back to a worker."""
        try:
            self.task_instance = detach_dag(self.task_instance)
            event = await self._wait()
        except Exception as error:
            log.debug("The sensor failed in the triggerer.", exc_info=error)
            event = self._fall_back(f"{type(error).__name__} was raised in the triggerer")
        yield event

    async def _wait(self) -> TriggerEvent:
        if self.timeout_after is None:
            return self._fall_back("Airflow has set no timeout for it")
        self.deadline = self.timeout_after.timestamp() - self.grace
        given: Any = {"project_id": self.job_id, "model": self.model, "resolution": self.resolution}
        if self.upstream_task_id is not None:
            given = await self._call_airflow(get_xcom, self.upstream_task_id, self.upstream_key)
        try:
            job = JobReference.from_value(given)
        except InvalidRequestError:
            return self._fall_back(f"task {self.upstream_task_id} returned no project id")
        self.project_id, self.model, self.resolution = job.project_id, job.model, job.resolution
        self.submitted = job.submitted
        end_seconds = given.get("end_seconds") if isinstance(given, Mapping) else None
        self.end_seconds = float(end_seconds) if isinstance(end_seconds, (int, float)) else None
        until = datetime.fromtimestamp(self.deadline, timezone.utc).isoformat(timespec="seconds")
        message = "This sensor waits for job %s in the triggerer, without a worker, until %s."
        log.info(message, job.project_id, until)
        is_first_start = self.limit - (self.deadline - time.time()) < _FIRST_START_SECONDS
        # The link is stored meanwhile: Airflow may answer slowly, and the wait has a deadline.
        pushing_link = asyncio.create_task(self._push_link()) if is_first_start else None
        try:
            # No worker can still be busy with a deferral, so no quiet time is needed.
            may_have_ended = is_first_start and time.time() - (job.submitted or 0) > FRESH_JOB_SECONDS
            outcome = await self.wait_for(job.project_id, self.deadline, poll_immediately=may_have_ended)
            if outcome.ending == "complete" and await self._store(job.result(outcome), outcome.noticed_by):
                await (pushing_link or self._push_link())
                log.info("Job %s is complete; this sensor ends in the triggerer.", job.project_id)
                return TaskSuccessEvent()
            return self._fall_back(None, **outcome.as_event())
        finally:
            if pushing_link is not None:
                pushing_link.cancel()

    async def _push_link(self) -> None:
        url = library_url(self.project_id)
        try:
            await self._call_airflow(push_link, VideoProjectLink(), url)
        except Exception as error:
            log.warning("The link to %s could not be stored (%s).", url, type(error).__name__)

    async def _store(self, result: Mapping[str, Any], noticed_by: str) -> bool:
        """Store the result; False if that failed, and a worker must do it."""

        def replace_result(ti: Any) -> None:
            delete_xcoms(ti, ERROR_KEY, NOTICED_BY_KEY)
            if noticed_by == "webhook":
                push_xcom(ti, NOTICED_BY_KEY, noticed_by)
            push_xcom(ti, "project_id", result["project_id"])
            push_xcom(ti, "return_value", result)

        try:
            if self.push_result:
                await self._call_airflow(replace_result)
        except Exception as error:
            log.warning("The result could not be stored from the triggerer (%s).", type(error).__name__)
            return False
        return True

    def _fall_back(self, reason: str | None, **outcome: Any) -> TriggerEvent:
        if reason is not None:
            log.info("This sensor continues in a worker, because %s.", reason)
        payload = {FALLBACK_REASON: reason, **outcome, END_TIME: self.deadline or None}
        return TriggerEvent(payload)  # type: ignore[no-untyped-call]

    async def _call_airflow(self, call: Callable[..., T], *arguments: Any) -> T:
        """Call Airflow about this task, in a thread: XCom backends block. TimeoutError if it does not answer.

        A few at a time: Airflow answers one after the other, and thousands of sensors may start at once. The
        wait for a slot ends at the deadline, too.
        """

        async def in_slot() -> T:
            async with _call_slots:
                in_thread = asyncio.to_thread(call, self.task_instance, *arguments)
                return await asyncio.wait_for(in_thread, AIRFLOW_TIMEOUT_SECONDS)

        return await asyncio.wait_for(in_slot(), max(_MIN_CALL_SECONDS, self.deadline - time.time()))
