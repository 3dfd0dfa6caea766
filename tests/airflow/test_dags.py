"""Each Dag by `dag.test()`: a real task runner, a real database, the sandbox over HTTP."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

JOB_KEYS = {
    "project_id",
    "status",
    "name",
    "model",
    "resolution",
    "end_seconds",
    "credits_charged",
    "url",
}
CLIP_KEYS = {
    "path",
    "size",
    "sha256",
    "content_type",
    "project_id",
    "duration",
    "width",
    "height",
    "fps",
    "poster",
    "clips",
}


def xcom(run, task_id, index=0):
    return run.tasks[task_id][index].xcom_pull(task_ids=task_id)


def creates(sandbox):
    rows = sandbox.control.ledger()["requests"]
    return sum(row["count"] for row in rows if row["path"] == "/v1/image-to-video")


def test_the_pipeline_in_three_tasks(run_dag, magichour_sandbox, tmp_path):
    run = run_dag("examples/image_to_video.py", folder=str(tmp_path))
    assert run.state == "success"
    job, clip = xcom(run, "wait"), xcom(run, "download")
    assert set(job) == JOB_KEYS
    assert (job["status"], job["model"], job["end_seconds"]) == ("complete", "ltx-2.3", 5)
    assert set(clip) == CLIP_KEYS
    assert clip["duration"] == pytest.approx(5, abs=0.05)
    assert xcom(run, "inspect") == "ftyp"
    assert [path.name for path in tmp_path.iterdir()] == [f"{job['project_id']}.mp4"]
    assert creates(magichour_sandbox) == 1


def test_the_short_pipeline(run_dag, magichour_sandbox, tmp_path):
    run = run_dag("examples/render_and_download.py", folder=str(tmp_path))
    assert run.state == "success"
    assert set(xcom(run, "render")) == JOB_KEYS
    assert xcom(run, "download")["project_id"] == xcom(run, "render")["project_id"]
    assert creates(magichour_sandbox) == 1


def test_the_first_dag_of_the_readme(run_dag, magichour_sandbox):
    run = run_dag("examples/first_clip.py")
    assert run.state == "success"
    clip = Path(xcom(run, "download")["path"])
    assert clip.parent == Path("/tmp/clips")
    clip.unlink()
    assert creates(magichour_sandbox) == 1


def test_the_mapped_pipeline(run_dag, magichour_sandbox, tmp_path):
    from PIL import Image

    images = tmp_path / "images"
    images.mkdir()
    for shade in range(3):
        Image.new("RGB", (64, 64), (shade * 90, 0, 0)).save(images / f"{shade}.jpg")
    run = run_dag("examples/folder_of_images.py", images=str(images), folder=str(tmp_path / "clips"))
    assert run.state == "success"
    assert len(run.tasks["download"]) == 3
    assert len(list((tmp_path / "clips").iterdir())) == 3
    jobs = magichour_sandbox.control.ledger()["jobs"]
    assert len({job["name"] for job in jobs}) == creates(magichour_sandbox) == 3


def test_every_mode_of_waiting_gives_the_same_data(run_dag, magichour_sandbox):
    run = run_dag("tests/modes.py")
    assert run.state == "success"
    rendered = xcom(run, "render")
    assert rendered["end_seconds"] == 3
    assert xcom(run, "deferred") == rendered
    for task_id in ("poke", "reschedule"):
        waited = xcom(run, task_id)
        assert waited == {**rendered, "model": None, "resolution": None}
    (job,) = magichour_sandbox.control.ledger()["jobs"]
    assert job["audio"] is True


def test_a_failed_render_is_not_submitted_again_whatever_retries_say(run_dag, magichour_sandbox):
    run = run_dag("tests/trouble.py")
    assert run.state == "failed"
    assert {task_id: str(tis[0].state) for task_id, tis in run.tasks.items()} == {
        "sync": "failed",
        "deferred": "failed",
    }
    assert creates(magichour_sandbox) == 2
    assert {job["credits_charged"] for job in magichour_sandbox.control.ledger()["jobs"]} == {0}


def test_a_wrong_key_fails_at_once(run_dag, connection, magichour_sandbox):
    connection(password="wrong")
    run = run_dag("examples/render_and_download.py")
    assert run.state == "failed"
    assert {task_id: str(tis[0].state) for task_id, tis in run.tasks.items()} == {
        "render": "failed",
        "download": "upstream_failed",
    }
    assert creates(magichour_sandbox) == 0


def test_the_signature_of_an_image_is_in_no_rendered_field(run_dag, magichour_sandbox):
    signature = "c2lnbmF0dXJlLW9mLXRoZS1zdG9yZQ"
    run = run_dag("tests/signed.py", signature=signature)
    assert run.state == "success"
    assert creates(magichour_sandbox) == 2
    with sqlite3.connect(Path(os.environ["AIRFLOW_HOME"]) / "airflow.db") as database:
        rendered = database.execute(
            "select task_id, rendered_fields from rendered_task_instance_fields"
        ).fetchall()
    stored = {task_id: fields for task_id, fields in rendered if "still.png" in fields}
    assert set(stored) == {"plain", "mapped"}
    assert signature not in str(stored)
