"""The page for all clips: the latest ones of the Dags that the user may read, and what they have cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlencode

from sqlalchemy.orm import Session

from magichour_provider.storage.locations import scheme_of
from magichour_provider.ui import chart, costs
from magichour_provider.ui import coercion as told
from magichour_provider.ui import media as clips
from magichour_provider.ui import queries as tables
from magichour_provider.ui.error_help import explain
from magichour_provider.ui.queries import TaskRow
from magichour_provider.ui.states import FAILED, IN_PROGRESS, STATES
from magichour_provider.ui.view_models import Card, Filters, Gallery

_ROWS = 72
"""Task instances that one page is made of: some three for each clip."""
_MOST_JOBS = 20_000
_CUT = f"The chart counts the latest {_MOST_JOBS:,} jobs only."
_UNSEEN = (
    "Clips that have landed are shown here only below the folders that [magichour] ui_video_roots names, and "
    "none of these is. The page of each plays what Magic Hour still has."
)


def compose(
    session: Session,
    readable: set[str],
    *,
    dag_id: str | None = None,
    state: str | None = None,
    before: datetime | None = None,
) -> Gallery:
    """The gallery of the `readable` Dags, narrowed to one Dag and one kind of `STATES`.

    :param before: only clips of before this moment: a later page.
    """
    chosen = readable if dag_id is None else readable & {dag_id}
    wanted = None if state is None else STATES[state]
    rows = tables.recent(session, chosen, states=wanted, before=before, limit=_ROWS)
    groups = _by_clip(tables.with_companions(session, rows))
    shown = [group for group in groups if _belongs(group, state, before)]
    cards = [_card(group) for group in shown]
    now = datetime.now(timezone.utc)
    # Of all readable Dags, as a job counts for the one that has paid for it, whoever else tells of it.
    spent, is_cut = costs.spent(session, readable, chart.first_moment(now), limit=_MOST_JOBS)
    narrowed = {name: value for name, value in (("dag_id", dag_id), ("state", state)) if value}
    are_unseen = any(map(clips.landed_row, shown)) and not any(card.player for card in cards)
    last = rows[-1].touched if len(rows) == _ROWS else None
    return Gallery(
        cards=tuple(cards),
        filters=Filters(tuple(sorted(readable)), tuple(STATES), dag_id, state),
        chart=chart.draw((entry for entry in spent if entry.dag_id in chosen), now.date()),
        older=None if last is None else "?" + urlencode({**narrowed, "before": last.isoformat()}),
        newest=None if before is None else "?" + urlencode(narrowed),
        notes=(*([_CUT] if is_cut else []), *([_UNSEEN] if are_unseen else [])),
    )


def _by_clip(rows: Iterable[TaskRow]) -> list[list[TaskRow]]:
    """The task instances of each clip, latest first; those that know no job stand for themselves."""
    groups: dict[object, list[TaskRow]] = {}
    for row in sorted(rows, key=_touched, reverse=True):
        clip = (row.key.dag_id, row.key.run_id, row.project_id) if row.project_id else row.key
        groups.setdefault(clip, []).append(row)
    return list(groups.values())


def _belongs(group: Sequence[TaskRow], state: str | None, before: datetime | None) -> bool:
    """Whether a clip is on this page: one of which a later row was looked for is on an earlier one."""
    if state is not None and _decisive(group).state not in STATES[state]:
        return False
    found = (row for row in group if state is None or row.state in STATES[state])
    return before is None or all(_touched(row) < before for row in found)


def _decisive(group: Sequence[TaskRow]) -> TaskRow:
    """Whose state is the clip's: the failed task instance, else one that goes on, else the lander."""
    for kind in (FAILED, IN_PROGRESS):
        found = next((row for row in group if row.state in STATES[kind]), None)
        if found is not None:
            return found
    return clips.landed_row(group) or group[0]


def _card(group: Sequence[TaskRow]) -> Card:
    row, landed = _decisive(group), clips.landed_row(group)
    facts: dict[str, Any] = {}
    for member in reversed(group):
        facts |= _facts(member)
    return Card(
        key=row.key,
        title=_title(group),
        state=row.state,
        when=group[0].touched,
        credits_charged=told.whole(facts.get("credits_charged")),
        model=told.text(facts.get("model")),
        resolution=told.text(facts.get("resolution")),
        duration=told.number(facts.get("duration")) or told.number(facts.get("end_seconds")),
        player=clips.stored_player(landed) if landed and clips.may_be_shown(landed) else None,
        failure=explain(row.failure).title if row.state in STATES[FAILED] else None,
    )


def _facts(row: TaskRow) -> dict[str, Any]:
    facts = {**row.result, **row.failure}
    return {name: value for name, value in facts.items() if value is not None}


def _title(group: Sequence[TaskRow]) -> str:
    fields = [(row.field("name"), row.field("image")) for row in group]
    name = next((name for name, _ in fields if name), None)
    image = next((image for _, image in fields if image), None)
    if name:
        return name
    if not image:
        return group[-1].key.task_id
    file_name = PurePosixPath(image.partition("?")[0]).name
    return unquote(file_name) if scheme_of(image) in ("http", "https") else file_name


def _touched(row: TaskRow) -> datetime:
    return row.touched or datetime.min.replace(tzinfo=timezone.utc)
