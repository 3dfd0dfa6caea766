"""Each task in a pod with an empty disk: nothing of a deleted pod is needed, and a video is paid for once."""

from __future__ import annotations

import os
from pathlib import Path

import pod_executor
import pytest
from live_airflow import LiveAirflow
from pods_dags import DOWNLOAD, WAYS
from postgres import postgres
from runs import CREATE, UPLOAD, Starter

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace needs root")
GRACE_SECONDS = 5
VIDEO = {"path": "*.mp4", "method": "GET", "origin": "storage"}
PODS = {
    "render_deferred": 2,
    "render_in_worker": 1,
    "submit": 1,
    "sensor_deferred": 0,
    "sensor_from_worker": 2,
    "sensor_in_worker": 1,
}
"""How many pods each way of waiting takes: the table in docs/kubernetes.md."""


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


@pytest.fixture(scope="module")
def in_pods(dags, records, tmp_path_factory):
    """Starts runs at an Airflow that starts a pod for each task."""
    home, volume = tmp_path_factory.mktemp("pods"), tmp_path_factory.mktemp("storage")
    (home / "logs").mkdir()
    env = {
        "AIRFLOW__CORE__EXECUTOR": "pod_executor.PodExecutor",
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__OPENLINEAGE__DISABLED": "True",
        "PYTHONPATH": str(Path(pod_executor.__file__).parent),
        "POD_RECORDS": str(records),
        "POD_VOLUMES": f"{dags} {home / 'logs'} {volume}",
    }
    with postgres() as database, LiveAirflow(home, dags, database=database, env=env) as airflow:
        starter = Starter(airflow, volume)
        yield starter
        starter.close()


def last_pod(records, run):
    run.until(lambda: pod_executor.pods(records, run.run_id, run.task_id), "the task has a pod")
    return pod_executor.pods(records, run.run_id, run.task_id)[-1]


def test_pods_by_way_of_waiting(in_pods, records):
    run = in_pods.start(WAYS, "pods-ways")
    waiting = ("render_deferred", "sensor_deferred", "sensor_from_worker")
    for task_id in waiting:
        run.until_in("deferred", task_id)
        pods = pod_executor.pods(records, run.run_id, task_id)
        run.until(lambda pods=pods: not any(map(pod_executor.is_running, pods)), "no pod waits")
    assert run.finish() == "success"
    assert {task_id: len(pod_executor.pods(records, run.run_id, task_id)) for task_id in PODS} == PODS
    assert len(run.jobs()) == sum(job["credits_charged"] > 0 for job in run.jobs()) == 3


def test_pod_deleted_during_the_upload(in_pods, records):
    run = in_pods.start("breaking_deferrable", "pods-upload", hold={**UPLOAD, "hold": "before"})
    run.until_held()
    pod_executor.delete(last_pod(records, run), grace_seconds=GRACE_SECONDS)
    run.sandbox.release()
    assert run.finish() == "success"
    assert run.task()["try_number"] == 2
    assert run.only_job()["credits_charged"] > 0


def test_pod_deleted_after_the_create_was_sent(in_pods, records):
    run = in_pods.start("breaking_deferrable", "pods-create", hold={**CREATE, "hold": "after"})
    run.until_held()
    pod_executor.delete(last_pod(records, run), grace_seconds=60, meanwhile=lambda: run.sandbox.release())
    assert run.finish() == "success"
    assert run.xcom()["project_id"] == run.only_job()["id"]


def test_pod_deleted_during_the_download(in_pods, records):
    run = in_pods.start(DOWNLOAD, "pods-download", hold={**VIDEO, "hold": "after"})
    run.until(lambda: run.jobs(), "the job is submitted")
    run.complete()
    run.until_held()
    pod_executor.delete(last_pod(records, run), grace_seconds=GRACE_SECONDS)
    run.sandbox.release()
    assert run.finish() == "success"
    job = run.only_job()
    assert run.task()["try_number"] == 2
    assert job["credits_charged"] > 0
    assert (run.folder / "video.mp4").stat().st_size == run.xcom()["size"]
