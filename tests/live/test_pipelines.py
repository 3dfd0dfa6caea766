"""Submitting, waiting and downloading under a live Airflow with its own heartbeat interval."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import contextmanager
from datetime import datetime

import av
import pytest
import sqlalchemy
from airflow_rest import Json
from runs import IMAGE

from magichour_provider.version_compat import AIRFLOW_V_3_3_PLUS

TRIGGER = "magichour_provider.triggers.video_job.VideoJobTrigger"
VIDEO_KEYS = {
    *("path", "size", "sha256", "content_type", "project_id", "duration", "width", "height", "fps"),
    *("poster", "videos", "hostname"),
}


@pytest.fixture(scope="module")
def runs(starter):
    """Runs whose jobs are held, begun at once to save time."""
    dags = {
        "worker-waits": "live_worker_waits",
        "pipeline": "live_pipeline",
        "render": "live_render",
        "failing": "live_pipeline",
        "refused": "live_render",
    }
    return {name: starter.start(dag_id, name) for name, dag_id in dags.items()}


def test_wait_in_a_worker(runs):
    run = runs["worker-waits"]
    run.until_in("up_for_reschedule", "reschedule")
    run.until(lambda: [job["polls"] >= 4 for job in run.jobs()] == [True, True], "both jobs are polled")
    assert run.task("poke")["state"] == run.task("render")["state"] == "running"
    run.complete()

    assert run.wait() == "success"
    assert set(run.ends().values()) == {("success", 1)}
    sensed, rendered = sorted(run.jobs(), key=lambda job: " render " in job["name"])
    assert_job(run.xcom("poke"), sensed)
    assert_job(run.xcom("reschedule"), sensed)
    assert_job(run.xcom("render"), rendered)
    assert_video(run.xcom("download"), rendered, run.folder)


@pytest.mark.parametrize(("name", "task_id"), [("pipeline", "wait"), ("render", "render")])
def test_wait_in_the_triggerer(runs, name, task_id):
    run = runs[name]
    run.until_in("deferred", task_id)
    run.until(lambda: run.task(task_id)["triggerer_job"], "a triggerer has the trigger")
    task, job = run.task(task_id), run.only_job()
    assert (task["state"], task["trigger"]["classpath"]) == ("deferred", TRIGGER)
    assert task["rendered_fields"]["magichour_conn_id"] == run.run_id
    kwargs = stored_kwargs(run.airflow, task["trigger"]["id"])
    assert kwargs.pop("deadline") > time.time() > kwargs.pop("submitted")
    assert kwargs == {
        "project_id": job["id"],
        "magichour_conn_id": run.run_id,
        "poll_interval": None,
        **{key: job[key] for key in ("credits_charged", "model", "resolution", "end_seconds")},
    }, "ids and numbers only"
    run.complete()

    assert run.wait() == "success"
    assert set(run.ends().values()) == {("success", 1)}
    assert_job(run.xcom(task_id), run.only_job())
    assert_video(run.xcom("download"), run.only_job(), run.folder)


@pytest.mark.parametrize(("name", "task_id"), [("failing", "wait"), ("refused", "render")])
def test_failed_job_fails_the_run_without_a_retry(runs, name, task_id):
    run = runs[name]
    run.until_in("deferred", task_id)
    run.sandbox.set_job(run.only_job()["id"], "error", code="nsfw", message="No face was found")

    assert run.wait() == "failed"
    assert run.ends()[(task_id, -1)] == ("failed", 1)
    assert run.ends()[("download", -1)] == ("upstream_failed", 0)
    job = run.only_job()
    message = final_error(run, task_id, "ModerationError")
    for part in (job["id"], "nsfw", "No face was found", "refunded"):
        assert part in message
    taken, refunded = (charge["credits"] for charge in job["charges"])
    assert taken == -refunded > 0
    assert list(run.folder.iterdir()) == []


def test_wrong_key_fails_the_run_and_charges_nothing(runs, starter):
    sandbox = runs["pipeline"].sandbox
    connection = starter.airflow.request("GET", "/connections/pipeline")
    body = {**{key: connection[key] for key in ("conn_type", "host")}, "connection_id": "wrong-key"}
    starter.airflow.request("POST", "/connections", json={**body, "password": "mhk_live_UNKNOWN_KEY"})
    conf = {"conn_id": "wrong-key", "image": str(IMAGE)}
    run = starter.start_at(sandbox, "live_pipeline", "wrong-key", **conf)

    assert run.wait() == "failed"
    assert run.ends() == {
        ("submit", -1): ("failed", 1),
        ("wait", -1): ("upstream_failed", 0),
        ("download", -1): ("upstream_failed", 0),
    }
    message = final_error(run, "submit", "AuthenticationError")
    for part in ("401", "API key"):
        assert part in message
    assert run.jobs() == []


def test_stored_connections_are_encrypted(runs):
    with reading(runs["pipeline"].airflow) as database:
        query = "SELECT is_encrypted, password FROM connection WHERE conn_id = 'pipeline'"
        ((is_encrypted, password),) = database.execute(sqlalchemy.text(query))
    assert is_encrypted
    assert password.startswith("gAAAA")


def final_error(run, task_id, name):
    """The message of an error that is not retried; before 3.3, only Airflow's own error prevents a retry."""
    return run.errors(run.task(task_id))[name if AIRFLOW_V_3_3_PLUS else "AirflowFailException"]


def assert_job(xcom, job):
    """The XCom has the documented keys and no others, and agrees with the sandbox."""
    created_at = datetime.fromisoformat(job["created_at"].replace("Z", "+00:00"))
    assert datetime.fromisoformat(xcom.pop("created_at")) == created_at
    assert xcom == {
        "project_id": job["id"],
        "status": "complete",
        "name": job["name"],
        "model": "ltx-2.3",
        "resolution": "480p",
        "end_seconds": job["end_seconds"],
        "credits_charged": job["credits_charged"],
        "url": f"https://magichour.ai/my-library?videoId={job['id']}",
    }
    assert job["credits_charged"] > 0


def assert_video(xcom, job, folder):
    """The video is in its place, whole, playable to its last frame and as described."""
    path = folder / f"{job['id']}.mp4"
    assert xcom.keys() == VIDEO_KEYS
    assert xcom["path"] == str(path)
    assert xcom["project_id"] == job["id"]
    assert xcom["content_type"] == "video/mp4"
    assert xcom["size"] == path.stat().st_size
    assert xcom["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    with av.open(path) as container:
        video = container.streams.video[0]
        frames = [frame.time for frame in container.decode(video)]
        assert video.average_rate == xcom["fps"] == 24
        assert (video.width, video.height) == (xcom["width"], xcom["height"])
        assert container.duration / av.time_base == pytest.approx(3, abs=0.1)
    assert xcom["duration"] == pytest.approx(3, abs=0.1)
    assert len(frames) == pytest.approx(72, abs=2)


def stored_kwargs(airflow, trigger_id):
    """What a trigger was given: plain text in the database, and not shown by REST."""
    with reading(airflow) as database:
        query = sqlalchemy.text("SELECT kwargs FROM trigger WHERE id = :id")
        ((kwargs,),) = database.execute(query, {"id": trigger_id})
    stored: Json = json.loads(kwargs)
    return stored.get("__var", stored)  # before 3.2 as of a serialized dict


@contextmanager
def reading(airflow):
    """Airflow's database."""
    engine = sqlalchemy.create_engine(airflow.database)
    try:
        with engine.connect() as database:
            yield database
    finally:
        engine.dispose()
