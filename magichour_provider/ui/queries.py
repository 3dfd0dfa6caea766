"""What Airflow's metadata database knows of tasks and clips: with costs.py all that reads its tables.

A task instance is one of ours if it has the XCom of our extra link, which every run in a worker leaves, or if
its rendered fields name a Magic Hour connection. One that has not run yet is known by its class's name.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow.models.renderedtifields import RenderedTaskInstanceFields as Rendered
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from sqlalchemy import select, tuple_
from sqlalchemy.orm import aliased

from magichour_provider.airflow_internals import task_state_rows
from magichour_provider.client.projects import project_id_in
from magichour_provider.exceptions import InvalidRequestError
from magichour_provider.jobs import state as durable
from magichour_provider.jobs.reference import JobReference
from magichour_provider.links import VideoProjectLink
from magichour_provider.operators import _base
from magichour_provider.ui.view_models import TaskKey

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.orm import Session

RESULT, PROJECT_ID = "return_value", "project_id"
LINK = VideoProjectLink().xcom_key
_SHOWN = (RESULT, PROJECT_ID, _base.ERROR_KEY, LINK)
_SHEET = "ContactSheetOperator"
_OPERATORS = frozenset({"ImageToVideoOperator", "VideoJobSensor", "DownloadVideoOperator", _SHEET})
_CHUNK = 200
_CONN_FIELD = "magichour_conn_id"


@dataclass(frozen=True)
class TaskRow:
    """One task instance with what it has left behind.

    :param touched: when it last told of itself: the time of its link's XCom, else of its own dates.
    :param rendered: its rendered fields; None where Airflow does not keep them (any more).
    :param record: the record of its paid job, in the task state store (Airflow 3.3).
    """

    key: TaskKey
    operator: str
    state: str | None
    touched: datetime | None
    xcoms: Mapping[str, Any]
    rendered: Mapping[str, Any] | None
    record: Mapping[str, Any] | None

    @property
    def is_ours(self) -> bool:
        """Whether it is about a clip, or several."""
        has_told = LINK in self.xcoms or _CONN_FIELD in (self.rendered or {}) or self.record is not None
        return has_told or self.operator in _OPERATORS

    @property
    def is_sheet(self) -> bool:
        """Whether it makes a contact sheet, and so is about no clip of its own."""
        return self.operator == _SHEET

    @property
    def result(self) -> Mapping[str, Any]:
        """What it returned, where that is one of our descriptions."""
        return mapping(self.xcoms.get(RESULT))

    @property
    def failure(self) -> Mapping[str, Any]:
        """Why it failed, where it has said so."""
        return mapping(self.xcoms.get(_base.ERROR_KEY))

    @property
    def project_id(self) -> str | None:
        """The job that it is about."""
        candidates = (
            self.result.get(PROJECT_ID),
            self.xcoms.get(PROJECT_ID),
            self.failure.get(PROJECT_ID),
            (self.record or {}).get(PROJECT_ID),
            project_id_in(str(self.xcoms.get(LINK) or "")),
            self._asked_for,
        )
        return next((value for value in candidates if isinstance(value, str) and value), None)

    @property
    def _asked_for(self) -> str | None:
        """The job that it was told to wait for or to land; by then it may have said nothing itself."""
        rendered = self.rendered or {}
        try:
            return JobReference.of(rendered.get(PROJECT_ID)).project_id if _CONN_FIELD in rendered else None
        except InvalidRequestError:
            return None

    def field(self, name: str) -> str | None:
        """A rendered field, as text; None where there is none."""
        value = (self.rendered or {}).get(name)
        return None if value is None else str(value)


def task_row(session: Session, key: TaskKey) -> TaskRow | None:
    """Read one task instance; None where there is none."""
    rows = _filled(session, session.execute(_instances().where(_is(TaskInstance, key))))
    return next(iter(rows), None)


def relatives(session: Session, row: TaskRow) -> list[TaskRow]:
    """The run's task instances that are about the same job, itself included: who submits, waits and lands.

    Of mapped tasks those with the same map index.
    """
    if row.project_id is None:
        return [row]
    key = row.key
    indexes = {key.map_index, -1}
    found = _instances().where(
        TaskInstance.dag_id == key.dag_id,
        TaskInstance.run_id == key.run_id,
        TaskInstance.map_index.in_(indexes),
        _has_link(TaskInstance),
    )
    others = [other for other in _filled(session, session.execute(found)) if other.key != key]
    return [row, *(other for other in others if other.project_id == row.project_id)]


def with_companions(session: Session, rows: Sequence[TaskRow]) -> list[TaskRow]:
    """The rows, and what of ours is beside them in the same runs at the same map indexes."""
    places = sorted({(row.key.dag_id, row.key.run_id, row.key.map_index) for row in rows})
    found = _instances(_link_time()).where(
        tuple_(TaskInstance.dag_id, TaskInstance.run_id, TaskInstance.map_index).in_(places),
        _has_link(TaskInstance),
    )
    return [row for row in _filled(session, session.execute(found)) if row.is_ours] if places else []


def dag_ids(session: Session) -> set[str]:
    """The Dags that have dealt with clips."""
    return set(session.scalars(select(XComModel.dag_id).where(XComModel.key == LINK).distinct()))


def recent(
    session: Session,
    dag_ids: Iterable[str],
    *,
    states: Iterable[str | None] | None = None,
    before: datetime | None = None,
    limit: int,
) -> list[TaskRow]:
    """The latest task instances of ours, newest first.

    :param states: Airflow's states; None: all.
    :param before: only those touched before this moment.
    """
    link = aliased(XComModel)
    found = _instances(link.timestamp).join(link, same(link, TaskInstance)).where(link.key == LINK)
    found = found.where(TaskInstance.dag_id.in_(sorted(dag_ids)))
    if states is not None:
        found = found.where(TaskInstance.state.in_(sorted(filter(None, states))))
    if before is not None:
        found = found.where(link.timestamp < before)
    return _filled(session, session.execute(found.order_by(link.timestamp.desc()).limit(limit)))


def _instances(*more: Any) -> Select[Any]:
    touched = more or (TaskInstance.end_date,)
    return select(
        TaskInstance.dag_id,
        TaskInstance.run_id,
        TaskInstance.task_id,
        TaskInstance.map_index,
        TaskInstance.operator,
        TaskInstance.state,
        *touched,
    )


def _filled(session: Session, found: Iterable[Any]) -> list[TaskRow]:
    """The task instances with their XComs, rendered fields and records."""
    rows = list(found)
    rest = iter(rows)
    filled: list[TaskRow] = []
    while chunk := list(islice(rest, _CHUNK)):
        keys = [TaskKey(*row[:4]) for row in chunk]
        xcoms, rendered, records = _xcoms(session, keys), _rendered(session, keys), _records(session, keys)
        filled += [
            TaskRow(
                key=key,
                operator=row[4] or "",
                state=None if row[5] is None else str(getattr(row[5], "value", row[5])),
                touched=row[6],
                xcoms=xcoms[key],
                rendered=rendered.get(key),
                record=records.get(key),
            )
            for key, row in zip(keys, chunk, strict=True)
        ]
    return filled


def _xcoms(session: Session, keys: Sequence[TaskKey]) -> Mapping[TaskKey, dict[str, Any]]:
    columns = (*_address(XComModel), XComModel.key, XComModel.value)
    found = select(*columns).where(_among(XComModel, keys), XComModel.key.in_(_SHOWN))
    values: dict[TaskKey, dict[str, Any]] = defaultdict(dict)
    for *address, name, value in session.execute(found):
        values[TaskKey(*address)][name] = value
    return values


def _rendered(session: Session, keys: Sequence[TaskKey]) -> dict[TaskKey, dict[str, Any]]:
    found = select(*_address(Rendered), Rendered.rendered_fields).where(_among(Rendered, keys))
    return {TaskKey(*address): dict(fields or {}) for *address, fields in session.execute(found)}


def _records(session: Session, keys: Sequence[TaskKey]) -> dict[TaskKey, Mapping[str, Any]]:
    table = task_state_rows()
    if table is None:
        return {}
    found = select(*_address(table), table.value).where(_among(table, keys), table.key == durable.KEY)
    return {TaskKey(*address): mapping(parsed(value)) for *address, value in session.execute(found)}


def _address(table: Any) -> tuple[Any, Any, Any, Any]:
    return table.dag_id, table.run_id, table.task_id, table.map_index


def _among(table: Any, keys: Sequence[TaskKey]) -> ColumnElement[bool]:
    return tuple_(*_address(table)).in_(
        [(key.dag_id, key.run_id, key.task_id, key.map_index) for key in keys]
    )


def _is(table: Any, key: TaskKey) -> ColumnElement[bool]:
    return _among(table, [key])


def same(one: Any, other: Any) -> ColumnElement[bool]:
    """Whether rows of two tables are of one task instance."""
    condition: ColumnElement[bool] = one.dag_id == other.dag_id
    for mine, its in zip(_address(one)[1:], _address(other)[1:], strict=True):
        condition &= mine == its
    return condition


def _link_time() -> Any:
    """When a task instance's link was written, as a column."""
    link = aliased(XComModel)
    found = select(link.timestamp).where(same(link, TaskInstance), link.key == LINK)
    return found.correlate(TaskInstance).scalar_subquery()


def _has_link(table: Any) -> ColumnElement[bool]:
    link = aliased(XComModel)
    found = select(link.key).where(same(link, table), link.key.in_((LINK, PROJECT_ID)))
    return found.exists()


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def parsed(text: Any) -> Any:
    """Read JSON; None where it is none."""
    try:
        return json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return None


def moment(text: Any) -> datetime | None:
    """Read an ISO 8601 date, in UTC; None where there is none."""
    try:
        found = datetime.fromisoformat(text) if isinstance(text, str) and text else None
        return found and (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).astimezone(
            timezone.utc
        )
    except (ValueError, OverflowError):
        return None
