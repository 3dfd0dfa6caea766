"""`VideoJobSensor`: wait for a job that another task, or anyone, has submitted."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseSensorOperator, PokeReturnValue

from magichour_provider.airflow_internals import (
    all_params_set,
    as_plain_xcom_arg,
    delete_xcoms,
    has_execute_hooks,
    is_mapped,
    min_deferral_seconds,
)
from magichour_provider.exceptions import InvalidRequestError, JobError, WaitTimeoutError
from magichour_provider.jobs.arguments import parse_id, require_flag
from magichour_provider.jobs.reference import DEFAULT_CONN_ID, JobReference
from magichour_provider.lineage import emit_job_events
from magichour_provider.links import VideoProjectLink
from magichour_provider.operators._base import (
    ERROR_KEY,
    MagicHourHookMixin,
    kill_message,
    log_from_signal_handler,
    map_non_retryable,
    push_keys,
    push_noticed_by,
    reports_failure,
    set_default_retry_policy,
)
from magichour_provider.polling.intervals import (
    ALARM_MARGIN_SECONDS,
    TRIGGER_TIMEOUT_MARGIN_SECONDS,
    get_deadline,
    seconds,
)
from magichour_provider.version_compat import (
    AIRFLOW_V_3_3_PLUS,
    AirflowSensorTimeout,
    AirflowSkipException,
    conf,
)

if TYPE_CHECKING:
    from airflow.sdk import Context, XComArg
    from airflow.triggers.base import StartTriggerArgs

    from magichour_provider.polling.outcome import Outcome

log = logging.getLogger(__name__)

_MAX_DAG_TASKS = 100
"""The triggerer deserializes the Dag on its event loop for each sensor that starts there: 50 sensors of a Dag
of 300 tasks blocked it for half a second and more (Airflow 3.3.2)."""
_MIN_EXECUTION_TIMEOUT = timedelta(minutes=1)
"""With less, a wait that ends a little before the timeout may still end too late."""


class _StartFromTrigger:
    """`start_from_trigger`, computed when Airflow serializes the Dag, so that later changes count.

    False on the class itself, which Airflow asks for a mapped task, and before `__init__` has ended.
    """

    def __get__(self, sensor: VideoJobSensor | None, owner: type[VideoJobSensor]) -> bool:
        return sensor is not None and "_worker_reason" in vars(sensor) and worker_reason(sensor) is None


class _StartTriggerArgs:
    """`start_trigger_args`, computed likewise; None for a sensor that needs a worker."""

    def __get__(self, sensor: VideoJobSensor | None, owner: type[VideoJobSensor]) -> StartTriggerArgs | None:
        if sensor is None or not sensor.start_from_trigger:
            return None
        from airflow.triggers.base import StartTriggerArgs

        limit, grace = get_time_limits(sensor.timeout, sensor.execution_timeout)
        return StartTriggerArgs(
            trigger_cls="magichour_provider.triggers.video_sensor.VideoSensorTrigger",
            trigger_kwargs={
                "conn_id": parse_id("magichour_conn_id", sensor.magichour_conn_id) or DEFAULT_CONN_ID,
                "limit": limit,
                "grace": grace,
                "poll_interval": sensor.poll_interval,
                "push_result": sensor.do_xcom_push,
                **(_find_job(sensor.project_id) or {}),
            },
            next_method="execute_complete",
            timeout=timedelta(seconds=limit + grace),
        )


class VideoJobSensor(MagicHourHookMixin, BaseSensorOperator):
    """Wait until a job has ended; succeed with its data if the video is ready.

    Poke, reschedule and deferrable mode. A poll that fails in a way that may pass is not a failed job: the
    wait continues until its deadline. `soft_fail` and `never_fail` skip the task if the job made no video or
    the time is up; they do not hide a wrong API key.

    From Airflow 3.3 on, a deferrable sensor starts in the triggerer and, if the video is ready, ends there:
    it needs no worker. It does need one for any other ending, for success callbacks and outlets, if its
    `project_id` is a template or comes from a mapped task, and in a Dag of more than 100 tasks; its log says
    which, and why. A sensor that starts in the triggerer follows `trigger_rule` and `depends_on_past`, but
    no pool, `max_active_tis_per_dag` or `queue` limits it, its rendered fields are not shown, and listeners
    (OpenLineage) do not hear of its success. `sensor.start_from_trigger = False` keeps it in a worker.

    :param project_id: a project id, the output of `ImageToVideoOperator`, or a template of either.
    :param magichour_conn_id: the connection.
    :param poke_interval: seconds between polls; None: adaptive if deferred, else 10. In reschedule mode
        at least `[workers] min_heartbeat_interval` + 2.
    :param timeout: seconds, or a timedelta, until the wait ends with `AirflowSensorTimeout`. With
        `execution_timeout`, the earlier of both.
    :param deferrable: wait in the triggerer; default from `[operators] default_deferrable`.
    :return: `project_id`, `status`, `name`, `model`, `resolution`, `end_seconds`, `credits_charged`,
        `created_at` (ISO 8601), `url`. `project_id` is an XCom of its own, too.
    """

    template_fields: Sequence[str] = ("project_id", "magichour_conn_id")
    operator_extra_links = (VideoProjectLink(),)
    ui_color = "#e8e4ff"

    default_poke_interval: ClassVar[float] = 10.0
    default_timeout: ClassVar[float] = 3600.0

    start_from_trigger = _StartFromTrigger()
    start_trigger_args = _StartTriggerArgs()

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
        if deferrable is None:
            deferrable = conf.getboolean("operators", "default_deferrable", fallback=False)
        self.project_id = project_id
        self.magichour_conn_id = magichour_conn_id
        self.poll_interval = None if poke_interval is None else seconds("poke_interval", poke_interval)
        self.deferrable = require_flag("deferrable", deferrable)
        self.linked_project_id: str | None = None
        self.credits_charged: int | None = None
        self._worker_reason: str | None = None

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> None:
        """Render the templates. The reason for a worker is found before: it depends on them."""
        self._worker_reason = worker_reason(self)
        super().render_template_fields(context, jinja_env)

    @reports_failure
    def execute(self, context: Context) -> Any:
        """Wait in the mode that was asked for."""
        if self.deferrable:
            reason = self._worker_reason or worker_reason(self) or "it was started in one"
            self.log.info("This sensor starts in a worker, because %s.", reason)
        return self._wait(context)

    def _wait(self, context: Context, deadline: float | None = None) -> Any:
        from magichour_provider.polling.intervals import JobKind
        from magichour_provider.polling.poller import Poller

        with map_non_retryable(self):
            self._job = JobReference.from_value(self.project_id)
            self.linked_project_id = self._job.project_id
            if "ti" not in context:
                self.mode = "poke"  # a unit test does not start the task again
            # In reschedule mode each poke is a process of its own, and the wait began at the first of them.
            first = context["ti"].get_first_reschedule_date(context) if self.reschedule else None
            started = first.timestamp() if first else time.time()
            if deadline is None:
                in_worker = not self.deferrable and not self.reschedule
                timeout = timedelta(seconds=self.timeout)
                deadline = get_deadline(started, timeout, self.execution_timeout, in_worker=in_worker)
            self._poller = Poller(
                self._job.project_id,
                deadline=deadline,
                started=started,
                poll_interval=self.poll_interval,
                submitted=self._job.submitted,
                kind=JobKind(self._job.model, self._job.resolution),
                has_polled=first is not None,
            )
            # Polled before deferring: a trigger that fires at once can fail the task (airflow#71580).
            outcome = self._poll() if self.deferrable else super().execute(context)
            if outcome is not None:
                return self._finish(context, outcome)

            from magichour_provider.triggers.video_job import VideoJobTrigger

            trigger = VideoJobTrigger(
                self._job.project_id,
                self.hook.magichour_conn_id,
                deadline=deadline,
                poll_interval=self.poll_interval,
                credits_charged=self.credits_charged,
                submitted=self._poller.submitted,
                **self._poller.kind._asdict(),
            )
            return self.defer(**trigger.as_deferral())

    def poke(self, context: Context) -> PokeReturnValue:
        """Poll once. Done with the outcome, good or bad, so that `silent_fail` does not poke a failed job."""
        outcome = self._poll()
        return PokeReturnValue(is_done=outcome is not None, xcom_value=outcome)

    def on_kill(self) -> None:
        """Log what keeps running: the API cannot cancel a job."""
        if self.linked_project_id:
            log_from_signal_handler(self.log, kill_message(self.linked_project_id, self.credits_charged))

    @reports_failure
    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> Any:
        """Resume after the trigger: return the job's data, raise, or wait on from this worker."""
        from magichour_provider.polling.outcome import Outcome
        from magichour_provider.triggers.video_sensor import END_TIME, FALLBACK_REASON

        if FALLBACK_REASON in event:
            delete_xcoms(context["ti"], "return_value", "project_id", ERROR_KEY)
            if event[FALLBACK_REASON] is not None:
                self.log.info("This sensor continues in a worker, because %s.", event[FALLBACK_REASON])
                return self._wait(context, event[END_TIME])
        outcome = Outcome.from_event(event)
        self._job = JobReference.from_value(self.project_id)
        self.linked_project_id = outcome.project_id
        self.credits_charged = outcome.credits_charged
        push_noticed_by(self, context, outcome.noticed_by)
        # Airflow turns every AirflowException of a resumed sensor into a skip (airflow#71255).
        may_skip = self.soft_fail or self.never_fail
        with nullcontext() if may_skip else map_non_retryable(self):
            return self._finish(context, outcome)

    def _poll(self) -> Outcome | None:
        from magichour_provider.polling.poller import poll_once

        outcome = poll_once(self.hook.get_conn(), self._poller)
        self.credits_charged = self._poller.credits_charged
        return outcome

    def _finish(self, context: Context, outcome: Outcome) -> dict[str, Any]:
        push_keys(self, context, {"project_id": outcome.project_id}, "project_id")
        error = outcome.error()
        if error is None:
            result = self._job.result(outcome)
            emit_job_events(context, self.outlets, result)
            return result
        if isinstance(error, JobError) and (self.soft_fail or self.never_fail):
            raise AirflowSkipException(str(error)) from error
        if isinstance(error, WaitTimeoutError):
            raise AirflowSensorTimeout(str(error)) from error
        raise error


# Starting in the triggerer --------------------------------------------------------------------------


def worker_reason(sensor: VideoJobSensor) -> str | None:
    """Why a sensor needs a worker; None: it can start and end in the triggerer.

    It needs one for all that only a worker does, and for what the triggerer cannot do: it renders no
    templates. Never raises: otherwise the sensor's Dag could not be imported.
    """
    if not AIRFLOW_V_3_3_PLUS:
        return "this needs Airflow 3.3"
    if not sensor.deferrable:
        return "it is not deferrable"
    try:
        is_mapped_over = next(iter(sensor.iter_mapped_dependants()), None) is not None
        task_count = len(sensor.dag.task_ids) if sensor.has_dag() else 1  # type: ignore[no-untyped-call]
        limit = sensor.execution_timeout
        reasons = {
            "it is mapped, or in a mapped task group": is_mapped(sensor),
            "start_from_trigger is set to False": vars(sensor).get("start_from_trigger") is False,
            "its project_id is neither an id nor the output of an unmapped task": (
                _find_job(sensor.project_id) is None
            ),
            "its magichour_conn_id is a template": _is_template(sensor.magichour_conn_id),
            "its class changes what VideoJobSensor does": _is_customized(sensor),
            "it has inlets or outlets": sensor.inlets or sensor.outlets,
            "it has an on_execute_callback": sensor.on_execute_callback,
            "it has an on_success_callback": sensor.on_success_callback,
            "it has a pre_execute or a post_execute": has_execute_hooks(sensor),
            "it has multiple_outputs, is mapped over, or is the Dag's result": (
                sensor.multiple_outputs or sensor.returns_dag_result or is_mapped_over
            ),
            "its execution_timeout is less than a minute": limit is not None
            and limit < _MIN_EXECUTION_TIMEOUT,
            f"its Dag has more than {_MAX_DAG_TASKS} tasks": task_count > _MAX_DAG_TASKS,
            "a param of it, or of its Dag, has no default": not all_params_set(sensor),
        }
    except Exception as error:
        log.debug("Whether a sensor needs a worker could not be determined.", exc_info=error)
        return f"whether it can start elsewhere could not be determined ({type(error).__name__})"
    return next((reason for reason, applies in reasons.items() if applies), None)


def get_time_limits(timeout: float, execution_timeout: timedelta | None) -> tuple[float, float]:
    """Seconds that a task may wait in the triggerer, and by how many Airflow's own timeout comes later.

    Airflow enforces `execution_timeout` on a task that starts in the triggerer, without calling our code and
    without naming the job; so the wait ends a little earlier.
    """
    latest = timeout + TRIGGER_TIMEOUT_MARGIN_SECONDS
    if execution_timeout is None or execution_timeout.total_seconds() >= latest:
        return timeout, TRIGGER_TIMEOUT_MARGIN_SECONDS
    latest = execution_timeout.total_seconds()
    limit = min(timeout, latest - ALARM_MARGIN_SECONDS)
    return limit, latest - limit


def _find_job(project_id: object) -> dict[str, Any] | None:
    """The trigger's arguments for a job that is a literal or one task's XCom; None for anything else."""
    reference = as_plain_xcom_arg(project_id)
    if reference is not None:
        task, key = reference
        if task.get_closest_mapped_task_group() is not None:
            return None
        return {"upstream_task_id": task.task_id, "upstream_key": key}
    if not isinstance(project_id, (str, Mapping)) or _is_template(str(project_id)):
        return None
    if isinstance(project_id, Mapping):
        known = (project_id.get("model"), project_id.get("resolution"))
        if not all(value is None or isinstance(value, str) for value in known):
            return None
    try:
        job = JobReference.from_value(project_id)
    except InvalidRequestError:
        return None
    return {"job_id": job.project_id, "model": job.model, "resolution": job.resolution}


def _is_template(text: object) -> bool:
    return not isinstance(text, str) or any(sign in text for sign in ("{{", "{%", "{#"))


def _is_customized(sensor: VideoJobSensor) -> bool:
    """Whether a subclass overrides a method, a property, or the links."""
    classes = type(sensor).__mro__[: type(sensor).__mro__.index(VideoJobSensor)]
    overrides = any(
        hasattr(value, "__get__") and hasattr(VideoJobSensor, name) and name != "__init__"
        for each in classes
        for name, value in vars(each).items()
    )
    return overrides or sensor.operator_extra_links is not VideoJobSensor.operator_extra_links
