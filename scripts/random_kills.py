"""Kill parts of a live Airflow at random while it submits videos, then count what was charged.

    python scripts/random_kills.py --videos 30 --seconds 240 --seed 7
    python scripts/random_kills.py --cluster
    python scripts/random_kills.py --webhooks

Half of the videos wait in a worker, half in the triggerer. Task processes, triggerers and schedulers are
killed at random, with `--cluster` whole workers of Celery, and with `--webhooks` the API server. Creates are
held, dropped and refused, and webhooks are late, doubled, forged or missing at random. At the end each video
must be charged at most once, and each task that failed must report that the outcome of its submission is
unknown.
The exit code is 1 if a video was charged twice, or if a charged job was lost without a report.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from airflow_rest import FINISHED_RUN, Json
from live_airflow import LiveAirflow
from postgres import postgres
from sandbox_process import sandbox

from magichour_provider.sandbox.control import SandboxControl

IMAGE = Path(__file__).parents[1] / "dags_examples" / "images" / "grace_hopper.jpg"
DAG_ID = "random_kills"
RUN_ID = "killed"
DAG_FILE = f'''
from datetime import timedelta

from airflow.sdk import DAG

from magichour_provider.operators.image_to_video import ImageToVideoOperator

with DAG("{DAG_ID}", schedule=None, default_args={{"retries": 12, "retry_delay": timedelta(seconds=1)}}):
    for task_id, deferrable in (("in_worker", False), ("deferred", True)):
        ImageToVideoOperator.partial(
            task_id=task_id,
            image={str(IMAGE)!r},
            model="ltx-2.3",
            resolution="480p",
            end_seconds=3,
            poll_interval=POLL_INTERVAL,
            deferrable=deferrable,
        ).expand(prompt=[f"video {{index}}" for index in range(VIDEOS)])
'''
WEBHOOK = {"path": "video.*", "origin": "webhook", "times": 3}
WEBHOOK_FAULTS: Sequence[Json] = (
    {**WEBHOOK, "webhook": "never"},
    {**WEBHOOK, "webhook": "twice"},
    {**WEBHOOK, "webhook": "wrong_signature"},
    {**WEBHOOK, "webhook": "old_timestamp"},
    {**WEBHOOK, "delay": 10},
)
SECRET = "whsec_random_kills"
KILLED_PARTS = ("triggerer", "scheduler", "worker")
CREATE = {"path": "/v1/image-to-video", "method": "POST", "times": 1}
FAULTS: Sequence[Json] = (
    {**CREATE, "status": 429, "headers": {"Retry-After": "1"}},
    {**CREATE, "status": 503},
    {**CREATE, "status": 500},
    {**CREATE, "drop": "before"},
    {**CREATE, "drop": "after"},
    {**CREATE, "hold": "before"},
    {**CREATE, "hold": "after"},
    {"path": "/v1/video-projects/*", "method": "GET", "status": 502, "times": 5},
    {"path": "/v1/video-projects/*", "method": "GET", "drop": "before", "times": 5},
)


def main() -> int:
    """Run the kills and print what became of the videos."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--videos", type=int, default=30, help="videos in all")
    parser.add_argument("--seconds", type=float, default=240, help="how long parts are killed")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--webhooks", action="store_true", help="jobs end by webhooks, if they come")
    parser.add_argument("--cluster", action="store_true", help="CeleryExecutor, and two of each part")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        chance = random.Random(options.seed)
        return _run(Path(folder), options, chance)


def _run(home: Path, options: argparse.Namespace, chance: random.Random) -> int:
    dags = home / "dags"
    dags.mkdir()
    (dags / "random_kills.py").write_text(
        f"VIDEOS, POLL_INTERVAL = {options.videos // 2}, {None if options.webhooks else 1}\n{DAG_FILE}"
    )
    with (
        sandbox(home / "sandbox.log", "--render-seconds", "6") as url,
        SandboxControl(url) as control,
        _airflow(home / "airflow", dags, url, options) as airflow,
    ):
        faults: Sequence[Json] = FAULTS
        parts: tuple[str, ...] = KILLED_PARTS
        if options.webhooks:
            faults, parts = (*FAULTS, *WEBHOOK_FAULTS), (*KILLED_PARTS, "api-server")
            hook = f"{airflow.base_url}/magichour/webhooks/magichour_default"
            control.behaviour(webhook_url=hook, webhook_secret=SECRET)
        airflow.trigger(DAG_ID, run_id=RUN_ID)
        kills = _kill_at_random(airflow, control, chance, options.seconds, faults, parts)
        control.faults([])
        control.release()
        state = _wait_until_finished(airflow, control)
        return _report(airflow, control, state, kills)


@contextlib.contextmanager
def _airflow(home: Path, dags: Path, url: str, options: argparse.Namespace) -> Iterator[LiveAirflow]:
    connection: Json = {"conn_type": "magichour", "password": "sandbox-key", "host": url}
    if options.webhooks:
        connection["extra"] = {"webhook_secret": SECRET}
    env = {
        "AIRFLOW_CONN_MAGICHOUR_DEFAULT": json.dumps(connection),
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    }
    if options.webhooks:
        # A task sends its requests to a killed API server again for a minute.
        env["AIRFLOW__WORKERS__EXECUTION_API_RETRIES"] = "13"
        env["AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX"] = "5"
    if options.cluster:
        from live_cluster import live_cluster  # needs Celery and Valkey, and Python 3.11

        # A killed worker's messages reach the other one while Airflow still waits for a heartbeat.
        env["AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT"] = "10"
        with live_cluster(home, dags, env=env) as airflow:
            yield airflow
        return
    with postgres() as database, LiveAirflow(home, dags, database=database, env=env) as airflow:
        yield airflow


def _kill_at_random(
    airflow: LiveAirflow,
    control: SandboxControl,
    chance: random.Random,
    seconds: float,
    faults: Sequence[Json],
    killed_parts: tuple[str, ...],
) -> Counter[str]:
    kills: Counter[str] = Counter()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and airflow.run(DAG_ID, RUN_ID)["state"] not in FINISHED_RUN:
        time.sleep(chance.uniform(0.5, 3))
        what = chance.choices(("task", "fault", "release", "part"), (10, 8, 4, 2))[0]
        if what == "task":
            what = _kill_task(airflow, chance)
        elif what == "fault":
            control.faults([chance.choice(faults) for _ in range(chance.randint(1, 3))])
        elif what == "release":
            control.release()
        else:
            parts = [part for part in airflow.processes if part.startswith(killed_parts)]
            what = chance.choice(parts)
            airflow.kill(what)
            time.sleep(chance.uniform(0, 3))
            airflow.restart(what)
        kills[what] += 1
    return kills


def _kill_task(airflow: LiveAirflow, chance: random.Random) -> str:
    running = [task for task in airflow.task_instances(DAG_ID, RUN_ID) if task["state"] == "running"]
    pids = [task["pid"] for task in running if task["pid"]]
    if not pids:
        return "no task to kill"
    with contextlib.suppress(ProcessLookupError):
        os.kill(chance.choice(pids), chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)))
    return "task"


def _wait_until_finished(airflow: LiveAirflow, control: SandboxControl) -> str:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        control.release()
        state = str(airflow.run(DAG_ID, RUN_ID)["state"])
        if state in FINISHED_RUN:
            return state
        time.sleep(1)
    return "still running after 300 s"


def _report(airflow: LiveAirflow, control: SandboxControl, state: str, kills: Counter[str]) -> int:
    jobs = control.state()["jobs"]
    charged = Counter(job["name"] for job in jobs if job["credits_charged"] > 0)
    tasks = airflow.task_instances(DAG_ID, RUN_ID)
    ends: Counter[str] = Counter()
    lost = []
    for task in tasks:
        name = f"{DAG_ID} {task['task_id']}[{task['map_index']}] {RUN_ID}"
        error = airflow.xcom(DAG_ID, RUN_ID, task["task_id"], "magichour_error", map_index=task["map_index"])
        kind = (error or {}).get("error")
        ends[f"{task['state']}{f' ({kind})' if task['state'] == 'failed' else ''}"] += 1
        if task["state"] != "success" and charged[name] and kind != "SubmissionUnknownError":
            lost.append((name, task["state"], kind))
    twice = [name for name, count in charged.items() if count > 1]
    print(f"run: {state}; kills and faults: {dict(kills)}; attempts: {sum(t['try_number'] for t in tasks)}")
    print(f"tasks: {dict(ends)}")
    print(f"webhooks: {dict(Counter(each['status'] for each in control.state()['webhooks']))}")
    print(f"jobs: {len(jobs)}, charged: {sum(charged.values())}; charged twice: {twice}; lost: {lost}")
    return 1 if twice or lost or state not in FINISHED_RUN else 0


if __name__ == "__main__":
    sys.exit(main())
