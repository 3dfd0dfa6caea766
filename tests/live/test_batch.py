"""A thousand videos in one task, at a hundred times speed, while Airflow's parts are killed.

`BATCH_VIDEOS` and `BATCH_SEED` choose another size and other moments.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest
from airflow_rest import FINISHED_RUN
from processes import wait_until
from runs import API_KEY, CREATE, IMAGE

from magichour_provider.sandbox import Behaviour, SandboxServer, Settings

VIDEOS = int(os.environ.get("BATCH_VIDEOS", "1000"))
KILLS = ["task"] * 4 + ["triggerer"] * 2 + ["scheduler"]
DAG_ID = "live_batch"
RENDER_SECONDS = 0.6
"""A hundredth of a minute, the usual time of a video."""


@pytest.fixture(scope="module")
def sandbox():
    behaviour = Behaviour(render_seconds=RENDER_SECONDS)
    settings = Settings(api_keys=(API_KEY,), credits=100_000_000, quick=True, behaviour=behaviour)
    with SandboxServer(settings) as server:
        yield server


@pytest.fixture(scope="module")
def airflow(parts, sandbox):
    """The Airflow, with a connection to the sandbox."""
    connection = {"connection_id": "batch", "conn_type": "magichour", "host": sandbox.url}
    parts.request("POST", "/connections", json={**connection, "password": API_KEY})
    return parts


class LiveBatch:
    """The runs of the Dag over one folder."""

    def __init__(self, airflow, sandbox, folder):
        self.airflow, self.sandbox, self.folder = airflow, sandbox, folder
        self.catalogue, self.videos = folder / "catalogue.jsonl", folder / "videos"

    def write_items(self, count, prompt="video"):
        lines = [{"key": f"item-{n}", "image": str(IMAGE), "prompt": f"{prompt} {n}"} for n in range(count)]
        self.catalogue.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def start(self, run_id):
        conf = {"catalogue": str(self.catalogue), "folder": str(self.videos)}
        self.airflow.trigger(DAG_ID, conf, run_id=run_id)

    def state(self, run_id):
        return str(self.airflow.run(DAG_ID, run_id)["state"])

    def wait(self, run_id, seconds=1200):
        assert wait_until(lambda: self.state(run_id) in FINISHED_RUN, timeout=seconds, every=1.0)
        return self.state(run_id)

    def task(self, run_id):
        return self.airflow.task_instance(DAG_ID, run_id, "render")

    def kill_task(self, run_id):
        """SIGKILL for the task's process; False if none runs."""
        task = self.task(run_id)
        if task["state"] != "running" or not task["pid"]:
            return False
        with suppress(ProcessLookupError):
            os.kill(task["pid"], signal.SIGKILL)
            return True
        return False

    def progress(self):
        """The share of the lines that the state will have."""
        state = self.videos / "magichour_batch.jsonl"
        return state.read_bytes().count(b"\n") / (3 * VIDEOS) if state.exists() else 0.0

    def charged(self):
        jobs = self.sandbox.control.state()["jobs"]
        return Counter(job["name"] for job in jobs if job["credits_charged"])

    def entries(self):
        return [json.loads(line) for line in (self.videos / "manifest.jsonl").read_text().splitlines()]

    def recover_unknown(self):
        """What the task's error asks a user to do: search for the jobs, and add their ids to the state."""
        jobs = {job["name"]: job["id"] for job in self.sandbox.control.state()["jobs"]}
        unknown = [entry["key"] for entry in self.entries() if entry["status"] == "unknown"]
        with (self.videos / "magichour_batch.jsonl").open("a") as state:
            for key in unknown:
                if key in jobs:
                    line = {"key": key, "magichour_recovered_job_id": jobs[key]}
                    state.write(json.dumps(line) + "\n")
        return unknown

    def requests(self):
        return sum(each["count"] for each in self.sandbox.control.state()["requests"])


@pytest.mark.timeout(3600)
def test_thousand_videos_survive_seven_kills(airflow, sandbox, tmp_path):
    chance = random.Random(int(os.environ.get("BATCH_SEED", "7")))
    batch = LiveBatch(airflow, sandbox, tmp_path)
    batch.write_items(VIDEOS)
    began = time.monotonic()
    batch.start("first")
    events = [*KILLS, "storm"]
    chance.shuffle(events)
    moments = sorted(chance.uniform(0.02, 0.95) for _ in events)
    done = []
    for what, moment in zip(events, moments, strict=True):
        # Each item has three lines in the state: its intent, its job, and its video.
        assert wait_until(
            lambda: batch.progress() >= moment or batch.state("first") in FINISHED_RUN,  # noqa: B023
            timeout=600,
            every=0.2,
        )
        if what == "storm":
            sandbox.control.faults([{**CREATE, "status": 429, "times": 30}])
        elif what == "task":
            assert wait_until(lambda: batch.kill_task("first"), timeout=300, every=0.2)
        else:
            airflow.kill(what)
            airflow.restart(what)
        done.append((what, f"{moment:.0%}"))
    state = batch.wait("first")
    seconds = time.monotonic() - began
    unknown = []
    if state != "success":
        unknown = batch.recover_unknown()
        assert unknown, "only creates of unknown outcome may fail the task"
        airflow.clear(DAG_ID, "first", None)
        state = batch.wait("first")
    print(f"\n{VIDEOS} videos, {seconds:.0f} s; killed at: {done}; unknown: {unknown}")
    print(f"attempts: {batch.task('first')['try_number']}; requests: {batch.requests()}")
    assert state == "success"
    assert batch.charged() == {f"item-{n}": 1 for n in range(VIDEOS)}
    entries = batch.entries()
    assert Counter(entry["status"] for entry in entries) == {"complete": VIDEOS}
    for entry in entries:
        content = Path(entry["path"]).read_bytes()
        assert (len(content), sha256(content).hexdigest()) == (entry["size"], entry["sha256"])
    ids = {job["name"]: job["id"] for job in sandbox.control.state()["jobs"] if job["credits_charged"]}
    assert {entry["key"]: entry["project_id"] for entry in entries} == ids

    batch.write_items(VIDEOS + 10)
    before = batch.requests()
    uploads = len(sandbox.control.state()["uploads"])
    batch.start("tomorrow")
    assert batch.wait("tomorrow") == "success"
    assert sum(batch.charged().values()) == VIDEOS + 10
    assert len(sandbox.control.state()["uploads"]) == uploads + 10
    print(f"tomorrow's run with 10 new items: {batch.requests() - before} requests")
    assert batch.requests() - before < 10 * 12


def test_run_with_other_prompts_submits_when_the_deferred_one_has_ended(airflow, sandbox, tmp_path):
    """The second worker asks Airflow for the state of the first task, in another run."""
    sandbox.control.reset()
    sandbox.control.behaviour(render_seconds=3600)
    batch = LiveBatch(airflow, sandbox, tmp_path)
    batch.write_items(3)
    batch.start("mine")
    airflow.wait_for_task_state(DAG_ID, "mine", "render", "deferred")
    batch.write_items(3, "The rain falls on video")
    batch.start("others")
    assert wait_until(lambda: batch.task("others")["try_number"] > 2, timeout=120, every=0.5)
    assert batch.charged() == {f"item-{n}": 1 for n in range(3)}
    airflow.set_state(DAG_ID, "mine", "render", "failed")
    airflow.wait_for_task_state(DAG_ID, "others", "render", "deferred")
    assert batch.charged() == {f"item-{n}": 2 for n in range(3)}
    sandbox.control.advance_clock(3600)
    assert batch.wait("others") == "success"
    assert Counter(entry["status"] for entry in batch.entries()) == {"complete": 3}
    assert batch.charged() == {f"item-{n}": 2 for n in range(3)}
