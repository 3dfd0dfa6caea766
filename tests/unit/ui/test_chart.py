from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from itertools import pairwise

import pytest

from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS

if not AIRFLOW_V_3_1_PLUS:
    pytest.skip("Airflow shows no pages before 3.1", allow_module_level=True)

from magichour_provider.ui.chart import DAYS, draw, first_moment
from magichour_provider.ui.costs import Spent

TODAY = date(2026, 11, 22)


def spent(credits_spent, *, ago=0, dag_id="a_dag", hour=12):
    at = datetime(TODAY.year, TODAY.month, TODAY.day, hour, tzinfo=timezone.utc) - timedelta(days=ago)
    return Spent(dag_id, at, credits_spent)


def test_nothing_spent_makes_no_chart():
    assert draw([], TODAY) is None
    assert draw([spent(0)], TODAY) is None
    assert draw([spent(5, ago=DAYS)], TODAY) is None


def test_the_figures_of_bars_table_and_totals_are_the_same():
    entries = [spent(120), spent(72, dag_id="another"), spent(120, ago=3), spent(8, ago=DAYS - 1)]
    chart = draw(entries, TODAY)
    assert (chart.total, chart.series, chart.totals) == (320, ("a_dag", "another"), (248, 72))
    assert chart.table[0] == (TODAY, {"a_dag": 120, "another": 72})
    assert [day for day, _ in chart.table] == [TODAY - timedelta(days=ago) for ago in (0, 3, DAYS - 1)]
    tallest = max(bar.height for bar in chart.bars)
    (small,) = (bar for bar in chart.bars if "8 credits" in bar.title)
    assert small.height / tallest == pytest.approx(8 / 120, rel=0.01)


def test_a_days_bars_stand_on_each_other_and_within_the_chart():
    chart = draw([spent(120), spent(72, dag_id="another"), spent(7, dag_id="third")], TODAY)
    stacked = sorted(chart.bars, key=lambda bar: -bar.y)
    for below, above in pairwise(stacked):
        assert above.y + above.height == pytest.approx(below.y, abs=0.02)
    assert all(bar.x >= 0 and bar.x + bar.width <= chart.width for bar in chart.bars)
    assert all(bar.y >= 0 and bar.y + bar.height <= chart.height for bar in chart.bars)


def test_the_cheapest_of_many_dags_are_counted_together():
    chart = draw([spent(number + 1, dag_id=f"dag_{number}") for number in range(20)], TODAY)
    assert len(chart.series) == 7
    assert chart.series[-1] == "all others"
    assert chart.total == sum(range(21))


def test_a_day_ends_at_midnight_utc():
    late = Spent("a_dag", datetime(2026, 11, 23, 1, tzinfo=timezone(timedelta(hours=2))), 5)
    assert draw([late], TODAY).table == ((TODAY, {"a_dag": 5}),)
    now = datetime(2026, 11, 22, 15, tzinfo=timezone.utc)
    assert first_moment(now) == datetime(2026, 10, 24, tzinfo=timezone.utc)


@pytest.mark.parametrize("highest", [1, 4, 5, 9, 99, 100, 101, 119, 121, 999, 12_345, 999_999])
def test_the_axis_ends_at_a_round_number_above_the_highest_day(highest):
    chart = draw([spent(highest)], TODAY)
    labels = [int(label.replace(",", "")) for _, label in chart.grid]
    assert labels[0] == 0
    assert labels[-1] >= highest
    assert labels[-1] <= max(4, 2.1 * highest)
    assert len({after - before for before, after in pairwise(labels)}) == 1
