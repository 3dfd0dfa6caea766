"""The provider under a live Airflow 3, with Airflow's own heartbeat interval, against the sandbox.

The runs go side by side (see `runs`); each test takes up its own where it has got to.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import av
import httpx
import pytest
import sqlalchemy
from postgres import folder_of
from processes import wait_until

from magichour_provider.jobs.reference import library_url

if TYPE_CHECKING:
    from airflow_rest import Json
    from live_airflow import LiveAirflow

pytestmark = pytest.mark.live

Runs = Mapping[str, Any]
"""The runs of `conftest.py`, by name."""

LINK = "Magic Hour library"
TRIGGER = "magichour_provider.triggers.video_job.VideoJobTrigger"
SENSOR_TRIGGER = "magichour_provider.triggers.video_sensor.VideoSensorTrigger"
CLIP_KEYS = {
    "path", "size", "sha256", "content_type", "project_id", "duration", "width", "height", "fps",
    "poster", "clips",
}  # fmt: skip


def test_waiting_in_a_worker_by_poking_by_rescheduling_and_in_the_operator(runs: Runs) -> None:
    run = runs["worker-waits"]

    run.wait_for("reschedule", "up_for_reschedule")
    assert wait_until(lambda: all(job["polls"] >= 4 for job in run.jobs()), timeout=60)
    assert run.task("poke")["state"] == run.task("render")["state"] == "running"
    run.release()

    assert run.finish() == "success"
    assert set(run.tasks().values()) == {("success", 1)}
    sensed, rendered = sorted(run.jobs(), key=lambda job: " render " in job["name"])
    assert_job(run.xcom("poke"), sensed)
    assert_job(run.xcom("reschedule"), sensed)
    for task_id in ("poke", "reschedule", "render"):
        assert run.xcom(task_id)["queued_seconds"] > 0, "its looks before the last one have seen the queue"
    assert_job(run.xcom("render"), rendered)
    assert_clip(run.xcom("download"), rendered, run.folder, seconds=3)


def test_a_killed_worker_leaves_a_job_that_the_next_try_takes_up(runs: Runs) -> None:
    run = runs["killed"]
    run.wait_for("render", "running")
    os.kill(run.task("render")["pid"], signal.SIGKILL)
    assert wait_until(lambda: run.tasks()[("render", -1)] == ("running", 2), timeout=120)
    run.release()

    assert run.finish() == "success"
    assert run.tasks() == {("render", -1): ("success", 2)}
    first = run.only_job()
    assert_job(run.xcom("render"), first)

    path = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/render/state-store/magichour_job"
    assert wait_until(lambda: run.airflow.request("GET", path)["value"]["stage"] == "done", timeout=60)
    run.airflow.clear(run.dag_id, run.run_id)
    assert wait_until(lambda: len(run.jobs()) == 2, timeout=120), "a cleared success is rendered anew"
    run.release()
    assert run.finish() == "success"
    assert run.xcom("render")["project_id"] == run.jobs()[1]["id"] != first["id"]


def test_the_pipeline_waits_in_the_triggerer_and_ends_with_a_clip_on_disk(runs: Runs) -> None:
    run = runs["pipeline"]
    assert_begins_in_the_triggerer(run, "wait")
    job = run.only_job()
    assert wait_until(lambda: run.links("wait") == {LINK: library_url(job["id"])}, timeout=30)
    assert run.links("submit") == run.links("wait")
    run.release()

    assert run.finish() == "success"
    assert not run.task("wait")["hostname"], "no worker was started"
    assert set(run.tasks().values()) == {("success", 1)}
    job = run.only_job()
    assert_job(run.xcom("submit"), job, status="queued")
    assert_job(run.xcom("wait"), job)
    assert run.xcom("submit", "project_id") == job["id"]
    assert_clip(run.xcom("download"), job, run.folder, seconds=5)
    assert run.xcom("inspect") == "ftyp"
    for task in ("submit", "wait", "download"):
        assert run.links(task) == {LINK: library_url(job["id"])}, task
    said = run.log("submit").splitlines()
    assert any(job["id"] in line and f"{job['credits_charged']} credits" in line for line in said)
    assert f"Job {job['id']} is complete" in run.log("wait")


def test_an_operator_that_waits_in_the_triggerer_itself(runs: Runs) -> None:
    run = runs["short"]
    assert_waits_in_the_triggerer(run, "render")
    assert run.links("render") == {LINK: library_url(run.only_job()["id"])}
    run.release()

    assert run.finish() == "success"
    assert set(run.tasks().values()) == {("success", 1)}
    assert_job(run.xcom("render"), run.only_job())
    assert_clip(run.xcom("download"), run.only_job(), run.folder, seconds=5)


def test_a_job_that_fails_while_it_is_waited_for_fails_the_run_at_once(runs: Runs) -> None:
    run = runs["failing"]
    run.wait_for("wait", "deferred")
    run.sandbox.set_job(run.only_job()["id"], "error", code="invalid_image_file", message="No face was found")

    assert run.finish() == "failed"
    assert run.tasks() == {
        ("submit", -1): ("success", 1),
        ("wait", -1): ("failed", 1),
        ("download", -1): ("upstream_failed", 0),
    }
    job = run.only_job()
    error = last_error(run.log("wait"))
    assert f"Job {job['id']} failed at Magic Hour (invalid_image_file): No face was found." in error
    assert "its credits are refunded" in error
    assert_refunded(job)
    assert list(run.folder.iterdir()) == []


def test_an_operator_whose_job_fails_does_not_order_another(runs: Runs) -> None:
    run = runs["refused"]

    assert run.finish() == "failed"
    assert run.tasks() == {("render", -1): ("failed", 1)}
    error = last_error(run.log("render"))
    assert f"Job {run.only_job()['id']} failed at Magic Hour (nsfw)" in error
    assert "its credits are refunded" in error
    assert_refunded(run.only_job())


def test_a_wrong_key_fails_the_run_at_once_and_buys_nothing(runs: Runs) -> None:
    run = runs["wrong-key"]

    assert run.finish() == "failed"
    assert run.tasks() == {
        ("submit", -1): ("failed", 1),
        ("wait", -1): ("upstream_failed", 0),
        ("download", -1): ("upstream_failed", 0),
    }
    error = last_error(run.log("submit"))
    assert "401" in error
    assert "API key" in error
    assert "no credits were spent" in error
    assert run.jobs() == []


def test_a_connection_from_the_database_serves_workers_and_triggerer(runs: Runs) -> None:
    run = runs["stored"]
    assert run.wait_for("wait", "deferred")["rendered_fields"]["magichour_conn_id"] == "magichour_stored"
    run.release()

    assert run.finish() == "success"
    assert_clip(run.xcom("download"), run.only_job(), run.folder, seconds=3)
    with reading(run.airflow) as database:
        query = "SELECT is_encrypted, password FROM connection WHERE conn_id = 'magichour_stored'"
        ((is_encrypted, password),) = database.execute(sqlalchemy.text(query))
    assert is_encrypted
    assert password.startswith("gAAAA")


def test_a_folder_of_ten_images_becomes_ten_clips_paid_for_once_each(runs: Runs) -> None:
    run = runs["mapped"]

    assert run.finish() == "success"
    each = {(task, index): ("success", 1) for task in ("render", "download") for index in range(10)}
    assert run.tasks() == {("list_images", -1): ("success", 1), **each}
    jobs = {job["id"]: job for job in run.jobs()}
    assert len(run.jobs()) == len({job["image_file_path"] for job in run.jobs()}) == 10
    assert all([charge["reason"] for charge in job["charges"]] == ["create"] for job in run.jobs())
    clips = [run.xcom("download", map_index=index) for index in range(10)]
    assert {clip["project_id"] for clip in clips} == set(jobs)
    assert len({clip["sha256"] for clip in clips}) == 10
    for index, clip in enumerate(clips):
        job = jobs[clip["project_id"]]
        assert f" render[{index}] " in job["name"]
        assert_job(run.xcom("render", map_index=index), job)
        assert_clip(clip, job, run.folder, seconds=3)


def test_a_job_that_ends_while_the_triggerer_is_dead_is_taken_up_by_the_next_one(runs: Runs) -> None:
    run = runs["orphaned"]
    assert_waits_in_the_triggerer(run, "wait")

    run.airflow.kill("triggerer")
    run.release()
    assert run.task("wait")["state"] == "deferred"
    run.airflow.restart("triggerer")

    assert run.finish() == "success"
    assert set(run.tasks().values()) == {("success", 1)}
    assert [charge["reason"] for charge in run.only_job()["charges"]] == ["create"]
    assert_clip(run.xcom("download"), run.only_job(), run.folder, seconds=3)


def test_neither_key_nor_signed_url_is_left_in_database_logs_and_files(
    runs: Runs, sandbox_url: str, api_keys: tuple[str, str]
) -> None:
    for run in runs.values():
        run.release()
        run.finish()
    airflow = runs["pipeline"].airflow
    complete = [job["id"] for run in runs.values() for job in run.jobs() if job["status"] == "complete"]
    urls = [urlsplit(clip_url(sandbox_url, api_keys[0], job_id)) for job_id in complete]
    signatures = [parse_qs(url.query)["signature"][0] for url in urls]
    signs = ["signature=", "signature%3D", "?expires=", "%3Fexpires%3D", "output.mp4?", "output.mp4%3F"]
    assert all(sign in f"{url.path}?{url.query}" for url in urls for sign in ("output.mp4?", "signature="))

    secrets = [*api_keys, *signatures, *signs]
    places = dict(written_by(airflow))
    leaks = {
        (place, secret) for place, text in places.items() for secret in secrets if secret.encode() in text
    }

    assert leaks == set()
    seen = [place for place, text in places.items() if complete[0].encode() in text]
    assert any(place.startswith("table ") for place in seen), "a leak into a row would be seen"
    assert any(place.startswith("postgres-") for place in seen), "a leak into a deleted row would be seen"
    assert any(place.endswith(".log") for place in seen), "a leak into a log would be seen"


def test_a_triggerer_sends_its_metrics(runs: Runs, statsd: Any) -> None:
    """Airflow's SDK has `Stats` too, which in a triggerer lead nowhere."""
    runs["mapped"].finish()
    assert wait_until(lambda: statsd.lines("magichour.completion_lag"), timeout=60)
    assert sum(int(line.removesuffix("|c")) for line in statsd.lines("magichour.polls")) > 10
    assert any(line.endswith("|g") and line != "0|g" for line in statsd.lines("magichour.jobs_waiting"))


def assert_begins_in_the_triggerer(run: Any, task_id: str) -> None:
    """The task is deferred, and no worker has done so."""
    run.wait_for(task_id, "deferred")
    assert wait_until(lambda: run.task(task_id)["triggerer_job"] is not None, timeout=30)
    task = run.task(task_id)
    assert (task["state"], task["hostname"], task["pid"]) == ("deferred", "", None)
    assert task["trigger"]["classpath"] == SENSOR_TRIGGER


def assert_waits_in_the_triggerer(run: Any, task_id: str) -> None:
    """The task is deferred, a triggerer has its trigger, and that was given ids and numbers only."""
    run.wait_for(task_id, "deferred")
    assert wait_until(lambda: run.task(task_id)["triggerer_job"] is not None, timeout=30)
    task = run.task(task_id)
    assert task["state"] == "deferred"
    assert task["trigger"]["classpath"] == TRIGGER
    kwargs = stored_kwargs(run.airflow, task["trigger"]["id"])
    assert kwargs.pop("deadline") > time.time() > kwargs.pop("submitted")
    sightings = [kwargs.pop("queued_at"), kwargs.pop("rendering_since")]
    assert all(seen is None or 0 < time.time() - seen < 600 for seen in sightings)
    assert kwargs == {
        "project_id": run.only_job()["id"],
        "magichour_conn_id": "magichour_default",
        "poll_interval": None,
        "credits_charged": run.only_job()["credits_charged"],
        "model": run.only_job()["model"],
        "resolution": run.only_job()["resolution"],
        "end_seconds": run.only_job()["end_seconds"],
    }


def assert_job(xcom: Json, job: Json, *, status: str = "complete") -> None:
    """The XCom has what the contract says and nothing else, and agrees with the ledger."""
    assert xcom == {
        "project_id": job["id"],
        "status": status,
        "name": job["name"],
        "model": "ltx-2.3",
        "resolution": "480p",
        "end_seconds": job["end_seconds"],
        "credits_charged": job["credits_charged"],
        "queued_seconds": xcom["queued_seconds"],
        "rendering_seconds": xcom["rendering_seconds"],
        "url": library_url(job["id"]),
    }
    assert job["credits_charged"] > 0


def assert_clip(xcom: Json, job: Json, folder: Path, *, seconds: float) -> None:
    """The clip is in its place, whole, playable to its last frame and as described."""
    path = folder / f"{job['id']}.mp4"
    assert xcom.keys() == CLIP_KEYS
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
        assert container.duration / av.time_base == pytest.approx(seconds, abs=0.1)
    assert xcom["duration"] == pytest.approx(seconds, abs=0.1)
    assert len(frames) == pytest.approx(24 * seconds, abs=2)


def assert_refunded(job: Json) -> None:
    """One create, given back in full."""
    taken, given_back = (charge["credits"] for charge in job["charges"])
    assert taken == -given_back > 0
    assert job["credits_charged"] == 0


def last_error(log: str) -> str:
    """The log from its last ERROR line on."""
    return log[log.rindex(" ERROR ") :]


def stored_kwargs(airflow: LiveAirflow, trigger_id: int) -> Json:
    """What a trigger was given: plain text in the database, and not shown by REST."""
    with reading(airflow) as database:
        query = sqlalchemy.text("SELECT kwargs FROM trigger WHERE id = :id")
        ((kwargs,),) = database.execute(query, {"id": trigger_id})
    stored: Json = json.loads(kwargs)
    return stored


@contextmanager
def reading(airflow: LiveAirflow) -> Iterator[sqlalchemy.Connection]:
    """Airflow's database."""
    engine = sqlalchemy.create_engine(airflow.database)
    try:
        with engine.connect() as database:
            yield database
    finally:
        engine.dispose()


def clip_url(sandbox_url: str, key: str, project_id: str) -> str:
    """The signed URL of a clip: the sandbox gives the same one as long as it is good."""
    headers = {"Authorization": f"Bearer {key}"}
    answer = httpx.get(f"{sandbox_url}/v1/video-projects/{project_id}", headers=headers, trust_env=False)
    return str(answer.raise_for_status().json()["download"]["url"])


def written_by(airflow: LiveAirflow) -> Iterator[tuple[str, bytes]]:
    """All that Airflow wrote: the files below its home and of its database as they are, and every row.

    The rows besides the files, as a long value may be compressed in those; the files, as they hold deleted
    rows too.
    """
    for folder in (airflow.home, folder_of(airflow.database)):
        for path in folder.rglob("*"):
            if path.is_file():
                yield str(path.relative_to(folder.parent)), path.read_bytes()
    with reading(airflow) as database:
        tables = sqlalchemy.MetaData()
        tables.reflect(database)
        for table in tables.sorted_tables:
            rows = database.execute(sqlalchemy.select(table))
            cells = [bytes(cell) if isinstance(cell, memoryview) else cell for row in rows for cell in row]
            yield f"table {table.name}", "\n".join(map(str, cells)).encode()
