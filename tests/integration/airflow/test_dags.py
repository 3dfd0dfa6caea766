"""Each example Dag by `dag.test()`: a real task runner, a real database, the sandbox over HTTP."""

from __future__ import annotations

import os
import runpy
import sqlite3
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from magichour_provider.hooks.magichour import MagicHourHook
from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS, AIRFLOW_V_3_3_PLUS

PHOTOGRAPH = Path(__file__).parents[3] / "dags_examples" / "images" / "grace_hopper.jpg"
JOB_KEYS = {"project_id", "status", "name", "model", "resolution", "end_seconds", "credits_charged"}
JOB_KEYS |= {"created_at", "url"}
VIDEO_KEYS = {"path", "size", "sha256", "content_type", "project_id", "duration", "width", "height", "fps"}


def xcom(run, task_id, index=0):
    return run.tasks[task_id][index].xcom_pull(task_ids=task_id)


def states(run):
    return {task_id: str(instances[0].state) for task_id, instances in run.tasks.items()}


def creates(sandbox):
    rows = sandbox.control.state()["requests"]
    return sum(row["count"] for row in rows if row["path"] == "/v1/image-to-video")


@pytest.fixture
def picture(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    return lambda name, shade: Image.new("RGB", (64, 64), (shade, 0, 0)).save(folder / name)


def test_image_to_video(run_dag, magichour_sandbox, tmp_path):
    run = run_dag("examples/image_to_video.py", folder=str(tmp_path))
    assert run.state == "success"
    job, video = xcom(run, "wait"), xcom(run, "download")
    assert set(job) == JOB_KEYS
    assert (job["status"], job["model"], job["end_seconds"]) == ("complete", "ltx-2.3", 5)
    assert set(video) == {*VIDEO_KEYS, "hostname", "poster", "videos"}
    assert video["duration"] == pytest.approx(5, abs=0.05)
    assert xcom(run, "inspect") == "ftyp"
    assert [path.name for path in tmp_path.iterdir()] == [f"{job['project_id']}.mp4"]
    assert creates(magichour_sandbox) == 1


def test_render_and_download(run_dag, magichour_sandbox, tmp_path):
    run = run_dag("examples/render_and_download.py", folder=str(tmp_path))
    assert run.state == "success"
    assert set(xcom(run, "render")) == JOB_KEYS
    assert xcom(run, "download")["project_id"] == xcom(run, "render")["project_id"]
    assert creates(magichour_sandbox) == 1


def test_first_video(run_dag, magichour_sandbox):
    run = run_dag("examples/first_video.py")
    assert run.state == "success"
    video = Path(xcom(run, "download")["path"])
    assert video.parent == Path("/tmp/videos")
    video.unlink()


def test_folder_of_images(run_dag, magichour_sandbox, picture, tmp_path):
    for shade in range(3):
        picture(f"{shade}.jpg", 90 * shade)
    run = run_dag("examples/folder_of_images.py", images=f"{tmp_path}/images", folder=f"{tmp_path}/videos")
    assert run.state == "success"
    assert len(run.tasks["download"]) == len(list((tmp_path / "videos").iterdir())) == 3
    jobs = magichour_sandbox.control.state()["jobs"]
    assert len({job["name"] for job in jobs}) == creates(magichour_sandbox) == 3


def test_upload_once(run_dag, magichour_sandbox, tmp_path):
    run = run_dag("examples/upload_once.py", folder=str(tmp_path))
    assert run.state == "success"
    state = magichour_sandbox.control.state()
    assert len(state["uploads"]) == 1
    assert [job["image_file_path"] for job in state["jobs"]] == 3 * [xcom(run, "upload")]
    assert len(list(tmp_path.glob("*.mp4"))) == 3


def test_s3_in_and_out(run_dag, magichour_sandbox, memory_store):
    from airflow.sdk.io import attach

    attach("memory", "aws_default", fs=memory_store)
    memory_store.pipe("/stills/a.jpg", PHOTOGRAPH.read_bytes())
    run = run_dag("examples/s3_in_and_out.py", image="memory://stills/a.jpg", folder="memory://videos/new")
    assert run.state == "success"
    video = xcom(run, "download")
    assert video["path"] == f"memory://videos/new/{video['project_id']}.mp4"
    content = memory_store.cat(f"/videos/new/{video['project_id']}.mp4")
    assert sha256(content).hexdigest() == video["sha256"]


def test_mail_the_video(run_dag, mails, magichour_sandbox, tmp_path):
    run = run_dag("examples/mail_the_video.py", folder=str(tmp_path), to="reader@example.com")
    assert run.state == "success"
    (mail,) = mails.to("reader@example.com")
    (attached,) = mail.iter_attachments()
    video = xcom(run, "download")
    assert str(video["duration"]) in mail["subject"]
    assert video["path"] in mail.get_body().get_content()
    assert attached.get_filename() == Path(video["poster"]).name
    with Image.open(BytesIO(attached.get_content())) as poster:
        poster.load()
        assert (poster.format, poster.size) == ("JPEG", (video["width"], video["height"]))


def test_contact_sheet(run_dag, magichour_sandbox, tmp_path):
    run = run_dag("examples/contact_sheet.py", folder=str(tmp_path))
    assert run.state == "success"
    sheet = xcom(run, "sheet")
    assert (sheet["videos"], sheet["unreadable"]) == (3, 0)
    assert Path(sheet["path"]) == tmp_path / "contact-sheet.jpg"
    assert len(list(tmp_path.glob("*.mp4"))) == creates(magichour_sandbox) == 3


def test_wait_for_a_job(run_dag, connection, magichour_sandbox, tmp_path):
    hook = MagicHourHook()
    job = hook.create_image_to_video(hook.upload(str(PHOTOGRAPH)), 3, model="ltx-2.3", resolution="480p")
    hook.close()
    run = run_dag("examples/wait_for_a_job.py", project_id=job.id, folder=str(tmp_path))
    assert run.state == "success"
    assert xcom(run, "wait")["project_id"] == xcom(run, "download")["project_id"] == job.id
    assert creates(magichour_sandbox) == 1


@pytest.mark.parametrize(
    ("trouble", "recipient"),
    [("moderation", "editor"), ("credits", "billing"), ("image", "on_call"), (None, None)],
)
def test_branch_on_failure(run_dag, mails, magichour_sandbox, tmp_path, trouble, recipient):
    conf = {"moderation": {"prompt": "nsfw"}, "image": {"image": "/no/such/image.png"}}.get(trouble, {})
    if trouble == "credits":
        magichour_sandbox.control.account(credits=0)
    run = run_dag("examples/branch_on_failure.py", folder=str(tmp_path), **conf)
    assert run.state == ("failed" if recipient else "success")
    sent = {name for name in ("editor", "billing", "on_call") if mails.to(f"{name}@example.com")}
    assert sent == ({recipient} if recipient else set())
    assert states(run)["download"] == ("upstream_failed" if recipient else "success")


def test_in_your_own_task(run_dag, magichour_sandbox, tmp_path):
    magichour_sandbox.control.account(credits=1000)
    run = run_dag("examples/in_your_own_task.py", folder=str(tmp_path))
    assert run.state == "success"
    assert xcom(run, "choose_length") == 3, "the account can pay 10 x 72 credits, but not 10 x 120"
    assert xcom(run, "wait")["end_seconds"] == 3
    assert Path(xcom(run, "download")).parent == tmp_path


@pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="max_credits_per_run needs Airflow 3.3")
class TestNightlyFolder:
    @pytest.fixture
    def night(self, run_dag, magichour_sandbox, tmp_path):
        """Run the Dag; its state, all jobs so far, and the names of the videos."""

        def run():
            folders = {"images": f"{tmp_path}/images", "videos": f"{tmp_path}/videos"}
            state = run_dag("examples/nightly_folder.py", **folders).state
            videos = sorted(file.name.split("-")[0] for file in (tmp_path / "videos").glob("*.mp4"))
            return state, len(magichour_sandbox.control.state()["jobs"]), videos

        return run

    def test_new_and_changed_images_are_rendered(self, night, picture):
        picture("one.png", 10)
        picture("two.png", 20)
        assert night() == night() == ("success", 2, ["one", "two"])
        picture("two.png", 30)
        assert night() == ("success", 3, ["one", "two", "two"])

    def test_failed_downloads_are_repeated_at_no_cost(self, night, picture, magichour_sandbox):
        picture("one.png", 10)
        magichour_sandbox.control.faults([{"origin": "storage", "method": "GET", "path": "*", "status": 500}])
        assert night() == ("failed", 1, [])
        magichour_sandbox.control.faults([])
        assert night() == ("success", 1, ["one"])

    def test_refused_image_does_not_stop_the_others(self, night, picture):
        picture("nsfw.png", 10)
        picture("two.png", 20)
        assert night() == ("failed", 2, ["two"])

    def test_list_has_no_duplicates_and_at_most_1000_images(self, dags_folder, picture, tmp_path):
        dag = runpy.run_path(str(dags_folder / "examples" / "nightly_folder.py"))["dag"]
        params = {"images": f"{tmp_path}/images", "videos": f"{tmp_path}/videos"}

        def find():
            return [each["name"] for each in dag.get_task("find_images").python_callable(params=params)]

        for name in ("one.png", "one.PNG", "two.png"):
            picture(name, 10)
        assert [name.split("-")[0] for name in find()] == ["one", "two"]
        for number in range(1100):
            (tmp_path / "images" / f"{number}.png").write_bytes(b"an image")
        first = find()
        assert len(first) == len(set(first)) == 1000
        (tmp_path / "videos").mkdir()
        for name in first:
            (tmp_path / "videos" / f"{name}.mp4").touch()
        assert len(find()) == 102


@pytest.mark.skipif(not AIRFLOW_V_3_1_PLUS, reason="dag.test() of 3.0 gives a trigger no XComs")
def test_nightly_catalogue(run_dag, magichour_sandbox, tmp_path):
    for submitted in (2, 2):  # the second night has nothing to do
        run = run_dag("examples/nightly_catalogue.py", videos=str(tmp_path))
        assert run.state == "success"
        assert creates(magichour_sandbox) == submitted
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["admiral.mp4", "astronaut.mp4"]


def test_all_ways_of_waiting_return_the_same(run_dag, magichour_sandbox):
    run = run_dag("tests/modes.py")
    assert run.state == "success"
    rendered = xcom(run, "render")
    assert xcom(run, "deferred") == rendered
    assert xcom(run, "poke") == xcom(run, "reschedule") == {**rendered, "model": None, "resolution": None}
    (job,) = magichour_sandbox.control.state()["jobs"]
    assert job["audio"] is True


def test_failed_job_is_not_retried(run_dag, magichour_sandbox):
    run = run_dag("tests/trouble.py")
    assert (run.state, states(run)) == ("failed", {"sync": "failed", "deferred": "failed"})
    assert [job["credits_charged"] for job in magichour_sandbox.control.state()["jobs"]] == [0, 0]


def test_wrong_key_submits_no_job(run_dag, connection, magichour_sandbox):
    connection(password="wrong")
    run = run_dag("examples/render_and_download.py")
    assert (run.state, states(run)) == ("failed", {"render": "failed", "download": "upstream_failed"})
    assert creates(magichour_sandbox) == 0


def test_rendered_fields_hide_signatures_of_images(run_dag, magichour_sandbox):
    signature = "c2lnbmF0dXJlLW9mLXRoZS1zdG9yZQ"
    assert run_dag("tests/signed.py", signature=signature).state == "success"
    assert creates(magichour_sandbox) == 2
    tables = "select name from sqlite_master where name in ('rendered_task_instance_fields', 'rtif_v2')"
    with sqlite3.connect(Path(os.environ["AIRFLOW_HOME"]) / "airflow.db") as database:
        ((table,),) = database.execute(tables)  # of Airflow to 3.3, and from 3.4
        rows = database.execute(f"select rendered_fields from {table}")
        stored = [fields for (fields,) in rows if "still.png" in fields]
    assert len(stored) == 2
    assert signature not in str(stored)
