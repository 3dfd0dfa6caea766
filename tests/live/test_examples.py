"""The example Dags that join the provider to the rest of Airflow, with a local S3 and mail server."""

from __future__ import annotations

import hashlib
import re
from io import BytesIO
from pathlib import Path

import av
import pytest
from airflow_rest import Json
from PIL import Image, ImageStat
from runs import HELD_SECONDS, PATIENCE_SECONDS

from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS

RENDER_SECONDS = 2.0
BRANCH, BILL = "magichour_branch_on_failure", "magichour_approve_the_bill"


@pytest.fixture(scope="module")
def runs(starter, sandbox, s3):
    """The runs that do not disturb each other, begun at once to save time."""
    put_image(s3, "a green image.png", (0, 200, 0))
    conf: dict[str, tuple[str, Json]] = {
        "s3": (
            "magichour_s3_in_and_out",
            {"image": "s3://images/a green image.png", "folder": "s3://videos/in/a folder"},
        ),
        "new-video": ("magichour_new_video", {}),
        "pipeline": ("magichour_image_to_video", {}),
        "mapped": ("magichour_folder_of_images", {"images": str(images(starter))}),
    }
    starter.airflow.wait_for_dag("magichour_on_a_new_video")
    starter.airflow.unpause("magichour_on_a_new_video")
    return {name: starter.start_at(sandbox, dag_id, name, **given) for name, (dag_id, given) in conf.items()}


def test_s3_image_becomes_a_whole_video_in_s3(runs, s3):
    run = runs["s3"]
    assert run.wait() == "success"
    video = run.xcom("download")
    key = f"in/a folder/{video['project_id']}.mp4"
    assert video["path"] == f"s3://videos/{key}"
    content = s3.client().get_object(Bucket="videos", Key=key)["Body"].read()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (video["size"], video["sha256"])
    with av.open(BytesIO(content)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    assert len(frames) == 72
    red, green, blue = ImageStat.Stat(frames[0]).mean
    assert green > 100 > max(red, blue), "the image came from the bucket"
    listed = s3.client().list_objects_v2(Bucket="videos", Prefix="in/")["Contents"]
    assert [found["Key"] for found in listed] == [key], "nothing else is left"


def test_asset_event_describes_the_video(runs):
    run, airflow = runs["new-video"], runs["new-video"].airflow
    assert run.wait() == "success"
    video, job = run.xcom("download"), run.xcom("render")

    def scheduled():
        return list(airflow.request("GET", "/dags/magichour_on_a_new_video/dagRuns")["dag_runs"])

    run.until(scheduled, "the Dag of the asset has run")
    (follower,) = scheduled()
    assert follower["run_type"] == "asset_triggered"
    follower_id = follower["dag_run_id"]
    limit = PATIENCE_SECONDS
    assert airflow.wait_for_run("magichour_on_a_new_video", follower_id, limit) == "success"
    # Not before: Airflow 3.3.2 responds 500 while a run that the event has begun is queued.
    events = airflow.request("GET", "/assets/events", params={"source_dag_id": run.dag_id})["asset_events"]
    (event,) = events
    path = Path(video["path"])
    assert event["extra"] == {
        "project_id": video["project_id"],
        "uri": f"file://{run.folder}/{video['project_id']}.mp4",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        **{key: video[key] for key in ("width", "height", "fps", "duration")},
        "model": "ltx-2.3",
        "credits": job["credits_charged"],
    }
    (line,) = airflow.xcom("magichour_on_a_new_video", follower_id, "catalogue")
    assert line.startswith(f"{event['extra']['uri']}: 3.0 s, {video['width']} x {video['height']}, ")
    assert line.endswith(f"{job['credits_charged']} credits (ltx-2.3)")


def test_pipeline_waits_without_a_worker(runs):
    run = runs["pipeline"]
    assert run.wait() == "success"
    assert set(run.ends().values()) == {("success", 1)}
    assert not run.task("wait")["hostname"], "no worker was started"
    job = run.only_job()
    assert run.xcom("submit", "project_id") == job["id"]
    assert run.xcom("inspect") == "ftyp"
    page = f"https://magichour.ai/my-library?videoId={job['id']}"
    for task_id in ("submit", "wait", "download"):
        assert run.links(task_id) == {"Magic Hour library": page}, task_id
    lines = run.log("submit").splitlines()
    assert any(job["id"] in line and f"{job['credits_charged']} credits" in line for line in lines)


def test_ten_images_become_ten_videos_paid_once(runs):
    run = runs["mapped"]
    assert run.wait() == "success"
    each = {(task, index): ("success", 1) for task in ("render", "download") for index in range(10)}
    assert run.ends() == {("list_images", -1): ("success", 1), **each}
    jobs = {job["id"]: job for job in run.jobs()}
    assert len(jobs) == len({job["image_file_path"] for job in jobs.values()}) == 10
    assert all([charge["reason"] for charge in job["charges"]] == ["create"] for job in jobs.values())
    videos = [run.xcom("download", map_index=index) for index in range(10)]
    assert {video["project_id"] for video in videos} == set(jobs)
    assert len({video["sha256"] for video in videos}) == 10
    for index, video in enumerate(videos):
        assert f" render[{index}] " in jobs[video["project_id"]]["name"]


def test_triggerer_sends_its_metrics(runs, statsd):
    """Airflow's SDK has `Stats` too, which sends nothing from a triggerer."""
    run = runs["mapped"]
    run.wait()
    run.until(lambda: statsd.values("magichour.completion_lag"), "the metrics are there")
    assert sum(int(value.removesuffix("|c")) for value in statsd.values("magichour.polls")) > 10
    assert any(value.endswith("|g") and value != "0|g" for value in statsd.values("magichour.jobs_waiting"))


def test_no_credits_is_mailed_to_billing_and_a_clear_succeeds(runs, starter, sandbox, mails):
    for run in runs.values():
        run.wait()  # they need the credits
    credits = sandbox.state()["account"]["credits"]
    sandbox.account(credits=0)
    try:
        run = starter.start_at(sandbox, BRANCH, "branch-credits")
        assert run.wait() == "failed"
    finally:
        sandbox.account(credits=credits)
    error = run.xcom("render", "magichour_error")
    assert set(error) == {"error", "code", "message", "project_id", "credits_charged", "retryable"}
    assert (error["error"], error["code"]) == ("BudgetError", "insufficient_credits")
    assert len(mails.to("billing@example.com")) == 1

    run.clear()
    assert run.wait() == "success"
    assert run.xcom("render", "magichour_error") is None
    assert run.task("mail_billing")["state"] == "skipped"


def test_success_without_a_worker_removes_the_error_of_an_earlier_attempt(runs, starter, sandbox):
    """Airflow removes a task's XComs only before an attempt that begins in a worker."""
    for run in runs.values():
        run.wait()
    sandbox.behaviour(render_seconds=HELD_SECONDS)
    try:
        run = starter.start_at(sandbox, "live_timeout", "timeout")
        assert run.wait() == "failed"
    finally:
        sandbox.behaviour(render_seconds=RENDER_SECONDS)
    job_id = run.xcom("submit")["project_id"]
    error = run.xcom("wait", "magichour_error")
    assert (error["error"], error["project_id"]) == ("WaitTimeoutError", job_id)

    sandbox.set_job(job_id, "complete")
    run.clear("wait")
    assert run.wait() == "success"
    assert run.workers("wait") == 1, "that of the first attempt"
    assert run.xcom("wait")["project_id"] == job_id
    assert run.xcom("wait", "magichour_error") is None


def test_nightly_folder_pays_once_for_each_image(starter, sandbox, s3):
    folders = {"images": "s3://aws_default@images/nightly", "videos": "s3://aws_default@videos/nightly"}

    def night(number):
        return starter.start_at(sandbox, "magichour_nightly_folder", f"night-{number}", **folders)

    put_image(s3, "nightly/one.png", (10, 0, 0))
    put_image(s3, "nightly/two.png", (20, 0, 0))
    assert night(1).wait() == "success"
    assert paid_images(sandbox) == downloaded_images(s3) == ["one", "two"]

    put_image(s3, "nightly/three.png", (30, 0, 0))
    put_image(s3, "nightly/two.png", (40, 0, 0))
    sandbox.faults([{"origin": "storage", "method": "GET", "path": "*", "status": 500}])
    second = night(2)
    fail_downloads(second, 2)
    assert second.wait() == "failed"
    sandbox.faults([])
    assert paid_images(sandbox) == ["one", "three", "two", "two"]
    assert downloaded_images(s3) == ["one", "two"]

    assert night(3).wait() == "success"
    assert paid_images(sandbox) == downloaded_images(s3) == ["one", "three", "two", "two"]


@pytest.mark.skipif(not AIRFLOW_V_3_1_PLUS, reason="Airflow 3.0 has no ApprovalOperator")
def test_bill_is_paid_only_after_its_approval(starter, sandbox):
    """A user rejects one bill and approves another by the REST API, as Airflow's UI does."""
    keys = ("astronaut", "admiral")

    def charged():
        return [job["credits_charged"] for job in sandbox.state()["jobs"] if job["name"] in keys]

    def answer(run_id, option):
        run = starter.start_at(sandbox, BILL, run_id, videos=str(starter.folder / run_id / "videos"))
        asked = ("deferred", "awaiting_input")  # the latter from Airflow 3.3 on
        # Airflow 3.3.2 fails a task that is answered before its scheduler has noticed the end of its worker.
        event = f"event with state success for task instance .*'approve', run_id='{run_id}'"
        scheduler_log = run.airflow.parts_logs_dir / "scheduler.log"
        run.until(
            lambda: (
                run.ends().get(("approve", -1), ("", 0))[0] in asked
                and re.search(event, scheduler_log.read_text())
            ),
            "the bill waits for an answer",
        )
        path = f"/dags/{BILL}/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails"
        detail = run.airflow.request("GET", path)
        bill = run.xcom("bill")
        assert detail["subject"] == f"{bill['estimate']} credits for {bill['to_submit']} videos"
        assert (bill["to_submit"], charged()) == (2, []), "a bill costs nothing"
        run.airflow.request("PATCH", path, json={"chosen_options": [option]})
        assert run.wait() == "success"
        return run, bill

    rejected, _ = answer("bill-rejected", "Reject")
    assert rejected.task("render")["state"] == "skipped"
    assert charged() == []
    approved, bill = answer("bill-approved", "Approve")
    summary = approved.xcom("render")
    assert (summary["complete"], summary["credits_charged"]) == (2, bill["estimate"])
    assert sum(charged()) == bill["estimate"]
    assert sorted(path.name for path in (approved.folder / "videos").glob("*.mp4")) == [
        "admiral.mp4",
        "astronaut.mp4",
    ]


def fail_downloads(run, count):
    """Wait until each download has failed once, and mark it as failed, as a user does who will not wait."""

    def waiting():
        return [key for key, (state, _) in run.ends().items() if state == "up_for_retry"]

    run.until(lambda: len(waiting()) == count, "the downloads have failed")
    for task_id, index in waiting():
        run.mark("failed", task_id, index)


def images(starter):
    folder = starter.folder / "images"
    folder.mkdir()
    for number in range(10):
        Image.new("RGB", (320, 200), (20 * number, 0, 0)).save(folder / f"image-{number}.jpg")
    return folder


def put_image(s3, key, color):
    content = BytesIO()
    Image.new("RGB", (320, 200), color).save(content, "PNG")
    s3.client().put_object(Bucket="images", Key=key, Body=content.getvalue())


def paid_images(sandbox):
    """The images for which the nightly Dag has paid, once for each time."""
    jobs = [job for job in sandbox.state()["jobs"] if job["name"].startswith(("one-", "two-", "three-"))]
    assert all(job["credits_charged"] for job in jobs)
    return sorted(job["name"].rpartition("-")[0] for job in jobs)


def downloaded_images(s3):
    listed = s3.client().list_objects_v2(Bucket="videos", Prefix="nightly/").get("Contents", [])
    videos = [Path(found["Key"]) for found in listed if found["Key"].endswith(".mp4")]
    return sorted(video.stem.rpartition("-")[0] for video in videos)
