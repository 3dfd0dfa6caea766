"""Batches against the sandbox: worker and trigger in turn, with kills, and the same under `dag.test()`."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from attempts import IMAGE, Killed, jobs
from s3_server import s3_server

from magichour_provider.exceptions import MagicHourError, SubmissionUnknownError
from magichour_provider.hooks.magichour import MagicHourHook
from magichour_provider.jobs.batch import Batch
from magichour_provider.jobs.batch_state import BatchInUseError, _StoreLog
from magichour_provider.operators import image_to_video_batch
from magichour_provider.operators.image_to_video_batch import ImageToVideoBatchOperator
from magichour_provider.triggers import video_batch
from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS, AirflowFailException, TaskDeferred

CREATES = {"method": "POST", "path": "/v1/image-to-video"}
CREDITS = 72


def catalogue(count, start=0):
    return [{"key": f"item-{n}", "image": IMAGE, "prompt": f"video {n}"} for n in range(start, start + count)]


class Batches:
    """One task instance after another, attempt by attempt; a resumed task is a new object, as in Airflow."""

    def __init__(self, sandbox, folder, run_id="first", stored=None):
        self.sandbox, self.folder = sandbox, folder
        self.stored = {} if stored is None else stored
        self.passes, self.limits = 0, []
        self.run(run_id)

    def other(self, run_id):
        """Another run with the same folder."""
        return Batches(self.sandbox, self.folder, run_id, self.stored)

    @property
    def xcoms(self):
        return self.stored.setdefault(self.ti.run_id, {})

    def run(self, run_id):
        self.ti = SimpleNamespace(
            dag_id="dag", task_id="render", run_id=run_id, map_index=-1, try_number=0, max_tries=2
        )
        self.ti.xcom_push = lambda key, value: self.xcoms.__setitem__(key, json.loads(json.dumps(value)))

    def clear(self):
        self.ti.max_tries = self.ti.try_number + 2

    def attempt(self, items, **options):
        """One more attempt, through all its deferrals; what it returns or raises."""
        self.passes, self.limits = 0, []
        return self.finish(items, self.start(items, **options), **options)

    def finish(self, items, trigger, **options):
        """The rest of an attempt that is deferred."""
        while trigger is not None:
            self.limits.append(trigger.max_jobs)
            trigger = self.start(items, asyncio.run(self._event(trigger)), **options)
        return self.result

    def start(self, items, event=None, **options):
        """A pass of an attempt in a worker: the trigger of its deferral; None: it has ended."""
        if event is None:
            self.ti.try_number += 1
            self.xcoms.clear()
        values = {"path": str(self.folder), "model": "ltx-2.3", "resolution": "480p", "end_seconds": 3}
        arguments = {"items": items, **values, "poll_interval": 0.2, "download_delay": 5, **options}
        operator = self.operator = ImageToVideoBatchOperator(task_id="render", **arguments)
        context = {"ti": self.ti}
        self.passes += 1
        try:
            self.result = operator.execute_complete(context, event) if event else operator.execute(context)
        except TaskDeferred as deferred:
            return deferred.trigger
        return None

    async def _event(self, trigger):
        event = await anext(trigger.run())
        return json.loads(json.dumps(event.payload))

    def manifest(self):
        return [json.loads(line) for line in (self.folder / "manifest.jsonl").read_text().splitlines()]

    def statuses(self):
        return dict(Counter(entry["status"] for entry in self.manifest()))

    def charged(self):
        return Counter(job["name"] for job in jobs(self.sandbox) if job["credits_charged"])

    def creates(self, *statuses):
        """Create requests that had one of these answers; none: all of them."""
        requests = [
            each for each in self.sandbox.control.state()["requests"] if each["path"] == CREATES["path"]
        ]
        return sum(each["count"] for each in requests if not statuses or each["status"] in statuses)

    def requests(self):
        return sum(each["count"] for each in self.sandbox.control.state()["requests"])


@pytest.fixture
def batches(connection, magichour_sandbox, tmp_path, monkeypatch):
    magichour_sandbox.control.account(credits=1_000_000)
    magichour_sandbox.control.behaviour(render_seconds=0.2)
    batches = Batches(magichour_sandbox, tmp_path / "videos")
    for module in (video_batch, image_to_video_batch):
        monkeypatch.setattr(module, "get_xcom", lambda ti, task_id, key: batches.stored[ti.run_id].get(key))

    def push_xcom(ti, key, value):
        batches.stored[ti.run_id][key] = json.loads(json.dumps(value))

    monkeypatch.setattr(video_batch, "push_xcom", push_xcom)
    monkeypatch.setattr(video_batch, "min_deferral_seconds", lambda: 0.0)
    return batches


def test_batch_makes_each_video_once_and_tomorrow_only_the_new_ones(batches):
    summary = batches.attempt(catalogue(30))
    assert summary["complete"] == summary["items"] == 30
    assert summary["credits_charged"] == 30 * CREDITS
    for entry in batches.manifest():
        assert Path(entry["path"]).name == f"{entry['key']}.mp4"
        assert Path(entry["path"]).stat().st_size == entry["size"]
    assert batches.charged() == {f"item-{n}": 1 for n in range(30)}
    before = batches.requests()
    batches.run("tomorrow")
    summary = batches.attempt(catalogue(30))
    assert (summary["unchanged"], summary["credits_charged"]) == (30, 0)
    assert batches.requests() == before, "no request for what is unchanged"
    summary = batches.attempt(catalogue(32))
    assert (summary["unchanged"], summary["credits_charged"]) == (30, 2 * CREDITS)
    assert sum(batches.charged().values()) == 32


def test_lineage_of_a_batch_has_what_it_has_made(batches, tmp_path):
    pytest.importorskip("airflow.providers.openlineage")
    (tmp_path / "list.csv").write_text(f"key,image\n1,{Path(IMAGE).absolute()}\n2,{Path(IMAGE).absolute()}\n")
    batches.attempt(str(tmp_path / "list.csv"))
    found = batches.operator.get_openlineage_facets_on_complete(None)
    assert [each.name for each in found.inputs] == [str(tmp_path / "list.csv")]
    assert [each.name for each in found.outputs] == [str(batches.folder), f"{batches.folder}/manifest.jsonl"]
    facet = found.run_facets["magichour_batch"]
    assert (facet.items, facet.complete, facet.credits) == (2, 2, 2 * CREDITS)


def test_changed_item_is_submitted_again_and_replaces_its_video(batches):
    batches.attempt(catalogue(3))
    (old,) = [entry for entry in batches.manifest() if entry["key"] == "item-1"]
    items = catalogue(3)
    items[1]["prompt"] = "something else"
    batches.run("tomorrow")
    summary = batches.attempt(items)
    assert (summary["unchanged"], summary["credits_charged"]) == (2, CREDITS)
    (new,) = [entry for entry in batches.manifest() if entry["key"] == "item-1"]
    assert new["project_id"] != old["project_id"]
    assert new["path"] == old["path"]
    assert Path(new["path"]).stat().st_size == new["size"]


def test_video_that_is_gone_is_downloaded_again_at_no_cost(batches):
    batches.attempt(catalogue(3))
    (batches.folder / "item-1.mp4").unlink()
    batches.run("tomorrow")
    summary = batches.attempt(catalogue(3))
    assert (summary["complete"], summary["credits_charged"]) == (3, 0)
    assert (batches.folder / "item-1.mp4").exists()
    assert sum(batches.charged().values()) == 3


def test_every_fault_is_named_with_its_line_before_anything_is_spent(batches, tmp_path, fails_for_good):
    (tmp_path / "empty.png").touch()
    lines = [
        f'{{"key": "good", "image": "{Path(IMAGE).absolute()}"}}',
        "{broken",
        '{"key": "typo", "image": "a.png", "promt": "x"}',
        '{"key": "empty", "image": "empty.png"}',
        '{"key": "missing", "image": "nowhere.png"}',
        f'{{"key": "good", "image": "{Path(IMAGE).absolute()}"}}',
        f'{{"key": "long", "image": "{Path(IMAGE).absolute()}", "end_seconds": 59}}',
        '{"key": "none"}',
        "[1]",
        f'{{"key": "word", "image": "{Path(IMAGE).absolute()}", "end_seconds": "soon"}}',
    ]
    path = tmp_path / "catalogue.jsonl"
    path.write_text("\n".join(lines) + "\n")
    with fails_for_good("9 faults") as raised:
        batches.attempt(str(path))
    for number in range(2, 11):
        assert f"line {number}: " in str(raised.value)
    assert "did you mean 'prompt'" in str(raised.value)
    assert batches.charged() == {}
    assert not batches.sandbox.control.state()["uploads"]


def test_dry_run_returns_the_bill_and_spends_nothing(batches):
    bill = batches.attempt(catalogue(5), dry_run=True)
    assert (bill["to_submit"], bill["estimate"], bill["unknown_cost"]) == (5, 5 * CREDITS, 0)
    assert bill["balance"] == 1_000_000
    assert batches.charged() == {}
    assert not batches.folder.exists()


def test_budget_stops_or_refuses(batches, fails_for_good):
    with fails_for_good("costs 360 credits, and 200 of max_credits"):
        batches.attempt(catalogue(5), max_credits=200)
    assert batches.charged() == {}
    summary = batches.attempt(catalogue(5), max_credits=200, on_budget_reached="stop")
    assert (summary["complete"], summary["not_submitted"], summary["credits_charged"]) == (2, 3, 2 * CREDITS)
    summary = batches.attempt(catalogue(5), max_credits=200, on_budget_reached="stop")
    assert summary["credits_charged"] == 2 * CREDITS, "the credits of the run count, not those of an attempt"
    batches.run("tomorrow")
    assert batches.attempt(catalogue(5), max_credits=200, on_budget_reached="stop")["complete"] == 4


def test_small_balance_stops_or_refuses(batches, fails_for_good):
    batches.sandbox.control.account(credits=150)
    with fails_for_good("the account has 150"):
        batches.attempt(catalogue(5))
    summary = batches.attempt(catalogue(5), on_budget_reached="stop")
    assert (summary["complete"], summary["not_submitted"]) == (2, 3)


def test_refused_and_failed_items_leave_the_rest(batches, fails_for_good):
    items = catalogue(6)
    items[2]["prompt"] = "nsfw"
    with fails_for_good("1 of 6 videos failed, 1 of them by moderation"):
        batches.attempt(items)
    assert batches.statuses() == {"complete": 5, "refused": 1}
    assert batches.xcoms["magichour_batch"]["refused"] == 1
    batches.run("tomorrow")
    creates = len(jobs(batches.sandbox))
    assert batches.attempt(items, max_failures=0.5)["refused"] == 1
    assert len(jobs(batches.sandbox)) == creates, "a refused item is not submitted again, unless it changes"
    items[2]["prompt"] = "a walk"
    assert batches.attempt(items)["complete"] == 6


def test_storm_of_429_delays_the_batch(batches, monkeypatch):
    monkeypatch.setattr("magichour_provider.jobs.batch._FIRST_DEFERRAL_SECONDS", 0.5)
    batches.sandbox.control.faults([{**CREATES, "status": 429, "times": 30}])
    summary = batches.attempt(catalogue(20))
    assert (summary["complete"], summary["unknown"]) == (20, 0)
    assert sum(batches.charged().values()) == 20
    assert batches.passes > 2


@pytest.mark.parametrize("limit", [1, 5])
def test_no_more_jobs_run_than_max_concurrent_jobs_allows(batches, limit):
    """As the sandbox counts them: a batch that submits too early would have more at the same moment."""
    assert batches.attempt(catalogue(12), max_concurrent_jobs=limit)["complete"] == 12
    assert batches.sandbox.control.state()["most_running_jobs"] == limit
    assert batches.passes <= 1 + 12, "each pass fills the slots of the jobs that have ended"
    assert batches.creates(429) == 0


def test_limit_of_the_account_is_learned(batches, monkeypatch):
    """A few creates are refused, not one for each item in each pass."""
    monkeypatch.setattr("magichour_provider.jobs.batch._LONGEST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("magichour_provider.jobs.batch._FIRST_DEFERRAL_SECONDS", 0.2)
    batches.sandbox.control.behaviour(max_running_jobs=4, render_seconds=0.5)
    summary = batches.attempt(catalogue(24))
    assert (summary["complete"], sum(batches.charged().values())) == (24, 24)
    assert batches.sandbox.control.state()["most_running_jobs"] == 4
    learned = [limit for limit in batches.limits if limit is not None]
    assert learned == batches.limits, "what was learned is not forgotten before the end"
    assert min(learned) >= 4
    assert batches.creates(429) <= 2 * batches.passes


def test_limit_of_the_account_is_not_exceeded_by_a_larger_argument(batches, monkeypatch):
    monkeypatch.setattr("magichour_provider.jobs.batch._LONGEST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("magichour_provider.jobs.batch._FIRST_DEFERRAL_SECONDS", 0.2)
    batches.sandbox.control.behaviour(max_running_jobs=2)
    assert batches.attempt(catalogue(8), max_concurrent_jobs=3)["complete"] == 8
    assert batches.sandbox.control.state()["most_running_jobs"] == 2


def test_key_that_expires_in_the_middle(batches, connection, fails_for_good):
    sent = []

    def expire(*_):
        sent.append(1)
        if len(sent) == 12:
            batches.sandbox.control.faults([{"path": "/v1/*", "status": 401}])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("magichour_provider.jobs.batch.Batch._write", _then(expire))
        with fails_for_good("401") as raised:
            batches.attempt(catalogue(60))
    paid = sum(batches.charged().values())
    assert 12 <= paid < 60
    for text in (
        f"{paid} jobs continue",
        f"spent {paid * CREDITS} credits",
        "Put a valid API key",
        "then clear",
    ):
        assert text in str(raised.value)
    assert batches.statuses() == {"submitted": paid, "not_submitted": 60 - paid}
    batches.sandbox.control.faults([])
    batches.clear()
    assert batches.attempt(catalogue(60))["complete"] == 60
    assert batches.charged() == {f"item-{n}": 1 for n in range(60)}


def test_key_that_expires_while_jobs_render(batches, fails_for_good):
    """What was downloaded before stays; the rest is paid, named, and downloaded after the clear."""
    original = batches._event

    async def expiring(trigger):
        event = await original(trigger)
        batches.sandbox.control.faults([{"path": "/v1/*", "status": 401}] if batches.passes == 2 else [])
        return event

    batches._event = expiring
    batches.sandbox.control.behaviour(max_running_jobs=6)
    with fails_for_good("401") as raised:
        batches.attempt(catalogue(18), max_concurrent_jobs=6)
    paid, found = sum(batches.charged().values()), batches.statuses()
    assert 6 < paid < 18
    assert found["complete"] + found["submitted"] == paid
    assert f"{found['complete']} videos are complete, and {found['submitted']} jobs continue" in str(
        raised.value
    )
    assert "then clear the task" in str(raised.value)
    for entry in batches.manifest():
        if entry["status"] == "complete":
            assert Path(entry["path"]).stat().st_size == entry["size"]
    batches.sandbox.control.faults([])
    batches._event = original
    batches.clear()
    assert batches.attempt(catalogue(18), max_concurrent_jobs=6)["complete"] == 18
    assert batches.charged() == {f"item-{n}": 1 for n in range(18)}


def _then(after):
    original = Batch._write

    def wrapped(self, job):
        original(self, job)
        after(job)

    return wrapped


def test_unknown_outcome_is_listed_and_never_submitted_again_until_a_clear(batches, fails_for_good):
    batches.sandbox.control.faults([{**CREATES, "drop": "after", "times": 1}])
    with fails_for_good("1 creates of the batch have an unknown outcome"):
        batches.attempt(catalogue(6))
    assert batches.statuses() == {"complete": 5, "unknown": 1}
    assert sum(batches.charged().values()) == 6
    with fails_for_good("unknown outcome"):
        batches.attempt(catalogue(6))
    assert sum(batches.charged().values()) == 6
    batches.clear()
    assert batches.attempt(catalogue(6))["complete"] == 6
    assert sum(batches.charged().values()) == 7


@pytest.mark.parametrize("end", ["\n", ""])
def test_recovered_job_is_used(batches, fails_for_good, end):
    batches.sandbox.control.faults([{**CREATES, "drop": "after", "times": 1}])
    with fails_for_good("unknown outcome"):
        batches.attempt(catalogue(4))
    (lost,) = [entry["key"] for entry in batches.manifest() if entry["status"] == "unknown"]
    (found,) = [job["id"] for job in jobs(batches.sandbox) if job["name"] == lost]
    with (batches.folder / "magichour_batch.jsonl").open("a") as state:
        state.write(json.dumps({"key": lost, "magichour_recovered_job_id": found}) + end)
    assert batches.attempt(catalogue(4))["complete"] == 4
    assert sum(batches.charged().values()) == 4


def test_changed_items_beyond_the_slots_are_submitted_after_the_wait(batches):
    batches.attempt(catalogue(3))
    batches.run("tomorrow")
    summary = batches.attempt(changed(3), max_concurrent_jobs=1)
    assert (summary["complete"], summary["unchanged"]) == (3, 0)
    assert sum(batches.charged().values()) == 6


def test_refused_create_of_a_changed_item_keeps_its_paid_video(batches, fails_for_good):
    batches.attempt(catalogue(2))
    batches.run("tomorrow")
    batches.sandbox.control.faults([{**CREATES, "status": 401, "body": {"message": "no"}}])
    with fails_for_good("401"):
        batches.attempt(changed(2))
    batches.sandbox.control.faults([])
    batches.run("a day later")
    assert batches.attempt(catalogue(2))["complete"] == 2
    assert sum(batches.charged().values()) == 2


def test_unwritable_manifest_records_no_unknown_outcome(batches, fails_for_good):
    batches.sandbox.control.faults([{**CREATES, "drop": "after", "times": 1}])
    batches.folder.mkdir(exist_ok=True)
    (batches.folder / "manifest.jsonl").mkdir()
    with pytest.raises(Exception, match=r"manifest\.jsonl"):
        batches.attempt(catalogue(3))
    (batches.folder / "manifest.jsonl").rmdir()
    batches.clear()
    with fails_for_good("unknown outcome"):
        batches.attempt(catalogue(3))
    assert sum(batches.charged().values()) == 3


def changed(count, prompt="It rains."):
    return [{**item, "prompt": prompt} for item in catalogue(count)]


@pytest.mark.parametrize("refusal", ["claim", "fault", "budget"])
def test_task_that_waits_for_its_jobs_is_the_only_one_that_submits(batches, refusal):
    """Another run with other prompts must not replace what a deferred task has paid for."""
    batches.sandbox.control.behaviour(render_seconds=2)
    trigger, other = batches.start(catalogue(2)), batches.other("other")
    items = [*changed(2), {"image": IMAGE, "promt": "no"}] if refusal == "fault" else changed(2)
    with pytest.raises((BatchInUseError, AirflowFailException, MagicHourError)) as raised:
        other.start(items, max_credits=10 if refusal == "budget" else None)
    if refusal == "claim":
        assert "Task dag/first/render has submitted this batch" in str(raised.value)
        assert "Nothing was submitted now" in str(raised.value)
    waiting = other.start(catalogue(2))
    assert waiting is not None, "it waits for the same jobs"
    assert batches.finish(catalogue(2), trigger)["complete"] == 2
    assert other.finish(catalogue(2), waiting)["complete"] == 2
    assert batches.charged() == {f"item-{n}": 1 for n in range(2)}
    assert batches.other("tomorrow").attempt(changed(2))["credits_charged"] == 2 * CREDITS


def test_refused_task_leaves_no_mark_in_the_state(batches):
    batches.sandbox.control.behaviour(render_seconds=2)
    trigger = batches.start(catalogue(2))
    with pytest.raises(BatchInUseError):
        batches.other("other").start(changed(2))
    assert batches.finish(catalogue(2), trigger)["complete"] == 2
    assert batches.charged() == {f"item-{n}": 1 for n in range(2)}


def test_cleared_task_of_yesterday_takes_nothing_from_the_one_that_waits(batches):
    batches.attempt(catalogue(2))
    today = batches.other("today")
    batches.sandbox.control.behaviour(render_seconds=2)
    trigger = today.start(changed(2))
    batches.clear()
    with pytest.raises(BatchInUseError):
        batches.start(catalogue(2))
    assert today.finish(changed(2), trigger)["credits_charged"] == 2 * CREDITS
    batches.clear()
    assert batches.attempt(catalogue(2))["complete"] == 2
    assert today.other("tomorrow").attempt(changed(2))["complete"] == 2
    assert batches.charged() == {f"item-{n}": 2 for n in range(2)}, "each version once"


def test_task_that_waited_without_a_claim_reports_no_other_version(batches, monkeypatch):
    states = {}
    name = "magichour_provider.airflow_internals.task_state"
    monkeypatch.setattr(name, lambda ti: states.get(ti.run_id, "running"))
    batches.sandbox.control.behaviour(render_seconds=2)
    batches.start(catalogue(2))
    waiter, third = batches.other("waiter"), batches.other("third")
    trigger = waiter.start(catalogue(2))
    states["first"] = "failed"
    others = third.start(changed(2))
    with pytest.raises(BatchInUseError):
        waiter.finish(catalogue(2), trigger)
    assert third.finish(changed(2), others)["complete"] == 2
    assert waiter.attempt(catalogue(2))["credits_charged"] == 0
    assert batches.charged() == {f"item-{n}": 2 for n in range(2)}, "each version once"


def test_change_that_is_taken_back_during_the_deferral_is_not_submitted(batches):
    batches.attempt(catalogue(2))
    batches.run("second")
    trigger = batches.start(changed(2), max_concurrent_jobs=1)
    items = [changed(1)[0], catalogue(2)[1]]
    assert batches.finish(items, trigger, max_concurrent_jobs=1)["complete"] == 2
    assert batches.charged() == {"item-0": 2, "item-1": 1}


def test_item_that_alternates_between_two_versions_pays_for_each_once(batches):
    batches.attempt(catalogue(1))
    batches.run("second")
    batches.start(changed(1), max_credits=100)
    for items in (catalogue(1), changed(1), catalogue(1), changed(1)):
        batches.clear()
        summary = batches.attempt(items, max_credits=100)
        assert (summary["complete"], summary["credits_charged"]) == (1, CREDITS)
    assert batches.charged() == {"item-0": 2}


def test_earlier_version_is_known_after_two_changes(batches, fails_for_good):
    batches.attempt(catalogue(1))
    batches.sandbox.control.behaviour(render_seconds=5)
    batches.run("second")
    batches.start(changed(1))
    batches.run("third")
    batches.sandbox.control.faults([{**CREATES, "status": 422, "body": {"message": "no"}, "times": 1}])
    with suppress(BatchInUseError):
        batches.other("third").start(changed(1, "It snows."))
    batches.run("second")
    batches.clear()
    with fails_for_good("1 of 1 videos failed"):
        batches.attempt(changed(1, "It snows."))
    batches.run("second")
    batches.clear()
    assert batches.attempt(catalogue(1))["complete"] == 1
    assert batches.charged() == {"item-0": 2}


def test_lost_create_counts_after_a_clear_that_was_refused(batches, fails_for_good):
    batches.attempt(catalogue(1))
    batches.run("second")
    batches.sandbox.control.faults([{**CREATES, "drop": "after", "times": 1}])
    with fails_for_good("unknown outcome"):
        batches.attempt(changed(1))
    batches.clear()
    batches.sandbox.control.faults([{**CREATES, "status": 401, "body": {"message": "no"}, "times": 1}])
    with fails_for_good(f"This run has spent {CREDITS} credits"):
        batches.attempt(changed(1))
    batches.clear()
    with fails_for_good("of max_credits are left"):
        batches.attempt(changed(1), max_credits=100)
    lost = jobs(batches.sandbox)[-1]["id"]
    with (batches.folder / "magichour_batch.jsonl").open("a") as state:
        state.write(json.dumps({"key": "item-0", "magichour_recovered_job_id": lost}) + "\n")
    batches.clear()
    assert batches.attempt(changed(1), max_credits=100)["complete"] == 1
    assert batches.charged() == {"item-0": 2}


def test_changed_item_in_a_moved_folder_replaces_its_own_video(batches, tmp_path):
    batches.attempt(catalogue(1))
    batches.folder = batches.folder.rename(tmp_path / "moved")
    batches.run("tomorrow")
    assert batches.attempt(changed(1))["complete"] == 1


def test_change_is_taken_back_after_a_kill_between_download_and_record(batches, monkeypatch):
    batches.attempt(catalogue(1))
    batches.run("second")
    original = Batch._write

    def write(self, state):
        if state.stage.value == "done":
            raise Killed
        original(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "_write", write)
        with pytest.raises(Killed):
            batches.attempt(changed(1))
    for items in (catalogue(1), changed(1)):
        batches.clear()
        assert batches.attempt(items)["complete"] == 1
        (entry,) = batches.manifest()
        assert Path(entry["path"]).stat().st_size == entry["size"]
    assert batches.charged() == {"item-0": 2}


def test_limit_counts_the_versions_that_the_state_does_not_keep(batches, fails_for_good):
    for number in range(7):
        batches.clear()
        summary = batches.attempt(changed(1, f"version {number}"), max_credits=7 * CREDITS)
        assert summary["credits_charged"] == (number + 1) * CREDITS
    batches.clear()
    with fails_for_good("0 of max_credits are left"):
        batches.attempt(changed(1), max_credits=7 * CREDITS)


def test_another_run_does_not_hide_what_this_one_has_spent(batches, fails_for_good):
    batches.sandbox.control.faults([{**CREATES, "drop": "after", "times": 1}])
    with fails_for_good("unknown outcome"):
        batches.attempt(catalogue(1), max_credits=80)
    other = batches.other("other")
    with fails_for_good("unknown outcome"):
        other.attempt(catalogue(1))
    other.clear()
    assert other.attempt(catalogue(1))["complete"] == 1
    batches.clear()
    with fails_for_good("8 of max_credits are left"):
        batches.attempt(changed(1), max_credits=80)


def test_clear_answers_the_report_of_the_task_that_is_cleared(batches, fails_for_good):
    batches.sandbox.control.faults([{**CREATES, "drop": "before", "times": 1}])
    for each in (batches, batches.other("other")):
        with fails_for_good("unknown outcome"):
            each.attempt(catalogue(1))
    batches.clear()
    assert batches.attempt(catalogue(1))["complete"] == 1


def test_failure_that_another_run_has_seen_is_not_retried_in_the_same_attempt(batches, fails_for_good):
    batches.sandbox.control.behaviour(render_seconds=30)
    trigger, other = batches.start(catalogue(1)), batches.other("other")
    waiting = other.start(catalogue(1))
    (job,) = jobs(batches.sandbox)
    batches.sandbox.control.set_job(job["id"], "error", code="x", message="bad")
    for each, wait in ((other, waiting), (batches, trigger)):
        with pytest.raises((AirflowFailException, MagicHourError)):
            each.finish(catalogue(1), wait)
    assert batches.creates() == 1


def test_version_that_is_taken_back_is_compared_even_if_the_sizes_agree(batches):
    batches.attempt(catalogue(1))
    (first,) = batches.manifest()
    batches.run("second")
    video = Path(first["path"]).read_bytes()
    batches.sandbox.control.behaviour(render_seconds=1)
    trigger = batches.start(changed(1))
    (job,) = (job for job in jobs(batches.sandbox) if job["id"] != first["project_id"])
    batches.sandbox.control.set_job(job["id"], "complete")
    batches.sandbox.control.replace_video(job["id"], video[:-20] + bytes([video[-20] ^ 1]) + video[-19:])
    assert batches.finish(changed(1), trigger)["complete"] == 1
    assert Path(first["path"]).read_bytes() != video
    batches.run("third")
    assert batches.attempt(catalogue(1))["credits_charged"] == 0
    assert Path(first["path"]).read_bytes() == video


def test_file_of_a_user_is_not_taken_for_an_earlier_version(batches, fails_for_good):
    batches.sandbox.control.behaviour(render_seconds=1)
    batches.start(catalogue(1))  # its video is never saved
    batches.clear()
    batches.attempt(changed(1))
    (entry,) = batches.manifest()
    Path(entry["path"]).write_bytes(Path(entry["path"]).read_bytes() + b"\0\0\0\x08free")
    edited = Path(entry["path"]).read_bytes()
    batches.run("tomorrow")
    with fails_for_good("item-0.mp4 is another video"):
        batches.attempt(changed(1, "It snows."))
    assert Path(entry["path"]).read_bytes() == edited


def test_first_version_that_was_saved_and_not_recorded_is_replaced(batches, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Batch, "_write", _then(lambda state: state.stage.value == "done" and 1 / 0))
        with pytest.raises(ZeroDivisionError):
            batches.attempt(catalogue(1))
    state = batches.folder / "magichour_batch.jsonl"
    lines = state.read_text().splitlines(keepends=True)
    state.write_text("".join(line for line in lines if '"stage": "done"' not in line))
    batches.clear()
    assert batches.attempt(changed(1))["complete"] == 1
    (entry,) = batches.manifest()
    assert Path(entry["path"]).stat().st_size == entry["size"]


def test_image_that_was_replaced_by_a_broken_one_is_named(batches, tmp_path, fails_for_good):
    image = tmp_path / "a.jpg"
    image.write_bytes(Path(IMAGE).read_bytes())
    batches.attempt([{"key": "a", "image": str(image)}])
    image.write_bytes(b"half an upload")
    batches.run("tomorrow")
    with fails_for_good("item 1: .*a.jpg"):
        batches.attempt([{"key": "a", "image": str(image)}])


def test_list_that_is_gone_at_a_resume_is_named_with_what_was_spent(batches, tmp_path, fails_for_good):
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps({"key": "a", "image": str(Path(IMAGE).absolute())}) + "\n")
    trigger = batches.start(str(path))
    path.unlink()
    with fails_for_good(f"list.jsonl.* This run has spent {CREDITS} credits"):
        batches.finish(str(path), trigger)


@pytest.mark.parametrize("argument", ["items", "state_path"])
def test_result_manifest_overwrites_no_argument(batches, fails_for_good, argument):
    batches.folder.mkdir()
    place = batches.folder / "manifest.jsonl"
    place.write_text(
        "".join(json.dumps({**item, "image": str(Path(IMAGE).absolute())}) for item in catalogue(1))
    )
    before = place.read_text()
    with fails_for_good(f"{argument} is .*manifest.jsonl, where this task writes its result manifest"):
        batches.attempt(**{"items": catalogue(1), argument: str(place)})
    assert place.read_text() == before
    assert batches.charged() == {}


def test_item_without_its_image_counts_only_if_nothing_else_has_changed(batches, tmp_path, fails_for_good):
    image = tmp_path / "a.jpg"
    image.write_bytes(Path(IMAGE).read_bytes())
    batches.attempt([{"key": "a", "image": str(image), "prompt": "one"}])
    image.unlink()
    batches.run("second")
    assert batches.attempt([{"key": "a", "image": str(image), "prompt": "one"}])["unchanged"] == 1
    with fails_for_good("item 1: .*a.jpg"):
        batches.attempt([{"key": "a", "image": str(image), "prompt": "two"}])


@pytest.mark.parametrize("state", ["failed", "deferred", None])
def test_claim_of_a_task_that_has_ended_counts_no_more(batches, monkeypatch, state):
    batches.sandbox.control.behaviour(render_seconds=5)
    assert batches.start(catalogue(2)) is not None
    asked = []

    def task_state(ti):
        if ti.run_id == "other":
            return "running"
        asked.append((ti.dag_id, ti.run_id, ti.task_id, ti.map_index))
        return state

    monkeypatch.setattr("magichour_provider.airflow_internals.task_state", task_state)
    batches.run("other")
    if state == "failed":
        assert batches.start(changed(2)) is not None
    else:
        with pytest.raises(BatchInUseError):
            batches.start(changed(2))
    assert asked == [("dag", "first", "render", -1)]
    assert sum(batches.charged().values()) == (4 if state == "failed" else 2)


@pytest.mark.parametrize("refusal", ["create", "upload", "render"])
def test_change_that_is_refused_can_be_taken_back(batches, fails_for_good, refusal):
    """The paid video of the version before is still known: it is not paid for again."""
    batches.attempt(catalogue(2))
    (old,) = [entry for entry in batches.manifest() if entry["key"] == "item-1"]
    items = [catalogue(1)[0], {**catalogue(2)[1], "prompt": "nsfw" if refusal == "render" else "It rains."}]
    request = {"method": "POST", "path": "/v1/files/upload-urls"} if refusal == "upload" else CREATES
    if refusal != "render":
        batches.sandbox.control.faults([{**request, "status": 422, "body": {"message": "no"}, "times": 2}])
    for run in ("second", "third"):
        batches.run(run)
        with fails_for_good("1 of 2 videos failed"):
            batches.attempt(items)
    batches.sandbox.control.faults([])
    batches.run("taken back")
    before = batches.requests()
    summary = batches.attempt(catalogue(2))
    assert (summary["unchanged"], summary["credits_charged"]) == (1, 0)
    assert summary["complete"] == 2
    assert batches.requests() == before
    assert [entry for entry in batches.manifest() if entry["key"] == "item-1"] == [old]


def test_unknown_outcome_of_a_change_that_is_taken_back(batches, fails_for_good):
    batches.attempt(catalogue(1))
    batches.run("second")
    batches.sandbox.control.faults([{**CREATES, "drop": "before", "times": 1}])
    with fails_for_good("unknown outcome"):
        batches.attempt([{**catalogue(1)[0], "prompt": "It rains."}])
    with fails_for_good("unknown outcome"):
        batches.attempt(catalogue(1))
    batches.clear()
    assert batches.attempt(catalogue(1))["complete"] == 1
    assert sum(batches.charged().values()) == 1


def test_new_folder_costs_nothing_and_replaces_no_foreign_file(batches, fails_for_good, tmp_path):
    """The folder was moved; one item has changed, and another file has its name there."""
    batches.attempt(catalogue(3))
    moved = tmp_path / "moved"
    batches.folder.rename(moved)
    batches.folder = moved
    (moved / "item-2.mp4").write_bytes((moved / "item-1.mp4").read_bytes())
    batches.run("tomorrow")
    before = batches.requests()
    assert batches.attempt(catalogue(2))["complete"] == 2
    assert batches.requests() == before, "their checksums are known"
    with fails_for_good("item-2.mp4 is another video"):
        batches.attempt([*catalogue(2), changed(3)[2]])
    assert (moved / "item-2.mp4").read_bytes() == (moved / "item-1.mp4").read_bytes()


def test_video_in_a_new_folder_outlives_its_job(batches, tmp_path):
    batches.attempt(catalogue(1))
    for job in jobs(batches.sandbox):
        MagicHourHook().get_conn().delete_video(job["id"])
    batches.folder = batches.folder.rename(tmp_path / "moved")
    batches.run("tomorrow")
    assert batches.attempt(catalogue(1))["complete"] == 1
    assert sum(batches.charged().values()) == 1


def test_attempt_that_cannot_begin_says_what_earlier_ones_have_spent(batches, fails_for_good):
    batches.sandbox.control.behaviour(render_seconds=5)
    assert batches.start(catalogue(2)) is not None
    spent = f"2 jobs continue at Magic Hour.* This run has spent {2 * CREDITS} credits"
    with fails_for_good(spent):
        batches.start([*catalogue(2), {"image": IMAGE, "promt": "no"}])
    with fails_for_good(spent):
        batches.start(catalogue(3), max_credits=2 * CREDITS)
    with fails_for_good(spent):
        batches.start("no-such-list.jsonl")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ({"key": "itme-0", "magichour_recovered_job_id": "cabcdefghijk"}, "names the item 'itme-0'"),
        ({"magichour_recovered_job_id": "cabcdefghijk"}, "names the item None"),
        ('{"key": "item-0", "magichour_recovered_job_id": "cabcdefghijk"', "is no JSON object"),
        ({"key": "item-0", "magichour_recovered_job_id": "the one of today"}, "is none of Magic Hour's"),
    ],
)
def test_wrong_recovered_line_is_named_and_nothing_is_to_be_removed(batches, fails_for_good, line, fault):
    batches.attempt(catalogue(1))
    state = batches.folder / "magichour_batch.jsonl"
    before = state.read_bytes()
    number = before.count(b"\n") + 1
    state.write_bytes(
        before + (line.encode() if isinstance(line, str) else json.dumps(line).encode() + b"\n")
    )
    with fails_for_good(f"Line {number} of .*{fault}.*Correct this line, and leave the others"):
        batches.attempt(catalogue(1))
    state.write_bytes(before)
    assert batches.attempt(catalogue(1))["complete"] == 1


def test_dangling_link_hides_no_video(batches):
    batches.attempt(catalogue(2))
    (batches.folder / "latest.mp4").symlink_to("gone.mp4")
    batches.run("tomorrow")
    before = batches.requests()
    assert batches.attempt(catalogue(2))["unchanged"] == 2
    assert batches.requests() == before


POINTS = (
    "jobs.batch.Batch._prepare",
    "jobs.batch_state.BatchState.write",
    "client.sync.MagicHourClient.create_image_to_video",
    "jobs.batch.Batch._write",
    "jobs.batch.download_videos",
    "storage.manifest.publish_bytes",
    "operators.image_to_video_batch.ImageToVideoBatchOperator._build_trigger",
)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("point", POINTS)
def test_killed_attempts_pay_nothing_twice(batches, monkeypatch, point, after):
    """Kill the first attempts at the first, fourth and ninth call of a function, in its thread."""
    module, _, name = f"magichour_provider.{point}".rpartition(".")
    from pydoc import locate

    owner = locate(module)
    original = getattr(owner, name)
    for number in (1, 4, 9):
        calls = []

        def killing(*arguments, calls=calls, number=number, **options):
            calls.append(1)
            if len(calls) == number and not after:
                raise Killed
            result = original(*arguments, **options)
            if len(calls) == number and after:
                raise Killed
            return result

        with monkeypatch.context() as patch, suppress(Killed, AirflowFailException, SubmissionUnknownError):
            patch.setattr(owner, name, killing)
            batches.attempt(catalogue(12))
    with suppress(AirflowFailException, SubmissionUnknownError):
        batches.attempt(catalogue(12))
    assert max(batches.charged().values()) == 1
    by_key = {entry["key"]: entry for entry in batches.manifest()}
    ids = {job["name"]: job["id"] for job in jobs(batches.sandbox)}
    for key, entry in by_key.items():
        assert entry["status"] in ("complete", "unknown")
        if entry["status"] == "complete":
            assert entry["project_id"] == ids[key]
            assert Path(entry["path"]).stat().st_size == entry["size"]
    unknown = sum(entry["status"] == "unknown" for entry in by_key.values())
    in_doubt = 3 * 2 if "create" in point or "write" in point.lower() else 0
    assert unknown <= in_doubt


def test_second_task_at_the_same_moment_is_refused(batches, monkeypatch):
    from magichour_provider.jobs.batch_state import BatchState

    monkeypatch.setattr("magichour_provider.jobs.batch_state._WAIT_SECONDS", 0.0)
    other = BatchState(str(batches.folder / "magichour_batch.jsonl"))
    with other.opened(), pytest.raises(BatchInUseError, match="Another task is writing"):
        batches.attempt(catalogue(2))
    assert batches.charged() == {}
    assert batches.attempt(catalogue(2))["complete"] == 2


def test_full_disk_costs_nothing_and_loses_no_video(batches, monkeypatch, fails_for_good):
    from magichour_provider.jobs import batch_state
    from magichour_provider.storage.publish import LocalWriter

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, fails_for_good("no space left"):
        patch.setattr(batch_state, "sync_to_disk", full)
        batches.attempt(catalogue(6))
    assert batches.charged() == {}, "an intent that the disk did not take is no intent"
    with monkeypatch.context() as patch, fails_for_good("6 of 6 videos failed"):
        patch.setattr(LocalWriter, "write", full)
        patch.setattr("magichour_provider.storage.manifest.publish_bytes", lambda *_: None)
        batches.attempt(catalogue(6))
    assert sum(batches.charged().values()) == 6
    summary = batches.attempt(catalogue(6))
    assert (summary["complete"], sum(batches.charged().values())) == (6, 6)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can mount a small disk")
def test_disk_that_fills_up_during_the_downloads(batches, fails_for_good):
    """Videos, state and manifest are on a real disk with room for about five of twelve videos."""
    batches.folder.mkdir()
    disk = str(batches.folder)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", disk], check=True)
    try:
        batches.sandbox.control.behaviour(video_padding_bytes=200_000)
        with fails_for_good() as raised:
            batches.attempt(catalogue(12))
        assert "no space left" in str(raised.value)
        assert "clear this task" in str(raised.value) or "then clear" in str(raised.value)
        videos = list(batches.folder.glob("*.mp4"))
        assert 1 <= len(videos) <= 5
        assert all(video.stat().st_size > 200_000 for video in videos)
        assert {path.name for path in batches.folder.iterdir()} <= {
            *(video.name for video in videos), "magichour_batch.jsonl", "manifest.jsonl"
        }  # fmt: skip
        assert sum(batches.charged().values()) == 12
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        creates = batches.creates()
        batches.clear()
        assert batches.attempt(catalogue(12))["complete"] == 12
        assert batches.creates() == creates, "nothing is paid for again"
        for entry in batches.manifest():
            assert Path(entry["path"]).stat().st_size == entry["size"] > 200_000
    finally:
        subprocess.run(["umount", disk], check=True)


def test_batch_in_object_storage_with_bounded_writes(batches, monkeypatch, tmp_path):
    """Images, manifest, state and videos are in S3; the first attempt is killed while it submits."""
    from magichour_provider.jobs.state_backends import StateFile

    writes = []
    write = StateFile.write_bytes
    monkeypatch.setattr(StateFile, "write_bytes", lambda *given: (writes.append(1), write(*given))[1])
    with s3_server(tmp_path / "s3.log") as s3:
        # An id of its own: Airflow keeps the file system of a connection.
        monkeypatch.setenv("AIRFLOW_CONN_S3_SHOP", json.dumps(s3.connection))
        store = s3.client()
        store.create_bucket(Bucket="shop")
        for number in range(40):
            store.upload_file(IMAGE, "shop", f"images/{number}.jpg")
        lines = [json.dumps({"image": f"{number}.jpg"}) for number in range(40)]
        store.put_object(Bucket="shop", Key="images/list.jsonl", Body="\n".join(lines).encode())
        options = {"path": "s3://s3_shop@shop/videos", "timeout": 600}
        with monkeypatch.context() as patch, suppress(Killed):
            patch.setattr(Batch, "_write", _then(_killed_at(12)))
            patch.setattr(_StoreLog, "close", lambda _: None)  # a killed process gives no lease back
            batches.attempt("s3://s3_shop@shop/images/list.jsonl", **options)
        with suppress(AirflowFailException, SubmissionUnknownError):
            batches.attempt("s3://s3_shop@shop/images/list.jsonl", **options)
        entries = store.get_object(Bucket="shop", Key="videos/manifest.jsonl")["Body"].read().splitlines()
        found = Counter(json.loads(line)["status"] for line in entries)
        assert max(batches.charged().values()) == 1
        assert found["unknown"] <= 5
        assert found["complete"] == 40 - found["unknown"]
        listed = store.list_objects_v2(Bucket="shop", Prefix="videos/")["Contents"]
        assert sum(each["Key"].endswith(".mp4") for each in listed) == found["complete"]
        assert len(writes) <= 30
        batches.clear()
        batches.attempt("s3://s3_shop@shop/images/list.jsonl", **options)
        batches.run("tomorrow")
        before = batches.requests()
        summary = batches.attempt("s3://s3_shop@shop/images/list.jsonl", **options)
        assert (summary["unchanged"], summary["credits_charged"]) == (40, 0)
        assert batches.requests() == before


def _killed_at(number):
    calls = []

    def kill(_):
        calls.append(1)
        if len(calls) == number:
            raise Killed

    return kill


@pytest.mark.skipif(not AIRFLOW_V_3_1_PLUS, reason="dag.test() of 3.0 gives a trigger no XComs")
def test_batch_of_200_in_a_dag(run_dag, magichour_sandbox, tmp_path):
    """With Airflow's own XComs and event; the manifest is CSV."""
    magichour_sandbox.control.account(credits=1_000_000)
    items, videos = tmp_path / "catalogue.csv", tmp_path / "videos"
    rows = [f'item-{n};{Path(IMAGE).absolute()};"video; {n}"' for n in range(200)]
    items.write_text("\n".join(["key;image;prompt", *rows]))
    run = run_dag("tests/batch.py", catalogue=str(items), folder=str(videos))
    assert run.state == "success"
    entries = [json.loads(line) for line in (videos / "manifest.jsonl").read_text().splitlines()]
    assert Counter(entry["status"] for entry in entries) == {"complete": 200}
    assert all(Path(entry["path"]).stat().st_size == entry["size"] for entry in entries)
    assert Counter(job["name"] for job in jobs(magichour_sandbox)) == {f"item-{n}": 1 for n in range(200)}
