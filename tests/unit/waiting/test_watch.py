from __future__ import annotations

import logging

import pytest

from magichour_provider.api import errors, protocol
from magichour_provider.api.models import VideoProject
from magichour_provider.waiting import schedule
from magichour_provider.waiting.outcome import Ending
from magichour_provider.waiting.watch import Watch


def watch(**fields):
    return Watch(**{"project_id": "cm1", "deadline": 1000.0, "started": 0.0, **fields})


def looked(status):
    return VideoProject(id="cm1", status=status)


@pytest.mark.parametrize("waited", [0, 1, 10, 100, 10_000])
def test_no_look_is_made_at_once_and_none_is_long_in_coming(waited):
    pause = schedule.pause_before_look(waited)
    assert 0.9 * schedule.SHORTEST <= pause <= 1.1 * schedule.LONGEST


def test_looks_become_rarer():
    assert schedule.pause_before_look(5) < schedule.pause_before_look(60) < schedule.pause_before_look(600)


def test_a_given_interval_is_kept_but_for_jitter():
    assert 9 <= schedule.pause_before_look(600, 10) <= 11


def test_no_look_and_no_end_comes_before_the_deferral_is_stored():
    waiting = watch(deadline=3.0, poll_interval=0.1, quiet_until=7.0)
    assert waiting.pause(0.0) == pytest.approx(7.0)
    assert waiting.pause(7.0) == 0


def test_looks_are_not_made_at_the_same_moment():
    assert len({schedule.pause_before_look(100) for _ in range(20)}) > 10


def test_no_pause_reaches_beyond_the_deadline():
    assert watch(deadline=100.5).pause(100.0) == pytest.approx(0.5)
    assert watch(deadline=100.0).pause(200.0) == 0


def test_the_server_decides_about_the_next_look():
    waiting = watch()
    error = protocol.api_error(
        status=429, code=None, message="", request="GET", project_id="cm1", retry_after=50
    )
    assert waiting.missed(error, now=100.0) is None
    assert waiting.pause(100.0) >= 50


def test_the_deadline_ends_the_wait_with_what_is_known():
    waiting = watch()
    waiting.saw(looked("rendering"))
    assert waiting.overdue(999.9) is None
    ended = waiting.overdue(1000.0)
    assert (ended.ending, ended.status) == (Ending.TIMEOUT, "rendering")
    assert "goes on" in str(ended.error())


def test_a_status_is_logged_when_it_changes(caplog):
    caplog.set_level(logging.INFO)
    waiting = watch()
    for status in ("queued", "queued", "rendering", "rendering"):
        waiting.saw(looked(status))
    assert [record.message for record in caplog.records] == ["Job cm1 is queued.", "Job cm1 is rendering."]


def test_an_unknown_status_is_warned_of_once_and_waited_through(caplog):
    waiting = watch()
    assert [waiting.saw(looked("paused")) for _ in range(3)] == [None] * 3
    assert [record.levelname for record in caplog.records].count("WARNING") == 1


def test_failed_looks_in_a_row_are_warned_of_once(caplog):
    waiting = watch()
    for now in range(5):
        waiting.missed(errors.NetworkError("cut"), float(now))
    waiting.saw(looked("queued"))
    waiting.missed(errors.NetworkError("cut"), 9.0)
    assert [record.levelname for record in caplog.records].count("WARNING") == 2
