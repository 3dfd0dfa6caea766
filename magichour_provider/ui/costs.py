"""What jobs have cost, by what Airflow's metadata database keeps of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from airflow.models.xcom import XComModel
from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from magichour_provider.airflow_internals import task_state_rows
from magichour_provider.jobs import state as durable
from magichour_provider.operators import _base
from magichour_provider.ui.coercion import text, whole
from magichour_provider.ui.queries import LINK, PROJECT_ID, RESULT, mapping, moment, parsed, same

_Dated = tuple[str, datetime, Mapping[str, Any]]


@dataclass(frozen=True)
class Spent:
    """Credits that a job has cost: its Dag, its day, and the job where that is known."""

    dag_id: str
    at: datetime
    credits: int
    project_id: str | None = None


def spent(
    session: Session, dag_ids: Iterable[str], since: datetime, *, limit: int
) -> tuple[list[Spent], bool]:
    """What jobs have cost since then, each once, and whether there were more than `limit` rows to read.

    A job counts for the Dag that has paid for it by the records, else for the first that tells of it; what it
    costs in the end is said by the last, as a failed one is refunded.
    """
    readable = sorted(dag_ids)
    records = _latest_records(session, readable, since, limit)
    told = _latest_told(session, readable, since, limit)
    jobs: dict[str | None, Spent] = {}
    earlier = []
    for dag_id, at, record in sorted(records, key=lambda row: bool(row[2].get("elsewhere"))):
        price, before = (whole(record.get(name)) or 0 for name in ("credits_charged", "spent"))
        if not record.get("elsewhere"):
            earlier.append(Spent(dag_id, at, before))
        if (project_id := text(record.get(PROJECT_ID))) is not None:
            jobs.setdefault(project_id, Spent(dag_id, at, price, project_id))
    for dag_id, at, facts in reversed(told):
        project_id, price_told = text(facts.get(PROJECT_ID)), whole(facts.get("credits_charged"))
        if project_id is not None and price_told is not None:
            first = jobs.setdefault(project_id, Spent(dag_id, at, price_told, project_id))
            jobs[project_id] = replace(first, credits=price_told)
    return [*jobs.values(), *earlier], limit in (len(records), len(told))


def _latest_records(session: Session, dag_ids: Sequence[str], since: datetime, limit: int) -> list[_Dated]:
    """The records of paid jobs with their Dag and the moment of the order, newest first."""
    table = task_state_rows()
    if table is None:
        return []
    found = select(table.dag_id, table.updated_at, table.value).where(
        table.key == durable.KEY, table.updated_at >= since, table.dag_id.in_(dag_ids)
    )
    rows = session.execute(found.order_by(table.updated_at.desc()).limit(limit))
    records = ((dag_id, updated_at, mapping(parsed(value))) for dag_id, updated_at, value in rows)
    return [(dag_id, moment(record.get("at")) or at, record) for dag_id, at, record in records]


def _latest_told(session: Session, dag_ids: Sequence[str], since: datetime, limit: int) -> list[_Dated]:
    """What tasks of ours have returned, or why they failed, with their Dag and the moment, newest first."""
    link, teller = aliased(XComModel), aliased(XComModel)
    found = (
        select(teller.dag_id, teller.timestamp, teller.value)
        .join(link, same(link, teller))
        .where(link.key == LINK, teller.key.in_((RESULT, _base.ERROR_KEY)))
        .where(teller.timestamp >= since, teller.dag_id.in_(dag_ids))
    )
    rows = session.execute(found.order_by(teller.timestamp.desc()).limit(limit))
    return [(dag_id, at, mapping(value)) for dag_id, at, value in rows]
