"""Sensors that need no worker, and those that do: each in its place, and none hangs."""

from __future__ import annotations

import pytest
from sensor_dags import AT_ONCE

FROM_A_WORKER = {
    *("template", "text_of_output", "template_of_conn", "called_back", "outlet"),
    *("mapped_sensor", "each.in_mapped_group"),
}
"""Sensors that start in a worker."""
UNUSABLE = {
    "mapped_upstream",
    "skipped_upstream",
    "failed_upstream",
    "none",
    "without_id",
    "braces",
    "no_such_key",
}
"""Sensors that are given no job."""


class Sensors:
    """The runs of `sensor_dags.py`, and their jobs by name."""

    def __init__(self, starter, sandbox, jobs):
        self.sandbox, self.jobs = sandbox, jobs
        names = ("waiting", "timeouts", "at_once", "table")
        self.runs = {name: starter.start_at(sandbox, f"sensor_{name}", f"sensor-{name}") for name in names}

    def set_job(self, name, status, **options):
        self.sandbox.set_job(self.jobs[name], status, **options)

    def job(self, name):
        (job,) = (each for each in self.sandbox.state()["jobs"] if each["id"] == self.jobs[name])
        return job

    def result(self, name, **known):
        """What a sensor returns."""
        job = self.job(name)
        facts = {key: job[key] for key in ("status", "name", "end_seconds", "credits_charged")}
        url = f"https://magichour.ai/my-library?videoId={job['id']}"
        return {"project_id": job["id"], "url": url, **facts, **known}


@pytest.fixture(scope="module")
def sensors(starter, sandbox, sensor_jobs):
    """All runs, begun at once."""
    return Sensors(starter, sandbox, sensor_jobs)


def test_many_sensors_of_a_complete_job_end_without_a_worker(sensors):
    run = sensors.runs["at_once"]
    assert run.wait() == "success"
    assert list(run.ends().values()) == [("success", 1)] * AT_ONCE
    for task_id, _ in run.ends():
        assert run.workers(task_id) == 0
        assert run.xcom(task_id)["status"] == "complete"


def test_sensor_returns_the_same_with_and_without_a_worker(sensors):
    run = sensors.runs["waiting"]
    run.until_in("deferred", "reference")
    assert run.workers("reference") == 0
    run.until(lambda: sensors.job("reference")["polls"] >= 4, "the job is polled")
    assert sensors.job("slow")["polls"] == 1, "poke_interval is the poll interval here, too"
    page = sensors.result("reference")["url"]
    assert run.links("reference") == {"Magic Hour library": page}
    for name in ("literal", "reference"):
        sensors.set_job(name, "complete")

    for task_id in ("download", "downstream"):
        run.until_in("success", task_id)
    for task_id in ("literal", "literal_dict", "reference"):
        run.until_in("success", task_id)
        assert run.workers(task_id) == 0
    known = {"model": "ltx-2.3", "resolution": "480p"}
    result = sensors.result("reference", **known)
    assert run.xcom("reference") == run.xcom("downstream") == result
    assert run.xcom("literal_dict") == sensors.result("literal", **known)
    assert run.xcom("literal") == sensors.result("literal", model=None, resolution=None)
    assert (run.folder / f"{sensors.jobs['reference']}.mp4").stat().st_size > 0


def test_failed_job_ends_the_sensor_in_a_worker(sensors):
    run = sensors.runs["waiting"]
    ids = ("fails", "soft_fail", "retried")
    for task_id in ids:
        run.until_in("deferred", task_id)
        assert run.workers(task_id) == 0
    sensors.set_job("fails", "error", code="nsfw", message="Refused")

    assert run.until_in("failed", "fails")["try_number"] == 1
    assert run.until_in("skipped", "soft_fail")["try_number"] == 1
    assert run.until_in("failed", "retried")["try_number"] == 2, "the user's own policy retries"
    for task_id in ids:
        assert run.workers(task_id) == run.task(task_id)["try_number"]
    message = run.errors(run.task("fails"))["ModerationError"]
    assert sensors.jobs["fails"] in message
    assert run.xcom("fails") is None


def test_waiting_sensor_can_be_cleared_and_marked(sensors):
    run = sensors.runs["waiting"]
    for task_id in ("cleared", "marked"):
        run.until_in("deferred", task_id)
        assert run.workers(task_id) == 0
    run.mark("failed", "marked")
    run.clear("cleared")

    run.until(lambda: run.ends()[("cleared", -1)] == ("deferred", 2), "the cleared sensor waits again")
    page = sensors.result("marked")["url"]
    run.until(lambda: page in run.log("marked").partition("invoking on_kill")[2], "the job is reported")
    sensors.set_job("cleared", "complete")
    run.until_in("success", "cleared")
    assert run.workers("cleared") == 0
    assert run.task("marked")["state"] == "failed"

    sensors.set_job("cleared", "error", code="x", message="y")
    run.clear("cleared")
    assert run.until_in("failed", "cleared")["try_number"] == 3
    assert run.xcom("cleared") is None, "the result of the earlier attempt is gone"


def test_timeout_ends_the_sensor_in_a_worker(sensors):
    run = sensors.runs["timeouts"]
    assert run.wait() == "failed"
    assert run.ends() == {
        ("timeout", -1): ("failed", 1),
        ("timeout_skips", -1): ("skipped", 1),
        ("execution_timeout", -1): ("failed", 1),
    }
    for task_id in ("timeout", "execution_timeout"):
        assert run.workers(task_id) == 1
        # From 3.4 the log has Airflow's own error, too, as its cause.
        assert set(run.errors(run.task(task_id))) - {"TaskDeferralTimeout"} == {"AirflowSensorTimeout"}


def test_every_form_of_project_id(sensors):
    run = sensors.runs["table"]
    run.wait()
    tasks = {task["task_id"]: task for task in run.tasks()}
    assert {name for name, task in tasks.items() if task["pid"] is None and task["state"] == "success"} == {
        "key"
    }
    assert {tasks[task_id]["state"] for task_id in FROM_A_WORKER} == {"success"}
    assert {tasks[task_id]["state"] for task_id in UNUSABLE} == {"failed"}
    errors = {task_id: set(run.errors(tasks[task_id])) for task_id in UNUSABLE}
    assert all(errors.values()), errors
    # Airflow 3.3.2 stores no XCom from the triggerer for an id that is not ASCII: a worker does it.
    assert tasks["group-1_ü.sënsor.a-b_1"]["state"] == "success"
    assert run.xcom("group-1_ü.sënsor.a-b_1")["model"] == "ltx-2.3"
