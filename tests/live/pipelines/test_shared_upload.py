"""Tasks that have one image and begin at the same time under a live Airflow: how often it is uploaded."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from airflow_rest import Json
from live_airflow import LiveAirflow
from PIL import Image
from postgres import postgres
from processes import wait_until
from sandbox_process import sandbox

from magichour_provider.sandbox import SandboxControl

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

DAGS = Path(__file__).parent / "shared_dags"
MANY, FEW = 32, 6
WEEK = 7 * 86400
PUT = {"method": "PUT", "path": "/api-assets/*"}
SLOW = {**PUT, "delay": 3}
"""An upload that lasts while others look for it."""


@dataclass(frozen=True)
class Sharing:
    """A live Airflow that runs many tasks at once, and the sandbox that they upload to."""

    airflow: LiveAirflow
    sandbox: SandboxControl
    folder: Path

    def image(self, name: str) -> str:
        """An image that no other run has."""
        path = self.folder / f"{name}.png"
        Image.effect_noise((640, 400), 60).save(path)
        return str(path)

    def run(self, dag_id: str, run_id: str, image: str) -> None:
        """Begin a run."""
        self.airflow.trigger(dag_id, {"image": image}, run_id=run_id)

    def finish(self, dag_id: str, run_id: str, count: int) -> set[str]:
        """Wait for a run; its jobs' images at Magic Hour."""
        assert self.airflow.wait_for_run(dag_id, run_id, timeout=400) == "success"
        jobs = self.jobs(run_id)
        assert len(jobs) == count
        return {job["image_file_path"] for job in jobs}

    def jobs(self, run_id: str) -> list[Json]:
        """The ledger's jobs of a run."""
        return [job for job in self.sandbox.state()["jobs"] if job["name"].endswith(f" {run_id}")]

    def puts(self) -> int:
        """How many uploads have arrived, of all images."""
        return sum(upload["put_count"] for upload in self.sandbox.state()["uploads"])

    def refused(self) -> int:
        """How many creates were refused."""
        rows = self.sandbox.state()["requests"]
        return sum(
            row["count"] for row in rows if (row["path"], row["status"]) == ("/v1/image-to-video", 422)
        )


@pytest.fixture(scope="module")
def sharing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sharing]:
    dags = tmp_path_factory.mktemp("dags")
    shutil.copy(DAGS / "shared.py", dags)
    log = tmp_path_factory.mktemp("sandbox") / "sandbox.log"
    with sandbox(log, "--quick", "--render-seconds", "0", "--credits", "1000000") as url:
        connection = {"conn_type": "magichour", "host": url, "password": "mhk_live_sharing"}
        env = {
            "AIRFLOW__CORE__PARALLELISM": str(MANY),
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "5",
            "AIRFLOW_CONN_MAGICHOUR_DEFAULT": json.dumps(connection),
        }
        with (
            postgres() as database,
            LiveAirflow(tmp_path_factory.mktemp("airflow"), dags, env=env, database=database) as airflow,
            SandboxControl(url) as control,
        ):
            yield Sharing(airflow, control, tmp_path_factory.mktemp("images"))


def test_many_tasks_at_once_upload_their_image_once_until_it_is_gone(sharing: Sharing) -> None:
    image = sharing.image("many")
    sharing.sandbox.faults([SLOW])

    sharing.run("many", "first", image)
    first = sharing.finish("many", "first", MANY)
    assert sharing.puts() == len(first) == 1

    sharing.run("many", "second", image)
    assert sharing.finish("many", "second", MANY) == first
    assert sharing.puts() == 1
    assert sharing.refused() == 0

    sharing.sandbox.advance_clock(WEEK)
    sharing.run("many", "third", image)
    third = sharing.finish("many", "third", MANY)
    assert sharing.puts() == 2
    assert len(third) == 1
    assert third != first
    assert sharing.refused() >= 1


def test_the_one_that_uploads_is_killed_and_another_uploads(sharing: Sharing) -> None:
    before = sharing.puts()
    sharing.sandbox.faults([{**PUT, "hold": "before", "times": 1}])
    sharing.run("few", "killed", sharing.image("killed"))
    assert wait_until(lambda: bool(sharing.sandbox.state()["held"]), timeout=120)
    uploading = sharing.airflow.task_instances("few", "killed")

    def others_wait() -> bool:
        tasks = sharing.airflow.task_instances("few", "killed")
        uploading[:] = [task for task in tasks if not _waits(sharing, task)]
        return len(uploading) == 1

    assert wait_until(others_wait, timeout=120)
    os.kill(uploading[0]["pid"], signal.SIGKILL)

    assert len(sharing.finish("few", "killed", FEW)) == 1
    assert sharing.puts() == before + 1
    tries = {
        task["map_index"]: task["try_number"] for task in sharing.airflow.task_instances("few", "killed")
    }
    assert tries.pop(uploading[0]["map_index"]) == 2
    assert set(tries.values()) == {1}


def _waits(sharing: Sharing, task: Json) -> bool:
    log = sharing.airflow.logs_dir / "dag_id=few" / "run_id=killed" / "task_id=render"
    said = log / f"map_index={task['map_index']}" / "attempt=1.log"
    return said.exists() and "Another task is uploading this image" in said.read_text()
