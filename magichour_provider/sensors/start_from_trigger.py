"""Whether a sensor may live in the triggerer, from its first moment to its last, and if not, why not.

It may where nobody could tell the difference but by the worker that is not started. Whatever only a worker
does (callbacks, hooks, outlets, code of a subclass) keeps a sensor in one, and so does whatever the triggerer
could stumble over: it does not render templates, it looks a literal or one task's XCom up by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from magichour_provider.airflow_internals import (
    all_params_set,
    as_plain_xcom_arg,
    has_execute_hooks,
    is_mapped,
)
from magichour_provider.exceptions import InvalidRequestError
from magichour_provider.jobs.reference import JobReference
from magichour_provider.polling.deadlines import ALARM_MARGIN, FRAMEWORK_GRACE
from magichour_provider.version_compat import AIRFLOW_V_3_3_PLUS

if TYPE_CHECKING:
    from airflow.triggers.base import StartTriggerArgs

    from magichour_provider.sensors.video_job import VideoJobSensor

log = logging.getLogger(__name__)

_SIGNS_OF_A_TEMPLATE = ("{{", "{%", "{#")
_TRIGGER = "magichour_provider.triggers.video_sensor.VideoSensorTrigger"
_LARGEST_DAG = 100
"""Tasks in a Dag that the triggerer can unpack, on its event loop, for each sensor that begins in it: 50
sensors of a Dag of 300 tasks blocked that loop for half a second and more (Airflow 3.3.2)."""
_SHORTEST_EXECUTION_TIMEOUT = 60.0
"""Seconds; with less a wait that ends a little sooner may still come too late."""
_HARMLESS = frozenset({"__init__", "__doc__", "__module__", "__qualname__"})


def worker_reason(sensor: VideoJobSensor) -> str | None:
    """Why this sensor needs a worker; None: it may live in the triggerer.

    Never raises: a Dag whose sensor cannot be placed would not import.
    """
    try:
        return next((reason for holds, reason in _reasons(sensor) if holds()), None)
    except Exception as error:
        log.debug("Where it came from:", exc_info=error)
        return f"its place could not be found out ({type(error).__name__})"


class StartFromTrigger:
    """`start_from_trigger`: found out when Airflow reads it, which is when it writes the Dag down.

    So what is set after `__init__` counts. Of the class itself, which is what a mapped task is asked for, and
    of a sensor in the making it is False.
    """

    def __get__(self, sensor: VideoJobSensor | None, owner: type[VideoJobSensor]) -> bool:
        """Whether this sensor may live in the triggerer."""
        return sensor is not None and _is_made(sensor) and worker_reason(sensor) is None


class StartTriggerArgsDescriptor:
    """`start_trigger_args`: made when Airflow reads it; None for a sensor that needs a worker."""

    def __get__(self, sensor: VideoJobSensor | None, owner: type[VideoJobSensor]) -> StartTriggerArgs | None:
        """What the triggerer needs for this sensor."""
        if sensor is None or not _is_made(sensor) or worker_reason(sensor) is not None:
            return None
        limit, grace = time_limits(sensor.timeout, sensor.execution_timeout)
        arguments = {
            "conn_id": sensor.magichour_conn_id,
            "limit": limit,
            "grace": grace,
            "poll_interval": sensor.poll_interval,
            "push_result": sensor.do_xcom_push,
            **(source_of(sensor.project_id) or {}),
        }
        net = timedelta(seconds=limit + grace)
        from airflow.triggers.base import StartTriggerArgs

        return StartTriggerArgs(
            trigger_cls=_TRIGGER, trigger_kwargs=arguments, next_method="execute_complete", timeout=net
        )


def time_limits(timeout: float, execution_timeout: timedelta | None) -> tuple[float, float]:
    """Seconds that a task may wait in the triggerer, and seconds by which Airflow's own timeout comes later.

    Airflow enforces `execution_timeout` on a task that begins in the triggerer, without calling any code of
    ours and without naming the job; the wait ends a little sooner then.
    """
    net = timeout + FRAMEWORK_GRACE
    if execution_timeout is None or execution_timeout.total_seconds() >= net:
        return timeout, FRAMEWORK_GRACE
    net = execution_timeout.total_seconds()
    limit = min(timeout, net - ALARM_MARGIN)
    return limit, net - limit


def source_of(project_id: object) -> dict[str, Any] | None:
    """Where a trigger finds the job, as its arguments: a literal, or one task's XCom; None: in neither."""
    reference = as_plain_xcom_arg(project_id)
    if reference is not None:
        task, key = reference
        if task.get_closest_mapped_task_group() is None:
            return {"upstream_task_id": task.task_id, "upstream_key": key}
        return None
    return _literal(project_id)


def _literal(project_id: object) -> dict[str, Any] | None:
    if not isinstance(project_id, (str, Mapping)) or _is_template(str(project_id)):
        return None
    known = (
        [project_id.get(name) for name in ("model", "resolution")] if isinstance(project_id, Mapping) else []
    )
    if not all(value is None or isinstance(value, str) for value in known):
        return None
    try:
        job = JobReference.of(project_id)
    except InvalidRequestError:
        return None
    return {"job_id": job.project_id, "model": job.model, "resolution": job.resolution}


def _reasons(sensor: VideoJobSensor) -> Iterator[tuple[Callable[[], bool], str]]:
    """Every reason for a worker, and whether it holds; the first that does is told."""
    yield lambda: not AIRFLOW_V_3_3_PLUS, "this needs Airflow 3.3"
    yield lambda: not sensor.deferrable, "it is not deferrable"
    yield lambda: is_mapped(sensor), "it is mapped, or in a mapped task group"
    yield lambda: _may_not_begin(sensor), "start_from_trigger is set to False"
    yield lambda: source_of(sensor.project_id) is None, "its project_id is no id and no plain task's output"
    yield lambda: _is_template(sensor.magichour_conn_id), "its magichour_conn_id is a template"
    yield lambda: _has_code_of_its_own(sensor), "it is of a class that changes what VideoJobSensor does"
    yield lambda: bool(sensor.inlets or sensor.outlets), "it has inlets or outlets"
    yield lambda: bool(sensor.on_execute_callback), "it has an on_execute_callback"
    yield lambda: bool(sensor.on_success_callback), "it has an on_success_callback"
    yield lambda: has_execute_hooks(sensor), "it has a pre_execute or a post_execute"
    yield (
        lambda: _has_unusual_xcoms(sensor),
        "it has multiple_outputs, is mapped over, or is the Dag's result",
    )
    yield lambda: _may_be_cut_off(sensor), "its execution_timeout is less than a minute"
    yield lambda: _dag_task_count(sensor) > _LARGEST_DAG, f"its Dag has more than {_LARGEST_DAG} tasks"
    yield lambda: not all_params_set(sensor), "a param of it, or of its Dag, has no default"


def _is_made(sensor: VideoJobSensor) -> bool:
    return "_why_a_worker" in vars(sensor)


def _is_template(text: object) -> bool:
    return not isinstance(text, str) or any(sign in text for sign in _SIGNS_OF_A_TEMPLATE)


def _may_not_begin(sensor: VideoJobSensor) -> bool:
    return vars(sensor).get("start_from_trigger") is False


def _is_mapped(sensor: VideoJobSensor) -> bool:
    from_mapped = getattr(sensor, "_BaseOperator__from_mapped", False)
    return bool(from_mapped) or sensor.get_closest_mapped_task_group() is not None


def _has_code_of_its_own(sensor: VideoJobSensor) -> bool:
    """Whether a subclass overrides a method or a property, or the links."""
    family = type(sensor).__mro__
    ours: Any = next(
        each for each in family if isinstance(vars(each).get("start_from_trigger"), StartFromTrigger)
    )
    classes = family[: family.index(ours)]
    overridden = {
        name
        for each in classes
        for name, value in vars(each).items()
        if name not in _HARMLESS and hasattr(value, "__get__") and hasattr(ours, name)
    }
    return bool(overridden) or sensor.operator_extra_links is not ours.operator_extra_links


def _may_be_cut_off(sensor: VideoJobSensor) -> bool:
    limit = sensor.execution_timeout
    return limit is not None and limit.total_seconds() < _SHORTEST_EXECUTION_TIMEOUT


def _has_hooks(sensor: VideoJobSensor) -> bool:
    return sensor._pre_execute_hook is not None or sensor._post_execute_hook is not None


def _has_unusual_xcoms(sensor: VideoJobSensor) -> bool:
    is_mapped_over = next(iter(sensor.iter_mapped_dependants()), None) is not None
    return sensor.multiple_outputs or sensor.returns_dag_result or is_mapped_over


def _dag_task_count(sensor: VideoJobSensor) -> int:
    return len(sensor.dag.task_ids) if sensor.has_dag() else 1
