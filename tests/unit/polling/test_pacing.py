"""A rate, a pause for all, and a number of sockets: simulated, without a clock."""

from __future__ import annotations

import pytest

from magichour_provider.polling.rate_limit import LONGEST_SILENCE, ConcurrencyLimit, Limiter


def looks_within(limiter, seconds, *, start=0.0, answer=lambda now: None):
    """How many looks somebody makes who looks whenever it is allowed, a thousand times a second at most."""
    now, made = start, []
    while now < start + seconds:
        now = max(now + 0.001, limiter.free_at())
        if now >= start + seconds:
            break
        limiter.take(now)
        made.append(now)
        answer(now)
    return made


def test_without_a_limit_nobody_waits():
    assert len(looks_within(Limiter(), 10)) > 9000


@pytest.mark.parametrize("per_second", [0.5, 3, 50])
def test_a_limit_is_kept_and_used_up(per_second):
    made = looks_within(Limiter(per_second), 100)
    assert 0.97 * 100 * per_second <= len(made) <= 100 * per_second + 2


def test_a_limit_that_was_not_used_grants_no_burst():
    limiter = Limiter(10)
    limiter.take(0.0)
    assert len(looks_within(limiter, 1, start=500.0)) <= 12


def test_a_refusal_pauses_everybody_as_long_as_the_server_asks():
    limiter = Limiter()
    assert limiter.refused(100.0, 30)
    assert limiter.free_at() == 130


def test_those_who_were_under_way_when_the_first_was_refused_begin_no_pause_of_their_own():
    limiter = Limiter()
    assert [limiter.refused(100.0, 5), limiter.refused(100.1, 7), limiter.refused(100.2, 1)] == [
        True,
        False,
        False,
    ]
    assert limiter.free_at() == pytest.approx(107.1)


def test_a_server_cannot_silence_us_for_ever():
    limiter = Limiter()
    limiter.refused(0.0, 10**9)
    assert limiter.free_at() == LONGEST_SILENCE


def test_a_server_that_asks_for_no_time_at_all_gets_a_second():
    limiter = Limiter()
    assert [limiter.refused(100.0, 0), limiter.refused(100.1, 0)] == [True, False]
    assert limiter.free_at() == pytest.approx(101.1)


def test_without_a_time_each_pause_is_longer_and_an_answer_makes_the_next_one_short():
    limiter, pauses = Limiter(), []
    for _ in range(10):
        now = limiter.free_at()
        limiter.refused(now, None)
        pauses.append(limiter.free_at() - now)
    assert pauses[:4] == [1, 2, 4, 8]
    assert max(pauses) == 60
    limiter.answered(limiter.free_at())
    now = limiter.free_at()
    limiter.refused(now, None)
    assert limiter.free_at() - now == 1


def test_after_a_pause_the_crowd_comes_back_at_half_its_rate_and_recovers():
    limiter = Limiter()
    looks_within(limiter, 10)
    limiter.refused(10.0, 1)
    first = len(looks_within(limiter, 1, start=11.0))
    later = len(looks_within(limiter, 1, start=40.0))
    assert 400 <= first <= 650
    assert later > 900


def test_a_server_that_takes_fifty_a_second_refuses_few():
    """The crowd wants a thousand looks a second; the server takes 50 and refuses the rest with 429."""
    limiter, taken, refused = Limiter(), [], []

    def answer(now):
        recent = [at for at in taken[-60:] if at > now - 1]
        if len(recent) >= 50:
            refused.append(now)
            limiter.refused(now, None)
        else:
            taken.append(now)
            limiter.answered(now)

    looks_within(limiter, 120, answer=answer)
    late = [at for at in refused if at > 20]
    assert len(taken) > 120 * 20
    assert len(late) < 0.02 * len(taken)


def test_more_sockets_are_opened_only_where_it_is_the_answers_that_are_waited_for():
    width = ConcurrencyLimit()
    width.adjust(lateness=5.0, busy=0.95)
    assert width.allowed == 8
    for _ in range(10):
        width.adjust(lateness=5.0, busy=0.2)
    assert width.allowed == 32


def test_sockets_that_are_not_needed_any_more_are_given_up_slowly():
    width = ConcurrencyLimit()
    for _ in range(10):
        width.adjust(lateness=5.0, busy=0.2)
    width.adjust(lateness=0.0, busy=0.2)
    assert width.allowed == 32
    for _ in range(100):
        width.adjust(lateness=0.0, busy=0.2)
    assert width.allowed == 8
