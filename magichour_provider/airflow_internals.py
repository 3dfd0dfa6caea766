"""The only file that knows which Airflow it runs on.

Everything else imports Airflow's names from here. `common.compat.sdk` hides where a name lives; what it
does not hide is decided below.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    Asset,
    AssetAlias,
    BaseHook,
    BaseOperator,
    BaseOperatorLink,
    BaseSensorOperator,
    Connection,
    PokeReturnValue,
    conf,
)

try:
    from airflow.sdk.log import mask_secret
except ImportError:  # Airflow 3.0
    from airflow.sdk.execution_time.secrets_masker import mask_secret  # type: ignore[no-redef]

try:
    from airflow.sdk.exceptions import TaskDeferralError
except ImportError:  # Airflow 3.0
    from airflow.exceptions import TaskDeferralError  # type: ignore[no-redef]

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from airflow.sdk import BaseOperator as Task
    from airflow.sdk import Context
    from airflow.triggers.base import StartTriggerArgs, TriggerEvent

log = logging.getLogger(__name__)

NEVER_EXPIRE = timedelta.max
"""How long the task state store keeps a record: `airflow.sdk.NEVER_EXPIRE`, which is there from 3.3 on."""

_ENDED = frozenset({"success", "failed", "skipped", "removed", "restarting"})

__all__ = [
    "NEVER_EXPIRE",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "AirflowTaskTimeout",
    "Asset",
    "AssetAlias",
    "BaseHook",
    "BaseOperator",
    "BaseOperatorLink",
    "BaseSensorOperator",
    "Connection",
    "PokeReturnValue",
    "TaskDeferralError",
    "all_params_set",
    "all_xcoms",
    "as_plain_xcom_arg",
    "conf",
    "current_task_state",
    "dag_task_count",
    "default_deferrable",
    "delete_xcoms",
    "detach_dag",
    "drop_notset",
    "get_async_connection",
    "get_xcom",
    "has_retry_policies",
    "is_deferred",
    "is_terminal",
    "lineage_collector",
    "mask_secret",
    "min_deferral_seconds",
    "outlet_event",
    "provider_plugins_are_loaded",
    "push_link",
    "push_xcom",
    "start_trigger_args",
    "success",
    "supports_external_views",
    "supports_start_from_trigger",
    "task_state_rows",
    "task_state_store",
    "task_states",
    "triggerer_stats",
]


def default_deferrable() -> bool:
    """The deployment's choice for operators that can defer (`[operators] default_deferrable`)."""
    return bool(conf.getboolean("operators", "default_deferrable", fallback=False))


def min_deferral_seconds() -> float:
    """Seconds after a deferral in which a trigger must not fire.

    The worker's supervisor may notice the end of the task only at its next heartbeat; a trigger that fires
    before that fails the task with "state mismatch" (airflow#71580, airflow#72716; seen in 2 of 8 tasks
    with Airflow 3.3.2's defaults, in none with this pause).
    """
    return float(conf.getint("workers", "min_heartbeat_interval", fallback=5)) + 2


def get_async_connection(conn_id: str) -> Awaitable[Connection]:
    """Look a connection up without blocking the event loop, in the way that this Airflow allows."""
    from airflow.providers.common.compat.connection import get_async_connection as look_up

    return look_up(conn_id)


def has_retry_policies() -> bool:
    """Whether a task can carry a retry policy (Airflow 3.3)."""
    import airflow.sdk

    return "ExceptionRetryPolicy" in airflow.sdk.__all__


def task_state_store(context: Context) -> Any | None:
    """What a task can remember across its tries and a Clear; None below Airflow 3.3."""
    return context.get("task_state_store")


def triggerer_stats() -> Any:
    """Airflow's `Stats` as they are set up in a triggerer: the core's, as the SDK's are only in a worker."""
    try:
        from airflow.observability.stats import Stats
    except ImportError:  # Airflow 3.0 and 3.1
        from airflow.stats import Stats  # type: ignore[assignment]
    return Stats


async def is_deferred(ti: Any) -> bool:
    """Whether a task instance is deferred at this moment; asked from the triggerer (Airflow 3.3)."""
    return await asyncio.to_thread(_state_of, ti) == "deferred"


def is_terminal(context: Context) -> bool:
    """Whether a person has marked this running task, of which it is told only some seconds later.

    Where that cannot be asked, what is paid for could not be recorded either, and the answer is yes.
    """
    try:
        return current_task_state(context) in _ENDED
    except Exception:
        log.warning("The state of this task cannot be read.", exc_info=True)
        return True


def current_task_state(context: Context) -> str | None:
    """The state of the running task as Airflow has it; None where there is no Airflow to ask."""
    try:
        return _state_of(context["ti"])
    except (ImportError, AttributeError, NameError):  # outside of Airflow's task runner
        return None


def _state_of(ti: Any) -> str | None:
    is_mapped = ti.map_index is not None and ti.map_index >= 0
    states = task_states(ti.dag_id, ti.run_id, [ti.task_id], map_index=ti.map_index if is_mapped else None)
    return states.get(f"{ti.task_id}_{ti.map_index}" if is_mapped else ti.task_id)


def task_states(
    dag_id: str, run_id: str, task_ids: list[str], *, map_index: int | None = None
) -> dict[str, str | None]:
    """States of a run's task instances; a mapped one is called `<task id>_<map index>`."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    states = RuntimeTaskInstance.get_task_states(
        dag_id=dag_id, run_ids=[run_id], task_ids=task_ids, map_index=map_index
    )
    return {name: None if state is None else str(state) for name, state in states.get(run_id, {}).items()}


def all_xcoms(key: str, dag_id: str, run_id: str, task_id: str) -> list[Any]:
    """The XComs of a task in one run, of all its map indexes."""
    from airflow.sdk.execution_time.xcom import XCom

    return XCom.get_all(key=key, dag_id=dag_id, run_id=run_id, task_id=task_id) or []


def drop_notset(xcoms: Any) -> Any:
    """The XComs of a mapped task, without the mark that Airflow 3.0 puts where an instance has left none."""
    from airflow.sdk.definitions._internal.types import NOTSET

    if isinstance(xcoms, (str, dict)) or not hasattr(xcoms, "__iter__"):
        return xcoms
    return [xcom for xcom in xcoms if xcom is not NOTSET]


def supports_start_from_trigger() -> bool:
    """Whether a task can begin in the triggerer and end there, with its XComs in place (Airflow 3.3)."""
    return has_retry_policies()


def start_trigger_args(
    trigger: str, kwargs: Mapping[str, Any], *, next_method: str, timeout: timedelta
) -> StartTriggerArgs:
    """What Airflow needs to start a task in the triggerer; `trigger` is the path of its class."""
    from airflow.triggers.base import StartTriggerArgs

    return StartTriggerArgs(
        trigger_cls=trigger, trigger_kwargs=dict(kwargs), next_method=next_method, timeout=timeout
    )


def success() -> TriggerEvent:
    """The event that ends a task as a success, without a worker."""
    from airflow.triggers.base import TaskSuccessEvent

    return TaskSuccessEvent()


def as_plain_xcom_arg(value: object) -> tuple[Task, str] | None:
    """Task and key of a reference to one task's XCom; None for anything else, such as what `map` makes."""
    from airflow.sdk.definitions.mappedoperator import MappedOperator
    from airflow.sdk.definitions.xcom_arg import PlainXComArg

    if not isinstance(value, PlainXComArg) or isinstance(value.operator, MappedOperator):
        return None
    return value.operator, value.key


def all_params_set(task: Any) -> bool:
    """Whether every param of a task and of its Dag has a default.

    Of a task that begins in the triggerer and has one without, Airflow 3.3.2's triggerer dies, as a whole,
    and again at every start, even where the run's conf gives it a value: it looks at that too late.
    """
    from airflow.sdk import Param

    unset = Param().value
    holders = [task, task.dag] if task.has_dag() else [task]
    return all(
        holder.params.get_param(name).value is not unset for holder in holders for name in holder.params
    )


def dag_task_count(task: Any) -> int:
    """How many tasks the Dag of this one has, itself included."""
    return len(task.dag.task_ids) if task.has_dag() else 1


def detach_dag(ti: Any) -> Any:
    """The ids of a task instance in the triggerer, letting go of the Dag that Airflow unpacked for it.

    Airflow keeps one Dag for each waiting task, some 2 KiB for each task in it, for templates that are
    rendered by now.
    """
    context = getattr(ti, "_cached_template_context", None)
    if context is not None:
        context.clear()
        ti.task = None
    return SimpleNamespace(
        id=ti.id,
        dag_id=ti.dag_id,
        task_id=ti.task_id,
        run_id=ti.run_id,
        map_index=ti.map_index,
        try_number=ti.try_number,
    )


def get_xcom(ti: Any, task_id: str, key: str) -> Any:
    """Another task's XCom in the same run; None where there is none. Blocks; works in the triggerer too.

    Asked for the one that is not mapped: the triggerer never answers a question for them all.
    """
    from airflow.sdk.execution_time.xcom import XCom

    return XCom.get_one(key=key, dag_id=ti.dag_id, task_id=task_id, run_id=ti.run_id, map_index=-1)


def push_xcom(ti: Any, key: str, value: Any) -> None:
    """Store an XCom of a task that is not mapped. Blocks; works in the triggerer too.

    `TaskSuccessEvent(xcoms=...)` would store it encoded twice.
    """
    from airflow.sdk.execution_time.xcom import XCom

    XCom.set(key=key, value=value, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id)


def push_link(ti: Any, link: BaseOperatorLink, address: str) -> None:
    """Store the address of an extra link, as Airflow does at the end of a worker's run. Blocks."""
    from airflow.sdk.execution_time.xcom import XCom

    XCom._set_xcom_in_db(
        key=link.xcom_key, value=address, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id
    )


def outlet_event(context: Context, outlet: object) -> Any | None:
    """The event that this task's success will make of an outlet; None where the outlet is no asset.

    Raises where Airflow knows no asset by the name or URI of a reference (`Asset.ref`).
    """
    from airflow.sdk.definitions.asset import AssetRef

    if not isinstance(outlet, (Asset, AssetAlias, AssetRef)):
        return None
    events: Any = context["outlet_events"]
    return events[outlet]


def lineage_collector() -> Any:
    """What gathers the lineage that hooks report; one that drops it where nobody reads it."""
    from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector

    return get_hook_lineage_collector()  # type: ignore[no-untyped-call]


def delete_xcoms(ti: Any, *keys: str) -> None:
    """Delete what an earlier try has left, as Airflow does only for one that begins in a worker. Blocks."""
    from airflow.sdk.execution_time.xcom import XCom

    address = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": ti.map_index}
    for key in keys if ti.try_number > 1 else ():
        if XCom.get_one(key=key, **address) is not None:
            XCom.delete(key=key, **address)


def supports_external_views() -> bool:
    """Whether Airflow's UI has a place for pages, and gives their requests its session (Airflow 3.1)."""
    from airflow.plugins_manager import AirflowPlugin

    return hasattr(AirflowPlugin, "external_views")


def provider_plugins_are_loaded() -> bool:
    """Whether Airflow loads the plugins that providers list: only where it looks for providers eagerly."""
    from airflow import settings

    return not settings.LAZY_LOAD_PROVIDERS


def task_state_rows() -> Any | None:
    """The table behind the task state store; None below Airflow 3.3."""
    try:
        from airflow.models.task_state_store import TaskStateStoreModel
    except ImportError:
        return None
    return TaskStateStoreModel
