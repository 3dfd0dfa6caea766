from __future__ import annotations

import gc
import random
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import schedule
from magichour_provider.polling import intervals as module
from magichour_provider.polling.intervals import (
    ALARM_MARGIN_SECONDS,
    MAX_INTERVAL_SECONDS,
    MIN_INTERVAL_SECONDS,
    JobKind,
    PollIntervals,
    get_deadline,
    seconds,
)

KIND = JobKind("ltx-2.3", "720p", 5.0)


class Wait:
    pass


def learned(*durations):
    intervals = PollIntervals()
    for duration in durations:
        wait = Wait()
        intervals.follow(KIND, wait)
        intervals.ended(KIND, wait, max(duration - 1, 0), duration)
    return intervals


@given(st.lists(st.floats(0.1, 1e5), max_size=60), st.floats(0, 1e7))
def test_interval_is_between_one_second_and_one_minute(durations, age):
    random.seed(0)
    assert MIN_INTERVAL_SECONDS <= learned(*durations).next_poll(KIND, age) <= MAX_INTERVAL_SECONDS


@given(st.lists(st.floats(1, 1e4), min_size=4, max_size=60), st.floats(0, 1e4), st.floats(0, 1e3))
def test_interval_after_the_first_poll_never_shrinks_with_age(durations, age, more):
    intervals = learned(*durations)
    first = max(durations) * 3 + 30
    assert intervals.next_poll(KIND, first + age) <= intervals.next_poll(KIND, first + age + more)


def test_first_poll_waits_for_the_shortest_durations():
    intervals = learned(*range(50, 70))
    assert 50 <= intervals.next_poll(KIND, 0) <= 57
    assert intervals.next_poll(KIND, 60) < 6


def test_other_kind_of_job_is_not_affected():
    other = KIND._replace(resolution="480p")
    assert learned(*range(50, 70)).next_poll(other, 0) == PollIntervals().next_poll(other, 0)


def test_only_so_many_waits_are_followed_until_they_end_or_vanish():
    intervals, waits = PollIntervals(), [Wait() for _ in range(1000)]
    for wait in waits:
        intervals.follow(KIND, wait)
    followed = intervals._kinds[KIND].followed
    assert len(followed) == module._SAMPLE_SIZE
    waits.clear()
    del wait
    gc.collect()
    assert len(followed) == 0


def test_kinds_are_limited():
    intervals = PollIntervals()
    for number in range(1000):
        intervals.follow(KIND._replace(end_seconds=float(number)), Wait())
    assert len(intervals._kinds) == module._MAX_KINDS


@pytest.mark.parametrize(
    "durations",
    [
        *(schedule.uniform(mean, 0.2) for mean in (20, 60, 300)),
        schedule.bimodal(30, 300),
        schedule.bimodal(30, 600, 0.9),
    ],
    ids=["20 s +-20 %", "60 s +-20 %", "300 s +-20 %", "30 or 300 s", "30 s, one in ten 600 s"],
)
def test_known_durations_take_less_than_half_the_polls_of_a_fixed_interval(durations):
    """With the same mean delay; measured: 0.26 to 0.39."""
    row = schedule.row("durations", durations, seeds=(1,))
    assert row.ratio <= 0.4
    assert row.warm.delay <= 3.7


def test_job_that_outlives_the_short_ones_is_polled_when_the_long_ones_end():
    intervals = learned(*range(30, 38), *range(300, 308))
    assert intervals.next_poll(KIND, 40) < 6
    age, polls = 46.0, 0
    while age < 290:
        age += intervals.next_poll(KIND, age)
        polls += 1
    assert polls == 5, "four at the longest interval, and the first of the second group"
    assert 297 <= age <= 306
    assert intervals.next_poll(KIND, age) < 6


def test_batch_teaches_the_next_batch():
    """Censored durations: all jobs start together, and most are unfinished when the first ones end."""
    first, second = schedule.batch(schedule.uniform(60, 0.2), 500)
    assert second.ratio <= 0.45
    assert max(first.warm.delay, second.warm.delay) <= 5


@pytest.mark.parametrize("value", [0, -1, "x", None, timedelta(0), float("nan"), 1e12])
def test_seconds_refuses_what_is_no_duration(value):
    with pytest.raises(ValueError, match="timeout"):
        seconds("timeout", value)


def test_seconds_reads_numbers_and_timedeltas():
    assert (seconds("t", 5), seconds("t", timedelta(minutes=1))) == (5, 60)


@given(st.floats(1, 1e5), st.floats(1, 1e5), st.booleans())
def test_deadline_is_the_earlier_limit(timeout, execution_timeout, in_worker):
    deadline = get_deadline(
        100.0, timedelta(seconds=timeout), timedelta(seconds=execution_timeout), in_worker=in_worker
    )
    limit = min(timeout, execution_timeout)
    assert 100 < deadline <= 100 + limit + 1e-3
    assert deadline >= 100 + limit - ALARM_MARGIN_SECONDS - 1e-3
