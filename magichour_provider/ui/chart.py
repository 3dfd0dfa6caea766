"""Credits by day and Dag, as a chart of stacked bars and as a table of the same figures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta, timezone
from math import ceil

from magichour_provider.ui.costs import Spent
from magichour_provider.ui.view_models import Bar, Chart

DAYS = 30
_WIDTH, _HEIGHT = 960.0, 240.0
_LEFT, _TOP, _BOTTOM = 56.0, 22.0, 28.0
_MOST_SERIES = 7
_OTHERS = "all others"
_LINES = 4
_GAP = 0.25
_LABELS = 10
_STEPS = (12, 16, 20, 40, 60, 80, 100, 120)

Days = Mapping[date, Mapping[str, int]]


def first_moment(now: datetime) -> datetime:
    """Where the chart begins: midnight (UTC) of its first day."""
    return datetime.combine(now.date() - timedelta(days=DAYS - 1), datetime.min.time(), timezone.utc)


def draw(entries: Iterable[Spent], today: date) -> Chart | None:
    """The chart of the `DAYS` days up to today; None where nothing was spent in them."""
    days = [today - timedelta(days=ago) for ago in reversed(range(DAYS))]
    by_day, series = _by_day(entries, set(days))
    if not series:
        return None
    top = _rounded_up(max(sum(by_day[day].values()) for day in days))
    totals = tuple(sum(by_day[day].get(name, 0) for day in days) for name in series)
    return Chart(
        width=_WIDTH,
        height=_HEIGHT,
        bars=tuple(_bars(days, by_day, series, top)),
        series=series,
        totals=totals,
        grid=tuple((_y(top * line / _LINES, top), f"{top * line // _LINES:,}") for line in range(_LINES + 1)),
        labels=tuple(_labels(days)),
        table=tuple((day, dict(by_day[day])) for day in reversed(days) if by_day[day]),
        total=sum(totals),
        days=DAYS,
    )


def _by_day(entries: Iterable[Spent], days: set[date]) -> tuple[Days, tuple[str, ...]]:
    shown = [entry for entry in entries if entry.credits and _day(entry.at) in days]
    sums: Counter[str] = Counter()
    for entry in shown:
        sums[entry.dag_id] += entry.credits
    names = [name for name, _ in sums.most_common()]
    kept = names if len(names) <= _MOST_SERIES else names[: _MOST_SERIES - 1]
    by_day: dict[date, Counter[str]] = defaultdict(Counter)
    for entry in shown:
        by_day[_day(entry.at)][entry.dag_id if entry.dag_id in kept else _OTHERS] += entry.credits
    return by_day, (*kept, *([_OTHERS] if len(names) > len(kept) else []))


def _bars(days: Sequence[date], by_day: Days, series: Sequence[str], top: int) -> Iterator[Bar]:
    step = (_WIDTH - _LEFT) / len(days)
    for place, day in enumerate(days):
        below = 0
        for number, name in enumerate(series):
            credits_spent = by_day[day].get(name, 0)
            if not credits_spent:
                continue
            y = _y(below + credits_spent, top)
            yield Bar(
                x=round(_LEFT + step * (place + _GAP / 2), 2),
                y=y,
                width=round(step * (1 - _GAP), 2),
                height=round(_y(below, top) - y, 2),
                series=number,
                title=f"{day.isoformat()}: {name}, {credits_spent:,} credits",
            )
            below += credits_spent


def _labels(days: Sequence[date]) -> Iterator[tuple[float, str]]:
    step = (_WIDTH - _LEFT) / len(days)
    every = ceil(len(days) / _LABELS)
    for place, day in enumerate(days):
        if (len(days) - 1 - place) % every == 0:
            yield round(_LEFT + step * (place + 0.5), 2), f"{day:%b} {day.day}"


def _y(credits_spent: float, top: int) -> float:
    room = _HEIGHT - _TOP - _BOTTOM
    return round(_TOP + room * (1 - credits_spent / top), 2)


def _rounded_up(highest: int) -> int:
    """The next number that is round, and parts into quarters that are round, too."""
    magnitude = int(10 ** (len(str(max(highest, 4))) - 1))
    round_numbers = (step * magnitude // 10 for step in _STEPS if step * magnitude % (10 * _LINES) == 0)
    return next(number for number in round_numbers if number >= highest)


def _day(moment: datetime) -> date:
    return moment.astimezone(timezone.utc).date()
