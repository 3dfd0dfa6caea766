"""The example Dags that join the provider to the rest of Airflow, live, with a local S3 and mail server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import pytest
from PIL import Image, ImageStat
from processes import wait_until

from magichour_provider.sandbox import SandboxControl

if TYPE_CHECKING:
    from airflow_rest import Json
    from live_airflow import LiveAirflow

pytestmark = pytest.mark.live

QUICK = 2.0
"""Render time in seconds."""
WHO = ("editor", "billing", "on_call")
BROKEN_DOWNLOADS = {"origin": "storage", "method": "GET", "path": "*", "status": 500}


@pytest.fixture(scope="module")
def control(sandbox_url: str) -> Iterator[SandboxControl]:
    """The sandbox, whose jobs end by themselves and soon."""
    with SandboxControl(sandbox_url) as control:
        control.behaviour(render_seconds=QUICK)
        yield control


@pytest.fixture(scope="module")
def runs(
    live_airflow: LiveAirflow, control: SandboxControl, s3: Any, tmp_path_factory: Any
) -> dict[str, Run]:
    """The runs that do not get into each other's way, begun at once to save time."""
    put_image(s3, "a green image.png", (0, 200, 0))
    folder = str(tmp_path_factory.mktemp("clips"))
    begun = {
        "s3": (
            "s3_in_and_out",
            {"image": "s3://stills/a green image.png", "folder": "s3://clips/in/a folder"},
        ),
        "mail": ("mail_the_video", {"folder": folder, "to": "mail@example.com"}),
        "branch-moderation": ("branch_on_failure", {"folder": folder, "prompt": "nsfw"}),
        "branch-image": ("branch_on_failure", {"folder": folder, "image": "/no/such/image.png"}),
        "branch-success": ("branch_on_failure", {"folder": folder}),
        "task": ("in_your_own_task", {"folder": folder}),
    }
    return {name: Run(live_airflow, f"magichour_{dag}", conf, name) for name, (dag, conf) in begun.items()}


class Run:
    """A run of a Dag."""

    def __init__(self, airflow: LiveAirflow, dag_id: str, conf: Json, name: str) -> None:
        self.airflow, self.dag_id = airflow, dag_id
        self.run_id = airflow.trigger(dag_id, conf, run_id=name)

    def finish(self) -> str:
        """Wait for the end; the run's state."""
        return self.airflow.wait_for_run(self.dag_id, self.run_id, timeout=240)

    def states(self) -> Json:
        """The state of each task that is not mapped."""
        return {
            task["task_id"]: task["state"]
            for task in self.airflow.task_instances(self.dag_id, self.run_id)
            if task["map_index"] < 0
        }

    def xcom(self, task_id: str, key: str = "return_value") -> Any:
        """An XCom of a task that is not mapped."""
        return self.airflow.xcom(self.dag_id, self.run_id, task_id, key)


def test_the_image_comes_from_s3_and_the_clip_goes_there_whole(runs: dict[str, Run], s3: Any) -> None:
    run = runs["s3"]
    assert run.finish() == "success"
    clip = run.xcom("download")
    key = f"in/a folder/{clip['project_id']}.mp4"
    assert clip["path"] == f"s3://clips/{key}"
    landed = s3.client().get_object(Bucket="clips", Key=key)["Body"].read()
    assert (len(landed), hashlib.sha256(landed).hexdigest()) == (clip["size"], clip["sha256"])
    with av.open(BytesIO(landed)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    assert len(frames) == 72
    red, green, blue = ImageStat.Stat(frames[0]).mean
    assert green > 100 > max(red, blue), "the image came from the bucket"
    listed = s3.client().list_objects_v2(Bucket="clips", Prefix="in/")["Contents"]
    assert [found["Key"] for found in listed] == [key], "nothing else is left"


def test_a_mail_has_the_poster_frame_attached(runs: dict[str, Run], mails: Any) -> None:
    run = runs["mail"]
    assert run.finish() == "success"
    (mail,) = mails.to("mail@example.com")
    clip = run.xcom("download")
    assert mail["subject"] == f"A video of {clip['duration']} seconds"
    assert clip["path"] in mail.get_body().get_content()
    (attached,) = mail.iter_attachments()
    assert attached.get_filename() == Path(clip["poster"]).name
    with Image.open(BytesIO(attached.get_content())) as poster:
        poster.load()
        assert (poster.format, poster.size) == ("JPEG", (clip["width"], clip["height"]))


def test_what_moderation_refuses_goes_to_a_person(runs: dict[str, Run], mails: Any) -> None:
    failure = told(runs["branch-moderation"], "editor")
    assert (failure["error"], failure["code"], failure["credits_charged"]) == ("ModerationError", "nsfw", 0)
    (mail,) = mails.to("editor@example.com")
    assert failure["project_id"] in mail.get_body().get_content()


def test_any_other_failure_goes_to_who_is_on_call(runs: dict[str, Run], mails: Any) -> None:
    failure = told(runs["branch-image"], "on_call")
    assert (failure["error"], failure["project_id"]) == ("ImageError", None)
    assert len(mails.to("on_call@example.com")) == 1


def test_where_nothing_fails_nobody_is_told(runs: dict[str, Run]) -> None:
    run = runs["branch-success"]
    assert run.finish() == "success"
    assert run.xcom("render", "magichour_error") is None
    assert run.states() == {
        "render": "success",
        "download": "success",
        "choose_recipient": "skipped",
        **{f"mail_{who}": "skipped" for who in WHO},
    }


def test_the_hook_in_tasks_of_ones_own(runs: dict[str, Run]) -> None:
    run = runs["task"]
    assert run.finish() == "success"
    with av.open(run.xcom("download")) as container:
        seconds = container.duration / av.time_base
    assert seconds == pytest.approx(run.xcom("choose_length"), abs=0.1)


def test_what_cannot_be_paid_goes_to_billing_and_a_clear_mends_it(
    runs: dict[str, Run], live_airflow: LiveAirflow, control: SandboxControl, mails: Any, tmp_path: Path
) -> None:
    for run in runs.values():
        run.finish()  # they need the credits
    credits = control.state()["account"]["credits"]
    control.account(credits=0)
    try:
        run = Run(live_airflow, "magichour_branch_on_failure", {"folder": str(tmp_path)}, "branch-credits")
        failure = told(run, "billing")
    finally:
        control.account(credits=credits)
    assert (failure["error"], failure["code"]) == ("BudgetError", "insufficient_credits")
    assert len(mails.to("billing@example.com")) == 1

    live_airflow.clear(run.dag_id, run.run_id)
    assert run.finish() == "success"
    assert run.xcom("render", "magichour_error") is None, "what was told before is gone"
    assert run.states()["mail_billing"] == "skipped"


def test_a_task_that_succeeds_without_a_worker_leaves_no_failure_of_an_earlier_try(
    runs: dict[str, Run], live_airflow: LiveAirflow, control: SandboxControl
) -> None:
    """Airflow removes a task's XComs before a try that begins in a worker only."""
    for run in runs.values():
        run.finish()
    control.behaviour(render_seconds=3600)
    try:
        run = Run(live_airflow, "e2e_impatient", {}, "impatient")
        assert run.finish() == "failed"
    finally:
        control.behaviour(render_seconds=QUICK)
    job = run.xcom("submit")["project_id"]
    failure = run.xcom("wait", "magichour_error")
    assert (failure["error"], failure["project_id"]) == ("WaitTimeoutError", job)

    control.set_job(job, "complete")
    live_airflow.clear(run.dag_id, run.run_id, ["wait"])
    assert run.finish() == "success"
    assert "this task ends in the triggerer" in live_airflow.log(run.dag_id, run.run_id, "wait", try_number=2)
    assert run.xcom("wait")["project_id"] == job
    assert run.xcom("wait", "magichour_error") is None


class TestNightlyFolder:
    """Four nights, one after the other, from bucket to bucket."""

    @pytest.fixture
    def night(self, live_airflow: LiveAirflow) -> Callable[[str], Run]:
        folders = {
            "images": "s3://aws_default@stills/nightly",
            "videos": "s3://aws_default@clips/nightly",
        }
        return lambda name: Run(live_airflow, "magichour_nightly_folder", folders, name)

    def test_a_night_renders_what_is_new_and_pays_for_nothing_twice(
        self, night: Callable[[str], Run], control: SandboxControl, s3: Any
    ) -> None:
        put_image(s3, "nightly/one.png", (10, 0, 0))
        put_image(s3, "nightly/two.png", (20, 0, 0))
        assert night("night-1").finish() == "success"
        assert paid_for(control) == ["one", "two"]
        assert landed(s3) == ["one", "two"]

        assert night("night-2").finish() == "success"
        assert paid_for(control) == ["one", "two"]

        put_image(s3, "nightly/three.png", (30, 0, 0))
        put_image(s3, "nightly/two.png", (40, 0, 0))
        control.faults([BROKEN_DOWNLOADS])
        try:
            third = night("night-3")
            give_up_the_downloads(third, 2)
            assert third.finish() == "failed"
        finally:
            control.faults([])
        assert paid_for(control) == ["one", "three", "two", "two"]
        assert landed(s3) == ["one", "two"]

        assert night("night-4").finish() == "success"
        assert paid_for(control) == ["one", "three", "two", "two"]
        assert landed(s3) == ["one", "three", "two", "two"]


def told(run: Run, who: str) -> Json:
    """The run has failed, and one was told of it; what the task before has left for them."""
    assert run.finish() == "failed"
    assert run.states() == {
        "render": "failed",
        "download": "upstream_failed",
        "choose_recipient": "success",
        **{f"mail_{each}": "success" if each == who else "skipped" for each in WHO},
    }
    failure: Json = run.xcom("render", "magichour_error")
    assert set(failure) == {"error", "code", "message", "project_id", "credits_charged", "retryable"}
    return failure


def give_up_the_downloads(run: Run, count: int) -> None:
    """Wait until each download has failed once, and mark it as failed, as a person does who will not wait."""
    task_id = "make_video.download"

    def waiting() -> list[int]:
        tasks = run.airflow.task_instances(run.dag_id, run.run_id)
        states = {task["map_index"]: task["state"] for task in tasks if task["task_id"] == task_id}
        return [index for index, state in states.items() if state == "up_for_retry"]

    assert wait_until(lambda: len(waiting()) == count, timeout=120)
    for index in waiting():
        run.airflow.set_state(run.dag_id, run.run_id, task_id, "failed", index)


def put_image(s3: Any, key: str, color: tuple[int, int, int]) -> None:
    """A small image of one color, in the bucket."""
    content = BytesIO()
    Image.new("RGB", (320, 200), color).save(content, "PNG")
    s3.client().put_object(Bucket="stills", Key=key, Body=content.getvalue())


def paid_for(control: SandboxControl) -> list[str]:
    """The images for which the nightly Dag has paid, once for each time."""
    jobs = control.state()["jobs"]
    names = [job["name"].rpartition("-")[0] for job in jobs]
    assert all(job["credits_charged"] for job in jobs if job["name"].startswith(("one-", "two-", "three-")))
    return sorted(name for name in names if name in ("one", "two", "three"))


def landed(s3: Any) -> list[str]:
    """The images whose clips have landed."""
    listed = s3.client().list_objects_v2(Bucket="clips", Prefix="nightly/").get("Contents", [])
    clips = [Path(found["Key"]) for found in listed if found["Key"].endswith(".mp4")]
    return sorted(clip.stem.rpartition("-")[0] for clip in clips)
