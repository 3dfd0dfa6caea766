"""Each version of an item is charged at most once: a state machine of attempts, kills, faults and Clears.

The same rules hold for a state on a disk and for one in an object store.
"""

from __future__ import annotations

import itertools
import tempfile
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from math import inf
from types import SimpleNamespace
from typing import ClassVar
from unittest import mock

import httpx
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from world import AlwaysRunning, Clock, Killed, MagicHour, Steps, killed

from magichour_provider.client.settings import ClientSettings
from magichour_provider.client.sync import MagicHourClient
from magichour_provider.exceptions import MagicHourError, TaskKilledError
from magichour_provider.jobs import batch as batch_module
from magichour_provider.jobs import batch_state
from magichour_provider.jobs.batch import Batch
from magichour_provider.jobs.batch_items import read_items
from magichour_provider.jobs.batch_state import BatchInUseError, BatchState, ItemStage, ItemState
from magichour_provider.jobs.state_backends import StateConflictError, StateFile
from magichour_provider.jobs.submit import DeferredTimeout
from magichour_provider.storage.locations import ObjectPath

AMBIGUOUS = {502, "lost on the way", "answer lost", "unreadable"}
FAULTS = [None, None, None, 429, 503, 402, 422, "never connected", *sorted(AMBIGUOUS, key=str)]
ITEMS = 5


class SameThread:
    """An executor that runs each call at once, so that every step has its place."""

    def __init__(self, *_):
        pass

    def submit(self, function, *arguments):
        future = Future()
        try:
            future.set_result(function(*arguments))
        except MagicHourError as error:
            future.set_exception(error)
        return future

    def map(self, function, *iterables):
        return list(map(function, *iterables))

    def shutdown(self, **_):
        pass


class Runs:
    """Runs of one task, attempt by attempt, each with the same state file."""

    def __init__(self, magic, clock, path):
        self.magic, self.clock, self.path = magic, clock, path
        self.reported = set()
        self.numbers = itertools.count()
        self.new_run()

    def new_run(self):
        self.ti = SimpleNamespace(
            dag_id="dag", run_id=f"run_{next(self.numbers)}", task_id="render", try_number=0, max_tries=2
        )

    def clear(self):
        self.ti.max_tries = self.ti.try_number + 3

    def attempt(self, versions, steps, *, ti=None, sleep=None, max_credits=None, max_jobs=inf):
        """One attempt without its waits: take in what has ended, submit, report; the items' statuses."""
        ti = ti or self.ti
        ti.try_number += 1
        sleep = sleep or self.clock.sleep
        rows = [
            {"key": str(n), "image": "https://example.com/a.png", "prompt": f"{n}.{version}"}
            for n, version in enumerate(versions)
        ]
        defaults = {"end_seconds": 3, "model": "ltx-2.3", "resolution": "480p"}
        items, faults = read_items(rows, None, defaults)
        assert not faults
        http = httpx.Client(transport=httpx.MockTransport(lambda sent: steps(lambda: self.magic(sent))))
        client = MagicHourClient(http, ClientSettings("a-key"))
        state = BatchState(self.path, None, ti, self.clock, sleep)
        cancellation = AlwaysRunning({}, float("inf"))
        options = {"max_credits": max_credits, "max_jobs": max_jobs, "clock": self.clock, "sleep": sleep}
        batch = Batch(items, state, client, cancellation, **options)
        with state.opened(), stepping(state._log, steps):
            batch.plan()
            batch.check()
            batch.record_plan()
            batch.download(None)
            batch.run(DeferredTimeout())
            self.reported = {key for key in batch.items if batch.status(key) == "unknown"}
            batch.report_unknown()
        return {key: batch.status(key) for key in batch.items}


class stepping:
    """Each write of a state log is a step; a killed process does not give its lease back."""

    def __init__(self, log, steps):
        write, close = log.write, log.close
        log.write = lambda *arguments, **options: steps(lambda: write(*arguments, **options))
        self.log, self.close = log, close

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is Killed and hasattr(self.log, "_until"):
            self.log.close = lambda: None


class MemoryFile:
    """A `StateFile` in a store with conditional writes: contents and their versions by address."""

    contents: ClassVar = {}

    def __init__(self, path, *_):
        self.where, self.place = path, ObjectPath("s3", path)

    def read_bytes(self):
        return self.contents.get(self.where, (None, 0))

    def write_bytes(self, content, version):
        if self.read_bytes()[1] != version:
            raise StateConflictError(self.where)
        self.contents[self.where] = content, version + 1
        return version + 1


class BatchPaidOnce(RuleBasedStateMachine):
    """A batch whose items change. `excused`: jobs that a user has given up, by a Clear or by a change."""

    address, file = "{folder}/state.jsonl", StateFile

    @initialize()
    def begin(self):
        self.magic, self.clock = MagicHour(), Clock()
        self.folder = tempfile.TemporaryDirectory()
        self.runs = Runs(self.magic, self.clock, self.address.format(folder=self.folder.name))
        self.versions, self.numbers = [0] * ITEMS, itertools.count(1)
        self.excused = set()
        self.statuses = {}
        self.patches = [
            mock.patch.object(batch_module, "ThreadPoolExecutor", SameThread),
            mock.patch.object(batch_module, "poll_job", self.poll),
            mock.patch.object(batch_state, "StateFile", self.file),
        ]
        MemoryFile.contents.clear()
        for patch in self.patches:
            patch.start()

    def teardown(self):
        for patch in getattr(self, "patches", ()):
            patch.stop()
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def poll(self, client, project_id):
        from magichour_provider.polling.outcome import from_project

        project = client.get_video(project_id)
        return project, from_project(project)

    def live(self):
        jobs = self.magic.jobs.values()
        return {
            job["id"]: job["prompt"]
            for job in jobs
            if job["status"] not in ("error", "canceled") and job["enabled"] and job["id"] not in self.excused
        }

    @rule(
        faults=st.lists(st.sampled_from(FAULTS), max_size=6),
        at=st.none() | st.integers(0, 40),
        after=st.booleans(),
        max_credits=st.none() | st.sampled_from([100, 200]),
        max_jobs=st.sampled_from([inf, 1, 2, 3]),
    )
    def attempt(self, faults, at, after, max_credits, max_jobs):
        self.magic.faults = list(faults)
        before = len(self.magic.jobs)
        self.statuses = {}
        try:
            limits = {"max_credits": max_credits, "max_jobs": max_jobs}
            self.statuses = self.runs.attempt(self.versions, Steps(at, after=after), **limits)
        except (Killed, MagicHourError):
            return
        finally:
            unknown = sum(fault in AMBIGUOUS for fault in faults)
            assert len(self.magic.jobs) - before <= max_jobs + unknown
            if max_credits is not None:
                assert len(self.magic.jobs) - before <= max_credits // 72

    @rule(
        faults=st.lists(st.sampled_from(FAULTS), max_size=3),
        at=st.integers(0, 30),
        after=st.booleans(),
    )
    def two_attempts_at_once(self, faults, at, after):
        """A whole attempt of another run between two steps of this one; it is killed if it must wait."""
        self.magic.faults = list(faults)
        other = SimpleNamespace(dag_id="dag", run_id="other", task_id="render", try_number=0, max_tries=2)

        def intrude():
            with suppress(Killed, MagicHourError):
                self.runs.attempt(self.versions, Steps(), ti=other, sleep=killed)

        with suppress(Killed, MagicHourError):
            self.runs.attempt(self.versions, Steps(at, after=after, event=intrude))
        self.statuses = {}

    @rule(number=st.integers(0, ITEMS - 1))
    def change(self, number):
        prompt = f"{number}.{self.versions[number]}"
        self.excused |= {job_id for job_id, given in self.live().items() if given == prompt}
        self.versions[number] = next(self.numbers)
        self.statuses = {}

    @rule(number=st.integers(0, ITEMS - 1), fault=st.sampled_from([422, 402, 429, "never connected"]))
    def change_is_refused_and_taken_back(self, number, fault):
        """The job before the change counts."""
        version, self.versions[number] = self.versions[number], next(self.numbers)
        with suppress(MagicHourError):
            self.magic.faults = [fault] * 100
            self.runs.attempt(self.versions, Steps())
        self.versions[number] = version
        self.statuses = {}

    @rule()
    def clear(self):
        """What an attempt has not reported before is not answered by a Clear."""
        unknown = {f"{key}.{self.versions[int(key)]}" for key in self.runs.reported}
        self.excused |= {job_id for job_id, prompt in self.live().items() if prompt in unknown}
        self.runs.clear()
        self.runs.reported.clear()
        self.statuses = {}

    @rule()
    def next_day(self):
        self.runs.new_run()

    @precondition(lambda self: self.live())
    @rule(data=st.data(), status=st.sampled_from(["error", "canceled", "deleted", "complete"]))
    def job_ends(self, data, status):
        self.magic.end(data.draw(st.sampled_from(sorted(self.live()))), status)

    @rule(seconds=st.sampled_from([10, 130, 4000]))
    def time_passes(self, seconds):
        self.clock.now += seconds

    @invariant()
    def charged_at_most_once(self):
        if hasattr(self, "magic"):
            prompts = list(self.live().values())
            assert len(prompts) == len(set(prompts)), self.magic.jobs

    @invariant()
    def every_paid_job_is_known_or_reported(self):
        for key, status in getattr(self, "statuses", {}).items():
            prompt = f"{key}.{self.versions[int(key)]}"
            if prompt in self.live().values():
                assert status in ("submitted", "complete", "unknown"), (key, status)


SETTINGS = settings(
    max_examples=60,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.mark.parametrize("at", range(12))
def test_clear_before_the_report_answers_nothing(at):
    batch = BatchPaidOnce()
    batch.begin()
    try:
        batch.attempt(["answer lost"], at, True, None, inf)
        batch.clear()
        batch.attempt([], None, False, None, inf)
        batch.charged_at_most_once()
    finally:
        batch.teardown()


@pytest.mark.parametrize(
    ("address", "file"), [("{}/state.jsonl", StateFile), ("s3://states/state.jsonl", MemoryFile)]
)
def test_claim_outlives_its_pass_until_its_deadline_or_its_release(monkeypatch, tmp_path, address, file):
    monkeypatch.setattr(batch_state, "StateFile", file)
    MemoryFile.contents.clear()
    clock = Clock()

    def claim(run_id, seconds, *, submits=True, releases=False):
        ti = SimpleNamespace(dag_id="dag", run_id=run_id, task_id="render", try_number=1, max_tries=1)
        state = BatchState(address.format(tmp_path), None, ti, clock, killed)
        with state.opened():
            state.claim(clock() + seconds, submits=submits)
            if releases:
                state.release()

    claim("mine", 100)
    claim("mine", 200)  # another attempt
    claim("others", 100, submits=False, releases=True)
    clock.now += 150
    with pytest.raises(BatchInUseError, match="Task dag/mine/render has submitted this batch"):
        claim("others", 100)
    clock.now += 51
    claim("others", 100)
    with pytest.raises(BatchInUseError, match="dag/others/render"):
        claim("mine", 100)
    claim("others", 100, releases=True)
    claim("mine", 100)


def test_attempt_that_has_lost_its_lease_hands_over_jobs_and_erases_no_intent(monkeypatch):
    monkeypatch.setattr(batch_state, "StateFile", MemoryFile)
    MemoryFile.contents.clear()
    clock = Clock()

    def attempt(number):
        ti = SimpleNamespace(dag_id="dag", run_id="run", task_id="render", try_number=number, max_tries=1)
        return BatchState("s3://states/state.jsonl", None, ti, clock, clock.sleep)

    first, second = attempt(1), attempt(2)
    with suppress(TaskKilledError), first.opened():
        paid = ItemState("a", ItemStage.SUBMITTED, fingerprint="1", at="1", project_id="cmold")
        new = ItemState("b", ItemStage.INTENT, fingerprint="1", at="1")
        first.write([new], at_once=True)
        first.write([paid, replace(new, stage=ItemStage.SUBMITTED, project_id="cmnew")])
        with second.opened():
            second.write([ItemState("a", ItemStage.INTENT, fingerprint="2", at="2")], at_once=True)
        first.write([], at_once=True)
    with attempt(3).opened():
        pass
    found, _ = batch_state.parse_states(
        MemoryFile.contents["s3://states/state.jsonl"][0].splitlines(True), ""
    )
    assert (found["a"].stage, found["a"].at) == (ItemStage.INTENT, "2")
    assert [each.project_id for each in found["a"].earlier] == ["cmold"]
    assert found["b"].project_id == "cmnew"


class BatchPaidOnceInStore(BatchPaidOnce):
    """The state is in an object store."""

    address, file = "s3://states/state.jsonl", MemoryFile


TestStore = BatchPaidOnceInStore.TestCase
TestStore.settings = SETTINGS
TestDisk = BatchPaidOnce.TestCase
TestDisk.settings = SETTINGS
