"""Waits with webhooks: a webhook ends a wait at once, and polling is the net below it."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from magichour_provider.polling.outcome import Outcome, TerminalStatus
from magichour_provider.polling.poller import Poller
from magichour_provider.polling.scheduler import PollScheduler
from magichour_provider.polling.webhooks import (
    CHECK_SECONDS,
    NET_SECONDS,
    RETENTION_SECONDS,
    Mailbox,
    WebhookWatch,
    mailbox_key,
)
from tests.unit.polling.conftest import SETTINGS, Api, Recorder, VirtualTimeLoop

WITH_SECRET = dataclasses.replace(SETTINGS, webhook_secret="whsec")


class World:
    """Magic Hour, a mailbox, and jobs that are waited for from their submission on."""

    def __init__(self, ends, reported, secret=True):
        """Seconds after which each job ends, and after which a webhook reports it."""
        self.loop = VirtualTimeLoop()
        self.began = self.loop.time()
        self.api = Api(self.loop)
        self.api.settings = WITH_SECRET if secret else SETTINGS
        self.api.ends = {name: self.began + seconds for name, seconds in ends.items()}
        self.reported = {name: self.began + seconds for name, seconds in reported.items()}
        self.stats, self.watch, self.reads, self.read_errors = Recorder(), WebhookWatch(), 0, 0

    async def read_mailbox(self):
        self.reads += 1
        await asyncio.sleep(0.01)
        if self.read_errors:
            self.read_errors -= 1
            raise ConnectionError
        now = self.loop.time()
        ended = {name: at for name, at in self.reported.items() if at <= now < at + RETENTION_SECONDS}
        latest = max((at for at in self.reported.values() if at <= now), default=None)
        return Mailbox(latest, ended).as_text()

    def run(self, **more):
        """Wait for all jobs; return after how many seconds each wait ended, and its outcome."""

        async def main():
            scheduler = PollScheduler(
                self.api.read_settings,
                self.stats,
                build=self.api.build,
                clock=self.loop.time,
                read_mailbox=self.read_mailbox,
                watch=self.watch,
            )

            async def wait(name):
                values = {
                    "deadline": self.began + 1000,
                    "started": self.began,
                    "submitted": self.began - 1,
                    **more,
                }
                outcome = await scheduler.wait(Poller(name, **values))
                return name, self.loop.time() - self.began, outcome

            return await asyncio.gather(*(wait(name) for name in self.api.ends))

        try:
            return {name: (after, outcome) for name, after, outcome in self.loop.run_until_complete(main())}
        finally:
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()


def test_webhook_ends_a_wait_with_one_poll():
    world = World({"cm1": 47}, {"cm1": 47.2})
    ((after, outcome),) = world.run().values()
    assert 47.2 <= after <= 47.2 + CHECK_SECONDS + 0.3
    assert (outcome.ending, outcome.noticed_by) == (TerminalStatus.COMPLETE, "webhook")
    assert len(world.api.polls) == 1
    assert Outcome.from_event(outcome.as_event()) == outcome
    ((name, milliseconds),) = world.stats.timings
    assert name == "magichour.completion_lag"
    assert milliseconds < 2000


def test_without_a_secret_the_mailbox_is_not_read():
    world = World({"cm1": 47}, {"cm1": 47}, secret=False)
    ((after, outcome),) = world.run().values()
    assert world.reads == 0
    assert outcome.noticed_by == "poll"
    assert len(world.api.polls) > 3
    assert after < 55


@pytest.mark.parametrize("errors", [3, 1000])
def test_mailbox_that_cannot_be_read_leaves_the_net(errors):
    world = World({"cm1": 47}, {"cm1": 47})
    world.read_errors = errors
    ((after, outcome),) = world.run().values()
    assert outcome.ending is TerminalStatus.COMPLETE
    assert after <= 55 + NET_SECONDS


def test_wait_does_not_end_in_the_quiet_time_after_a_deferral():
    world = World({"cm1": 2}, {"cm1": 2})
    ((after, outcome),) = world.run(quiet_until=world.began + 7).values()
    assert 7 <= after < 8
    assert outcome.noticed_by == "webhook"


def test_wait_ends_if_the_mailbox_answers_while_the_scheduler_closes():
    """Before Python 3.12, `asyncio.wait_for` swallows a cancellation at the moment of the answer."""
    world = World({"cm1": 5}, {})

    async def main():
        answer = world.loop.create_future()

        async def read_mailbox():
            await answer
            return Mailbox(None, {}).as_text()

        scheduler = PollScheduler(
            world.api.read_settings,
            on_idle=lambda: answer.set_result(None),
            build=world.api.build,
            clock=world.loop.time,
            read_mailbox=read_mailbox,
        )
        wait = scheduler.wait(Poller("cm1", deadline=world.began + 50, started=world.began, poll_interval=4))
        return await asyncio.wait_for(wait, 100)

    assert world.loop.run_until_complete(main()).ending is TerminalStatus.COMPLETE


def test_webhook_that_came_just_before_the_wait_is_found():
    world = World({"cm1": -20}, {"cm1": -20})
    ((after, outcome),) = world.run().values()
    assert after < CHECK_SECONDS + 0.3
    assert outcome.noticed_by == "webhook"


def test_webhook_that_precedes_the_answer_is_believed_by_a_poll():
    """The job's state may be older than the webhook for a moment: nothing ends before Magic Hour says so."""
    world = World({"cm1": 50}, {"cm1": 45})
    ((after, outcome),) = world.run().values()
    assert outcome.ending is TerminalStatus.COMPLETE
    assert 50 <= after < 56


def test_job_of_unknown_age_and_a_chosen_interval_are_polled_as_without_webhooks():
    unknown = World({"cm1": 47}, {})
    ((after, _),) = unknown.run(submitted=None, poll_immediately=True).values()
    assert unknown.api.polls[0][0] < unknown.began + 1
    chosen = World({"cm1": 47}, {})
    ((after, _),) = chosen.run(poll_interval=10).values()
    assert after < 60
    assert len(chosen.api.polls) >= 4


def test_missing_webhook_returns_all_jobs_to_the_ordinary_pace_until_the_next_one_comes():
    ends = {f"cm{number}": 40 for number in range(20)}
    world = World({**ends, "late": 400}, {})
    results = world.run()
    assert world.watch.is_failing
    waits = [after for name, (after, _) in results.items() if name != "late"]
    assert max(waits) < 48 + NET_SECONDS
    assert results["late"][0] < 400 + 25, "the ordinary pace at that age"
    recovered = WebhookWatch()
    recovered.is_failing = True
    assert recovered.update(Mailbox(1.0, {"cm9": 1.0})) == ["cm9"]
    assert not recovered.is_failing


def test_canceled_job_says_nothing_of_webhooks():
    """Magic Hour sends no webhook for it."""
    world = World({"cm1": 30}, {})

    async def canceled(self, project_id):
        project = await get_video(self, project_id)
        return project.model_copy(update={"status": "canceled"}) if project.status == "complete" else project

    get_video = type(asyncio.run(world.api.build(SETTINGS, max_connections=1))).get_video
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.unit.polling.conftest.Client.get_video", canceled)
        ((_, outcome),) = world.run().values()
    assert outcome.ending is TerminalStatus.CANCELED
    assert not world.watch.is_failing


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.floats(1, 300), st.one_of(st.none(), st.floats(0, 200))), min_size=1, max_size=15)
)
def test_no_wait_ends_later_than_by_polls_and_one_slow_interval(jobs):
    """Whether webhooks come, are late, or do not come."""
    ends = {f"cm{number}": end for number, (end, _) in enumerate(jobs)}
    reported = {f"cm{n}": end + late for n, (end, late) in enumerate(jobs) if late is not None}
    results = World(ends, reported).run()
    ordinary = World(ends, {}, secret=False).run()
    for name, (after, outcome) in results.items():
        assert outcome.ending is TerminalStatus.COMPLETE
        # Intervals are drawn at random; far beyond the usual duration they are up to 60 s.
        assert after <= max(ordinary[name][0], ends[name] + 25) + NET_SECONDS + 25
        if name in reported:
            assert after <= reported[name] + CHECK_SECONDS + 0.5


def test_mailbox_keeps_what_is_new_and_forgets_what_is_old():
    mailbox = Mailbox().add(100.0, ["a", "b"]).add(130.0, ["b", "c"])
    assert mailbox == Mailbox(130.0, {"a": 100.0, "b": 100.0, "c": 130.0})
    assert Mailbox.from_text(mailbox.as_text()) == mailbox
    later = mailbox.add(100.0 + RETENTION_SECONDS, [])
    assert set(later.ended) == {"c"}
    many = Mailbox().add(1.0, [f"cm{number}" for number in range(5000)])
    assert len(many.ended) == 1000


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "{", "[]", "7", '{"ended": 5}', '{"ended": {"a": "x"}}'),
        *(f'{{"received_at": {at}}}' for at in ("{}", "Infinity", "NaN", "1e300", "-1e999")),
    ],
)
def test_mailbox_that_a_user_has_edited_is_empty(text):
    assert Mailbox.from_text(text) == Mailbox()


def test_edited_entry_of_the_future_does_not_stay():
    crowd = Mailbox(1.0, {f"cm{number}": 1e12 for number in range(1000)})
    assert crowd.add(100.0, ["cmNew"]).ended == {"cmNew": 100.0}


@given(st.text(max_size=30))
def test_key_of_the_mailbox_has_no_word_that_airflow_masks(conn_id):
    assert mailbox_key(conn_id).removeprefix("magichour_webhooks_").isalnum()
