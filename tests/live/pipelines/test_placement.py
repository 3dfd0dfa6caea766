"""Sensors that need no worker under a live Airflow, and those that do: each in its place, and none hangs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from processes import wait_until

from magichour_provider.jobs.reference import library_url
from magichour_provider.sandbox import SandboxControl

if TYPE_CHECKING:
    from airflow_rest import Json
    from live_airflow import LiveAirflow

pytestmark = pytest.mark.live

DAGS = Path(__file__).parent / "placed_dags"
NAMES = ("complete", "literal", "reference", "cleared", "marked", "fails", "endless", "slow", "restarted")
LINK = "Magic Hour library"
AT_ONCE = 24

ORDINARY = {
    "template": "its project_id is no id",
    "text_of_output": "its project_id is no id",
    "template_of_conn": "its magichour_conn_id is a template",
    "called_back": "it has an on_success_callback",
    "outlet": "it has inlets or outlets",
    "mapped_sensor": "it is mapped",
    "each.in_mapped_group": "it is mapped, or in a mapped task group",
}
"""Sensors that need a worker, and why."""
NO_ID = "is not the id of a Magic Hour project"
UNUSABLE = {
    "mapped_upstream": NO_ID,
    "skipped_upstream": NO_ID,
    "failed_upstream": NO_ID,
    "none": NO_ID,
    "without_id": NO_ID,
    "braces": NO_ID,
    "no_such_key": "XComNotFound",
}
"""Sensors that are given no job, and what their logs say in the end."""


class Placed:
    """The runs of `placed.py`, their jobs by name, and what came of them."""

    def __init__(self, airflow: LiveAirflow, control: SandboxControl, jobs: Mapping[str, str], folder: Path):
        self.airflow, self.control, self.jobs, self.folder = airflow, control, jobs, folder

    def begin(self, name: str, **conf: Any) -> None:
        self.airflow.trigger(f"placed_{name}", conf, run_id=name)

    def task(self, name: str, task_id: str) -> Json:
        return self.airflow.task_instance(f"placed_{name}", name, task_id)

    def wait_for(self, name: str, task_id: str, state: str) -> Json:
        return self.airflow.wait_for_task_state(f"placed_{name}", name, task_id, state, timeout=120)

    def finish(self, name: str) -> str:
        return self.airflow.wait_for_run(f"placed_{name}", name, timeout=180)

    def tasks(self, name: str) -> list[Json]:
        return self.airflow.task_instances(f"placed_{name}", name)

    def states(self, name: str) -> dict[str, tuple[str | None, int]]:
        return {task["task_id"]: (task["state"], task["try_number"]) for task in self.tasks(name)}

    def log(self, name: str, task_id: str, try_number: int = 1) -> str:
        return self.airflow.log(f"placed_{name}", name, task_id, try_number)

    def xcom(self, name: str, task_id: str) -> Any:
        return self.airflow.xcom(f"placed_{name}", name, task_id)

    def link(self, name: str, task_id: str) -> str:
        return self.airflow.extra_links(f"placed_{name}", name, task_id)[LINK]

    def deadlines(self, task_id: str) -> list[str]:
        """The times until which a task has said that it waits, one for each triggerer."""
        return re.findall(r"no worker, until (\S+)\.", self.log("waiting", task_id))

    def polls(self, job: str) -> int:
        (found,) = (each for each in self.control.state()["jobs"] if each["id"] == self.jobs[job])
        return int(found["polls"])

    def log_of(self, task: Json) -> str:
        """The log of a task's last try."""
        index = task["map_index"]
        return self.airflow.log("placed_table", "table", task["task_id"], task["try_number"], index)

    def result(self, job: str, **known: Any) -> Json:
        """What the contract says that a sensor returns."""
        (found,) = (each for each in self.control.state()["jobs"] if each["id"] == self.jobs[job])
        names = ("status", "name", "end_seconds", "credits_charged")
        return {"project_id": found["id"], "url": library_url(found["id"]), **known} | {
            name: found[name] for name in names
        }

    def given(self, name: str, task_id: str) -> Json:
        """What a sensor has returned, but for how long it saw its job in the queue and rendered."""
        xcom = dict(self.xcom(name, task_id))
        assert {"queued_seconds", "rendering_seconds"} <= xcom.keys()
        return {
            key: value for key, value in xcom.items() if key not in ("queued_seconds", "rendering_seconds")
        }

    def workers(self, name: str, task_id: str) -> int:
        """How many workers have run a task: one writes a log of its own for each try."""
        task = self.task(name, task_id)
        folder = self.airflow.logs_dir / f"dag_id=placed_{name}" / f"run_id={name}" / f"task_id={task_id}"
        count = sum(re.fullmatch(r"attempt=\d+\.log", path.name) is not None for path in folder.iterdir())
        assert (count == 0) == (not task["hostname"] and task["pid"] is None)
        return count


@pytest.fixture(scope="module")
def placed(
    live_airflow: LiveAirflow,
    sandbox_url: str,
    api_keys: tuple[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Placed]:
    """All runs, begun at once."""
    with SandboxControl(sandbox_url) as control:
        jobs = {name: order(sandbox_url, api_keys[0]) for name in NAMES}
        for name, job in jobs.items():
            control.set_job(job, "complete" if name == "complete" else "rendering")
        dags = Path(live_airflow.env["AIRFLOW__CORE__DAGS_FOLDER"])
        (dags / "jobs.json").write_text(json.dumps(jobs))
        shutil.copy(DAGS / "placed.py", dags)
        placed = Placed(live_airflow, control, jobs, tmp_path_factory.mktemp("placed"))
        placed.begin("waiting", folder=str(placed.folder))
        placed.begin("timeouts")
        placed.begin("at_once")
        placed.begin("table")
        yield placed


def order(url: str, key: str) -> str:
    body = {"assets": {"image_file_path": "https://example.com/a.png"}, "end_seconds": 3, "model": "ltx-2.3"}
    headers = {"Authorization": f"Bearer {key}"}
    answer = httpx.post(f"{url}/v1/image-to-video", json=body, headers=headers, trust_env=False)
    return str(answer.raise_for_status().json()["id"])


def test_many_sensors_whose_job_is_complete_end_at_once_without_a_worker(placed: Placed) -> None:
    assert placed.finish("at_once") == "success"
    tasks = placed.tasks("at_once")
    assert len(tasks) == AT_ONCE
    for task in tasks:
        assert (task["state"], task["try_number"]) == ("success", 1)
        assert placed.workers("at_once", task["task_id"]) == 0
        assert placed.xcom("at_once", task["task_id"])["status"] == "complete"


def test_a_sensor_without_a_worker_gives_downstream_what_it_gives_with_one(placed: Placed) -> None:
    placed.wait_for("waiting", "reference", "deferred")
    assert placed.workers("waiting", "reference") == 0
    assert wait_until(lambda: placed.polls("reference") >= 4, timeout=30)
    assert placed.polls("slow") == 1, "poke_interval is what it is elsewhere"
    assert placed.link("waiting", "reference") == library_url(placed.jobs["reference"])
    for job in ("literal", "reference"):
        placed.control.set_job(placed.jobs[job], "complete")

    placed.wait_for("waiting", "download", "success")
    placed.wait_for("waiting", "downstream", "success")
    for task_id in ("literal", "literal_dict", "reference"):
        placed.wait_for("waiting", task_id, "success")
        assert placed.workers("waiting", task_id) == 0
        assert "from the start" in placed.log("waiting", task_id)
    known = {"model": "ltx-2.3", "resolution": "480p"}
    result = placed.result("reference", **known)
    assert placed.given("waiting", "reference") == result
    assert placed.given("waiting", "literal_dict") == placed.result("literal", **known)
    assert placed.given("waiting", "literal") == placed.result("literal", model=None, resolution=None)
    assert placed.given("waiting", "downstream") == result
    assert (placed.folder / f"{placed.jobs['reference']}.mp4").stat().st_size > 0


def test_a_failure_is_a_workers_to_judge(placed: Placed) -> None:
    for task_id in ("fails", "soft_fail", "retried"):
        placed.wait_for("waiting", task_id, "deferred")
        assert placed.workers("waiting", task_id) == 0
    placed.control.set_job(placed.jobs["fails"], "error", code="nsfw", message="Refused")

    assert placed.wait_for("waiting", "fails", "failed")["try_number"] == 1
    assert placed.wait_for("waiting", "soft_fail", "skipped")["try_number"] == 1
    retried = placed.wait_for("waiting", "retried", "failed")
    assert retried["try_number"] == 2, "a policy of the user's own has asked for a retry"
    for task_id in ("fails", "soft_fail", "retried"):
        assert placed.workers("waiting", task_id) == placed.task("waiting", task_id)["try_number"]
    assert f"Job {placed.jobs['fails']} failed at Magic Hour (nsfw)" in placed.log("waiting", "fails")
    assert "from the start" in placed.log("waiting", "retried", 2)
    assert placed.xcom("waiting", "fails") is None


def test_a_sensor_that_waits_can_be_cleared_and_marked(placed: Placed) -> None:
    for task_id in ("cleared", "marked"):
        placed.wait_for("waiting", task_id, "deferred")
        assert placed.workers("waiting", task_id) == 0
    placed.airflow.set_state("placed_waiting", "waiting", "marked", "failed")
    placed.airflow.clear("placed_waiting", "waiting", ["cleared"])

    def has_begun_anew() -> bool:
        return placed.states("waiting")["cleared"] == ("deferred", 2)

    assert wait_until(has_begun_anew, timeout=60)
    told = f"job {placed.jobs['marked']} goes on at Magic Hour"
    assert wait_until(lambda: told in placed.log("waiting", "marked"), timeout=30)
    placed.control.set_job(placed.jobs["cleared"], "complete")
    placed.wait_for("waiting", "cleared", "success")
    assert placed.workers("waiting", "cleared") == 0
    assert placed.task("waiting", "marked")["state"] == "failed"

    placed.control.set_job(placed.jobs["cleared"], "error", code="x", message="y")
    placed.airflow.clear("placed_waiting", "waiting", ["cleared"])
    assert placed.wait_for("waiting", "cleared", "failed")["try_number"] == 3
    assert placed.xcom("waiting", "cleared") is None, "the result of the try before is gone"


def test_a_timeout_ends_the_task_in_a_worker(placed: Placed) -> None:
    assert placed.finish("timeouts") == "failed"
    assert placed.states("timeouts") == {
        "timeout": ("failed", 1),
        "timeout_skips": ("skipped", 1),
        "execution_timeout": ("failed", 1),
    }
    for task_id in ("timeout", "execution_timeout"):
        assert "had not ended when the deadline passed" in placed.log("timeouts", task_id)


def test_every_form_of_project_id_ends_in_its_place(placed: Placed) -> None:
    placed.finish("table")
    tasks = {task["task_id"]: task for task in placed.tasks("table")}
    in_triggerer = {
        name for name, task in tasks.items() if task["pid"] is None and task["state"] == "success"
    }
    assert in_triggerer == {"key"}

    for task_id, reason in ORDINARY.items():
        assert tasks[task_id]["state"] == "success", task_id
        assert f"the ordinary way, from a worker, because {reason}" in placed.log_of(tasks[task_id]), task_id
    for task_id, said in UNUSABLE.items():
        assert tasks[task_id]["state"] == "failed", task_id
        assert said in placed.log_of(tasks[task_id]), task_id
    # Airflow 3.3.2 cannot store an XCom from the triggerer under an id that is not ASCII: a worker does it.
    odd = tasks["group-1_ü.sënsor.a-b_1"]
    assert odd["state"] == "success"
    assert placed.xcom("table", odd["task_id"])["model"] == "ltx-2.3"


def test_a_dead_triggerer_takes_no_task_along_and_grants_no_new_time(placed: Placed) -> None:
    placed.wait_for("waiting", "restarted", "deferred")
    assert wait_until(lambda: len(placed.deadlines("restarted")) == 1, timeout=30)
    placed.airflow.kill("triggerer")
    placed.airflow.restart("triggerer")

    assert wait_until(lambda: len(placed.deadlines("restarted")) == 2, timeout=60)
    first, second = placed.deadlines("restarted")
    assert first == second
    placed.control.set_job(placed.jobs["restarted"], "complete")
    placed.wait_for("waiting", "restarted", "success")
    assert placed.workers("waiting", "restarted") == 0
    assert placed.task("waiting", "slow")["state"] == "deferred"
