"""The page of all videos: the latest ones of the Dags that the user may read, and their credits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlencode

from sqlalchemy.orm import Session

from magichour_provider.storage.locations import redact, url_scheme
from magichour_provider.ui import chart, media, queries
from magichour_provider.ui.queries import FAILED, IN_PROGRESS, STATES, TaskRow, as_integer, as_number, as_text
from magichour_provider.ui.task_page import explain
from magichour_provider.ui.view_models import Card, Gallery

_TASKS_PER_PAGE = 72
"""About three for each video."""
_MAX_JOBS = 20_000
_CHART_IS_CUT = f"The chart counts only the latest {_MAX_JOBS:,} jobs."
_NOT_SHOWN = (
    "The gallery shows downloaded videos only if they are below a folder of [magichour] ui_video_roots. None "
    "of these is. The page of each task plays the video if Magic Hour still has it."
)


def build_gallery(
    session: Session,
    readable: set[str],
    *,
    dag_id: str | None = None,
    state: str | None = None,
    before: datetime | None = None,
) -> Gallery:
    """The gallery of the `readable` Dags, filtered by a Dag and by one of `STATES`.

    :param before: only videos from before this time, for the pages after the first.
    """
    dag_ids = readable if dag_id is None else readable & {dag_id}
    states = None if state is None else STATES[state]
    rows = queries.get_recent_tasks(session, dag_ids, states=states, before=before, limit=_TASKS_PER_PAGE)
    groups = _group_by_job(queries.add_tasks_beside(session, rows))
    shown = [group for group in groups if _is_on_page(group, state, before)]
    cards = [_card(group) for group in shown]
    now = datetime.now(timezone.utc)
    # All readable Dags are read: a job counts for the Dag that paid, and others may have returned it, too.
    charges, is_cut = queries.get_charges(session, readable, chart.first_moment(now), limit=_MAX_JOBS)
    filters = {name: value for name, value in (("dag_id", dag_id), ("state", state)) if value}
    are_hidden = any(map(media.download_task, shown)) and not any(card.player for card in cards)
    last = rows[-1].updated_at if len(rows) == _TASKS_PER_PAGE else None
    return Gallery(
        cards=tuple(cards),
        dag_ids=tuple(sorted(readable)),
        states=tuple(STATES),
        dag_id=dag_id,
        state=state,
        chart=chart.draw((charge for charge in charges if charge.dag_id in dag_ids), now.date()),
        older=None if last is None else "?" + urlencode({**filters, "before": last.isoformat()}),
        newest=None if before is None else "?" + urlencode(filters),
        notes=(*([_CHART_IS_CUT] if is_cut else []), *([_NOT_SHOWN] if are_hidden else [])),
    )


def _group_by_job(rows: Iterable[TaskRow]) -> list[list[TaskRow]]:
    """The task instances of each job, latest first; a task without a job is a group of its own."""
    groups: dict[object, list[TaskRow]] = {}
    for row in sorted(rows, key=_updated_at, reverse=True):
        job = (row.key.dag_id, row.key.run_id, row.project_id) if row.project_id else row.key
        groups.setdefault(job, []).append(row)
    return list(groups.values())


def _is_on_page(group: Sequence[TaskRow], state: str | None, before: datetime | None) -> bool:
    """Whether a job is on this page: it is on the page of the latest of its rows that matches."""
    if state is not None and _main_task(group).state not in STATES[state]:
        return False
    matching = (row for row in group if state is None or row.state in STATES[state])
    return before is None or all(_updated_at(row) < before for row in matching)


def _main_task(group: Sequence[TaskRow]) -> TaskRow:
    """The task whose state is the job's: the failed one, else one in progress, else the download."""
    for kind in (FAILED, IN_PROGRESS):
        found = next((row for row in group if row.state in STATES[kind]), None)
        if found is not None:
            return found
    return media.download_task(group) or group[0]


def _card(group: Sequence[TaskRow]) -> Card:
    row, download = _main_task(group), media.download_task(group)
    values: dict[str, Any] = {}
    for member in reversed(group):
        written = {**member.result, **member.failure}
        values |= {name: value for name, value in written.items() if value is not None}
    return Card(
        key=row.key,
        title=_title(group),
        state=row.state,
        updated_at=group[0].updated_at,
        credits_charged=as_integer(values.get("credits_charged")),
        model=as_text(values.get("model")),
        resolution=as_text(values.get("resolution")),
        duration=as_number(values.get("duration")) or as_number(values.get("end_seconds")),
        player=media.file_player(download) if download and media.may_be_shown(download) else None,
        failure=explain(row.failure).title if row.state in STATES[FAILED] else None,
    )


def _title(group: Sequence[TaskRow]) -> str:
    name = next(filter(None, (row.field("name") for row in group)), None)
    image = next(filter(None, (row.field("image") for row in group)), None)
    file_name = PurePosixPath(redact(image)).name if image else ""
    if image and url_scheme(image) in ("http", "https"):
        file_name = unquote(file_name)
    return name or file_name or group[-1].key.task_id


def _updated_at(row: TaskRow) -> datetime:
    return row.updated_at or datetime.min.replace(tzinfo=timezone.utc)
