"""The tab of a batch: its counts, and a table of its first failures."""

from __future__ import annotations

import pytest

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


def page_of(summary, state="success"):
    row = TaskRow(KEY, "ImageToVideoBatchOperator", state, None, {"magichour_batch": summary}, {}, {})
    assert row.is_magichour
    page, origin = build_task_page([row])
    assert origin is None
    return page, _templates.get_template("task.html").render(page=page, root="/r", airflow="/", version="1")


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
