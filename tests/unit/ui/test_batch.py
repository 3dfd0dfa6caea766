"""The tab of a batch: its counts, its first failures, and the list of its videos."""

from __future__ import annotations

import json
import re
import tracemalloc
from itertools import pairwise

import pytest

from magichour_provider.jobs.batch_state import ItemStage, ItemState
from magichour_provider.ui import batches
from magichour_provider.ui.app import _templates
from magichour_provider.ui.queries import TaskRow
from magichour_provider.ui.task_page import build_task_page
from magichour_provider.ui.view_models import TaskKey

KEY = TaskKey("dag", "run", "render")
SUMMARY = {
    "items": 1000,
    "complete": 998,
    "refused": 1,
    "unknown": 1,
    "credits_charged": 71928,
    "manifest": "s3://videos/manifest.jsonl",
    "failures": [
        {"key": "<b>shoe</b>", "status": "refused", "code": "nsfw", "message": "Refused."},
        {"key": "boot", "status": "unknown", "code": None, "message": "Interrupted."},
    ],
}


def page_of(summary, state="success", rendered=(), **chosen):
    xcoms = {"magichour_batch": summary} if summary else {}
    row = TaskRow(KEY, "ImageToVideoBatchOperator", state, None, xcoms, dict(rendered), {})
    assert row.is_magichour
    page, origin = build_task_page([row], **chosen)
    assert origin is None
    return page, _templates.get_template("task.html").render(page=page, root="/r", airflow="/", version="1")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of a batch, which is a root."""
    monkeypatch.setenv("AIRFLOW__MAGICHOUR__UI_VIDEO_ROOTS", str(tmp_path))
    return tmp_path


def state_of(number, folder, stage=ItemStage.DONE, **values):
    done = {"path": f"{folder}/item-{number}.mp4", "size": 1000} if stage is ItemStage.DONE else {}
    name = f"item-{number}"
    return ItemState(name, stage, name=name, project_id=f"job{number}", credits_charged=72, **done, **values)


def write_manifest(folder, count):
    """The result manifest of so many items, each hundredth of which was refused; its summary and fields."""
    refused = {"error": "ModerationError", "code": "nsfw", "message": "The image was refused."}
    with (folder / "manifest.jsonl").open("w") as manifest:
        for number in range(count):
            failed = (ItemStage.FAILED,) if number % 100 == 99 else ()
            state = state_of(number, folder, *failed, **(refused if failed else {}))
            manifest.write(json.dumps(state.result()) + "\n")
    counts = {"items": count, "complete": count - count // 100, "refused": count // 100}
    return {**counts, "manifest": str(folder / "manifest.jsonl")}, {"path": str(folder)}


def test_tab_of_a_batch_shows_counts_and_failures():
    page, html = page_of(SUMMARY)
    assert page.credits_charged == 71928
    assert dict(page.batch.counts) == {"items": 1000, "complete": 998, "refused": 1, "unknown": 1}
    for text in ("1,000", "&lt;b&gt;shoe&lt;/b&gt;", "nsfw", "Interrupted.", "s3://videos/manifest.jsonl"):
        assert text in html
    assert "<b>shoe" not in html


def test_tab_of_a_batch_that_waits_is_loaded_again():
    page, html = page_of({**SUMMARY, "failures": []}, state="deferred")
    assert page.refresh_seconds
    assert "batch-failures" not in html


@pytest.mark.parametrize("summary", [{"items": "x"}, {"failures": 5}, {"failures": [5, None, {"key": []}]}])
def test_forged_summary_breaks_no_page(summary):
    page_of(summary)


def test_videos_are_listed_page_by_page(folder):
    summary, rendered = write_manifest(folder, 1000)
    seen, number = [], 1
    while number:
        page, html = page_of(summary, rendered=rendered, number=number)
        seen += [video.key for video in page.videos.videos]
        assert html.count('data-testid="video-row"') == len(page.videos.videos) == batches.VIDEOS_PER_PAGE
        assert (page.videos.first, page.videos.last) == (number * 100 - 99, number * 100)
        following = re.search(r"[?&]page=(\d+)$", page.videos.next or "")
        number = int(following[1]) if following else None
    assert seen == [f"item-{number}" for number in range(1000)]
    assert page.notes == ()
    last, _ = page_of(summary, rendered=rendered, number=10**9)
    assert last.videos == page.videos


def test_videos_are_filtered_by_their_status(folder):
    summary, rendered = write_manifest(folder, 1000)
    page, html = page_of(summary, rendered=rendered, status="failed")
    assert [video.key for video in page.videos.videos] == [f"item-{n}" for n in range(99, 1000, 100)]
    assert {(video.status, video.code, video.play) for video in page.videos.videos} == {
        ("refused", "nsfw", None)
    }
    assert html.count("The image was refused.") == 10
    counts = {each.name: each.count for each in page.videos.filters}
    assert counts == {
        "all": 1000, "complete": 990, "rendering": 0, "failed": 10, "unknown": 0, "not submitted": 0
    }  # fmt: skip
    assert [each.name for each in page.videos.filters if each.is_chosen] == ["failed"]
    empty, html = page_of(summary, rendered=rendered, status="unknown", number=3)
    assert empty.videos.videos == ()
    assert "No video" in html


def test_batch_that_waits_is_listed_from_its_state(folder):
    stages = {
        0: ItemStage.DONE,
        1: ItemStage.SUBMITTED,
        2: ItemStage.FAILED,
        3: ItemStage.UNKNOWN,
        4: ItemStage.OPEN,
    }
    lines = [ItemState("item-1", ItemStage.INTENT).line()]
    lines += [state_of(number, folder, stage).line() for number, stage in stages.items()]
    lines += [ItemState("item-5", ItemStage.INTENT).line(), '{"key": "item-6", "sta']
    (folder / "magichour_batch.jsonl").write_text("".join(lines))
    expected = ["complete", "submitted", "failed", "unknown", "not_submitted"]
    for summary in ({**SUMMARY, "manifest": None, "not_submitted": 20}, {}):
        for state, sixth in (("running", "submitted"), ("deferred", "unknown")):
            page, _ = page_of(summary, state, {"path": str(folder)})
            found = {video.key: video.status for video in page.videos.videos}
            assert found == {f"item-{n}": status for n, status in enumerate([*expected, sixth])}
            assert any("as soon as it is submitted" in note for note in page.notes) == bool(summary)
            assert page.videos.source.endswith("magichour_batch.jsonl")
    (folder / "state.jsonl").write_text(lines[0])
    page, _ = page_of({}, "deferred", {"path": "s3://elsewhere", "state_path": str(folder / "state.jsonl")})
    assert [video.key for video in page.videos.videos] == ["item-1"]


def test_manifest_of_a_later_run_is_named_as_that(folder):
    summary, rendered = write_manifest(folder, 300)
    page, _ = page_of({**summary, "complete": 200}, rendered=rendered)
    assert page.notes == (
        "Another run has written the result manifest since. The list is that of the other run.",
    )


def test_thousands_of_videos_need_little_memory(folder):
    summary, rendered = write_manifest(folder, 5000)
    size = (folder / "manifest.jsonl").stat().st_size
    tracemalloc.start()
    page, _ = page_of(summary, rendered=rendered, number=37)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert page.videos.total == 5000
    assert peak < 8 << 20, f"{peak:,} bytes for a manifest of {size:,}"


ODD_LINES = [
    *("[]", "5", "null", '"x"', "{", '{"key": 5, "status": "complete"}', '{"key": "a", "status": ["x"]}'),
    '{"key": "<b>evil</b>", "status": "<i>x</i>", "message": "<script>", "size": -1, "path": 7}',
    '{"key": "b", "status": "complete", "path": "/etc/passwd", "project_id": "../account", "size": 1e400}',
    '{"key": "c", "status": "complete", "path": "ROOT/../x.mp4", "message": "javascript:alert(1)"}',
]


def test_odd_manifest_breaks_no_page_and_opens_no_other_file(folder):
    text = '{"key": "first", "status": "complete"}\n' + "\n".join(ODD_LINES).replace("ROOT", str(folder))
    (folder / "manifest.jsonl").write_text(text)
    page, html = page_of({"manifest": str(folder / "manifest.jsonl")}, rendered={"path": str(folder)})
    assert [video.key for video in page.videos.videos] == ["first", "<b>evil</b>", "b", "c"]
    assert {(video.play, video.library_url) for video in page.videos.videos} == {(None, None)}
    assert not re.search("<b>evil|<i>x|<script>", html)
    for item in ("b", "c", "nowhere"):
        page, _ = page_of(
            {"manifest": str(folder / "manifest.jsonl")}, rendered={"path": str(folder)}, item=item
        )
        assert page.player is None
        assert page.notes


@pytest.mark.parametrize(
    ("rendered", "manifest", "why"),
    [
        ({"path": "{folder}"}, "/etc/passwd", "no file of a batch"),
        ({"path": "/elsewhere"}, "{folder}/manifest.jsonl", "not below a folder"),
        ({}, "{folder}/manifest.jsonl", "not know any more"),
        ({"path": "{folder}", "state_path": "/etc/passwd"}, None, "not below a folder"),
    ],
)
def test_no_other_file_is_read_as_a_batch(folder, rendered, manifest, why):
    write_manifest(folder, 3)
    (folder / "magichour_batch.jsonl").write_text("root:x:0:0")
    rendered = {name: value.format(folder=folder) for name, value in rendered.items()}
    page, html = page_of(
        {"manifest": manifest and manifest.format(folder=folder), "items": 3}, rendered=rendered
    )
    assert page.videos is None
    assert any(why in note for note in page.notes), page.notes
    assert "root:x" not in html


def test_large_file_is_refused_and_closed(folder, monkeypatch):
    summary, rendered = write_manifest(folder, 100)
    monkeypatch.setattr(batches, "_MAX_FILE_BYTES", 1000)
    page, _ = page_of(summary, rendered=rendered)
    assert page.videos is None
    assert page.notes == ("The file of the batch has more than 1.0 kB.",)


def test_headings_of_the_page_are_in_order(folder):
    summary, rendered = write_manifest(folder, 3)
    _, html = page_of({**SUMMARY, **summary}, rendered=rendered)
    levels = [int(level) for level in re.findall("<h([1-6])", html)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
