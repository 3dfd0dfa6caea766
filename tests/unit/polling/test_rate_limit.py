from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magichour_provider.polling.rate_limit import MAX_RETRY_AFTER_SECONDS, ConcurrencyLimit, RateLimiter


def polls_until(limiter, now, end):
    count = 0
    while (now := max(now, limiter.free_at())) < end:
        limiter.acquire(now)
        count += 1
        now += 0.001
    return count


@given(st.floats(0.5, 200), st.floats(1, 60))
def test_rate_is_never_exceeded(per_second, duration):
    count = polls_until(RateLimiter(per_second), 100.0, 100.0 + duration)
    assert count <= per_second * (duration + 0.05) + 2
    assert count >= min(per_second, 900) * duration * 0.9 - 2


@given(st.floats(0.5, 200), st.floats(1, 1e4))
def test_idle_time_allows_no_burst(per_second, idle):
    limiter = RateLimiter(per_second)
    limiter.acquire(100.0)
    assert polls_until(limiter, 100 + idle, 101 + idle) <= per_second + 2 + 0.05 * per_second


@given(st.one_of(st.none(), st.floats(0, 1e6)), st.floats(0, 1e6))
def test_refusal_pauses_at_least_as_long_as_asked(retry_after, now):
    limiter = RateLimiter()
    assert limiter.refused(now, retry_after)
    expected = min(max(retry_after or 0, 1.0), MAX_RETRY_AFTER_SECONDS)
    assert limiter.free_at() == pytest.approx(now + expected)
    assert not limiter.refused(now, None)


def test_pauses_double_until_a_poll_is_answered():
    limiter, now, pauses = RateLimiter(), 0.0, []
    for _ in range(9):
        limiter.refused(now, None)
        pauses.append(limiter.free_at() - now)
        now = limiter.free_at()
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    limiter.answered(now)
    limiter.refused(now, None)
    assert limiter.free_at() - now == 1


def test_rate_after_a_pause_is_half_the_refused_one_and_recovers():
    limiter = RateLimiter()
    for number in range(1000):
        limiter.acquire(100 + number / 100)
    limiter.refused(110.0, 5)
    assert 40 <= polls_until(limiter, 115.0, 116.0) <= 60
    polls_until(limiter, 116.0, 131.0)
    assert polls_until(limiter, 131.0, 132.0) > 500


def test_poll_hours_after_a_pause_is_not_limited():
    limiter = RateLimiter()
    limiter.refused(0.0, 5)
    limiter.acquire(90_000.0)
    assert limiter.free_at() <= 90_000


def test_concurrency_grows_only_if_answers_are_slow():
    limit = ConcurrencyLimit()
    limit.update(lateness=5.0, busy_share=0.9)
    assert limit.allowed == 8
    for _ in range(9):
        limit.update(lateness=5.0, busy_share=0.1)
    assert limit.allowed == 32
    for _ in range(200):
        limit.update(lateness=0.0, busy_share=0.1)
    assert limit.allowed == 8
