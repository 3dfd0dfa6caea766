"""Many waiters at one hub, over real HTTP to the sandbox."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
from collections import Counter
from contextvars import ContextVar

import pytest

from magichour_provider.client.models import ImageToVideoRequest
from magichour_provider.client.settings import ClientSettings
from magichour_provider.client.sync import MagicHourClient
from magichour_provider.exceptions import (
    ConfigurationError,
    MagicHourError,
    NotFoundError,
    UndefinedConnectionError,
)
from magichour_provider.polling import metrics
from magichour_provider.polling import scheduler as hub_module
from magichour_provider.polling import schedulers as hubs_module
from magichour_provider.polling.outcome import TerminalStatus
from magichour_provider.polling.poller import Poller
from magichour_provider.polling.schedulers import scheduler_for

LOOKS = {"method": "GET", "path": "/v1/video-projects/*"}


@pytest.fixture
def settings(magichour_sandbox):
    return ClientSettings(magichour_sandbox.api_key, magichour_sandbox.url)


@pytest.fixture
def submit(settings, magichour_sandbox):
    magichour_sandbox.control.account(credits=100_000)
    with MagicHourClient.from_settings(settings) as client:
        request = ImageToVideoRequest(
            image_file_path="saved-items/a/b.png", end_seconds=3, model="ltx-2.3", resolution="480p"
        )
        yield lambda: client.create_image_to_video(request).id


class Reader:
    """Reads the connection; what it finds may be changed, and errors be put in its way."""

    def __init__(self, settings, *errors):
        self.settings = settings
        self.errors = list(errors)
        self.reads = 0

    async def __call__(self):
        self.reads += 1
        await asyncio.sleep(0.01)
        if self.errors:
            raise self.errors.pop(0)
        return self.settings


class Recorder:
    """Stands for Airflow's Stats, and remembers."""

    def __init__(self):
        self.counts, self.levels, self.times = Counter(), [], []

    def incr(self, stat, count=1, *, tags=None):
        self.counts[stat] += count

    def gauge(self, stat, value, *, tags=None):
        self.levels.append((stat, value, tags))

    def timing(self, stat, dt, *, tags=None):
        self.times.append((stat, dt))


def watch(project_id, *, timeout=60.0, poll_interval=0.1):
    now = time.time()
    return Poller(project_id, deadline=now + timeout, started=now, poll_interval=poll_interval)


def wait(reader, *watches, stats=metrics.NoStats()):  # noqa: B008
    async def wait_for_all():
        hub = scheduler_for("mh", reader, stats)
        return await asyncio.gather(*(hub.wait(each) for each in watches))

    return asyncio.run(wait_for_all())


def entries(sandbox):
    return {job["id"]: job for job in sandbox.control.state()["jobs"]}


def endings(outcomes):
    return {outcome.ending for outcome in outcomes}


async def until(condition, *, patience=20.0):
    ends = time.monotonic() + patience
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < ends, "the condition did not come true"
        await asyncio.sleep(0.02)


def test_all_waiters_of_a_connection_share_one_client_and_one_look_up(settings, submit):
    reader = Reader(settings)
    assert endings(wait(reader, *(watch(submit()) for _ in range(30)))) == {TerminalStatus.COMPLETE}
    assert reader.reads == 1


def test_the_last_waiter_to_leave_closes_the_client(settings, submit):
    async def wait_twice():
        hub = scheduler_for("mh", Reader(settings))
        waits = [asyncio.create_task(hub.wait(watch(submit()))) for _ in range(3)]
        await until(lambda: hub._client.is_there)
        with hub._client.lease() as client:
            pass
        await asyncio.gather(*waits)
        assert client._session.closed
        assert scheduler_for("mh", Reader(settings)) is not hub

    asyncio.run(wait_twice())


def test_waiters_for_one_job_share_its_looks(settings, submit, magichour_sandbox):
    project_id = submit()
    magichour_sandbox.control.set_job(project_id, "complete")
    outcomes = wait(Reader(settings), *(watch(project_id, poll_interval=0.5) for _ in range(20)))
    assert endings(outcomes) == {TerminalStatus.COMPLETE}
    assert entries(magichour_sandbox)[project_id]["polls"] == 1


def test_one_who_asks_gets_the_answer_of_the_look_that_is_under_way(settings, submit, magichour_sandbox):
    project_id = submit()
    magichour_sandbox.control.faults([{**LOOKS, "hold": "before"}])

    async def ask():
        hub = scheduler_for("mh", Reader(settings))
        asking = [asyncio.create_task(hub.look(project_id)) for _ in range(5)]
        await until(lambda: magichour_sandbox.control.state()["held"])
        asking.append(asyncio.create_task(hub.look(project_id)))
        magichour_sandbox.control.faults([])
        await asyncio.to_thread(magichour_sandbox.control.release)
        return await asyncio.gather(*asking)

    assert {project.id for project in asyncio.run(ask())} == {project_id}
    assert entries(magichour_sandbox)[project_id]["polls"] == 1


def test_one_who_asks_for_a_job_that_is_not_there_is_told(settings):
    async def ask():
        await scheduler_for("mh", Reader(settings)).look("cm0000000000000000000000x")

    with pytest.raises(NotFoundError):
        asyncio.run(ask())


def test_no_more_looks_are_under_way_than_there_are_sockets(settings, submit, magichour_sandbox):
    jobs = [submit() for _ in range(40)]
    magichour_sandbox.control.faults([{**LOOKS, "hold": "before"}])

    async def count():
        hub = scheduler_for("mh", Reader(settings))
        waits = [asyncio.create_task(hub.wait(watch(job))) for job in jobs]
        held = []
        await until(lambda: len(magichour_sandbox.control.state()["held"]) == 8)
        for _ in range(5):
            await asyncio.sleep(0.1)
            held.append(len((await asyncio.to_thread(magichour_sandbox.control.state))["held"]))
        magichour_sandbox.control.faults([])
        await asyncio.to_thread(magichour_sandbox.control.release)
        return max(held), endings(await asyncio.gather(*waits))

    assert asyncio.run(count()) == (8, {TerminalStatus.COMPLETE})


def test_under_overload_nobody_starves(settings, submit, magichour_sandbox):
    """Sixty jobs want ten looks a second each, and the connection allows sixty in all."""
    magichour_sandbox.control.behaviour(render_seconds=3600)
    jobs = [submit() for _ in range(60)]
    limited = dataclasses.replace(settings, requests_per_second=60)
    began = time.monotonic()
    outcomes = wait(Reader(limited), *(watch(job, timeout=4.0) for job in jobs))
    passed = time.monotonic() - began
    polls = [entries(magichour_sandbox)[job]["polls"] for job in jobs]
    assert endings(outcomes) == {TerminalStatus.TIMEOUT}
    assert sum(polls) <= 60 * passed + 2
    assert max(polls) - min(polls) <= 2


def test_a_refusal_pauses_everybody(settings, submit, magichour_sandbox):
    jobs = [submit() for _ in range(50)]
    refusal = {**LOOKS, "status": 429, "headers": {"Retry-After": "2"}, "times": 1}
    magichour_sandbox.control.faults([refusal])
    stats = Recorder()
    assert endings(wait(Reader(settings), *(watch(job) for job in jobs), stats=stats)) == {
        TerminalStatus.COMPLETE
    }
    assert stats.counts[metrics.RATE_LIMIT_PAUSES] == 1
    # Those under way with the first, and nobody for two seconds: each would have had twenty looks in those.
    assert stats.counts[metrics.LOOKS] < 50 * 6


def test_a_cancelled_waiter_leaves_the_others_waiting(settings, submit, magichour_sandbox):
    magichour_sandbox.control.behaviour(render_seconds=2)

    async def wait_for_two():
        hub = scheduler_for("mh", Reader(settings))
        job = submit()
        first, second, same = (asyncio.create_task(hub.wait(watch(each))) for each in (submit(), job, job))
        await asyncio.sleep(0)
        first.cancel()
        same.cancel()
        outcome = await second
        await asyncio.gather(first, same, return_exceptions=True)
        return outcome.ending, first.cancelled(), same.cancelled()

    assert asyncio.run(wait_for_two()) == (TerminalStatus.COMPLETE, True, True)


def test_waiters_that_are_cancelled_again_and_again_leave_no_socket_open(settings, submit, magichour_sandbox):
    magichour_sandbox.control.behaviour(render_seconds=3600)
    jobs = [submit() for _ in range(5)]

    async def kill():
        hub = scheduler_for("mh", Reader(settings))
        waits = [asyncio.create_task(hub.wait(watch(job))) for job in jobs]
        await until(lambda: sum(job["polls"] for job in entries(magichour_sandbox).values()) > 5)
        with hub._client.lease() as client:
            pass
        for _ in range(3):
            for each in waits:
                each.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*waits, return_exceptions=True)
        await until(lambda: client._session.closed)

    asyncio.run(kill())


def test_a_wait_whose_looks_are_never_answered_ends_by_its_deadline(
    settings, submit, magichour_sandbox, monkeypatch
):
    monkeypatch.setattr(hub_module, "_DEADLINE_GRACE", 0.2)
    jobs = [submit() for _ in range(20)]
    magichour_sandbox.control.faults([{**LOOKS, "hold": "before"}])
    outcomes = wait(Reader(settings), *(watch(job, timeout=1.0) for job in jobs))
    magichour_sandbox.control.release()
    assert endings(outcomes) == {TerminalStatus.TIMEOUT}


def test_a_connection_that_cannot_be_used_ends_the_wait_and_not_the_next_ones(settings, submit):
    broken = Reader(settings, *[ConfigurationError("The connection has no password.")] * 9)
    refused = wait(broken, *(watch(submit()) for _ in range(5)))
    assert endings(refused) == {TerminalStatus.REFUSED}
    assert "no password" in str(refused[0].error())
    assert broken.reads == 1
    assert endings(wait(Reader(settings), watch(submit()))) == {TerminalStatus.COMPLETE}


def test_secrets_that_are_away_when_the_first_look_is_made_end_no_wait(settings, submit):
    """To Airflow a connection is "not defined" then, too."""
    reader = Reader(settings, *[UndefinedConnectionError("Connection 'mh' is not defined.")] * 2)
    assert endings(wait(reader, *(watch(submit()) for _ in range(20)))) == {TerminalStatus.COMPLETE}


def test_a_connection_that_was_never_there_ends_the_wait_after_a_time(settings, submit, monkeypatch):
    monkeypatch.setattr("magichour_provider.polling.shared_client._BELIEVED_AFTER", 1.5)
    reader = Reader(settings, *[UndefinedConnectionError("Connection 'mh' is not defined.")] * 1000)
    (outcome,) = wait(reader, watch(submit()))
    assert outcome.ending is TerminalStatus.REFUSED
    assert "not defined" in str(outcome.error())


def test_a_look_up_that_fails_for_a_while_is_ridden_out_by_every_waiter(settings, submit):
    reader = Reader(settings, OSError("the API server restarts"), OSError("still"))
    assert endings(wait(reader, *(watch(submit()) for _ in range(20)))) == {TerminalStatus.COMPLETE}
    assert reader.reads == 3


def test_a_key_that_was_changed_is_found_when_the_old_one_is_refused(settings, submit):
    reader = Reader(dataclasses.replace(settings, api_key="revoked"))

    async def change():
        hub = scheduler_for("mh", reader)
        await hub._client.refresh()
        reader.settings = settings
        return await asyncio.gather(*(hub.wait(watch(submit())) for _ in range(10)))

    assert endings(asyncio.run(change())) == {TerminalStatus.COMPLETE}
    assert reader.reads == 2


def test_a_key_that_is_still_the_same_is_refused_for_good_by_one_more_look_up(settings, submit):
    reader = Reader(dataclasses.replace(settings, api_key="revoked"))
    outcomes = wait(reader, *(watch(submit()) for _ in range(20)))
    assert {(outcome.ending, outcome.error_status) for outcome in outcomes} == {(TerminalStatus.REFUSED, 401)}
    assert reader.reads == 2


@pytest.fixture
def often(monkeypatch):
    """The connection is read again twenty times a second instead of three times a minute."""
    monkeypatch.setattr(hub_module, "_TICK", 0.05)
    monkeypatch.setattr(hub_module, "_TICKS_TO_REREAD", 1)


def test_a_connection_that_was_changed_is_followed(settings, submit, often):
    nowhere = dataclasses.replace(settings, base_url="http://127.0.0.1:9")
    reader = Reader(nowhere)

    async def change():
        hub = scheduler_for("mh", reader)
        waits = [asyncio.create_task(hub.wait(watch(submit()))) for _ in range(5)]
        await until(lambda: hub._counts.look_errors or reader.reads > 3)
        reader.settings = settings
        return await asyncio.gather(*waits)

    assert endings(asyncio.run(change())) == {TerminalStatus.COMPLETE}


@pytest.mark.parametrize(
    ("misses", "ending"), [(3, TerminalStatus.COMPLETE), (100_000, TerminalStatus.REFUSED)]
)
@pytest.mark.parametrize("error", [UndefinedConnectionError, ConfigurationError])
def test_a_connection_that_was_good_is_not_given_up_for_one_miss(
    settings, submit, magichour_sandbox, often, monkeypatch, error, misses, ending
):
    if misses > 3:
        monkeypatch.setattr("magichour_provider.polling.shared_client._BELIEVED_AFTER", 0.5)
    misses = misses if error is UndefinedConnectionError or misses > 3 else 1
    magichour_sandbox.control.behaviour(render_seconds=3600)
    reader, jobs = Reader(settings), [submit() for _ in range(3)]

    async def delete():
        hub = scheduler_for("mh", reader)
        waits = [asyncio.create_task(hub.wait(watch(job))) for job in jobs]
        await until(lambda: sum(job["polls"] for job in entries(magichour_sandbox).values()) > 3)
        reads = reader.reads
        reader.errors = [error("Connection 'mh' is not defined.")] * misses
        if ending is TerminalStatus.COMPLETE:
            await until(lambda: reader.reads >= reads + 5)
            for job in jobs:
                await asyncio.to_thread(magichour_sandbox.control.set_job, job, "complete")
        return await asyncio.gather(*waits)

    assert endings(asyncio.run(delete())) == {ending}


def test_a_loop_that_ends_under_its_waiters_harms_no_later_one(settings, submit, magichour_sandbox):
    magichour_sandbox.control.behaviour(render_seconds=3600)
    loop = asyncio.new_event_loop()
    job = submit()

    async def abandon():
        task = asyncio.ensure_future(scheduler_for("mh", Reader(settings)).wait(watch(job)))
        await until(lambda: entries(magichour_sandbox)[job]["polls"] > 0)
        return task

    abandoned = loop.run_until_complete(abandon())
    loop.close()
    magichour_sandbox.control.set_job(job, "complete")
    assert endings(wait(Reader(settings), watch(job))) == {TerminalStatus.COMPLETE}
    assert not hubs_module._hubs._by_loop
    assert not abandoned.done()
    abandoned._log_destroy_pending = False
    abandoned.get_coro().close()


def test_a_fork_waits_by_itself_and_leaves_its_parent_waiting(settings, submit, magichour_sandbox):
    magichour_sandbox.control.behaviour(render_seconds=3600)
    ours, theirs = submit(), submit()
    magichour_sandbox.control.set_job(theirs, "complete")

    async def fork():
        hub = scheduler_for("mh", Reader(settings))
        waiting = asyncio.create_task(hub.wait(watch(ours)))
        await until(lambda: entries(magichour_sandbox)[ours]["polls"] > 0)
        child = os.fork()
        if child == 0:
            asyncio._set_running_loop(None)
            try:
                (outcome,) = wait(Reader(settings), watch(theirs))
                os._exit(0 if outcome.ending is TerminalStatus.COMPLETE else 1)
            finally:
                os._exit(2)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        polls = entries(magichour_sandbox)[ours]["polls"]
        await until(lambda: entries(magichour_sandbox)[ours]["polls"] > polls)
        await asyncio.to_thread(magichour_sandbox.control.set_job, ours, "complete")
        return os.waitstatus_to_exitcode(status), (await waiting).ending

    assert asyncio.run(fork()) == (0, TerminalStatus.COMPLETE)


def test_what_is_said_of_a_job_is_logged_in_the_context_of_its_waiter(settings, submit, magichour_sandbox):
    whose = ContextVar("whose", default="nobody")
    said = []

    class Listener(logging.Handler):
        def emit(self, record):
            said.append((whose.get(), record.getMessage()))

    magichour_sandbox.control.faults([{**LOOKS, "status": 429, "headers": {"Retry-After": "1"}, "times": 1}])
    jobs = {name: submit() for name in ("first", "second")}

    async def wait_as(name):
        whose.set(name)
        return await scheduler_for("mh", Reader(settings)).wait(watch(jobs[name]))

    async def wait_for_both():
        await asyncio.gather(*(wait_as(name) for name in jobs))

    logger = logging.getLogger("magichour_provider.polling")
    listener, level = Listener(), logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        asyncio.run(wait_for_both())
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
    for name, job in jobs.items():
        assert (name, f"Job {job} is complete.") in said
    assert {who for who, message in said if job_of(message, jobs) not in (None, who)} == set()
    assert [who for who, message in said if "asks for fewer requests" in message] == ["nobody"]


def job_of(message, jobs):
    return next((name for name, job in jobs.items() if job in message), None)


def test_looks_errors_and_waits_are_counted(settings, submit, magichour_sandbox):
    magichour_sandbox.control.faults([{**LOOKS, "status": 500, "times": 3}])
    stats, jobs = Recorder(), [submit() for _ in range(4)]
    wait(Reader(settings), *(watch(job) for job in jobs), stats=stats)
    polls = sum(entries(magichour_sandbox)[job]["polls"] for job in jobs)
    assert stats.counts[metrics.LOOKS] == polls + 3
    assert stats.counts[metrics.LOOK_ERRORS] == 3
    assert len([name for name, _ in stats.times if name == metrics.DETECTION_DELAY]) == 4
    assert stats.levels[-1] == (metrics.CLIPS_WAITING, 0, {"conn_id": "mh"})


def test_how_many_wait_is_told_while_they_do(settings, submit, magichour_sandbox, often):
    magichour_sandbox.control.behaviour(render_seconds=3600)
    stats, jobs = Recorder(), [submit() for _ in range(4)]

    async def watch_levels():
        hub = scheduler_for("mh", Reader(settings), stats)
        waits = [asyncio.create_task(hub.wait(watch(job))) for job in jobs]
        await until(lambda: (metrics.CLIPS_WAITING, 4, {"conn_id": "mh"}) in stats.levels)
        for each in waits:
            each.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    asyncio.run(watch_levels())


def test_a_metrics_system_that_is_broken_disturbs_nobody(settings, submit, often):
    class Broken(Recorder):
        def incr(self, stat, count=1, *, tags=None):
            raise OSError("no route to host")

    assert endings(wait(Reader(settings), watch(submit()), stats=Broken())) == {TerminalStatus.COMPLETE}


def ended_job(submit, sandbox):
    job = submit()
    sandbox.control.set_job(job, "complete")
    return job


def test_a_clip_that_was_done_in_time_is_found_after_the_deadline(settings, submit, magichour_sandbox):
    """A triggerer that was down for long starts the trigger anew."""
    now = time.time()
    late = Poller(ended_job(submit, magichour_sandbox), deadline=now - 600, started=now)
    quiet = Poller(ended_job(submit, magichour_sandbox), deadline=now - 600, started=now, quiet_until=now + 1)
    assert endings(wait(Reader(settings), late, quiet)) == {TerminalStatus.COMPLETE}


def test_nobody_is_told_anything_in_his_quiet_though_another_sees_the_end(
    settings, submit, magichour_sandbox
):
    job, now = ended_job(submit, magichour_sandbox), time.time()
    at = {}

    async def wait_as(name, each):
        await scheduler_for("mh", Reader(settings)).wait(each)
        at[name] = time.time() - now

    async def wait_for_both():
        quiet = Poller(job, deadline=now + 60, started=now, poll_interval=0.1, quiet_until=now + 2)
        await asyncio.gather(wait_as("awake", watch(job)), wait_as("quiet", quiet))

    asyncio.run(wait_for_both())
    assert at["awake"] < at["quiet"]
    assert at["quiet"] >= 1.9


def looks_while_failing(settings, submit, sandbox, faults, seconds):
    """How often a job is looked at within `seconds` of failures."""
    job, stats = submit(), Recorder()
    sandbox.control.faults(faults)
    wait(Reader(settings), watch(job, timeout=seconds, poll_interval=1), stats=stats)
    sandbox.control.release()
    return stats.counts[metrics.LOOKS]


def test_one_that_was_not_found_once_does_not_look_more_often_when_looks_fail(
    settings, submit, magichour_sandbox
):
    faults = [{**LOOKS, "status": 404, "body": {"message": "no"}, "times": 1}, {**LOOKS, "status": 500}]
    assert looks_while_failing(settings, submit, magichour_sandbox, faults, 8.0) <= 7


def test_looks_that_fail_slowly_come_ever_later_too(settings, submit, magichour_sandbox):
    """Each takes a second to fail: the pauses of one, two and four seconds come on top of that."""
    impatient = dataclasses.replace(settings, timeout=1.0)
    faults = [{**LOOKS, "hold": "before"}]
    assert looks_while_failing(impatient, submit, magichour_sandbox, faults, 8.0) <= 5


def test_the_limit_holds_from_the_first_look_on(settings, submit, magichour_sandbox):
    magichour_sandbox.control.behaviour(render_seconds=3600)
    jobs = [submit() for _ in range(20)]
    slow = dataclasses.replace(settings, requests_per_second=1)
    began = time.monotonic()
    wait(Reader(slow), *(watch(job, timeout=1.0) for job in jobs))
    assert sum(job["polls"] for job in entries(magichour_sandbox).values()) <= time.monotonic() - began + 1


def test_a_look_that_is_under_way_ends_by_the_client_that_it_began_with(
    settings, submit, magichour_sandbox, often
):
    reader, job = Reader(settings), submit()
    magichour_sandbox.control.faults([{**LOOKS, "hold": "after"}])

    async def change():
        hub = scheduler_for("mh", reader)
        looking = asyncio.create_task(hub.look(job))
        await until(lambda: magichour_sandbox.control.state()["held"])
        with hub._client.lease() as old:
            pass
        reader.settings = dataclasses.replace(settings, api_key="another")
        await until(lambda: hub._client._made.client is not old)
        open_while_held = not old._session.closed
        magichour_sandbox.control.faults([])
        keeper = asyncio.create_task(hub.wait(watch(submit(), poll_interval=5)))
        await asyncio.to_thread(magichour_sandbox.control.release)
        project = await looking
        await until(lambda: old._session.closed)
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        return open_while_held, project.id

    assert asyncio.run(change()) == (True, job)


def test_a_connection_that_stays_as_it_is_keeps_its_client(settings, submit, magichour_sandbox, often):
    magichour_sandbox.control.behaviour(render_seconds=3600)
    reader, job = Reader(settings), submit()

    async def read_again():
        hub = scheduler_for("mh", reader)
        waiting = asyncio.create_task(hub.wait(watch(job)))
        await until(lambda: hub._client.is_there)
        with hub._client.lease() as first:
            pass
        reads = reader.reads
        await until(lambda: reader.reads >= reads + 3)
        with hub._client.lease() as last:
            pass
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return first is last

    assert asyncio.run(read_again())


def test_while_all_pause_the_loop_has_nothing_to_do(settings, submit, magichour_sandbox, monkeypatch):
    jobs, started = [submit() for _ in range(20)], []
    refusal = {**LOOKS, "status": 429, "headers": {"Retry-After": "3"}, "times": 1}
    magichour_sandbox.control.faults([refusal])
    start_looks = hub_module.PollScheduler._start_looks

    def count(hub):
        started.append(hub._limiter.free_at() > hub._loop.time())
        start_looks(hub)

    monkeypatch.setattr(hub_module.PollScheduler, "_start_looks", count)
    assert endings(wait(Reader(settings), *(watch(job) for job in jobs))) == {TerminalStatus.COMPLETE}
    assert sum(started) < 30


def test_a_wait_that_has_ended_leaves_no_timer_and_no_look_behind(settings, submit, magichour_sandbox):
    magichour_sandbox.control.behaviour(render_seconds=3600)
    ended, abandoned, other = submit(), submit(), submit()
    magichour_sandbox.control.set_job(ended, "complete")

    async def leave():
        hub = scheduler_for("mh", Reader(settings))
        keeper = asyncio.create_task(hub.wait(watch(other)))
        await hub.wait(watch(ended, timeout=3000))
        leaving = asyncio.create_task(hub.wait(watch(abandoned, timeout=3000)))
        await until(lambda: entries(magichour_sandbox)[abandoned]["polls"] > 0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        polls = {job: entries(magichour_sandbox)[job]["polls"] for job in (ended, abandoned, other)}
        await until(lambda: entries(magichour_sandbox)[other]["polls"] > polls[other] + 10)
        after = {job: entries(magichour_sandbox)[job]["polls"] for job in (ended, abandoned)}
        timers = [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]
        late = [timer for timer in timers if timer.when() > asyncio.get_running_loop().time() + 1000]
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        # One look of the abandoned job may have been under way.
        return after[ended] == polls[ended], after[abandoned] - polls[abandoned] <= 1, len(late)

    assert asyncio.run(leave()) == (True, True, 0)


def test_a_hub_whose_answers_are_slow_opens_more_sockets(settings, submit, magichour_sandbox, often):
    magichour_sandbox.control.behaviour(render_seconds=3600)
    magichour_sandbox.control.faults([{**LOOKS, "delay": 2.0}])
    jobs = [submit() for _ in range(60)]

    async def widen():
        hub = scheduler_for("mh", Reader(settings))
        waits = [asyncio.create_task(hub.wait(watch(job))) for job in jobs]
        await until(lambda: hub._width.allowed > 8)
        for each in waits:
            each.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    asyncio.run(widen())


def test_a_password_of_a_proxy_is_in_no_error(settings):
    """The proxy is the sandbox, which refuses to be one."""
    url = settings.base_url.replace("http://", "http://user:s3cretpass@")
    behind = dataclasses.replace(settings, base_url="https://127.0.0.1:9", proxy=url)

    async def ask():
        with pytest.raises(MagicHourError) as caught:
            await scheduler_for("mh", Reader(behind)).look("cm0000000000000000000000x")
        return str(caught.value)

    assert "s3cretpass" not in asyncio.run(ask())


def test_an_answer_about_another_job_is_no_answer(settings, submit, magichour_sandbox):
    other = {"id": "cm0000000000000000000000x", "status": "complete"}
    magichour_sandbox.control.faults([{**LOOKS, "status": 200, "body": other, "times": 1}])
    job = submit()
    (outcome,) = wait(Reader(settings), watch(job))
    assert (outcome.ending, outcome.project_id, outcome.credits_charged) == (TerminalStatus.COMPLETE, job, 72)


def test_what_a_gateway_says_in_html_is_ridden_out(settings, submit, magichour_sandbox):
    faults = [{**LOOKS, "status": status, "body": "<html>", "times": 1} for status in (403, 400, 408, 425)]
    magichour_sandbox.control.faults(faults)
    assert endings(wait(Reader(settings), watch(submit()))) == {TerminalStatus.COMPLETE}


def test_no_interval_is_so_short_that_a_look_follows_upon_a_look(settings, submit, magichour_sandbox):
    magichour_sandbox.control.behaviour(render_seconds=3600)
    job = submit()
    wait(Reader(settings), watch(job, timeout=2.0, poll_interval=0.0001))
    assert entries(magichour_sandbox)[job]["polls"] <= 25


def test_a_pause_of_the_old_host_is_none_of_the_new_one(settings, submit, magichour_sandbox, often):
    refusal = {**LOOKS, "status": 429, "headers": {"Retry-After": "500"}, "times": 1}
    magichour_sandbox.control.faults([refusal])
    reader = Reader(settings)

    async def change():
        hub = scheduler_for("mh", reader)
        waiting = asyncio.create_task(hub.wait(watch(submit(), timeout=60)))
        await until(lambda: hub._limiter.free_at() > hub._loop.time() + 100)
        reader.settings = dataclasses.replace(settings, api_key="another")
        return await waiting

    assert asyncio.run(change()).ending is TerminalStatus.COMPLETE


def test_a_wait_that_cannot_begin_leaves_no_hub_behind(settings):
    class Broken(Poller):
        def pause(self, now):
            raise TypeError

    async def begin():
        now = time.time()
        with pytest.raises(TypeError):
            await scheduler_for("mh", Reader(settings)).wait(Broken("cm1", deadline=now + 60, started=now))
        return dict(hubs_module._hubs._by_loop)

    assert asyncio.run(begin()) == {}


def test_waits_that_are_given_up_long_before_their_next_look_take_no_room(settings):
    async def give_up():
        hub = scheduler_for("mh", Reader(settings))
        keeper = asyncio.create_task(hub.wait(watch("cm1", timeout=9000, poll_interval=9000)))
        for number in range(500):
            waiting = asyncio.create_task(
                hub.wait(watch(f"cm{number + 2}", timeout=9000, poll_interval=9000))
            )
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        entries_left = len(hub._agenda._heap)
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        return entries_left

    assert asyncio.run(give_up()) < 100
