"""The operator that shows a run's videos: by itself, and in a Dag with mapped downloads."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from magichour_provider.exceptions import NetworkError, TransferError
from magichour_provider.operators.contact_sheet import ContactSheetOperator
from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator
from magichour_provider.storage import contact_sheets
from magichour_provider.version_compat import AirflowSkipException

IMAGE = "dags_examples/images/grace_hopper.jpg"
KEYS = {"path", "size", "width", "height", "videos", "unreadable"}


def sheet(videos, path, **options):
    return ContactSheetOperator(task_id="sheet", videos=videos, path=path, **options)


@pytest.fixture
def video(context, connection, tmp_path):
    """What the download of a real video returned."""
    options = {"model": "ltx-2.3", "resolution": "480p", "durable": False, "poll_interval": 0.1}
    job = ImageToVideoOperator(task_id="render", image=IMAGE, end_seconds=3, **options).execute(context)
    return DownloadVideoOperator(task_id="d", project_id=job, path=f"{tmp_path}/videos/").execute(context)


@pytest.fixture
def broken_store(memory_store, monkeypatch):
    def broken(*_, **__):
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(type(memory_store), "_open", broken)


def test_a_video_that_was_downloaded_is_shown(context, video, tmp_path):
    result = sheet(video, tmp_path / "sheet.jpg").execute(context)
    assert set(result) == KEYS
    assert (result["videos"], result["unreadable"]) == (1, 0)
    with Image.open(result["path"]) as image:
        assert image.size == (result["width"], result["height"])


@pytest.mark.parametrize("videos", [[], None, [None, None], "None"])
def test_without_a_video_the_task_is_skipped(context, tmp_path, videos):
    with pytest.raises(AirflowSkipException, match="no video to show"):
        sheet(videos, tmp_path / "sheet.jpg").execute(context)
    assert list(tmp_path.iterdir()) == []
    assert context["ti"].pushed == {}, "there is no failure to read"


def test_a_missing_extra_is_reported_before_any_work(context, tmp_path, monkeypatch, fails_for_good):
    monkeypatch.setitem(sys.modules, "av", None)
    with fails_for_good(match=r"pip install 'airflow-provider-magichour\[pictures\]'"):
        sheet(object(), tmp_path).execute(context)


def test_what_no_retry_fixes_fails_for_good(context, tmp_path, fails_for_good):
    for videos, path, reason in [
        (5, tmp_path, "not a video"),
        ({"project_id": "cm1"}, tmp_path, "has no path"),
        ([str(tmp_path / "gone.mp4")], tmp_path, "does not exist"),
        (["video.mp4"], tmp_path / "sheet.gif", r"does not end in \.jpg"),
    ]:
        with fails_for_good(match=reason):
            sheet(videos, path).execute(context)


@pytest.mark.usefixtures("broken_store")
def test_a_store_in_trouble_may_be_asked_again(context, video, tmp_path):
    with pytest.raises(NetworkError):
        sheet("memory://videos/a.mp4", tmp_path).execute(context)
    with pytest.raises(TransferError, match="The videos are untouched"):
        sheet(video, "memory://sheets/").execute(context)
    assert context["ti"].pushed["magichour_error"]["retryable"] is True


@pytest.mark.parametrize("path", ["", "sheet.gif", "file://elsewhere/sheet.jpg", "a-file/sheet.jpg"])
def test_a_sheet_that_cannot_be_written_says_so_to_the_next_tasks_and_nothing_of_a_video_to_download(
    context, video, tmp_path, monkeypatch, fails_for_good, path
):
    monkeypatch.chdir(tmp_path)
    Path("a-file").touch()
    with fails_for_good(match="The videos are untouched, and no credits were spent"):
        sheet(video, path).execute(context)
    failure = context["ti"].pushed["magichour_error"]
    assert failure["error"] == "DestinationError"
    assert failure["project_id"] is failure["credits_charged"] is None
    assert "Magic Hour" not in failure["message"]
    assert failure["retryable"] is False


@pytest.mark.parametrize("options", [{"columns": 0}, {"frames": 0}, {"frames": 1.5}, {"columns": True}])
def test_counts_that_make_no_sense_are_refused_when_the_dag_is_parsed(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        sheet([], "sheet.jpg", **options)


def test_a_name_that_our_operator_made_up_is_not_shown(context, video, tmp_path, monkeypatch):
    seen, draw = [], contact_sheets.draw_sheet
    monkeypatch.setattr(
        contact_sheets, "draw_sheet", lambda *args, **texts: seen.append(args[0]) or draw(*args, **texts)
    )
    for name in ("a_dag render[3] a_run", "Sunset"):
        jobs = {"project_id": video["project_id"], "name": name, "credits_charged": 72}
        sheet(video, tmp_path / "sheet.jpg", jobs=jobs).execute(context)
    assert [cells[0].label for cells in seen] == [video["project_id"], "Sunset"]
    assert "72 credits" in seen[0][0].detail


def test_a_sheet_of_the_videos_that_a_run_has_made(run_dag, magichour_sandbox, tmp_path):
    run = run_dag("tests/contact_sheet.py", prompts=["one", "nsfw", "three"], folder=str(tmp_path))
    (ti,) = run.tasks["sheet"]
    assert str(ti.state) == "success"
    result = ti.xcom_pull(task_ids="sheet")
    assert (result["videos"], result["unreadable"]) == (2, 0)
    assert result["path"] == str(tmp_path / "sheets" / "contact_sheet.jpg")
    with Image.open(result["path"]) as image:
        assert image.size == (result["width"], result["height"])
    of_a_template = ti.xcom_pull(task_ids="sheet_of_a_template")
    assert of_a_template["videos"] == 2
    assert Path(of_a_template["path"]) == tmp_path / "templates" / "contact-sheet.jpg"
