"""What the end-to-end tests share: one live Airflow, one sandbox for it, and runs that go side by side."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from airflow_rest import Json
from live_airflow import LiveAirflow
from mail_server import MailServer
from PIL import Image
from postgres import postgres
from processes import wait_until
from s3_server import S3Server, s3_server
from sandbox_process import sandbox

from magichour_provider.sandbox import SandboxControl

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[2] / "dags_examples"

API_KEY = "mhk_live_e2e_DISTINCTIVE"
WRONG_KEY = "mhk_live_e2e_UNKNOWN_TO_THE_SANDBOX"
STORED = "magichour_stored"
"""Id of the connection that is made over REST and kept in Airflow's database."""

HELD = 3600.0
"""Render time in seconds of a job that ends only when a test says so."""
QUICK = 2.0
"""Render time in seconds that is over before a trigger may fire."""
MAPPED = 10


@dataclass(frozen=True)
class Run:
    """One Dag run and the jobs that it ordered."""

    airflow: LiveAirflow
    sandbox: SandboxControl
    dag_id: str
    run_id: str
    folder: Path

    def jobs(self) -> list[Json]:
        """The ledger's jobs of this run, oldest first; a job is named after its run."""
        return [job for job in self.sandbox.state()["jobs"] if job["name"].endswith(f" {self.run_id}")]

    def only_job(self) -> Json:
        """The one job of this run; AssertionError where there are more, or none."""
        (job,) = self.jobs()
        return job

    def wait_for_jobs(self, count: int) -> None:
        """Wait until this run has ordered `count` jobs, or has failed, as its test will then say."""

        def is_there() -> bool:
            return len(self.jobs()) >= count or self._state() == "failed"

        wait_until(is_there, timeout=120)

    def release(self) -> None:
        """Let the held jobs of this run complete; those that have ended stay as they are."""
        for job in self.jobs():
            if job["status"] in ("queued", "rendering"):
                self.sandbox.set_job(job["id"], "complete")

    def wait_for(self, task_id: str, state: str) -> Json:
        """Wait for a task's state; the task instance."""
        return self.airflow.wait_for_task_state(self.dag_id, self.run_id, task_id, state, timeout=120)

    def _state(self) -> str:
        return str(self.airflow.run(self.dag_id, self.run_id)["state"])

    def finish(self) -> str:
        """Wait for the end of the run; its state."""
        return self.airflow.wait_for_run(self.dag_id, self.run_id, timeout=240)

    def tasks(self) -> dict[tuple[str, int], tuple[str | None, int]]:
        """State and try number of each task, by its id and map index."""
        return {
            (task["task_id"], task["map_index"]): (task["state"], task["try_number"])
            for task in self.airflow.task_instances(self.dag_id, self.run_id)
        }

    def task(self, task_id: str) -> Json:
        """One task instance."""
        return self.airflow.task_instance(self.dag_id, self.run_id, task_id)

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """One XCom."""
        return self.airflow.xcom(self.dag_id, self.run_id, task_id, key, map_index)

    def links(self, task_id: str) -> dict[str, str]:
        """A task's extra links."""
        return self.airflow.extra_links(self.dag_id, self.run_id, task_id)

    def log(self, task_id: str) -> str:
        """The log of a task's first try."""
        return self.airflow.log(self.dag_id, self.run_id, task_id)


@pytest.fixture(scope="session")
def api_keys() -> tuple[str, str]:
    """The key that the sandbox takes, and one that it refuses."""
    return API_KEY, WRONG_KEY


@pytest.fixture(scope="session")
def sandbox_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A sandbox process that makes tiny clips and takes one API key only."""
    log = tmp_path_factory.mktemp("sandbox") / "sandbox.log"
    with sandbox(log, "--quick", "--api-key", API_KEY) as url:
        yield url


class StatsdServer:
    """Takes in what Airflow sends to its metrics system."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._lines: list[str] = []
        threading.Thread(target=self._receive, daemon=True).start()

    def lines(self, name: str) -> list[str]:
        """What was sent of the metric `airflow.<name>`, without its name."""
        start = f"airflow.{name}:"
        return [line.removeprefix(start) for line in list(self._lines) if line.startswith(start)]

    def _receive(self) -> None:
        while True:
            self._lines += self._socket.recv(65536).decode().splitlines()


@pytest.fixture(scope="session")
def statsd() -> StatsdServer:
    """A statsd server for the live Airflow."""
    return StatsdServer()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A local S3 with two empty buckets, `stills` and `clips`."""
    with s3_server(tmp_path_factory.mktemp("s3") / "s3.log") as server:
        for bucket in ("stills", "clips"):
            server.client().create_bucket(Bucket=bucket)
        yield server


@pytest.fixture(scope="session")
def mails() -> Iterator[MailServer]:
    """A local mail server."""
    with MailServer() as server:
        yield server


@pytest.fixture(scope="session")
def live_airflow(
    sandbox_url: str,
    s3: S3Server,
    mails: MailServer,
    statsd: StatsdServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LiveAirflow]:
    """A live Airflow over the example Dags and those in `dags`, with three connections to the sandbox.

    `magichour_default` and one with a wrong key come from the environment; a third is in the database.
    `aws_default` and `smtp_default` are the local S3 and the local mail server.
    """
    dags = tmp_path_factory.mktemp("dags")
    for folder in (EXAMPLES, HERE / "dags"):
        shutil.copytree(folder, dags, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    env = {
        "AIRFLOW_CONN_MAGICHOUR_DEFAULT": json.dumps(_connection(sandbox_url, API_KEY)),
        "AIRFLOW_CONN_MAGICHOUR_WRONG": json.dumps(_connection(sandbox_url, WRONG_KEY)),
        "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(s3.connection),
        "AIRFLOW_CONN_SMTP_DEFAULT": json.dumps(mails.connection),
        # Airflow's default. Below it, the race that our trigger guards against is hardly ever lost.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "5",
    }
    env |= {
        "AIRFLOW__METRICS__STATSD_ON": "True",
        "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
        "AIRFLOW__METRICS__STATSD_PORT": str(statsd.port),
    }
    with (
        # Not SQLite: under load that answers "database is locked", and a triggerer ends itself by it.
        postgres() as database,
        LiveAirflow(tmp_path_factory.mktemp("airflow"), dags, env=env, database=database) as airflow,
    ):
        stored = {"connection_id": STORED, **_connection(sandbox_url, API_KEY)}
        airflow.request("POST", "/connections", json=stored)
        yield airflow


@pytest.fixture(scope="session")
def runs(
    live_airflow: LiveAirflow, sandbox_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Run]]:
    """Every run of the tests, begun at once to save time: each goes on until it needs its test.

    The jobs of the first ones are held, so that a test sees each wait for as long as it looks; the jobs
    of the last ones end by themselves, and soon.
    """
    clips = tmp_path_factory.mktemp("clips")

    with SandboxControl(sandbox_url) as control:

        def begin(name: str, dag_id: str, **conf: Any) -> Run:
            folder = clips / name
            folder.mkdir()
            run_id = live_airflow.trigger(dag_id, {"folder": str(folder), **conf}, run_id=name)
            return Run(live_airflow, control, dag_id, run_id, folder)

        control.behaviour(render_seconds=HELD)
        held = [
            begin("worker-waits", "e2e_worker_waits"),
            begin("killed", "e2e_killed"),
            begin("pipeline", "magichour_image_to_video"),
            begin("short", "magichour_render_and_download"),
            begin("failing", "e2e_pipeline"),
            begin("stored", "e2e_pipeline", conn_id=STORED),
            begin("orphaned", "e2e_pipeline"),
        ]
        for run in held:
            run.wait_for_jobs(2 if run.run_id == "worker-waits" else 1)
        control.behaviour(render_seconds=QUICK)
        quick = [
            begin("wrong-key", "e2e_pipeline", conn_id="magichour_wrong"),
            begin("refused", "e2e_render", prompt="something nsfw"),
            begin("mapped", "magichour_folder_of_images", images=str(_images(clips / "images"))),
        ]
        yield {run.run_id: run for run in [*held, *quick]}


def _connection(url: str, key: str) -> dict[str, str]:
    return {"conn_type": "magichour", "host": url, "password": key}


def _images(folder: Path) -> Path:
    """Different small JPEGs, as many as the mapped Dag shall render."""
    folder.mkdir()
    for number in range(MAPPED):
        shade = 20 * number
        Image.linear_gradient("L").resize((320, 200)).convert("RGB").point(
            lambda value, shade=shade: (value + shade) % 256
        ).save(folder / f"image-{number}.jpg")
    return folder
