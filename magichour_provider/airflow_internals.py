"""All private names of Airflow that this package uses, and the defects of Airflow that it works around.

Public names are imported where they are used, from `airflow.sdk`, or from `version_compat` if they moved.
Each function below names the version of Airflow, or the issue, that it rests on. "Blocks" means that the
function waits for Airflow's answer: a trigger calls it in a thread.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from magichour_provider.version_compat import BaseHook, conf

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, BaseOperatorLink, Connection, Context
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

log = logging.getLogger(__name__)

NEVER_EXPIRE = timedelta.max
"""`airflow.sdk.NEVER_EXPIRE`, the retention of a key in the task state store (3.3)."""


# States of task instances ---------------------------------------------------------------------------


def is_terminal(context: Context) -> bool:
    """Whether the running task has already ended for Airflow: a user marked it, or cleared it. Blocks.

    Airflow stops the process of such a task only some seconds later. True if Airflow does not answer: then
    nothing that is paid for could be recorded.
    """
    try:
        return current_task_state(context) in ("success", "failed", "skipped", "removed", "restarting")
    except Exception:
        log.warning("The state of this task cannot be read.", exc_info=True)
        return True


def current_task_state(context: Context) -> str | None:
    """The state of the running task; None outside of Airflow's task runner. Blocks."""
    try:
        return task_state(context["ti"])
    except (ImportError, AttributeError, NameError, KeyError):  # KeyError: a unit test's empty context
        return None


def task_states(
    dag_id: str, run_id: str, task_ids: list[str], *, map_index: int | None = None
) -> dict[str, str | None]:
    """States of a run's task instances; the key of a mapped one is `<task id>_<map index>`. Blocks.

    `RuntimeTaskInstance.get_task_states` is public by name, its class is not (3.0 to 3.4).
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    states = RuntimeTaskInstance.get_task_states(
        dag_id=dag_id, run_ids=[run_id], task_ids=task_ids, map_index=map_index
    )
    return {name: None if state is None else str(state) for name, state in states.get(run_id, {}).items()}


def task_state(ti: Any) -> str | None:
    """The state of a task instance now. Blocks."""
    is_mapped_instance = isinstance(ti.map_index, int) and ti.map_index >= 0
    map_index = ti.map_index if is_mapped_instance else None
    states = task_states(ti.dag_id, ti.run_id, [ti.task_id], map_index=map_index)
    return states.get(f"{ti.task_id}_{ti.map_index}" if is_mapped_instance else ti.task_id)


def has_ended(ti: Mapping[str, Any]) -> bool:
    """Whether a task instance, by its four ids, has ended; False if Airflow does not say. Blocks.

    One that Airflow does not know may belong to another deployment.
    """
    names = ("dag_id", "run_id", "task_id", "map_index")
    try:
        state = task_state(SimpleNamespace(**{name: ti.get(name) for name in names}))
    except (ImportError, AttributeError, NameError):  # outside of Airflow's task runner
        return False
    except Exception:
        log.warning("The state of task %s in run %s cannot be read.", ti.get("task_id"), ti.get("run_id"))
        return False
    return state in ("success", "failed", "upstream_failed", "skipped", "removed")


# XComs. All of these block. -------------------------------------------------------------------------


def _xcoms() -> Any:
    """The XCom backend. Its module is private, and slow to import (3.0 to 3.4)."""
    from airflow.sdk.execution_time.xcom import XCom

    return XCom


def get_xcom(ti: Any, task_id: str, key: str) -> Any:
    """The XCom of an unmapped task in the same run, or of `ti` itself; None if there is none.

    A map index is needed in the triggerer: without it Airflow sends `GetXComSequenceSlice`, which the
    triggerer of 3.3 never answers.
    """
    map_index = getattr(ti, "map_index", None) if task_id == getattr(ti, "task_id", None) else -1
    return _xcoms().get_one(
        key=key,
        dag_id=ti.dag_id,
        task_id=task_id,
        run_id=ti.run_id,
        map_index=-1 if map_index is None else map_index,
    )


def all_xcoms(key: str, dag_id: str, run_id: str, task_id: str) -> list[Any]:
    """The XComs of all map indexes of a task in one run."""
    return _xcoms().get_all(key=key, dag_id=dag_id, run_id=run_id, task_id=task_id) or []


def push_xcom(ti: Any, key: str, value: Any) -> None:
    """Store an XCom of a task, also from the triggerer.

    Instead of `TaskSuccessEvent(xcoms=...)`, which encodes its values twice (3.3).
    """
    map_index = -1 if ti.map_index is None else ti.map_index
    address = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": map_index}
    _xcoms().set(key=key, value=value, **address)


def push_link(ti: Any, link: BaseOperatorLink, url: str) -> None:
    """Store the URL of an extra link, as Airflow's task runner does when a worker's run ends (3.3)."""
    _xcoms()._set_xcom_in_db(
        key=link.xcom_key, value=url, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id
    )


def delete_xcoms(ti: Any, *keys: str) -> None:
    """Delete the XComs of an earlier attempt: Airflow does that only in a worker (3.3)."""
    address = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": ti.map_index}
    for key in keys if ti.try_number > 1 else ():
        if _xcoms().get_one(key=key, **address) is not None:
            _xcoms().delete(key=key, **address)


def drop_notset(xcoms: Any) -> Any:
    """The XComs of a mapped task without `NOTSET`, which Airflow 3.0 puts in place of a missing one."""
    from airflow.sdk.definitions._internal.types import NOTSET

    if isinstance(xcoms, (str, dict)) or not hasattr(xcoms, "__iter__"):
        return xcoms
    return [xcom for xcom in xcoms if xcom is not NOTSET]


def as_plain_xcom_arg(value: object) -> tuple[BaseOperator, str] | None:
    """Task and key of a reference to one unmapped task's XCom; None for anything else, such as `.map()`."""
    from airflow.sdk.definitions.mappedoperator import MappedOperator
    from airflow.sdk.definitions.xcom_arg import PlainXComArg

    if not isinstance(value, PlainXComArg) or isinstance(value.operator, MappedOperator):
        return None
    return value.operator, value.key


# Operators, Dags and triggers -----------------------------------------------------------------------


async def get_connection_async(conn_id: str) -> Connection:
    """Read a connection in the triggerer, in a thread before Airflow 3.3.2.

    There `aget_connection` masks the secrets by a synchronous call, which raises DeadlockImminentError while
    another call is under way. Airflow 3.0 has no `aget_connection`.
    """
    from airflow.sdk import Connection

    if hasattr(Connection, "aextra_dejson"):  # since 3.3.2
        return await BaseHook.aget_connection(conn_id)
    from asgiref.sync import sync_to_async

    return await sync_to_async(BaseHook.get_connection)(conn_id)


async def read_variable(key: str) -> str | None:
    """A Variable of Airflow's own database, in the triggerer (3.1 to 3.4); None if there is none.

    `Variable.get` asks each secrets backend first, which may cost money if it is done every second.
    """
    from airflow.sdk.execution_time.secrets.execution_api import ExecutionAPISecretsBackend

    return await ExecutionAPISecretsBackend().aget_variable(key)


def min_deferral_seconds() -> float:
    """Seconds after a deferral in which a trigger must not fire (airflow#71580, airflow#72716).

    The worker's supervisor may notice the end of the task only at its next heartbeat. A trigger that fires
    before that fails the task with "state mismatch": 2 of 8 tasks with the defaults of Airflow 3.3.2.
    """
    return float(conf.getint("workers", "min_heartbeat_interval", fallback=5)) + 2


def is_mapped(task: BaseOperator) -> bool:
    """Whether a task was made by `expand`, or belongs to a mapped task group."""
    from_mapped = getattr(task, "_BaseOperator__from_mapped", False)
    return bool(from_mapped) or task.get_closest_mapped_task_group() is not None


def has_execute_hooks(task: BaseOperator) -> bool:
    """Whether a task was given `pre_execute` or `post_execute`, which Airflow runs only in a worker."""
    return task._pre_execute_hook is not None or task._post_execute_hook is not None


def all_params_set(task: Any) -> bool:
    """Whether every param of a task and of its Dag has a default.

    If one has none, and the task starts from a trigger, the whole triggerer of Airflow 3.3.2 dies, and dies
    again at every start, even if the run's conf sets the param.
    """
    from airflow.sdk import Param

    unset = Param().value
    holders = [task, task.dag] if task.has_dag() else [task]
    return all(
        holder.params.get_param(name).value is not unset for holder in holders for name in holder.params
    )


def detach_dag(ti: Any) -> Any:
    """The ids of a trigger's task instance, without the Dag that Airflow 3.3 keeps for its templates.

    Airflow keeps one copy of the Dag for each trigger, 2 KiB for each of its tasks.
    """
    with_templates: RuntimeTaskInstance = ti
    context = getattr(with_templates, "_cached_template_context", None)
    if context is not None:
        context.clear()
        ti.task = None
    names = ("id", "dag_id", "task_id", "run_id", "map_index", "try_number")
    return SimpleNamespace(**{name: getattr(ti, name) for name in names})


def core_stats() -> Any:
    """Airflow's `Stats` for code that runs in a triggerer or an API server.

    The core's, not the SDK's: the triggerer sets up only the core's (3.0 to 3.4).
    """
    try:
        from airflow.observability.stats import Stats
    except ImportError:  # Airflow 3.0 and 3.1
        from airflow.stats import Stats  # type: ignore[assignment]
    return Stats


def outlet_event(context: Context, outlet: object) -> Any | None:
    """The asset event of an outlet in this run; None if the outlet is no asset.

    Raises if Airflow knows no asset by the name or URI of a reference (`Asset.ref`).
    """
    from airflow.sdk import Asset, AssetAlias
    from airflow.sdk.definitions.asset import AssetRef

    if not isinstance(outlet, (Asset, AssetAlias, AssetRef)):
        return None
    events: Any = context["outlet_events"]
    return events[outlet]


# The API server -------------------------------------------------------------------------------------


def provider_plugins_are_loaded() -> bool:
    """Whether Airflow loads the plugins that providers list: not if it discovers providers lazily."""
    from airflow import settings

    return not settings.LAZY_LOAD_PROVIDERS


def register_asset_change(session: Any, asset: Any, extra: dict[str, Any]) -> None:
    """Give an asset (a row of `AssetModel`) an event, as `POST /assets/events` does (3.1 to 3.4)."""
    from airflow.assets.manager import asset_manager

    asset_manager.register_asset_change(asset=asset, extra=extra, session=session)


def task_state_rows() -> Any | None:
    """The model of the task state store's table; None before Airflow 3.3."""
    try:
        from airflow.models.task_state_store import TaskStateStoreModel
    except ImportError:
        return None
    return TaskStateStoreModel


def map_index_column(table: Any) -> Any:
    """The map index of a model of Airflow's tables; Airflow 3.4 calls it `region_index` in some of them."""
    return table.region_index if hasattr(table, "region_index") else table.map_index


def join_xcom(xcom: Any, other: Any) -> Any:
    """The condition that an XCom and a task instance, or another XCom, are of one task instance.

    Airflow 3.4 keeps XComs by the id of the task instance, and `XComModel` is a view of two tables: a join by
    that id reads one row of each, a join by the four other columns all of them.
    """
    if hasattr(xcom, "task_instance_id"):
        return xcom.task_instance_id == getattr(other, "task_instance_id", getattr(other, "id", None))
    return (
        (xcom.dag_id == other.dag_id)
        & (xcom.run_id == other.run_id)
        & (xcom.task_id == other.task_id)
        & (xcom.map_index == other.map_index)
    )


@cache
def rendered_fields_table() -> Any:
    """Dag, run, task, map index and `rendered_fields` of task instances, as columns of one table.

    Airflow 3.4 keeps them by the id of the task instance in `rtif_v2`, and those of before its upgrade in
    `rtif_v1`.
    """
    from airflow.models import renderedtifields, taskinstance
    from sqlalchemy import and_, select, union_all

    model: Any = renderedtifields.RenderedTaskInstanceFields
    legacy: Any = getattr(renderedtifields, "LegacyRenderedTaskInstanceFields", None)
    if legacy is None:
        return model
    TaskInstance: Any = taskinstance.TaskInstance
    Owner: Any = getattr(taskinstance, "LegacyTaskDataOwner")  # noqa: B009

    address = (TaskInstance.dag_id, TaskInstance.run_id, TaskInstance.task_id, TaskInstance.region_index)
    current = select(*address, model.rendered_fields).join(
        TaskInstance, model.task_instance_id == TaskInstance.id
    )
    names = ("dag_id", "run_id", "task_id", "map_index")
    owned = and_(*(getattr(Owner, name) == getattr(legacy, name) for name in names))
    replaced = select(model.id).where(model.task_instance_id == Owner.task_instance_id).exists()
    earlier = (
        select(*address, legacy.rendered_fields)
        .select_from(Owner)
        .join(legacy, owned)
        .join(TaskInstance, Owner.task_instance_id == TaskInstance.id)
    )
    is_live = TaskInstance.working_set.is_(True)  # an attempt that was retried or cleared keeps its rows
    return union_all(current.where(is_live), earlier.where(is_live, ~replaced)).subquery("rendered_fields").c
