"""A real triggerer is started with thousands of waiting jobs: how soon are all polled?

    python benchmarks/triggerer.py --jobs 5000 --period 30

A live Airflow on PostgreSQL. Its tasks are written into the database as deferred, because running thousands
of workers would take hours. An idle trigger shows Airflow's own share.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[0] / "scripts"))

import processes  # noqa: E402
from live_airflow import LiveAirflow  # noqa: E402
from postgres import postgres  # noqa: E402
from server import LocalServer  # noqa: E402
from subjects import SUBJECTS  # noqa: E402

IDLE = "idle.IdleTrigger"
OURS = "magichour_provider.triggers.video_job.VideoJobTrigger"
_BLOCKED = re.compile(r"async thread was blocked for (\d+\.\d+) seconds")
_WATCHDOG_SLEEP = 0.1


@dataclass(frozen=True)
class Restart:
    """Figures of a triggerer from its start on, in seconds.

    :param started: how many triggers it had started within the limit.
    :param handed_out: from the first trigger that it started to the last.
    :param polls: from the start of each trigger to the first poll of its job.
    :param blocks: how long the loop was blocked, each time that it was for more than a tenth.
    """

    started: int
    handed_out: float
    polls: tuple[float, ...]
    blocks: tuple[float, ...]

    @property
    def slowest_first_poll(self) -> float:
        """The longest time from the start of a trigger to the first poll of its job."""
        return max(self.polls, default=0.0)

    @property
    def longest_block(self) -> float:
        """The longest block."""
        return max(self.blocks, default=0.0)


@dataclass(frozen=True)
class Restarts:
    """A triggerer with our triggers and one with idle triggers."""

    jobs: int
    period: float
    ours: Restart
    idle: Restart


def measure(jobs: int = 5_000, period: float = 30.0) -> Restarts:
    """Start Airflow, let the tasks be deferred, and restart the triggerer; takes some minutes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalServer() as server,
        _airflow(Path(folder), server, jobs) as airflow,
    ):
        run_id = _run(airflow)
        patience = 60 + 4 * period
        idle = _restart(airflow, server, run_id, IDLE, {}, jobs, patience)
        arguments = {
            "project_id": "{project_id}",
            "magichour_conn_id": "magichour_default",
            "deadline": time.time() + 86_400,
            "poll_interval": period,
        }
        ours = _restart(airflow, server, run_id, OURS, arguments, jobs, patience)
    return Restarts(jobs, period, ours, idle)


@contextmanager
def _airflow(folder: Path, server: LocalServer, jobs: int) -> Iterator[LiveAirflow]:
    dags = folder / "dags"
    dags.mkdir()
    shutil.copy(HERE / "restart" / "waiting_jobs.py", dags)
    env = {
        **SUBJECTS["magichour"].environment(server.address),
        "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(HERE)])),
        "WAITING_JOBS": str(jobs),
        "AIRFLOW__CORE__MAX_MAP_LENGTH": str(jobs),
        "AIRFLOW__TRIGGERER__CAPACITY": str(jobs),
        "AIRFLOW__TRIGGERER__BLOCKED_MAIN_THREAD_WARNING_THRESHOLD": str(2 * _WATCHDOG_SLEEP),
    }
    with postgres() as database, LiveAirflow(folder / "airflow", dags, database=database, env=env) as airflow:
        yield airflow


def _run(airflow: LiveAirflow) -> str:
    """A run of a Dag that stays paused, so that no worker starts; then only the api-server is left."""
    airflow.wait_for_dag("waiting_jobs")
    body = {"dag_run_id": "waiting", "logical_date": None, "conf": {}}
    airflow.request("POST", "/dags/waiting_jobs/dagRuns", json=body)
    for part in ("scheduler", "dag-processor", "triggerer"):
        processes.stop([airflow.processes.pop(part)])
    return "waiting"


def _restart(
    airflow: LiveAirflow,
    server: LocalServer,
    run_id: str,
    classpath: str,
    arguments: dict[str, object],
    jobs: int,
    patience: float,
) -> Restart:
    if "triggerer" in airflow.processes:
        processes.stop([airflow.processes.pop("triggerer")])
    _defer(airflow, run_id, classpath, arguments)
    log = airflow.parts_logs_dir / "triggerer.log"
    begun = log.stat().st_size if log.exists() else 0
    server.reset(0)
    airflow.start("triggerer")
    files = f"*/*/*/*/attempt=1.log.trigger.{airflow.triggerer_id()}.log"

    def is_done() -> bool:
        if len(list(airflow.logs_dir.glob(files))) < jobs:
            return False
        return classpath == IDLE or server.counts().polled_jobs == jobs

    processes.wait_until(is_done, timeout=patience, every=3)
    with log.open(encoding="utf-8", errors="replace") as lines:
        lines.seek(begun)
        blocks = tuple(float(found) - _WATCHDOG_SLEEP for found in _BLOCKED.findall(lines.read()))
    starts = dict(map(_start_of, airflow.logs_dir.glob(files)))
    offset = time.time() - time.monotonic()
    polls = {job: at + offset for job, at in server.jobs().items()}
    waits = tuple(max(0.0, polls[job] - starts[job]) for job in polls if job in starts)
    handed_out = max(starts.values()) - min(starts.values()) if starts else 0.0
    return Restart(len(starts), handed_out, waits, blocks)


def _start_of(log: Path) -> tuple[str, float]:
    """A trigger's job, and when it was started, from the first line of its log."""
    number = int(log.parent.name.removeprefix("map_index="))
    with log.open(encoding="utf-8") as lines:
        written = json.loads(lines.readline())["timestamp"]
    return f"cm3r{number:08d}01xk9v2t5q8z", datetime.fromisoformat(written.replace("Z", "+00:00")).timestamp()


def _defer(airflow: LiveAirflow, run_id: str, classpath: str, arguments: dict[str, object]) -> None:
    command = [sys.executable, str(HERE / "restart" / "defer.py"), run_id, classpath, json.dumps(arguments)]
    done = subprocess.run(command, env=airflow.env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"The tasks could not be deferred:\n{done.stdout}{done.stderr}")


def describe(restarts: Restarts) -> str:
    """The findings as text."""
    lines = [f"A triggerer is started with {restarts.jobs:,} waiting jobs, a poll per {restarts.period:g} s"]
    for name, seen in (("ours", restarts.ours), ("idle", restarts.idle)):
        lines.append(
            f"  {name}: {seen.started} started within {seen.handed_out:.1f} s, {len(seen.polls)} polled, "
            f"each within {seen.slowest_first_poll:.1f} s of its start; blocked {len(seen.blocks)} times, "
            f"at most {seen.longest_block * 1000:.0f} ms"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=5_000)
    parser.add_argument("--period", type=float, default=30.0)
    options = parser.parse_args()
    print(describe(measure(options.jobs, options.period)))


if __name__ == "__main__":
    main()
