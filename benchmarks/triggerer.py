"""A real triggerer is started with thousands of waiting clips: when has it looked at all, and was it blocked?

    python benchmarks/triggerer.py --clips 5000 --period 30

A live Airflow on PostgreSQL; its tasks are written into the database as deferred, for running thousands of
workers would take hours. The same is done with a trigger that does nothing, to tell Airflow's own share.
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
    """What was seen of a triggerer from its start on; all in seconds.

    :param started: how many triggers it had started when the patience was over.
    :param handed_out: from the first trigger that it started to the last.
    :param looks: from the start of each trigger to the first look at its clip.
    :param blocks: how long the loop was blocked, each time that it was for more than a tenth.
    """

    started: int
    handed_out: float
    looks: tuple[float, ...]
    blocks: tuple[float, ...]

    @property
    def slowest_look(self) -> float:
        """The longest that a clip waited for its first look."""
        return max(self.looks, default=0.0)

    @property
    def longest_block(self) -> float:
        """The longest block."""
        return max(self.blocks, default=0.0)


@dataclass(frozen=True)
class Restarts:
    """A triggerer of ours beside one whose triggers do nothing."""

    clips: int
    period: float
    ours: Restart
    idle: Restart


def measure(clips: int = 5_000, period: float = 30.0) -> Restarts:
    """Start Airflow, let the tasks be deferred, and restart the triggerer; takes some minutes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalServer() as server,
        _airflow(Path(folder), server, clips) as airflow,
    ):
        run_id = _run(airflow)
        patience = 60 + 4 * period
        idle = _restart(airflow, server, run_id, IDLE, {}, clips, patience)
        arguments = {
            "project_id": "{project_id}",
            "magichour_conn_id": "magichour_default",
            "deadline": time.time() + 86_400,
            "poll_interval": period,
        }
        ours = _restart(airflow, server, run_id, OURS, arguments, clips, patience)
    return Restarts(clips, period, ours, idle)


@contextmanager
def _airflow(folder: Path, server: LocalServer, clips: int) -> Iterator[LiveAirflow]:
    dags = folder / "dags"
    dags.mkdir()
    shutil.copy(HERE / "restart" / "waiting_clips.py", dags)
    env = {
        **SUBJECTS["magichour"].environment(server.address),
        "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(HERE)])),
        "WAITING_CLIPS": str(clips),
        "AIRFLOW__CORE__MAX_MAP_LENGTH": str(clips),
        "AIRFLOW__TRIGGERER__CAPACITY": str(clips),
        "AIRFLOW__TRIGGERER__BLOCKED_MAIN_THREAD_WARNING_THRESHOLD": str(2 * _WATCHDOG_SLEEP),
    }
    with postgres() as database, LiveAirflow(folder / "airflow", dags, database=database, env=env) as airflow:
        yield airflow


def _run(airflow: LiveAirflow) -> str:
    """A run of a Dag that stays paused, so that no worker begins; what is not needed any more is ended."""
    airflow.wait_for_dag("waiting_clips")
    body = {"dag_run_id": "waiting", "logical_date": None, "conf": {}}
    airflow.request("POST", "/dags/waiting_clips/dagRuns", json=body)
    for part in ("scheduler", "dag-processor", "triggerer"):
        processes.stop([airflow.processes.pop(part)])
    return "waiting"


def _restart(
    airflow: LiveAirflow,
    server: LocalServer,
    run_id: str,
    classpath: str,
    arguments: dict[str, object],
    clips: int,
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
        if len(list(airflow.logs_dir.glob(files))) < clips:
            return False
        return classpath == IDLE or server.counts().looked_at == clips

    processes.wait_until(is_done, timeout=patience, every=3)
    with log.open(encoding="utf-8", errors="replace") as lines:
        lines.seek(begun)
        blocks = tuple(float(found) - _WATCHDOG_SLEEP for found in _BLOCKED.findall(lines.read()))
    starts = dict(map(_start_of, airflow.logs_dir.glob(files)))
    offset = time.time() - time.monotonic()
    looks = {job: at + offset for job, at in server.jobs().items()}
    waits = tuple(max(0.0, looks[job] - starts[job]) for job in looks if job in starts)
    handed_out = max(starts.values()) - min(starts.values()) if starts else 0.0
    return Restart(len(starts), handed_out, waits, blocks)


def _start_of(log: Path) -> tuple[str, float]:
    """A trigger's clip, and when it was started, from the first line of its log."""
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
    """The findings for people."""
    lines = [
        f"A triggerer is started with {restarts.clips:,} waiting clips, a look per {restarts.period:g} s"
    ]
    for name, seen in (("ours", restarts.ours), ("idle", restarts.idle)):
        lines.append(
            f"  {name}: {seen.started} started within {seen.handed_out:.1f} s, {len(seen.looks)} looked at, "
            f"each within {seen.slowest_look:.1f} s of its start; blocked {len(seen.blocks)} times, at most "
            f"{seen.longest_block * 1000:.0f} ms"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, default=5_000)
    parser.add_argument("--period", type=float, default=30.0)
    options = parser.parse_args()
    print(describe(measure(options.clips, options.period)))


if __name__ == "__main__":
    main()
