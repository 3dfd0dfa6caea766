from __future__ import annotations

import logging
from datetime import datetime, timezone

import pytest

from magichour_provider import exceptions as errors
from magichour_provider.client import protocol
from magichour_provider.client.models import VideoProject
from magichour_provider.polling.durations import RenderKind, RenderTimes
from magichour_provider.polling.intervals import SHORTEST
from magichour_provider.polling.outcome import TerminalStatus
from magichour_provider.polling.poller import Poller


def watch(**fields):
    given = {"project_id": "cm1", "deadline": 1000.0, "started": 0.0, "times": RenderTimes(), **fields}
    return Poller(**given)


def looked(status, **fields):
    return VideoProject(id="cm1", status=status, **fields)


class Learner(RenderTimes):
    """Remembers what it is taught."""

    def __init__(self):
        super().__init__()
        self.lessons = []

    def learn(self, kind, shortest, longest, since=0.0):
        self.lessons.append((kind, shortest, longest, since))

    def unfinished(self, kind, age, since=0.0):
        self.lessons.append((kind, age, since))


def test_no_look_and_no_end_comes_before_the_deferral_is_stored():
    waiting = watch(deadline=3.0, poll_interval=0.1, quiet_until=7.0)
    assert waiting.pause(0.0) == pytest.approx(7.0)
    assert waiting.pause(7.0) == 0


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
    waiting.saw(looked("rendering"), 1.0)
    assert waiting.overdue(999.9) is None
    ended = waiting.overdue(1000.0)
    assert (ended.ending, ended.status) == (TerminalStatus.TIMEOUT, "rendering")
    assert "still running" in str(ended.error())


def test_a_status_is_logged_when_it_changes(caplog):
    caplog.set_level(logging.INFO)
    waiting = watch()
    for status in ("queued", "queued", "rendering", "rendering"):
        waiting.saw(looked(status), 1.0)
    assert [record.message for record in caplog.records] == ["Job cm1 is queued.", "Job cm1 is rendering."]


def test_an_unknown_status_is_warned_of_once_and_waited_through(caplog):
    waiting = watch()
    assert [waiting.saw(looked("paused"), 1.0) for _ in range(3)] == [None] * 3
    assert [record.levelname for record in caplog.records].count("WARNING") == 1


def test_failed_looks_are_warned_of_once_in_a_while(caplog):
    waiting = watch()
    for now in range(5):
        waiting.missed(errors.NetworkError("cut"), float(now))
    for now in (9.0, 400.0):
        waiting.saw(looked("queued"), now)
        waiting.missed(errors.NetworkError("cut"), now)
    assert [record.levelname for record in caplog.records].count("WARNING") == 2


def test_the_first_of_many_looks_come_at_different_times_within_one_interval():
    pauses = [watch(poll_interval=30).pause(0.0) for _ in range(200)]
    assert max(pauses) <= 30
    assert min(pauses) < 5 < 25 < max(pauses)


def test_a_given_interval_is_kept_but_for_jitter():
    waiting = watch(poll_interval=10)
    waiting.saw(looked("queued"), 5.0)
    assert {9 <= waiting.pause(5.0) <= 11 for _ in range(50)} == {True}


def test_a_job_of_unknown_age_is_looked_at_soon_and_then_by_its_age():
    waiting = watch(started=1000.0, deadline=9000.0)
    assert waiting.pause(1000.0) <= 5
    created = datetime.fromtimestamp(995, timezone.utc)
    waiting.saw(looked("queued", created_at=created), 1002.0)
    assert waiting.submitted == 995
    assert waiting.pause(1002.0) > 5


@pytest.mark.parametrize("created", [None, datetime.fromtimestamp(5000, timezone.utc)], ids=["none", "ahead"])
def test_a_job_whose_age_is_not_told_is_as_old_as_the_wait_and_teaches_nothing(created):
    times = Learner()
    waiting = watch(started=1000.0, deadline=9000.0, times=times)
    waiting.saw(looked("queued", created_at=created), 1002.0)
    assert waiting.submitted == 1000
    assert SHORTEST <= waiting.pause(1003.0) < 100
    waiting.saw(looked("complete", created_at=created), 1030.0)
    assert times.lessons == []


def test_those_whose_quiet_ends_together_part_then():
    pauses = [watch(started=0.0, quiet_until=7.0).pause(0.0) for _ in range(200)]
    assert 7.0 <= min(pauses) < 8.0
    assert 9.0 < max(pauses) <= 10.0


def test_a_clock_that_is_set_back_after_a_failed_look_stops_no_wait():
    waiting = watch(submitted=0.0, deadline=99_999.0)
    waiting.missed(errors.NetworkError("cut"), 5000.0)
    waiting.saw(looked("queued"), 1400.0)
    assert waiting.pause(1400.0) <= 60


def test_those_who_are_resumed_together_part_at_once():
    planned = RenderTimes().plan_for(RenderKind()).pause(40.0)
    pauses = [watch(submitted=0.0, started=40.0).pause(40.0) for _ in range(200)]
    assert planned > 3 * SHORTEST
    assert min(pauses) < 0.5 * planned
    assert max(pauses) <= planned


def test_a_wait_from_the_beginning_of_its_job_keeps_to_the_plan():
    plan = RenderTimes().plan_for(RenderKind())
    pauses = [watch(submitted=38.0, started=40.0).pause(40.0) for _ in range(200)]
    assert plan.pause(2.0, 0.9) <= min(pauses)
    assert max(pauses) <= plan.pause(2.0, 1.1)


def test_a_first_look_at_once_is_the_first_alone():
    waiting = watch(poll_interval=100, at_once=True)
    assert waiting.pause(5.0) == 0
    waiting.saw(looked("queued"), 5.0)
    assert waiting.pause(5.0) > 80


def test_a_first_look_at_once_that_fails_is_not_made_again_at_once():
    waiting = watch(poll_interval=100, at_once=True)
    waiting.missed(errors.NetworkError("cut"), 5.0)
    assert waiting.pause(5.0) > 0.7


def test_what_cannot_be_learned_from_costs_nobody_a_clip():
    class Broken(RenderTimes):
        def learn(self, *_):
            raise ZeroDivisionError

    ended = watch(submitted=0.0, started=1.0, times=Broken()).saw(looked("complete"), 30.0)
    assert ended.ending is TerminalStatus.COMPLETE


def test_after_a_failed_look_the_next_comes_soon_and_each_further_one_later():
    waiting = watch(submitted=0.0, deadline=10_000.0)
    pauses = []
    for now in range(8):
        waiting.missed(errors.NetworkError("cut"), float(now))
        pauses.append(waiting.pause(float(now)))
    assert 0.7 <= pauses[0] <= 1.3
    assert pauses[2] > 2 * pauses[0]
    assert pauses[6] > 2 * pauses[3]
    assert max(pauses) <= 75
    waiting.saw(looked("queued"), 60.0)
    assert waiting.pause(60.0) < 60


def test_how_long_a_clip_took_is_learned_between_the_last_two_looks():
    times, kind = Learner(), RenderKind("ltx-2.3", "480p", 5)
    waiting = watch(submitted=100.0, started=103.0, kind=kind, times=times)
    waiting.saw(looked("rendering"), 130.0)
    waiting.saw(looked("complete"), 135.0)
    assert times.lessons == [(kind, 30.0, 0.0), (kind, 30.0, 35.0, 30.0)]


def test_a_clip_that_is_done_at_the_first_look_of_a_wait_from_its_start_teaches_too():
    times = Learner()
    watch(submitted=100.0, started=103.0, times=times).saw(looked("complete"), 135.0)
    assert [lesson[1:] for lesson in times.lessons] == [(3.0, 35.0, 0.0)]


def test_a_wait_with_an_interval_of_its_own_teaches_nothing():
    times = Learner()
    waiting = watch(submitted=100.0, started=103.0, times=times, poll_interval=30)
    waiting.saw(looked("rendering"), 130.0)
    waiting.saw(looked("complete"), 160.0)
    assert times.lessons == []


def test_the_length_of_a_clip_that_nobody_has_told_is_seen_at_the_first_look():
    times = Learner()
    waiting = watch(started=103.0, kind=RenderKind("ltx-2.3", "480p"), times=times, submitted=100.0)
    waiting.saw(looked("rendering", end_seconds=5), 130.0)
    assert times.lessons[0][0] == RenderKind("ltx-2.3", "480p", 5)


@pytest.mark.parametrize(
    ("started", "status"), [(900.0, "complete"), (103.0, "error"), (103.0, "canceled")], ids=str
)
def test_what_was_not_followed_or_is_no_clip_teaches_nothing(started, status):
    times = Learner()
    watch(submitted=100.0, started=started, times=times).saw(looked(status), started + 30)
    assert times.lessons == []


def phases(waiting, *looks):
    """Queued and rendering seconds of a wait whose last look, (status, time), ends it."""
    *_, ended = [waiting.saw(looked(status), now) for status, now in looks]
    return ended.queued_seconds, ended.rendering_seconds


FROM_THE_BEGINNING = {"submitted": 100.0, "started": 101.0}


def test_a_wait_that_has_seen_all_knows_how_long_each_phase_took():
    seen = [("queued", 103.0), ("queued", 106.0), ("rendering", 109.04), ("rendering", 120.0)]
    assert phases(watch(**FROM_THE_BEGINNING), *seen, ("complete", 130.0)) == (9.0, 21.0)


@pytest.mark.parametrize("status", ["complete", "error", "canceled"])
def test_a_job_that_ends_without_being_seen_to_render_was_in_the_queue_until_then(status):
    assert phases(watch(**FROM_THE_BEGINNING), ("draft", 103.0), (status, 130.0)) == (30.0, None)


def test_a_queue_that_no_look_saw_is_not_known_and_the_rendering_is():
    assert phases(watch(**FROM_THE_BEGINNING), ("rendering", 110.0), ("complete", 130.0)) == (None, 20.0)


def test_of_a_job_that_had_ended_at_the_first_look_nothing_is_known():
    assert phases(watch(**FROM_THE_BEGINNING), ("complete", 110.0)) == (None, None)


def test_a_wait_that_finds_a_job_rendering_does_not_know_since_when():
    late = watch(submitted=100.0, started=160.0)
    assert phases(late, ("rendering", 161.0), ("rendering", 170.0), ("complete", 180.0)) == (None, None)


def test_a_wait_that_finds_an_old_job_in_the_queue_knows_both():
    late = watch(submitted=100.0, started=160.0)
    assert phases(late, ("queued", 161.0), ("rendering", 170.0), ("complete", 180.0)) == (70.0, 10.0)


def test_what_the_wait_before_has_just_seen_is_gone_on_with():
    old = {"submitted": 100.0, "started": 160.0}
    ended = [("rendering", 170.0), ("complete", 180.0)]
    assert phases(watch(**old, queued_at=158.0), *ended) == (70.0, 10.0)
    assert phases(watch(**old, rendering_since=158.0), *ended) == (None, 22.0)


def test_what_was_seen_long_before_a_wait_began_anew_is_no_answer():
    late = watch(submitted=100.0, started=160.0, queued_at=120.0)
    assert phases(late, ("rendering", 161.0), ("complete", 180.0)) == (None, None)
    kept = watch(submitted=100.0, started=160.0, queued_at=120.0, rendering_since=130.0)
    assert phases(kept, ("complete", 180.0)) == (30.0, 50.0)


def test_of_a_wait_that_others_have_looked_for_the_first_look_is_no_beginning():
    later = watch(**FROM_THE_BEGINNING, has_looked=True)
    assert phases(later, ("rendering", 110.0), ("complete", 130.0)) == (None, None)


@pytest.mark.parametrize("created", [None, datetime.fromtimestamp(5000, timezone.utc)], ids=["none", "ahead"])
def test_a_clock_that_disagrees_says_nothing_of_the_queue(created):
    waiting = watch(started=1000.0, deadline=9000.0)
    for status, now in (("queued", 1002.0), ("rendering", 1010.0)):
        waiting.saw(looked(status, created_at=created), now)
    ended = waiting.saw(looked("complete", created_at=created), 1030.0)
    assert waiting.known_submission is None
    assert (ended.queued_seconds, ended.rendering_seconds) == (None, 20.0)


def test_a_clock_that_is_set_back_makes_no_phase_shorter_than_nothing():
    seen = [("queued", 103.0), ("rendering", 90.0)]
    assert phases(watch(**FROM_THE_BEGINNING), *seen, ("complete", 80.0)) == (None, None)


def test_what_cannot_be_learned_from_still_has_its_phases():
    class Broken(RenderTimes):
        def learn(self, *_):
            raise ZeroDivisionError

    waiting = watch(**FROM_THE_BEGINNING, times=Broken())
    assert phases(waiting, ("queued", 103.0), ("rendering", 104.0), ("complete", 105.0)) == (4.0, 1.0)
