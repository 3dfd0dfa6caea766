"""Waiting for a job that another task, or anybody, has submitted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from magichour_provider.airflow_internals import delete_xcoms, min_deferral_seconds
from magichour_provider.asset_events import announce_job
from magichour_provider.exceptions import JobError, WaitTimeoutError
from magichour_provider.jobs.reference import DEADLINE, DEFAULT_CONN_ID, HANDED_OVER, JobReference
from magichour_provider.links import VideoProjectLink
from magichour_provider.operators import _base
from magichour_provider.operators._base import (
    kill_message,
    log_from_signal_handler,
    map_non_retryable,
    reports_failure,
    set_default_retry_policy,
)
from magichour_provider.polling.deadlines import deadline_from, optional_seconds
from magichour_provider.sensors.poke_state import recall, remember
from magichour_provider.sensors.start_from_trigger import (
    StartFromTrigger,
    StartTriggerArgsDescriptor,
    worker_reason,
)

if TYPE_CHECKING:
    from airflow.sdk import Context, XComArg

    from magichour_provider.hooks.magichour import MagicHourHook
    from magichour_provider.polling.outcome import Outcome


class VideoJobSensor(BaseSensorOperator):
    """Wait until a job has ended; succeed with its data when the clip is there.

    Poke, reschedule and deferrable mode. A look that fails in a way that may pass is not a failed job:
    the wait goes on until its deadline. `soft_fail` and `never_fail` skip the task when the job came to
    no clip or the time was up; they do not hide a wrong key.

    When deferrable, from Airflow 3.3 on, the sensor begins in the triggerer and, when the clip is there, ends
    there: no worker is started. It needs a worker all the same for what only a worker does (any other ending,
    callbacks of its success, outlets), where its `project_id` is a template or comes from a mapped task, and
    in a Dag of more than 100 tasks; one line in its log says which way it waits, and why. A sensor that
    begins in the triggerer follows `trigger_rule` and `depends_on_past` as ever, but no pool,
    `max_active_tis_per_dag` or `queue` holds it back, its rendered fields are not shown, and listeners
    (OpenLineage) hear nothing of its success. `sensor.start_from_trigger = False` keeps it in a worker.

    :param project_id: a project id, the output of `ImageToVideoOperator`, or a template of either.
    :param magichour_conn_id: the connection.
    :param poke_interval: seconds between looks; None: adaptive when deferred, else 10. In reschedule mode
        at least `[workers] min_heartbeat_interval` + 2.
    :param timeout: seconds, or a timedelta, until the wait ends as `AirflowSensorTimeout`. With
        `execution_timeout` the earlier of both.
    :param deferrable: wait in the triggerer; default from `[operators] default_deferrable`.
    :return: `project_id`, `status`, `name`, `model`, `resolution`, `end_seconds`, `credits_charged`,
        `queued_seconds` and `rendering_seconds` (as its looks have shown, else None), `url`.
    """

    template_fields: Sequence[str] = ("project_id", "magichour_conn_id")
    operator_extra_links = (VideoProjectLink(),)
    ui_color = "#e8e4ff"

    default_poke_interval: ClassVar[float] = 10.0
    default_timeout: ClassVar[float] = 3600.0

    start_from_trigger = StartFromTrigger()
    start_trigger_args = StartTriggerArgsDescriptor()

    def __init__(
        self,
        *,
        project_id: str | Mapping[str, Any] | XComArg,
        magichour_conn_id: str = DEFAULT_CONN_ID,
        poke_interval: float | timedelta | None = None,
        timeout: float | timedelta = default_timeout,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            poke_interval=self.default_poke_interval if poke_interval is None else poke_interval,
            timeout=timeout,
            **kwargs,
        )
        set_default_retry_policy(self)
        if self.reschedule:
            # Sooner, Airflow may find the task still running and fail it, as with a trigger.
            self.poke_interval = max(self.poke_interval, min_deferral_seconds())
        self.project_id = project_id
        self.magichour_conn_id = magichour_conn_id
        self.poll_interval = optional_seconds("poke_interval", poke_interval)
        self.deferrable = (
            conf.getboolean("operators", "default_deferrable", fallback=False)
            if deferrable is None
            else deferrable
        )
        self.linked_project_id: str | None = None
        self.credits_charged: int | None = None
        self._why_a_worker: str | None = None

    @cached_property
    def hook(self) -> MagicHourHook:
        """The connection's hook."""
        from magichour_provider.hooks.magichour import MagicHourHook

        return MagicHourHook(self.magichour_conn_id)

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> None:
        """Render the templates, and note before why a worker does so."""
        self._why_a_worker = worker_reason(self)
        super().render_template_fields(context, jinja_env)

    @reports_failure
    def execute(self, context: Context) -> Any:
        """Wait in the way that was asked for."""
        if self.deferrable:
            reason = self._why_a_worker or worker_reason(self) or "it was begun in one"
            self.log.info("This task waits the ordinary way, from a worker, because %s.", reason)
        return self._wait(context)

    def _wait(self, context: Context, deadline: float | None = None) -> Any:
        with map_non_retryable(self):
            self._begin(context, deadline)
            # Looked before deferring: a trigger that fires at once can fail the task (airflow#71580).
            outcome = self._look() if self.deferrable else super().execute(context)
            if outcome is None:
                self._defer()
            return self._finish(context, outcome)

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once; done with the outcome, good or bad, so that `silent_fail` pokes no failed job."""
        outcome = self._look() or self._watch.overdue(time.time())
        if outcome is None and self.reschedule:
            remember(context, self._watch, self._recalled)
        return PokeReturnValue(is_done=outcome is not None, xcom_value=outcome)

    def on_kill(self) -> None:
        """Say what goes on: there is no way to cancel a render from here."""
        if self.linked_project_id:
            log_from_signal_handler(self.log, kill_message(self.linked_project_id, self.credits_charged))

    @reports_failure
    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> Any:
        """Take over from the triggerer: return the job's data, or raise what became of it."""
        from magichour_provider.polling.outcome import Outcome

        if HANDED_OVER in event:
            delete_xcoms(context["ti"], "return_value", _base.ERROR_KEY)
            if event[HANDED_OVER] is not None:
                self.log.info("A worker takes this task over, because %s.", event[HANDED_OVER])
                return self._wait(context, event[DEADLINE])
        outcome = Outcome.from_event(event)
        self._job = JobReference.of(self.project_id)
        self.linked_project_id = outcome.project_id
        self.credits_charged = outcome.credits_charged
        if self.soft_fail or self.never_fail:
            # Airflow turns every AirflowException of a resumed sensor into a skip (airflow#71255).
            return self._finish(context, outcome)
        with map_non_retryable(self):
            return self._finish(context, outcome)

    def _begin(self, context: Context, deadline: float | None = None) -> None:
        from magichour_provider.polling.durations import RenderKind
        from magichour_provider.polling.poller import Poller

        self._job = JobReference.of(self.project_id)
        self.linked_project_id = self._job.project_id
        first = self._first_poke(context)
        started = time.time() if first is None else first
        self._recalled = {} if first is None else recall(context, self._job.project_id)
        self._watch = Poller(
            self._job.project_id,
            deadline=self._deadline(started) if deadline is None else deadline,
            started=started,
            poll_interval=self.poll_interval,
            kind=RenderKind(self._job.model, self._job.resolution),
            has_looked=first is not None,
            queued_at=self._recalled.get("queued_at"),
            rendering_since=self._recalled.get("rendering_since"),
        )

    def _deadline(self, started: float) -> float:
        return deadline_from(
            started,
            timedelta(seconds=self.timeout),
            self.execution_timeout,
            in_worker=not self.deferrable and not self.reschedule,
        )

    def _first_poke(self, context: Context) -> float | None:
        """Epoch seconds of this try's first poke, which another process has made; None: this is it."""
        first = context["ti"].get_first_reschedule_date(context) if self.reschedule else None
        return first.timestamp() if first else None

    def _look(self) -> Outcome | None:
        from magichour_provider.polling.blocking import look

        ended = look(self.hook.get_conn(), self._watch)
        self.credits_charged = self._watch.credits_charged
        return ended

    def _defer(self) -> NoReturn:
        from magichour_provider.triggers.video_job import VideoJobTrigger

        trigger = VideoJobTrigger(
            self._job.project_id,
            self.magichour_conn_id,
            deadline=self._watch.deadline,
            poll_interval=self.poll_interval,
            credits_charged=self.credits_charged,
            submitted=self._watch.known_submission,
            queued_at=self._watch.queued_at,
            rendering_since=self._watch.rendering_since,
            **self._watch.kind._asdict(),
        )
        self.defer(**trigger.as_deferral())

    def _finish(self, context: Context, outcome: Outcome) -> dict[str, Any]:
        error = outcome.error()
        if error is None:
            result = self._job.result(outcome)
            announce_job(context, self.outlets, result)
            return result
        if isinstance(error, JobError) and (self.soft_fail or self.never_fail):
            raise AirflowSkipException(str(error)) from error
        if isinstance(error, WaitTimeoutError):
            raise AirflowSensorTimeout(str(error)) from error
        raise error
