from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
from contextvars import ContextVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from magichour_provider.exceptions import ConfigurationError, UndefinedConnectionError
from magichour_provider.polling import scheduler as module
from magichour_provider.polling.outcome import TerminalStatus
from magichour_provider.polling.poller import Poller
from magichour_provider.polling.scheduler import PollScheduler, get_scheduler
from tests.unit.polling.conftest import SETTINGS, Api, Recorder, VirtualTimeLoop, api_error

COMPLETE, TIMEOUT = TerminalStatus.COMPLETE, TerminalStatus.TIMEOUT
ANOTHER = dataclasses.replace(SETTINGS, api_key="another")
UNDEFINED = UndefinedConnectionError("Connection 'mh' is not defined.")


def endings(outcomes):
    return {outcome.ending for outcome in outcomes}


def test_scheduler_shares_one_client_and_one_lookup_every_20_seconds(run, api, poller, loop):
    pollers = [poller(f"cm{number}", timeout=200) for number in range(30)]
    api.ends = {each.project_id: loop.time() + 95 for each in pollers}
    assert endings(run(*pollers)) == {COMPLETE}
    assert (api.lookups, len(api.clients)) == (5, 1)
    assert api.clients[0].is_closed


def test_scheduler_polls_a_job_once_for_all_its_waits(run, api, poller, loop):
    api.ends = {"cm1": loop.time() + 10}
    assert endings(run(*(poller() for _ in range(20)))) == {COMPLETE}
    assert len(api.polls) <= 25  # the shortest first pauses, then one a second


@pytest.mark.parametrize(("grace", "status"), [(3, None), (30, "rendering")])
def test_wait_whose_deadline_has_come_takes_one_poll(run, api, poller, grace, status):
    api.latency = 5
    outcome = run(steps=lambda scheduler: scheduler.wait(poller(timeout=0, poll_immediately=True), grace))
    assert (outcome.ending, outcome.status, len(api.polls)) == (TIMEOUT, status, 1)


@pytest.mark.parametrize(("latency", "timeout", "least", "most"), [(0.5, 1, 8, 8), (5.0, 120, 9, 32)])
def test_polls_under_way_are_limited_by_the_latency(run, api, poller, latency, timeout, least, most):
    api.latency = latency
    run(*(poller(f"cm{number}", timeout=timeout, poll_interval=0.5) for number in range(80)))
    assert least <= api.most_under_way <= most


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(jobs=st.integers(2, 60), per_second=st.integers(1, 50), interval=st.floats(0.1, 5))
def test_no_job_starves_under_a_rate_limit(jobs, per_second, interval):
    loop = VirtualTimeLoop()
    api = Api(loop)
    api.settings = dataclasses.replace(SETTINGS, requests_per_second=per_second)
    began = loop.time()

    async def main():
        scheduler = PollScheduler(api.read_settings, build=api.build, clock=loop.time)
        ids = [f"cm{number}" for number in range(jobs)]
        waits = [Poller(each, deadline=began + 100, started=began, poll_interval=interval) for each in ids]
        return ids, await asyncio.gather(*(scheduler.wait(each) for each in waits))

    ids, outcomes = loop.run_until_complete(main())
    loop.close()
    counts = [api.count(each) for each in ids]
    assert endings(outcomes) == {TIMEOUT}
    assert loop.time() <= began + 104  # the deadline and its grace
    assert len(api.polls) <= per_second * (loop.time() - began) + 3
    if jobs / interval > 1.5 * per_second:
        assert max(counts) - min(counts) <= 2 + 0.1 * max(counts)


def test_poll_429_pauses_all_jobs(run, api, poller, caplog):
    api.poll_errors = [api_error(429, retry_after=20)]
    stats = Recorder()
    run(*(poller(f"cm{number}", timeout=40) for number in range(20)), stats=stats)
    times = sorted(time for time, _ in api.polls)
    longest = max(later - earlier for earlier, later in itertools.pairwise(times))
    assert longest >= 19
    assert stats.counts["magichour.rate_limited"] == 1
    assert "Rate limited by Magic Hour (HTTP 429); polling paused for 20 s." in caplog.messages


def test_logs_of_a_job_are_in_the_context_of_its_wait(run, api, poller, loop, caplog, monkeypatch):
    whose, logged = ContextVar("whose", default="no task"), []
    api.ends = {name: loop.time() + 2 for name in ("cm1", "cm2")}
    api.poll_errors = [api_error(429, retry_after=1)]
    caplog.set_level(logging.INFO, logger="magichour_provider.polling")
    monkeypatch.setattr(
        caplog.handler, "emit", lambda record: logged.append((whose.get(), record.getMessage()))
    )

    async def steps(scheduler):
        async def wait(name):
            whose.set(name)
            return await scheduler.wait(poller(name))

        return await asyncio.gather(wait("cm1"), wait("cm2"))

    run(steps=steps)
    assert {(name, f"Job {name} is complete.") for name in api.ends} <= set(logged)
    assert all(who == "no task" for who, message in logged if "Rate limited" in message)
    assert all(who in message for who, message in logged if "Job cm" in message)


def test_metrics_count_polls_errors_lags_and_jobs(run, api, poller, loop):
    pollers = [poller(f"cm{number}") for number in range(4)]
    api.ends = {each.project_id: loop.time() + 20 for each in pollers}
    api.poll_errors = [api_error(500)] * 3
    stats = Recorder()
    run(*pollers, stats=stats)
    loop.run_until_complete(loop.shutdown_default_executor())
    assert stats.counts["magichour.polls"] == len(api.polls)
    assert stats.counts["magichour.poll_errors"] == 3
    assert [name for name, _ in stats.timings] == ["magichour.completion_lag"] * 4
    assert ("magichour.jobs_waiting", 4, {"conn_id": "mh"}) in stats.gauges
    assert stats.gauges[-1] == ("magichour.jobs_waiting", 0, {"conn_id": "mh"})


def test_cancelled_waits_leave_the_others_and_the_last_closes_the_client(run, api, poller, loop):
    api.ends = {"cm1": loop.time() + 5}

    async def steps(scheduler):
        waits = [asyncio.create_task(scheduler.wait(poller(each))) for each in ("cm1", "cm1", "cm2", "cm3")]
        await asyncio.sleep(1)
        waits[1].cancel()
        waits[2].cancel()
        ending = (await waits[0]).ending
        for _ in range(3):  # as Airflow does
            waits[3].cancel()
            await asyncio.sleep(0)
        await asyncio.sleep(1)
        return ending

    assert run(steps=steps) is COMPLETE
    assert api.clients[0].is_closed


def test_unanswered_polls_end_the_wait_after_the_deadline(run, api, poller, loop):
    api.latency = 1e6
    began = loop.time()
    assert endings(run(*(poller(f"cm{number}", timeout=30) for number in range(20)))) == {TIMEOUT}
    assert loop.time() - began <= 34


def test_job_that_ended_before_a_passed_deadline_is_found(run, api, poller, loop):
    api.ends = {"cm1": loop.time() - 100}
    assert endings(run(poller(timeout=-600))) == {COMPLETE}


def test_quiet_wait_gets_no_outcome_before_its_quiet_time_ends(run, api, poller, loop):
    api.ends = {"cm1": loop.time()}
    began = loop.time()
    assert endings(run(poller(), poller(quiet_until=began + 7))) == {COMPLETE}
    assert loop.time() >= began + 6.9


@pytest.mark.parametrize(("misses", "ending"), [(2, COMPLETE), (3, TerminalStatus.DELETED)])
def test_poll_404_is_believed_the_third_time(run, api, poller, loop, misses, ending):
    api.ends = {"cm1": loop.time()}
    api.poll_errors = [api_error(404)] * misses
    assert endings(run(poller())) == {ending}
    assert len(api.polls) == 3


def test_failing_polls_back_off(run, api, poller):
    api.poll_errors = [api_error(500)] * 1000
    run(poller(timeout=60))
    assert len(api.polls) <= 9


def change_after(seconds, change, *pollers):
    """Start waits, change something, and wait for their outcomes."""

    async def steps(scheduler):
        waits = [asyncio.create_task(scheduler.wait(each)) for each in pollers]
        await asyncio.sleep(seconds)
        change()
        return await asyncio.gather(*waits)

    return steps


class TestConnection:
    def test_unusable_connection_ends_the_wait(self, run, api, poller):
        api.lookup_errors = [ConfigurationError("The connection has no password.")] * 9
        (first, second) = run(poller("cm1"), poller("cm2"))
        assert endings([first, second]) == {TerminalStatus.REFUSED}
        assert "no password" in str(first.error())

    def test_failed_lookup_is_repeated(self, run, api, poller, loop):
        api.ends = {"cm1": loop.time()}
        api.lookup_errors = [OSError("the API server restarts"), OSError("still")]
        assert endings(run(poller())) == {COMPLETE}

    @pytest.mark.parametrize(("misses", "ending"), [(2, COMPLETE), (1000, TerminalStatus.REFUSED)])
    def test_undefined_connection_is_believed_after_30_seconds(self, run, api, poller, loop, misses, ending):
        began = loop.time()
        api.ends = {"cm1": began}
        api.lookup_errors = [UNDEFINED] * misses
        assert endings(run(poller(timeout=600))) == {ending}
        assert (loop.time() - began >= 30) == (misses > 2)

    @pytest.mark.parametrize(
        ("before", "after"),
        [([], []), ([api_error(429, retry_after=500)], []), ([], [api_error(401)])],
        ids=["followed within 20 s", "pause of the old one is dropped", "refused key is read again"],
    )
    def test_changed_connection_is_used(self, run, api, poller, loop, before, after):
        began = loop.time()
        api.poll_errors = list(before)
        api.ends = {"cm1": began + 25.2}

        def change():
            api.settings, api.poll_errors = ANOTHER, list(after)

        assert endings(run(steps=change_after(5, change, poller(timeout=600)))) == {COMPLETE}
        assert [client.settings.api_key for client in api.clients] == ["key", "another"]
        assert api.clients[0].is_closed
        assert loop.time() - began < 60

    def test_poll_under_way_ends_with_the_client_it_began_with(self, run, api, poller, loop):
        api.latency = 25.0

        def change():
            api.settings = ANOTHER
            api.ends = {"a": loop.time(), "b": loop.time()}

        steps = change_after(15, change, poller("a", timeout=600), poller("b", timeout=600))
        assert endings(run(steps=steps)) == {COMPLETE}
        assert len(api.clients) == 2

    @pytest.mark.parametrize(("misses", "ending"), [(1, TIMEOUT), (1000, TerminalStatus.REFUSED)])
    @pytest.mark.parametrize("error", [UNDEFINED, ConfigurationError("no password")])
    def test_working_connection_is_not_given_up_for_one_miss(self, run, api, poller, misses, ending, error):
        steps = change_after(5, lambda: api.lookup_errors.extend([error] * misses), poller(timeout=300))
        assert endings(run(steps=steps)) == {ending}

    def test_refused_key_is_read_again_once(self, run, api, poller):
        api.poll_errors = [api_error(401)] * 100
        outcomes = run(*(poller(f"cm{number}") for number in range(20)))
        assert {(each.ending, each.error_status) for each in outcomes} == {(TerminalStatus.REFUSED, 401)}
        assert api.lookups == 2


def test_get_scheduler_is_one_per_loop_and_connection_and_forgotten_when_idle(loop, api, poller):
    async def main():
        first = get_scheduler("mh", api.read_settings)
        assert get_scheduler("mh", api.read_settings) is first
        assert get_scheduler("other", api.read_settings) is not first
        for conn_id in ("mh", "other"):
            scheduler = get_scheduler(conn_id, api.read_settings)
            scheduler._client._build = api.build
            await scheduler.wait(poller(timeout=1))

    loop.run_until_complete(main())
    assert not [key for key in module._schedulers if key[0] is loop]
