"""A whole sensor in the triggerer: no worker is started for it.

Invariants. The result is stored before the event that lets downstream tasks start. Only a success ends
here: every other ending, and whatever cannot be done here, is handed to a worker, where retries, callbacks
and skips mean what they mean elsewhere. Nothing that this trigger waits for can keep it for ever.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from airflow.triggers.base import TriggerEvent

from magichour_provider.airflow_internals import delete_xcoms, detach_dag, get_xcom, push_link, push_xcom
from magichour_provider.client import library_url
from magichour_provider.exceptions import InvalidRequestError
from magichour_provider.jobs.reference import DEADLINE, DEFAULT_CONN_ID, HANDED_OVER, JobReference
from magichour_provider.links import VideoProjectLink
from magichour_provider.operators import _base
from magichour_provider.triggers.video_job import VideoJobTrigger

if TYPE_CHECKING:
    from magichour_provider.polling.outcome import Outcome

log = logging.getLogger(__name__)

_AIRFLOW_ANSWERS_WITHIN = 60.0
"""Seconds from the time that it is asked."""
_LEAST_PATIENCE = 3.0
_QUESTIONS_AT_ONCE = 4
_YOUNG = 30.0
"""Seconds in which nobody may have looked at a task's job yet."""

_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

T = TypeVar("T")


class VideoSensorTrigger(VideoJobTrigger):
    """Stands for a `VideoJobSensor`, from its first moment to its last.

    It is named in the Dag, so its arguments are the same for every run. None of them has the name of one of
    the sensor's template fields: the triggerer renders nothing. The deadline comes from the time at which
    Airflow's own timeout ends the task, which is stored, so that a restarted triggerer grants no new time.

    :param conn_id: the connection.
    :param limit: seconds that the task may wait.
    :param grace: seconds by which Airflow's own timeout comes later.
    :param poll_interval: seconds between looks; None: adaptive.
    :param job_id: the job; `model` and `resolution` are what is known of it.
    :param upstream_task_id: the task whose XCom `upstream_key` is or has the job, where there is no `job_id`.
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
        **later: Any,
    ) -> None:
        super().__init__(job_id or "", conn_id, deadline=0.0, poll_interval=poll_interval, **later)
        self.limit = limit
        self.grace = grace
        self.job_id = job_id
        self.model = model
        self.resolution = resolution
        self.end_seconds: float | None = None
        self.upstream_task_id = upstream_task_id
        self.upstream_key = upstream_key
        self.push_result = push_result

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Name the class and the arguments that make this trigger anew."""
        names = (
            "limit", "grace", "poll_interval", "job_id", "model", "resolution",
            "upstream_task_id", "upstream_key", "push_result",
        )  # fmt: skip
        kwargs = {"conn_id": self.magichour_conn_id, **{name: getattr(self, name) for name in names}}
        return f"{__name__}.{type(self).__name__}", kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, store the result and end the task; or hand it to a worker."""
        try:
            self.task_instance = detach_dag(self.task_instance)
            event = await self._live()
        except Exception as error:
            log.debug("Where it came from:", exc_info=error)
            event = self._hand_over(f"{type(error).__name__} was raised in the triggerer")
        yield event

    async def on_kill(self) -> None:
        """Say what goes on, if a person has ended the task while its job is known."""
        if self.project_id:
            await super().on_kill()

    async def _live(self) -> TriggerEvent:
        if self.timeout_after is None:
            return self._hand_over("Airflow has set it no timeout")
        self.deadline = self.timeout_after.timestamp() - self.grace
        given = await self._given()
        try:
            job = JobReference.of(given)
        except InvalidRequestError:
            return self._hand_over(f"task {self.upstream_task_id} has given no project id")
        self._learn_of(job, given)
        log.info(
            "This task waits in the triggerer from the start, for job %s: no worker, until %s.",
            job.project_id,
            datetime.fromtimestamp(self.deadline, timezone.utc).isoformat(timespec="seconds"),
        )
        is_young = self._is_young()
        # The link by its side, as Airflow may be slow to answer, and the wait has a deadline.
        showing = asyncio.create_task(self._show_link()) if is_young else None
        try:
            # No worker may still be busy with the deferral, so there is nothing to keep quiet for.
            outcome = await self.wait_for(job.project_id, self.deadline, quiet=0.0, at_once=is_young)
            return await self._end(job, outcome, showing)
        finally:
            if showing is not None:
                showing.cancel()

    def _is_young(self) -> bool:
        """Whether this is the task's beginning, and no restart of the triggerer."""
        return self.limit - (self.deadline - time.time()) < _YOUNG

    async def _given(self) -> Any:
        """What the Dag, or the task before this one, says of the job."""
        if self.upstream_task_id is None:
            return {"project_id": self.job_id, "model": self.model, "resolution": self.resolution}
        return await _asked(
            get_xcom, self.task_instance, self.upstream_task_id, self.upstream_key, until=self.deadline
        )

    def _learn_of(self, job: JobReference, given: object) -> None:
        """Take in what is known of the job; the schedule learns by it how long such renders take."""
        self.project_id, self.model, self.resolution = job.project_id, job.model, job.resolution
        end_seconds = given.get("end_seconds") if isinstance(given, Mapping) else None
        self.end_seconds = float(end_seconds) if isinstance(end_seconds, (int, float)) else None

    async def _show_link(self) -> None:
        link, address = VideoProjectLink(), library_url(self.project_id)
        try:
            await _asked(push_link, self.task_instance, link, address, until=self.deadline)
        except Exception as error:
            log.warning("The link to %s could not be stored (%s).", address, type(error).__name__)

    async def _end(
        self, job: JobReference, outcome: Outcome, showing: Awaitable[None] | None = None
    ) -> TriggerEvent:
        from airflow.triggers.base import TaskSuccessEvent

        from magichour_provider.polling.outcome import TerminalStatus

        if outcome.ending is TerminalStatus.COMPLETE and await self._store(job.result(outcome)):
            await (showing or self._show_link())
            log.info("Job %s is complete; this task ends in the triggerer.", job.project_id)
            return TaskSuccessEvent()
        return self._event({HANDED_OVER: None, **outcome.as_event()})

    async def _store(self, result: Mapping[str, Any]) -> bool:
        """Store the result; False where that failed, and a worker shall do it."""
        if not self.push_result:
            return True
        try:
            await _asked(_replace_result, self.task_instance, result, until=self.deadline)
        except Exception as error:
            log.warning("The result could not be stored from the triggerer (%s).", type(error).__name__)
            return False
        return True

    def _hand_over(self, why: str) -> TriggerEvent:
        log.info("This task goes on in a worker, because %s.", why)
        return self._event({HANDED_OVER: why})

    def _event(self, payload: Mapping[str, Any]) -> TriggerEvent:
        return TriggerEvent({**payload, DEADLINE: self.deadline or None})  # type: ignore[no-untyped-call]


def _replace_result(ti: Any, result: Mapping[str, Any]) -> None:
    delete_xcoms(ti, _base.ERROR_KEY)
    push_xcom(ti, "return_value", result)


async def _asked(question: Callable[..., T], *arguments: Any, until: float = math.inf) -> T:
    """Ask Airflow in a thread, as XCom backends block; TimeoutError where it gives no answer.

    A few at a time: Airflow answers one after the other, and thousands of tasks may begin at once.

    :param until: epoch seconds until which there may be an answer at all; waiting for one's turn counts.
    """

    async def ask() -> T:
        async with _turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_QUESTIONS_AT_ONCE)):
            return await asyncio.wait_for(asyncio.to_thread(question, *arguments), _AIRFLOW_ANSWERS_WITHIN)

    patience = max(_LEAST_PATIENCE, until - time.time())
    return await asyncio.wait_for(ask(), None if patience == math.inf else patience)
