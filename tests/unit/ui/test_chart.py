from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magichour_provider.ui.gallery import CHART_DAYS, draw_chart, first_moment
from magichour_provider.ui.view_models import Charge

TODAY = date(2026, 11, 22)


def charge(credits_charged, *, ago=0, dag_id="a_dag"):
    at = datetime(TODAY.year, TODAY.month, TODAY.day, 12, tzinfo=timezone.utc) - timedelta(days=ago)
    return Charge(dag_id, at, credits_charged)


def test_no_chart_without_charges():
    assert draw_chart([], TODAY) is None
    assert draw_chart([charge(0)], TODAY) is None
    assert draw_chart([charge(5, ago=CHART_DAYS)], TODAY) is None


charges = st.builds(
    charge, st.integers(0, 10**6), ago=st.integers(0, CHART_DAYS - 1), dag_id=st.sampled_from("abcdefghij")
)


@given(st.lists(charges))
def test_bars_table_and_totals_have_the_same_numbers(entries):
    chart, total = draw_chart(entries, TODAY), sum(entry.credits for entry in entries)
    if chart is None:
        assert total == 0
        return
    assert chart.total == sum(chart.totals) == sum(sum(row.values()) for _, row in chart.table) == total
    assert len(chart.series) == len(chart.totals) <= 7
    assert len(chart.bars) == sum(len(row) for _, row in chart.table)
    by_day = {}
    for bar in chart.bars:
        by_day.setdefault(bar.x, []).append(bar)
        assert bar.x >= 0
        assert bar.x + bar.width <= chart.width
        assert 0 <= bar.y <= bar.y + bar.height <= chart.height
    for bars in by_day.values():
        for below, above in pairwise(sorted(bars, key=lambda bar: bar.series)):
            assert above.y + above.height == pytest.approx(below.y, abs=0.02)


def test_table_is_newest_first():
    chart = draw_chart(
        [charge(120), charge(72, dag_id="another"), charge(120, ago=3), charge(8, ago=29)], TODAY
    )
    assert (chart.total, chart.series, chart.totals) == (320, ("a_dag", "another"), (248, 72))
    assert chart.table[0] == (TODAY, {"a_dag": 120, "another": 72})
    assert [day for day, _ in chart.table] == [TODAY - timedelta(days=ago) for ago in (0, 3, 29)]


def test_cheapest_of_many_dags_are_summed():
    chart = draw_chart([charge(number + 1, dag_id=f"dag_{number}") for number in range(20)], TODAY)
    assert len(chart.series) == 7
    assert chart.series[-1] == "all others"
    assert chart.total == sum(range(21))


def test_days_are_in_utc():
    late = Charge("a_dag", datetime(2026, 11, 23, 1, tzinfo=timezone(timedelta(hours=2))), 5)
    assert draw_chart([late], TODAY).table == ((TODAY, {"a_dag": 5}),)
    now = datetime(2026, 11, 22, 15, tzinfo=timezone.utc)
    assert first_moment(now) == datetime(2026, 10, 24, tzinfo=timezone.utc)


@given(st.integers(1, 10**9))
def test_axis_ends_at_a_round_number_above_the_highest_day(highest):
    labels = [int(label.replace(",", "")) for _, label in draw_chart([charge(highest)], TODAY).grid]
    assert labels[0] == 0
    assert highest <= labels[-1] <= max(4, 2.1 * highest)
    assert len({after - before for before, after in pairwise(labels)}) == 1
