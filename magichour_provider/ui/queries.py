"""Everything the pages read from Airflow's metadata database.

A task instance is one of this provider if it has the XCom of the extra link, which each run on a worker
writes, or if its rendered fields name a Magic Hour connection. Before its first run its class tells.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow.models.connection import Connection
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.secrets.environment_variables import EnvironmentVariablesBackend
from airflow.utils.state import State
from sqlalchemy import select, tuple_
from sqlalchemy.orm import aliased

from magichour_provider.airflow_internals import (
    join_xcom,
    map_index_column,
    rendered_fields_table,
    task_state_rows,
)
from magichour_provider.client import parse_library_url
from magichour_provider.exceptions import InvalidRequestError
from magichour_provider.hooks.magichour import MagicHourHook
from magichour_provider.jobs.reference import JobReference
from magichour_provider.jobs.state_backends import KEY as STATE_KEY
from magichour_provider.links import VideoProjectLink
from magichour_provider.operators._base import ERROR_KEY, NOTICED_BY_KEY, SUMMARY_KEY
from magichour_provider.storage.locations import given_text
from magichour_provider.ui.view_models import Charge, TaskKey

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.orm import Session

RESULT_KEY, PROJECT_ID = "return_value", "project_id"
LINK_KEY = VideoProjectLink().xcom_key
IN_PROGRESS, SUCCESS, FAILED = "in progress", "success", "failed"

_XCOM_KEYS = (RESULT_KEY, PROJECT_ID, ERROR_KEY, LINK_KEY, NOTICED_BY_KEY, SUMMARY_KEY)
_BATCH, _CONTACT_SHEET = "ImageToVideoBatchOperator", "ContactSheetOperator"
_OPERATORS = {
    _BATCH,
    "ImageToVideoOperator",
    "VideoJobSensor",
    "DownloadVideoOperator",
    _CONTACT_SHEET,
}
_CONN_FIELD = "magichour_conn_id"
_TASKS_PER_QUERY = 200
_MAX_NUMBER = 10**12
"""No duration, size or price is larger; SQL and HTML get no number beyond it."""

STATES: Mapping[str, frozenset[str]] = {
    kind: frozenset(state.value for state in states if state is not None)
    for kind, states in (
        (IN_PROGRESS, State.unfinished),
        (SUCCESS, State.success_states),
        (FAILED, State.finished - State.success_states),
    )
}
"""Airflow's states of a task instance, in the three kinds of the pages."""


@dataclass(frozen=True)
class TaskRow:
    """One task instance with what it has written.

    :param updated_at: the time of its link's XCom, or its end.
    :param rendered: its rendered fields; empty if Airflow has none, or deleted them.
    :param job_state: the state of its paid job, from the task state store (Airflow 3.3).
    """

    key: TaskKey
    operator: str
    state: str | None
    updated_at: datetime | None
    xcoms: Mapping[str, Any]
    rendered: Mapping[str, Any]
    job_state: Mapping[str, Any]

    @property
    def is_magichour(self) -> bool:
        """Whether it is a task of this provider."""
        has_run = LINK_KEY in self.xcoms or bool(self.job_state)
        return has_run or _CONN_FIELD in self.rendered or self.operator in _OPERATORS

    @property
    def is_contact_sheet(self) -> bool:
        """Whether it makes a contact sheet, and so has no video of its own."""
        return self.operator == _CONTACT_SHEET

    @property
    def is_batch(self) -> bool:
        """Whether it makes a batch of videos."""
        return self.operator == _BATCH or bool(self.batch)

    @property
    def result(self) -> Mapping[str, Any]:
        """What it returned, if that is a dict."""
        return as_mapping(self.xcoms.get(RESULT_KEY))

    @property
    def failure(self) -> Mapping[str, Any]:
        """The error that it pushed."""
        return as_mapping(self.xcoms.get(ERROR_KEY))

    @property
    def batch(self) -> Mapping[str, Any]:
        """The summary of its batch."""
        return as_mapping(self.xcoms.get(SUMMARY_KEY))

    @property
    def video_path(self) -> str | None:
        """Where its result says that it downloaded the video."""
        return as_text(self.result.get("path")) if self.result.get(PROJECT_ID) else None

    @property
    def project_id(self) -> str | None:
        """Its job; if it has written nothing yet, the job of its rendered `project_id`."""
        written = (self.result, self.xcoms, self.failure, self.job_state)
        candidates = [values.get(PROJECT_ID) for values in written]
        candidates.append(parse_library_url(str(self.xcoms.get(LINK_KEY) or "")))
        if _CONN_FIELD in self.rendered:
            with suppress(InvalidRequestError):
                candidates.append(JobReference.from_value(self.rendered.get(PROJECT_ID)).project_id)
        return next(filter(None, map(as_text, candidates)), None)

    def field(self, name: str) -> str | None:
        """A rendered field as text; None if it was not given, or rendered as `None`."""
        return given_text(self.rendered.get(name))


def get_task(session: Session, key: TaskKey) -> TaskRow | None:
    """Read one task instance; None if there is none."""
    return next(iter(_load(session, _instances().where(_has_address(TaskInstance, [key])))), None)


def get_tasks_of_job(session: Session, row: TaskRow) -> list[TaskRow]:
    """`row`, and the other task instances of its run with the same job: the submit, the wait, the download.

    If tasks are mapped, those with the same map index, and unmapped ones.
    """
    if row.project_id is None:
        return [row]
    places = [(row.key.dag_id, row.key.run_id, index) for index in {row.key.map_index, -1}]
    beside = _load(session, _beside(places))
    return [row, *(other for other in beside if other.project_id == row.project_id and other.key != row.key)]


def add_tasks_beside(session: Session, rows: Sequence[TaskRow]) -> list[TaskRow]:
    """The rows, and the tasks of this provider in the same runs with the same map indexes."""
    places = sorted({(row.key.dag_id, row.key.run_id, row.key.map_index) for row in rows})
    return [row for row in _load(session, _beside(places)) if row.is_magichour] if places else []


def get_dag_ids(session: Session) -> set[str]:
    """The Dags that have used this provider."""
    return set(session.scalars(select(XComModel.dag_id).where(XComModel.key == LINK_KEY).distinct()))


def get_recent_tasks(
    session: Session, dag_ids: set[str], *, states: Iterable[str] | None, before: datetime | None, limit: int
) -> list[TaskRow]:
    """The latest task instances of this provider, newest first.

    :param states: Airflow's states; None for all.
    :param before: only those updated before this time.
    """
    link = aliased(XComModel)
    query = _instances(link.timestamp).join(link, join_xcom(link, TaskInstance)).where(link.key == LINK_KEY)
    query = query.where(TaskInstance.dag_id.in_(sorted(dag_ids)))
    if states is not None:
        query = query.where(TaskInstance.state.in_(sorted(states)))
    if before is not None:
        query = query.where(link.timestamp < before)
    return _load(session, query.order_by(link.timestamp.desc()).limit(limit))


def get_charges(
    session: Session, dag_ids: Iterable[str], since: datetime, *, limit: int
) -> tuple[list[Charge], bool]:
    """The credits of each job since then, and whether there were more than `limit` rows to read.

    A job counts for the Dag whose job state says that it paid, else for the first Dag that returned its
    price. Its price is the latest one, because a failed job is refunded.
    """
    readable = sorted(dag_ids)

    def latest(query: Select[Any], time: Any) -> list[Any]:
        return list(session.execute(query.where(time >= since).order_by(time.desc()).limit(limit)))

    states: list[Any] = []
    if (table := task_state_rows()) is not None:
        query = select(table.dag_id, table.updated_at, table.value)
        query = query.where(table.key == STATE_KEY, table.dag_id.in_(readable))
        states = [(*row, _stored_state(value)) for *row, value in latest(query, table.updated_at)]
    link, result = aliased(XComModel), aliased(XComModel)
    query = select(result.dag_id, result.timestamp, result.value).join(link, join_xcom(link, result))
    query = query.where(link.key == LINK_KEY, result.key.in_((RESULT_KEY, ERROR_KEY)))
    results = latest(query.where(result.dag_id.in_(readable)), result.timestamp)

    jobs: dict[str, Charge] = {}
    earlier = []
    for dag_id, updated_at, state in sorted(states, key=lambda row: bool(row[2].get("elsewhere"))):
        at = as_time(state.get("at")) or updated_at
        if not state.get("elsewhere"):
            earlier.append(Charge(dag_id, at, as_integer(state.get("spent")) or 0))
        if (project_id := as_text(state.get(PROJECT_ID))) is not None:
            price = as_integer(state.get("credits_charged")) or 0
            jobs.setdefault(project_id, Charge(dag_id, at, price))
    for dag_id, at, value in reversed(results):
        written = as_mapping(value)
        project_id, charged = as_text(written.get(PROJECT_ID)), as_integer(written.get("credits_charged"))
        if project_id is not None and charged is not None:
            first = jobs.setdefault(project_id, Charge(dag_id, at, charged))
            jobs[project_id] = replace(first, credits=charged)
    return [*jobs.values(), *earlier], limit in (len(states), len(results))


def get_connection_ids(session: Session) -> set[str]:
    """The connections of type `magichour`: stored ones, and those in environment variables.

    A secrets backend cannot list its own.
    """
    query = select(Connection.conn_id).where(Connection.conn_type == MagicHourHook.conn_type)
    found, prefix = set(filter(None, session.scalars(query))), "AIRFLOW_CONN_"
    for conn_id in [name.removeprefix(prefix).lower() for name in os.environ if name.startswith(prefix)]:
        with suppress(Exception):  # an invalid connection of any type
            connection = EnvironmentVariablesBackend().get_connection(conn_id)
            if connection is not None and connection.conn_type == MagicHourHook.conn_type:
                found.add(conn_id)
    return found


def as_mapping(value: object) -> Mapping[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def as_text(value: object) -> str | None:
    """The value if it is a text that is not empty. An XCom may hold anything, and may break no page."""
    return value if isinstance(value, str) and value else None


def as_number(value: object) -> float | None:
    """The value if it is a plausible number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if 0 <= value <= _MAX_NUMBER else None


def as_integer(value: object) -> int | None:
    """The value as an integer if it is a plausible number."""
    number = as_number(value)
    return None if number is None else int(number)


def as_time(value: object) -> datetime | None:
    """An ISO 8601 text as a time in UTC; None if it is none."""
    try:
        time = datetime.fromisoformat(value)  # type: ignore[arg-type]
        return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
    except (TypeError, ValueError, OverflowError):
        return None


def _stored_state(value: object) -> Mapping[str, Any]:
    with suppress(ValueError):
        return as_mapping(json.loads(value) if isinstance(value, str) else value)
    return {}


# Queries and their parts


def _instances(*time: Any) -> Select[Any]:
    updated_at = time or (TaskInstance.end_date,)
    return select(*_address(TaskInstance), TaskInstance.operator, TaskInstance.state, *updated_at)


def _beside(places: Sequence[tuple[str, str, int]]) -> Select[Any]:
    """The task instances with a link or a project id at these Dag ids, run ids and map indexes."""
    link, marker = aliased(XComModel), aliased(XComModel)
    link_time = select(link.timestamp).where(join_xcom(link, TaskInstance), link.key == LINK_KEY)
    is_marker = marker.key.in_((LINK_KEY, PROJECT_ID))
    has_marker = select(marker.key).where(join_xcom(marker, TaskInstance), is_marker)
    columns = (TaskInstance.dag_id, TaskInstance.run_id, map_index_column(TaskInstance))
    return _instances(link_time.correlate(TaskInstance).scalar_subquery()).where(
        tuple_(*columns).in_(places), has_marker.exists()
    )


def _load(session: Session, query: Select[Any]) -> list[TaskRow]:
    """Read the task instances, and their XComs, rendered fields and job states."""
    instances = session.execute(query).all()
    rows: list[TaskRow] = []
    for start in range(0, len(instances), _TASKS_PER_QUERY):
        chunk = instances[start : start + _TASKS_PER_QUERY]
        keys = [TaskKey(*instance[:4]) for instance in chunk]
        xcoms: dict[TaskKey, dict[str, Any]] = defaultdict(dict)
        pushed = _of_tasks(keys, XComModel, "key", "value").where(XComModel.key.in_(_XCOM_KEYS))
        for *address, name, value in session.execute(pushed):
            xcoms[TaskKey(*address)][name] = value
        fields = session.execute(_of_tasks(keys, rendered_fields_table(), "rendered_fields"))
        rendered = {TaskKey(*address): dict(values or {}) for *address, values in fields}
        states: dict[TaskKey, Mapping[str, Any]] = {}
        if (table := task_state_rows()) is not None:
            stored = session.execute(_of_tasks(keys, table, "value").where(table.key == STATE_KEY))
            states = {TaskKey(*address): _stored_state(value) for *address, value in stored}
        for key, (*_, operator, state, updated_at) in zip(keys, chunk, strict=True):
            state = None if state is None else str(getattr(state, "value", state))
            written = xcoms[key], rendered.get(key, {}), states.get(key, {})
            rows.append(TaskRow(key, operator or "", state, updated_at, *written))
    return rows


def _of_tasks(keys: Iterable[TaskKey], table: Any, *columns: str) -> Select[Any]:
    query = select(*_address(table), *(getattr(table, column) for column in columns))
    return query.where(_has_address(table, keys))


def _address(table: Any) -> tuple[Any, Any, Any, Any]:
    return table.dag_id, table.run_id, table.task_id, map_index_column(table)


def _has_address(table: Any, keys: Iterable[TaskKey]) -> ColumnElement[bool]:
    addresses = [(key.dag_id, key.run_id, key.task_id, key.map_index) for key in keys]
    return tuple_(*_address(table)).in_(addresses)
