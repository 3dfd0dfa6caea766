"""The page of all videos: the latest ones of readable Dags, with a chart of their credits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta, timezone
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlencode

from sqlalchemy.orm import Session

from magichour_provider.storage.locations import redact, url_scheme
from magichour_provider.ui import media, queries
from magichour_provider.ui.queries import FAILED, IN_PROGRESS, STATES, TaskRow, as_integer, as_number, as_text
from magichour_provider.ui.task_page import explain
from magichour_provider.ui.view_models import Bar, Card, Charge, Chart, Gallery

CHART_DAYS = 30
_TASKS_PER_PAGE = 72
"""About three for each video."""
_MAX_JOBS = 20_000
_MAX_SERIES = 7
_GRID_LINES = 4
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
    charges, is_cut = queries.get_charges(session, readable, first_moment(now), limit=_MAX_JOBS)
    filters = {name: value for name, value in (("dag_id", dag_id), ("state", state)) if value}
    are_hidden = any(map(media.download_task, shown)) and not any(card.player for card in cards)
    notes = ((f"The chart counts only the latest {_MAX_JOBS:,} jobs.", is_cut), (_NOT_SHOWN, are_hidden))
    last = rows[-1].updated_at if len(rows) == _TASKS_PER_PAGE else None
    return Gallery(
        cards=tuple(cards),
        dag_ids=tuple(sorted(readable)),
        states=tuple(STATES),
        dag_id=dag_id,
        state=state,
        chart=draw_chart((charge for charge in charges if charge.dag_id in dag_ids), now.date()),
        older=None if last is None else "?" + urlencode({**filters, "before": last.isoformat()}),
        newest=None if before is None else "?" + urlencode(filters),
        notes=tuple(note for note, is_shown in notes if is_shown),
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
    name, image = (
        next(filter(None, (member.field(field) for member in group)), None) for field in ("name", "image")
    )
    file_name = PurePosixPath(redact(image)).name if image else ""
    if image and url_scheme(image) in ("http", "https"):
        file_name = unquote(file_name)
    values: dict[str, Any] = {}
    for member in reversed(group):
        written = {**member.result, **member.failure}
        values |= {name: value for name, value in written.items() if value is not None}
    return Card(
        key=row.key,
        title=name or file_name or group[-1].key.task_id,
        state=row.state,
        updated_at=group[0].updated_at,
        credits_charged=as_integer(values.get("credits_charged")),
        model=as_text(values.get("model")),
        resolution=as_text(values.get("resolution")),
        duration=as_number(values.get("duration")) or as_number(values.get("end_seconds")),
        player=media.file_player(download) if download else None,
        failure=explain(row.failure).title if row.state in STATES[FAILED] else None,
    )


def _updated_at(row: TaskRow) -> datetime:
    return row.updated_at or datetime.min.replace(tzinfo=timezone.utc)


# The chart


def first_moment(now: datetime) -> datetime:
    """Midnight (UTC) of the chart's first day."""
    return datetime.combine(now.date() - timedelta(days=CHART_DAYS - 1), datetime.min.time(), timezone.utc)


def draw_chart(charges: Iterable[Charge], today: date) -> Chart | None:
    """The credits of the `CHART_DAYS` days up to today as stacked bars; None if there are none."""
    days = [today - timedelta(days=ago) for ago in reversed(range(CHART_DAYS))]
    by_day, series = _sum_by_day(charges, days)
    if not series:
        return None
    totals = tuple(sum(by_day[day][name] for day in days) for name in series)
    top = _round_up(max(sum(by_day[day].values()) for day in days))
    width, height, left, above, below = 960.0, 240.0, 56.0, 22.0, 28.0
    step = (width - left) / len(days)

    def y(credits_charged: float) -> float:
        return round(above + (height - above - below) * (1 - credits_charged / top), 2)

    bars, labels = [], []
    for place, day in enumerate(days):
        stacked = 0
        for number, name in enumerate(series):
            charged, bottom = by_day[day][name], y(stacked)
            if charged:
                stacked += charged
                size = round(step * 0.75, 2), round(bottom - y(stacked), 2)
                title = f"{day.isoformat()}: {name}, {charged:,} credits"
                bars.append(Bar(round(left + step * (place + 0.125), 2), y(stacked), *size, number, title))
        if (len(days) - 1 - place) % 3 == 0:  # today has a label
            labels.append((round(left + step * (place + 0.5), 2), f"{day:%b} {day.day}"))
    return Chart(
        width=width,
        height=height,
        bars=tuple(bars),
        series=tuple(series),
        totals=totals,
        grid=tuple((y(line), f"{line:,}") for line in range(0, top + 1, top // _GRID_LINES)),
        labels=tuple(labels),
        table=tuple((day, by_day[day]) for day in reversed(days) if by_day[day]),
        total=sum(totals),
        days=CHART_DAYS,
    )


def _sum_by_day(charges: Iterable[Charge], days: list[date]) -> tuple[dict[date, Counter[str]], list[str]]:
    """The credits of each day by Dag, and the Dags, the one with the most credits first."""
    dated = [(charge.at.astimezone(timezone.utc).date(), charge) for charge in charges if charge.credits]
    dated = [(day, charge) for day, charge in dated if day in days]
    sums: Counter[str] = Counter()
    for _, charge in dated:
        sums[charge.dag_id] += charge.credits
    names = [name for name, _ in sums.most_common()]
    series = names if len(names) <= _MAX_SERIES else [*names[: _MAX_SERIES - 1], "all others"]
    by_day: dict[date, Counter[str]] = {day: Counter() for day in days}
    for day, charge in dated:
        by_day[day][charge.dag_id if charge.dag_id in series else series[-1]] += charge.credits
    return by_day, series


def _round_up(highest: int) -> int:
    """The next round number whose quarters are round, too."""
    magnitude = int(10 ** (len(str(max(highest, 4))) - 1))
    round_numbers = (tenths * magnitude for tenths in (12, 16, 20, 40, 60, 80, 100, 120))
    quartered = (number // 10 for number in round_numbers if number % (10 * _GRID_LINES) == 0)
    return next(number for number in quartered if number >= highest)
