from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from datetime import datetime, timezone
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magichour_provider import exceptions as errors
from magichour_provider.client.models import VideoProject
from magichour_provider.polling import poller as module
from magichour_provider.polling.intervals import JobKind, PollIntervals
from magichour_provider.polling.outcome import TerminalStatus
from magichour_provider.polling.poller import Poller, get_video
from tests.unit.polling.conftest import api_error

KIND = JobKind("ltx-2.3", "480p", 5.0)


class Learner(PollIntervals):
    """Remembers what it is taught."""

    def __init__(self):
        super().__init__()
        self.learned = []

    def ended(self, kind, wait, shortest, longest):
        if kind in self._kinds and wait in self._kinds[kind].followed:
            self.learned.append((kind, shortest, longest))


def poller(**fields):
    return Poller(
        **{"project_id": "cm1", "deadline": 1000.0, "started": 0.0, "intervals": PollIntervals(), **fields}
    )


def project(status, **fields):
    return VideoProject(id="cm1", status=status, **fields)


EVENTS = st.lists(st.tuples(st.sampled_from(["status", "error", "failure"]), st.floats(0, 50)), max_size=30)


@given(
    EVENTS,
    st.one_of(st.none(), st.floats(0.01, 500)),
    st.one_of(st.none(), st.floats(0, 900)),
    st.floats(0, 1000),
    st.floats(0, 20),
)
def test_next_poll_never_passes_the_deadline_and_is_never_in_quiet_time(
    events, interval, submitted, deadline, quiet
):
    wait = poller(deadline=deadline, poll_interval=interval, submitted=submitted, quiet_until=quiet)
    now = 0.0
    for event, passed in events:
        pause = wait.seconds_to_next_poll(now)
        assert 0 <= pause <= max(deadline, quiet) - min(now, max(deadline, quiet)) + 1e-6
        assert now + pause >= min(quiet, max(deadline, quiet)) - 1e-6
        now += pause + passed
        if event == "status":
            wait.on_status(project("rendering"), now)
        elif event == "error":
            wait.on_error(errors.NetworkError("cut"), now)
        else:
            wait.on_error(OSError("reset"), now)


@given(st.floats(0, 900), st.one_of(st.none(), st.floats(0.5, 60)))
def test_polls_of_an_adaptive_wait_are_at_least_a_second_apart(submitted, interval):
    wait, now = poller(submitted=submitted, deadline=math.inf, started=submitted), submitted
    for _ in range(20):
        pause = wait.seconds_to_next_poll(now)
        assert pause >= 1.0
        now += pause
        wait.on_status(project("queued"), now)


def test_retry_after_delays_the_next_poll():
    wait = poller()
    assert wait.on_error(api_error(429, retry_after=50), now=100.0) is None
    assert wait.seconds_to_next_poll(100.0) >= 50
    wait.not_before = 0.0
    assert wait.seconds_to_next_poll(100.0) < 50


def test_deadline_ends_the_wait_as_timeout():
    wait = poller()
    assert wait.on_status(project("rendering"), 999.9) is None
    for outcome in (wait.on_status(project("rendering"), 1000.0), wait.on_error(OSError("cut"), 1000.0)):
        assert (outcome.ending, outcome.status) == (TerminalStatus.TIMEOUT, "rendering")


def test_status_is_logged_when_it_changes(caplog):
    caplog.set_level(logging.INFO)
    wait = poller()
    for status in ("queued", "queued", "rendering", "rendering", "paused", "paused"):
        assert wait.on_status(project(status), 1.0) is None
    assert caplog.messages[:3] == ["Job cm1 is queued.", "Job cm1 is rendering.", "Job cm1 is paused."]
    assert [record.levelname for record in caplog.records[3:]] == ["WARNING"]


def test_failed_polls_are_warned_of_every_five_minutes(caplog):
    wait = poller()
    for now in (0.0, 1.0, 2.0):
        wait.on_error(errors.NetworkError("cut"), now)
    for now in (9.0, 400.0):
        wait.on_status(project("queued"), now)
        wait.on_error(errors.NetworkError("cut"), now)
    assert [record.levelname for record in caplog.records].count("WARNING") == 2


def test_poll_interval_has_ten_percent_jitter():
    wait = poller(poll_interval=10)
    wait.on_status(project("queued"), 5.0)
    assert all(9 <= wait.seconds_to_next_poll(5.0) <= 11 for _ in range(50))


@pytest.mark.parametrize(
    ("fields", "now", "earliest", "latest"),
    [
        ({"poll_interval": 30}, 0.0, 0.0, 30.0),
        ({"submitted": 0.0, "started": 60.0}, 60.0, 1.0, 5.1),
        ({"quiet_until": 7.0}, 0.0, 7.0, 10.0),
    ],
    ids=["interval", "resumed", "quiet"],
)
def test_first_polls_of_waits_that_start_together_are_spread(fields, now, earliest, latest):
    pauses = [poller(**fields).seconds_to_next_poll(now) for _ in range(200)]
    quarter = (latest - earliest) / 4
    assert earliest <= min(pauses) < earliest + quarter
    assert latest - quarter < max(pauses) <= latest


def test_immediate_poll_is_only_the_first():
    wait = poller(poll_interval=100, poll_immediately=True)
    assert wait.seconds_to_next_poll(5.0) == 0
    wait.on_error(errors.NetworkError("cut"), 5.0)
    assert wait.seconds_to_next_poll(5.0) > 0.7


def test_backoff_doubles_up_to_a_minute():
    wait, pauses = poller(submitted=0.0, deadline=10_000.0), []
    for now in range(8):
        wait.on_error(errors.NetworkError("cut"), float(now))
        pauses.append(wait.seconds_to_next_poll(float(now)))
    assert 0.7 <= pauses[0] <= 1.3
    assert pauses[2] > 2 * pauses[0]
    assert max(pauses) <= 75


def test_clock_set_back_does_not_stop_the_wait():
    wait = poller(submitted=0.0, deadline=99_999.0)
    wait.on_error(errors.NetworkError("cut"), 5000.0)
    wait.on_status(project("queued"), 1400.0)
    assert wait.seconds_to_next_poll(1400.0) <= 62


def test_age_is_learned_from_the_first_poll():
    wait = poller(started=1000.0, deadline=9000.0)
    assert wait.seconds_to_next_poll(1000.0) <= 5
    wait.on_status(project("queued", created_at=datetime.fromtimestamp(995, timezone.utc)), 1002.0)
    assert wait.submitted == 995


@pytest.mark.parametrize("created", [None, datetime.fromtimestamp(5000, timezone.utc)], ids=["none", "ahead"])
def test_unknown_age_is_that_of_the_wait_and_teaches_nothing(created):
    intervals = Learner()
    wait = poller(started=1000.0, deadline=9000.0, intervals=intervals, kind=KIND)
    wait.on_status(project("queued", created_at=created), 1002.0)
    assert wait.submitted is None
    wait.on_status(project("complete", created_at=created), 1030.0)
    assert intervals.learned == []


RENDERED = [("rendering", 130.0), ("complete", 135.0)]


@pytest.mark.parametrize(
    ("fields", "polls", "learned"),
    [
        ({}, RENDERED, [(KIND, 30.0, 35.0)]),
        ({}, [("complete", 135.0)], [(KIND, 0.0, 35.0)]),
        ({"kind": KIND._replace(end_seconds=None)}, RENDERED, [(KIND, 30.0, 35.0)]),
        ({"started": 900.0}, RENDERED, []),
        ({"poll_interval": 30}, RENDERED, []),
        ({}, [("rendering", 130.0), ("error", 135.0)], []),
        ({}, [("rendering", 130.0), ("canceled", 135.0)], []),
    ],
)
def test_duration_is_learned_between_the_last_two_polls_of_a_followed_job(fields, polls, learned):
    intervals = Learner()
    wait = poller(intervals=intervals, **{"kind": KIND, "submitted": 100.0, "started": 103.0, **fields})
    for status, now in polls:
        wait.on_status(project(status, end_seconds=5), now)
    assert intervals.learned == learned


@pytest.mark.parametrize("misses", [2, 3])
def test_get_video_404_is_believed_the_third_time(monkeypatch, misses):
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    client = Mock()
    client.get_video.side_effect = [api_error(404)] * misses + [project("queued")]
    with pytest.raises(errors.NotFoundError) if misses == 3 else nullcontext():
        assert get_video(client, "cm1").id == "cm1"
