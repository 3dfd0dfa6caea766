"""Credits by day and Dag: a chart of stacked bars, and a table of the same numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta, timezone
from math import ceil

from magichour_provider.ui.view_models import Bar, Charge, Chart

DAYS = 30
_WIDTH_UNITS, _HEIGHT_UNITS = 960.0, 240.0
_LEFT_UNITS, _TOP_UNITS, _BOTTOM_UNITS = 56.0, 22.0, 28.0
_MAX_SERIES = 7
_OTHERS = "all others"
_GRID_LINES = 4
_GAP_RATIO = 0.25
_MAX_LABELS = 10
_ROUND_TENTHS = (12, 16, 20, 40, 60, 80, 100, 120)

CreditsByDay = Mapping[date, Mapping[str, int]]


def first_moment(now: datetime) -> datetime:
    """Midnight (UTC) of the chart's first day."""
    return datetime.combine(now.date() - timedelta(days=DAYS - 1), datetime.min.time(), timezone.utc)


def draw(charges: Iterable[Charge], today: date) -> Chart | None:
    """The chart of the `DAYS` days up to today; None if nothing was charged in them."""
    days = [today - timedelta(days=ago) for ago in reversed(range(DAYS))]
    by_day, series = _sum_by_day(charges, set(days))
    if not series:
        return None
    top = _round_up(max(sum(by_day[day].values()) for day in days))
    step = (_WIDTH_UNITS - _LEFT_UNITS) / len(days)
    every = ceil(len(days) / _MAX_LABELS)
    labelled = range((len(days) - 1) % every, len(days), every)  # today has a label
    totals = tuple(sum(by_day[day].get(name, 0) for day in days) for name in series)
    return Chart(
        width=_WIDTH_UNITS,
        height=_HEIGHT_UNITS,
        bars=tuple(_bars(days, by_day, series, top, step)),
        series=series,
        totals=totals,
        grid=tuple((_y(line, top), f"{line:,}") for line in range(0, top + 1, top // _GRID_LINES)),
        labels=tuple(
            (round(_LEFT_UNITS + step * (place + 0.5), 2), f"{days[place]:%b} {days[place].day}")
            for place in labelled
        ),
        table=tuple((day, dict(by_day[day])) for day in reversed(days) if by_day[day]),
        total=sum(totals),
        days=DAYS,
    )


def _sum_by_day(charges: Iterable[Charge], days: set[date]) -> tuple[CreditsByDay, tuple[str, ...]]:
    dated = [(charge.at.astimezone(timezone.utc).date(), charge) for charge in charges if charge.credits]
    dated = [(day, charge) for day, charge in dated if day in days]
    sums: Counter[str] = Counter()
    for _, charge in dated:
        sums[charge.dag_id] += charge.credits
    names = [name for name, _ in sums.most_common()]
    kept = names if len(names) <= _MAX_SERIES else names[: _MAX_SERIES - 1]
    by_day: dict[date, Counter[str]] = defaultdict(Counter)
    for day, charge in dated:
        by_day[day][charge.dag_id if charge.dag_id in kept else _OTHERS] += charge.credits
    return by_day, (*kept, *([_OTHERS] if len(names) > len(kept) else []))


def _bars(
    days: Sequence[date], by_day: CreditsByDay, series: Sequence[str], top: int, step: float
) -> Iterator[Bar]:
    for place, day in enumerate(days):
        below = 0
        for number, name in enumerate(series):
            charged = by_day[day].get(name, 0)
            if not charged:
                continue
            y = _y(below + charged, top)
            yield Bar(
                x=round(_LEFT_UNITS + step * (place + _GAP_RATIO / 2), 2),
                y=y,
                width=round(step * (1 - _GAP_RATIO), 2),
                height=round(_y(below, top) - y, 2),
                series=number,
                title=f"{day.isoformat()}: {name}, {charged:,} credits",
            )
            below += charged


def _y(credits_charged: float, top: int) -> float:
    room = _HEIGHT_UNITS - _TOP_UNITS - _BOTTOM_UNITS
    return round(_TOP_UNITS + room * (1 - credits_charged / top), 2)


def _round_up(highest: int) -> int:
    """The next round number whose quarters are round, too."""
    magnitude = int(10 ** (len(str(max(highest, 4))) - 1))
    round_numbers = (
        tenths * magnitude // 10 for tenths in _ROUND_TENTHS if tenths * magnitude % (10 * _GRID_LINES) == 0
    )
    return next(number for number in round_numbers if number >= highest)
