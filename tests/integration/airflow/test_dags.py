"""Each Dag by `dag.test()`: a real task runner, a real database, the sandbox over HTTP."""

from __future__ import annotations

import os
import runpy
import sqlite3
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest

from magichour_provider.hooks.magichour import MagicHourHook
from magichour_provider.version_compat import AIRFLOW_V_3_3_PLUS

PHOTOGRAPH = Path(__file__).parents[3] / "dags_examples" / "images" / "grace_hopper.jpg"

JOB_KEYS = {
    "project_id",
    "status",
    "name",
    "model",
    "resolution",
    "end_seconds",
    "credits_charged",
    "queued_seconds",
    "rendering_seconds",
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


def but_for_its_looks(result):
    """What a task returned of its job, without what only its own looks have shown."""
    return {key: value for key, value in result.items() if key not in ("queued_seconds", "rendering_seconds")}


def creates(sandbox):
    rows = sandbox.control.state()["requests"]
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
    run = run_dag("examples/first_video.py")
    assert run.state == "success"
    clip = Path(xcom(run, "download")["path"])
    assert clip.parent == Path("/tmp/videos")
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
    jobs = magichour_sandbox.control.state()["jobs"]
    assert len({job["name"] for job in jobs}) == creates(magichour_sandbox) == 3


def test_object_storage_in_and_out(run_dag, magichour_sandbox, memory_store):
    from airflow.sdk.io import attach

    attach("memory", "aws_default", fs=memory_store)
    memory_store.pipe("/stills/a.jpg", PHOTOGRAPH.read_bytes())
    run = run_dag(
        "examples/s3_in_and_out.py", image="memory://stills/a.jpg", folder="memory://clips/magichour"
    )
    assert run.state == "success"
    clip = xcom(run, "download")
    assert clip["path"] == f"memory://clips/magichour/{clip['project_id']}.mp4"
    landed = memory_store.cat(f"/clips/magichour/{clip['project_id']}.mp4")
    assert sha256(landed).hexdigest() == clip["sha256"]


def test_a_mail_with_the_poster_frame(run_dag, mails, magichour_sandbox, tmp_path):
    from PIL import Image

    run = run_dag("examples/mail_the_video.py", folder=str(tmp_path), to="somebody@example.com")
    assert run.state == "success"
    (mail,) = mails.to("somebody@example.com")
    (attached,) = mail.iter_attachments()
    clip = xcom(run, "download")
    assert attached.get_filename() == Path(clip["poster"]).name
    with Image.open(BytesIO(attached.get_content())) as poster:
        poster.load()
        assert (poster.format, poster.size) == ("JPEG", (clip["width"], clip["height"]))


def test_a_contact_sheet_of_a_run(run_dag, magichour_sandbox, tmp_path):
    run = run_dag("examples/contact_sheet.py", folder=str(tmp_path / "clips"))
    assert run.state == "success"
    sheet = xcom(run, "sheet")
    assert (sheet["clips"], sheet["unreadable"]) == (3, 0)
    assert Path(sheet["path"]) == tmp_path / "clips" / "contact-sheet.jpg"
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == creates(magichour_sandbox) == 3


def test_a_job_that_somebody_else_has_submitted(run_dag, connection, magichour_sandbox, tmp_path):
    hook = MagicHourHook()
    job = hook.create_image_to_video(hook.upload(str(PHOTOGRAPH)), 3, model="ltx-2.3", resolution="480p")
    hook.close()
    run = run_dag("examples/wait_for_a_job.py", project_id=job.id, folder=str(tmp_path))
    assert run.state == "success"
    assert xcom(run, "wait")["project_id"] == xcom(run, "download")["project_id"] == job.id
    assert creates(magichour_sandbox) == 1


@pytest.mark.parametrize(
    ("trouble", "told"),
    [("moderation", "editor"), ("credits", "billing"), ("image", "on_call"), (None, None)],
)
def test_a_branch_on_failure(run_dag, mails, magichour_sandbox, tmp_path, trouble, told):
    conf = {"prompt": "nsfw"} if trouble == "moderation" else {}
    if trouble == "credits":
        magichour_sandbox.control.account(credits=0)
    if trouble == "image":
        conf["image"] = "/no/such/image.png"
    run = run_dag("examples/branch_on_failure.py", folder=str(tmp_path), **conf)
    assert run.state == ("failed" if told else "success")
    sent = {who for who in ("editor", "billing", "on_call") if mails.to(f"{who}@example.com")}
    assert sent == ({told} if told else set())
    assert str(run.tasks["download"][0].state) == ("upstream_failed" if told else "success")


def test_a_task_of_ones_own(run_dag, magichour_sandbox, tmp_path):
    magichour_sandbox.control.account(credits=1000)
    run = run_dag("examples/in_your_own_task.py", folder=str(tmp_path))
    assert run.state == "success"
    assert xcom(run, "choose_length") == 3, "ten of 72 credits can be paid, ten of 120 not"
    assert xcom(run, "wait")["end_seconds"] == 3
    assert Path(xcom(run, "download")).parent == tmp_path


@pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="state_path needs Airflow 3.3")
class TestNightlyFolder:
    @pytest.fixture
    def night(self, run_dag, magichour_sandbox, tmp_path):
        (tmp_path / "images").mkdir()

        def run():
            night = run_dag(
                "examples/nightly_folder.py", images=str(tmp_path / "images"), videos=str(tmp_path / "clips")
            )
            return night.state, len(magichour_sandbox.control.state()["jobs"])

        return run

    @pytest.fixture
    def picture(self, tmp_path):
        from PIL import Image

        def save(name, shade):
            Image.new("RGB", (64, 64), (shade, 0, 0)).save(tmp_path / "images" / name)

        return save

    def test_it_renders_what_is_new_or_has_changed(self, night, picture, tmp_path):
        picture("one.png", 10)
        picture("two.png", 20)
        assert night() == ("success", 2)
        assert night() == ("success", 2)
        picture("two.png", 30)
        assert night() == ("success", 3)
        clips = sorted(file.name.split("-")[0] for file in (tmp_path / "clips").glob("*.mp4"))
        assert clips == ["one", "two", "two"]

    def test_a_clip_that_did_not_land_is_brought_home_the_next_night(
        self, night, picture, tmp_path, magichour_sandbox
    ):
        picture("one.png", 10)
        picture("two.png", 20)
        magichour_sandbox.control.faults([{"origin": "storage", "method": "GET", "path": "*", "status": 500}])
        assert night() == ("failed", 2)
        assert list((tmp_path / "clips").glob("*.mp4")) == []
        magichour_sandbox.control.faults([])
        assert night() == ("success", 2)
        assert len(list((tmp_path / "clips").glob("*.mp4"))) == 2

    def test_an_image_that_is_refused_holds_up_no_other(self, night, picture, tmp_path):
        picture("nsfw.png", 10)
        picture("two.png", 20)
        assert night() == ("failed", 2)
        assert [file.name.split("-")[0] for file in (tmp_path / "clips").glob("*.mp4")] == ["two"]

    @pytest.fixture
    def found(self, tmp_path, dags_folder):
        def find():
            dag = runpy.run_path(str(dags_folder / "examples" / "nightly_folder.py"))["dag"]
            params = {"images": str(tmp_path / "images"), "videos": str(tmp_path / "clips")}
            return dag.get_task("find_images").python_callable(params=params)

        (tmp_path / "images").mkdir()
        return find

    def test_an_image_that_is_there_twice_is_found_once(self, found, picture):
        """Its two tasks would have one record, and read it at the same moment: both would pay."""
        picture("one.png", 10)
        picture("one.PNG", 10)
        picture("two.png", 10)
        assert [each["name"].split("-")[0] for each in found()] == ["one", "two"]

    def test_a_night_finds_no_more_images_than_airflow_maps(self, found, tmp_path):
        for number in range(1100):
            (tmp_path / "images" / f"{number}.png").write_bytes(b"an image")
        night = found()
        assert len(night) == 1000
        (tmp_path / "clips").mkdir()
        for each in night:
            Path(each["video"]).touch()
        assert len(found()) == 100


def test_every_mode_of_waiting_gives_the_same_data(run_dag, magichour_sandbox):
    run = run_dag("tests/modes.py")
    assert run.state == "success"
    rendered = but_for_its_looks(xcom(run, "render"))
    assert rendered["end_seconds"] == 3
    assert but_for_its_looks(xcom(run, "deferred")) == rendered
    for task_id in ("poke", "reschedule"):
        waited = but_for_its_looks(xcom(run, task_id))
        assert waited == {**rendered, "model": None, "resolution": None}
    (job,) = magichour_sandbox.control.state()["jobs"]
    assert job["audio"] is True


def test_a_failed_render_is_not_submitted_again_whatever_retries_say(run_dag, magichour_sandbox):
    run = run_dag("tests/trouble.py")
    assert run.state == "failed"
    assert {task_id: str(tis[0].state) for task_id, tis in run.tasks.items()} == {
        "sync": "failed",
        "deferred": "failed",
    }
    assert creates(magichour_sandbox) == 2
    assert {job["credits_charged"] for job in magichour_sandbox.control.state()["jobs"]} == {0}


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
