"""`make demo`: turn a photograph into a video with a real Airflow, in the folder `.demo`.

By default the sandbox stands in for Magic Hour, at no cost. With LIVE=1 and MAGIC_HOUR_API_KEY in the
environment the demo uses Magic Hour itself, and asks before it spends credits. Airflow gets the API key
through its environment; it is written to no file. `make demo-cluster` (CLUSTER=1) does the same with
CeleryExecutor.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import processes
from airflow_rest import Json, UnexpectedStateError
from live_airflow import LiveAirflow, LiveAirflowError
from sandbox_process import SandboxError, sandbox

from magichour_provider.client import library_url
from magichour_provider.client.pricing import ModelRequest, estimate_credits
from magichour_provider.client.settings import DEFAULT_BASE_URL

REPOSITORY = Path(__file__).resolve().parent.parent
DEMO = REPOSITORY / ".demo"
DAGS = REPOSITORY / "dags_examples"
IMAGE = DAGS / "images" / "grace_hopper.jpg"
DAG_ID = "magichour_image_to_video"
REQUEST = ModelRequest(model="ltx-2.3", end_seconds=5, resolution="480p")
"""What the Dag submits."""

KEY_VARIABLE = "MAGIC_HOUR_API_KEY"
SANDBOX_SECONDS, LIVE_SECONDS = 300.0, 1800.0

NOTES = {
    ("submit", "running"): "a worker uploads the photograph and submits the job",
    ("submit", "success"): "the job is submitted and paid for, once",
    ("wait", "running"): "a worker polls the job once",
    ("wait", "deferred"): "the triggerer waits; no worker is occupied",
    ("wait", "success"): "the video is rendered",
    ("download", "running"): "a worker downloads the video and checks it",
    ("download", "success"): "the file is complete and published",
    ("inspect", "running"): "a plain Python task opens the file",
    ("inspect", "success"): "and could process it further",
}
STATE_NOTES = {
    "scheduled": "about to be queued",
    "queued": "waiting for a worker",
    "up_for_retry": "failed; Airflow will retry it",
    "upstream_failed": "an earlier task failed",
}


class DemoError(Exception):
    """The demo failed; the message says why."""


FAILURES = (
    DemoError,
    LiveAirflowError,
    SandboxError,
    UnexpectedStateError,
    TimeoutError,
    httpx.HTTPError,
)


@dataclass(frozen=True)
class MagicHour:
    """The Magic Hour that the demo uses: the real one, or a sandbox (`is_sandbox`)."""

    url: str
    key: str = field(repr=False)
    is_sandbox: bool

    @property
    def connection(self) -> str:
        """The Airflow connection, in its JSON form."""
        return json.dumps({"conn_type": "magichour", "host": self.url, "password": self.key})


def main() -> int:
    """Run the demo. Returns the exit status."""
    try:
        with processes.sigterm_raises(), _magic_hour() as magic_hour:
            _run(magic_hour)
    except FAILURES as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped, together with Airflow and the sandbox.", file=sys.stderr)
        return 130
    return 0


@contextmanager
def _magic_hour() -> Iterator[MagicHour]:
    key = os.environ.pop(KEY_VARIABLE, "").strip()
    if os.environ.get("LIVE", "") not in ("", "0"):
        _ask_before_spending(key)
        yield MagicHour(DEFAULT_BASE_URL, key, is_sandbox=False)
        return
    with sandbox(DEMO / "sandbox.log", "--render-seconds", "8") as url:
        _say("Sandbox", f"{url} stands in for Magic Hour, at no cost")
        yield MagicHour(url, "sandbox-demo-key", is_sandbox=True)


def _ask_before_spending(key: str) -> None:
    if not key:
        raise DemoError(f"LIVE=1 needs a Magic Hour API key in {KEY_VARIABLE}. Nothing was spent.")
    estimate = estimate_credits(REQUEST)
    cost = "an unknown number of" if estimate is None else f"about {estimate}"
    print(f"This submits a real job to {DEFAULT_BASE_URL}:")
    print(
        f"  model {REQUEST.model}, {REQUEST.end_seconds:g} seconds at {REQUEST.resolution}, {cost} credits."
    )
    if not sys.stdin.isatty():
        raise DemoError("LIVE=1 asks before it spends credits and needs a terminal. Nothing was spent.")
    try:
        answer = input("Type yes to spend these credits: ")
    except EOFError:
        answer = ""
    if answer.strip() != "yes":
        raise DemoError("The answer was not yes. Nothing was spent.")


def _run(magic_hour: MagicHour) -> None:
    home = DEMO / "airflow"
    shutil.rmtree(home, ignore_errors=True)
    with _airflow(home, {"AIRFLOW_CONN_MAGICHOUR_DEFAULT": magic_hour.connection}) as airflow:
        _say("", f"is healthy after {airflow.startup_seconds:.0f} s")
        run_id = airflow.trigger(DAG_ID, {"image": str(IMAGE), "folder": str(DEMO / "videos")})
        _say("Image", _short(IMAGE))
        _say("Dag", f"{DAG_ID}; open it in a browser while the demo runs:")
        _say("", f"{airflow.base_url}/dags/{DAG_ID}/runs/{run_id}")
        print()
        limit = SANDBOX_SECONDS if magic_hour.is_sandbox else LIVE_SECONDS
        progress = Progress(airflow, is_sandbox=magic_hour.is_sandbox)
        state = airflow.wait_for_run(DAG_ID, run_id, limit, on_change=progress)
        if state != "success":
            raise DemoError(_failure(airflow, run_id))
        _report(airflow, run_id, magic_hour)


@contextmanager
def _airflow(home: Path, env: dict[str, str]) -> Iterator[LiveAirflow]:
    if os.environ.get("CLUSTER", "") in ("", "0"):
        _say("Airflow", f"is starting in {_short(home)} (about 20 seconds)")
        with LiveAirflow(home, DAGS, env=env) as airflow:
            yield airflow
        return
    from live_cluster import live_cluster  # needs Celery and Valkey, which `make demo` does not install

    _say("Airflow", f"is starting in {_short(home)}: CeleryExecutor, and two of each part (about a minute)")
    with live_cluster(home, DAGS, env=env) as airflow:
        yield airflow


class Progress:
    """Prints one line whenever a task changes its state."""

    def __init__(self, airflow: LiveAirflow, *, is_sandbox: bool) -> None:
        self._airflow = airflow
        self._page = "job " if is_sandbox else library_url("")
        self._begin = time.monotonic()

    def __call__(self, task: Json, _before: str | None) -> None:
        """Print the task's new state and the seconds since the run started."""
        name, state = task["task_id"], task["state"]
        if state is None:
            return
        note = NOTES.get((name, state)) or STATE_NOTES.get(state, "")
        if state == "running" and str(task["hostname"]).startswith("worker-"):  # of a cluster
            note += f" ({task['hostname']})"
        elapsed = time.monotonic() - self._begin
        print(f"{elapsed:6.1f} s  {name:9} {state:10} {note}".rstrip(), flush=True)
        if (name, state) == ("submit", "success"):
            self._name_the_job(task)

    def _name_the_job(self, task: Json) -> None:
        job = self._airflow.xcom(DAG_ID, task["dag_run_id"], "submit")
        if isinstance(job, dict):
            print(f"{'':31}{self._page}{job.get('project_id')}", flush=True)


def _report(airflow: LiveAirflow, run_id: str, magic_hour: MagicHour) -> None:
    video = airflow.xcom(DAG_ID, run_id, "download")
    job = airflow.xcom(DAG_ID, run_id, "wait")
    if not isinstance(video, dict) or not isinstance(job, dict):
        raise DemoError(f"The run succeeded, but its results are incomplete: {video!r}, {job!r}.")
    path = Path(video["path"].removeprefix("file://"))
    if not path.is_file() or path.stat().st_size != video["size"]:
        raise DemoError(f"The run succeeded, but the video is not complete at {path}.")
    print()
    _say("Video", _short(path))
    size = f"{video['width']}x{video['height']} pixels at {video['fps']:g} fps, {video['size']:,} bytes"
    _say("", f"{video['duration']:.2f} seconds, {size}")
    _say("Cost", f"{job['credits_charged']} credits ({job['model']}, {job['resolution']})")
    if magic_hour.is_sandbox:
        _say("", _charges_line(magic_hour.url, job["credits_charged"]))


def _charges_line(url: str, credits_charged: int) -> str:
    state = httpx.get(f"{url}/__sandbox__/state", trust_env=False).raise_for_status().json()
    jobs = state["jobs"]
    credits_spent = sum(job["credits_charged"] for job in jobs)
    if (len(jobs), credits_spent) != (1, credits_charged):
        raise DemoError(f"The sandbox has {len(jobs)} jobs and charged {credits_spent} credits.")
    return "the sandbox confirms: 1 job submitted, charged once (in play credits)"


def _failure(airflow: LiveAirflow, run_id: str) -> str:
    tasks = airflow.task_instances(DAG_ID, run_id)
    failed = [task for task in tasks if task["state"] == "failed"]
    if not failed:
        return f"the run of {DAG_ID} failed, but none of its tasks did."
    first = min(failed, key=lambda task: task["end_date"] or "")
    log = airflow.log(DAG_ID, run_id, first["task_id"], max(first["try_number"], 1), first["map_index"])
    end = "\n".join(log.splitlines()[-25:])
    return f"task {first['task_id']} of {DAG_ID} failed. The end of its log:\n{end}"


def _say(label: str, text: str) -> None:
    print(f"{label:8} {text}", flush=True)


def _short(path: Path) -> str:
    return str(path.relative_to(REPOSITORY)) if path.is_relative_to(REPOSITORY) else str(path)


if __name__ == "__main__":
    sys.exit(main())
