"""How a job goes, what it costs, and what comes back."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from magichour_provider.sandbox.jobs import Order
from magichour_provider.sandbox.state import Sandbox, Settings


def test_a_job_is_queued_then_rendering_then_complete(magic, wait_until):
    magic.control.behaviour(render_seconds=1000)
    project_id = magic.create()
    assert magic.get(project_id)["status"] == "queued"
    magic.control.advance_clock(260)
    assert magic.get(project_id)["status"] == "rendering"
    magic.control.advance_clock(1000)
    assert magic.wait(project_id)["status"] == "complete"


def test_a_job_completes_by_itself(magic):
    assert magic.wait(magic.create())["status"] == "complete"


def test_credits_are_taken_at_create_and_kept_when_complete(magic):
    job = magic.complete(model="kling-3.0", audio=True)
    assert job["credits_charged"] == 5 * (48 + 24)
    assert magic.credits() == 12_000 - 360
    assert [charge["credits"] for charge in magic.entry(job["id"])["charges"]] == [360]


def test_a_model_without_a_published_rate_costs_48_a_second(magic):
    assert magic.try_create(model="wan-3.0").json()["credits_charged"] == 240


@pytest.mark.parametrize("where", [{"style": {"prompt": "very NSFW"}}, {"name": "nsfw"}])
def test_moderation_ends_a_job_with_a_refund(magic, where):
    magic.control.behaviour(render_seconds=1000)
    project_id = magic.create(**where)
    assert magic.get(project_id)["status"] == "queued"
    assert magic.credits() == 12_000 - 240
    magic.control.advance_clock(1000)
    job = magic.get(project_id)
    assert job["status"] == "error"
    assert job["error"]["code"] == "nsfw"
    assert job["credits_charged"] == 0
    assert (job["width"], job["height"], job["fps"]) == (-1, -1, 24)
    assert magic.credits() == 12_000
    assert [charge["credits"] for charge in magic.entry(project_id)["charges"]] == [240, -240]


class _ClockThatNeverStandsStill:
    """A second passes with every look at it."""

    time = datetime(2026, 1, 1, tzinfo=timezone.utc)

    def now(self):
        self.time += timedelta(seconds=1)
        return self.time


@pytest.mark.parametrize("render_seconds", range(1, 8))
def test_a_state_and_its_refund_are_shown_together(render_seconds):
    sandbox = Sandbox(Settings(quick=True))
    sandbox.clock = _ClockThatNeverStandsStill()
    sandbox.behaviour = sandbox.behaviour.model_copy(update={"render_seconds": render_seconds})
    job = sandbox.submit(
        Order("clip", "ltx-2.3", "ltx-2.3", "480p", 5, False, 24, 240, "saved-items/a.png", None, "nsfw")
    )
    try:
        for _ in range(render_seconds):
            body = sandbox.describe(sandbox.job(job.id), "http://127.0.0.1")
            entry = next(iter(sandbox.state()["jobs"]))
            for shown in (body, entry):
                assert (shown["status"] == "error") == (shown["credits_charged"] == 0)
        assert shown["status"] == "error"
    finally:
        sandbox.close()


def test_the_refund_is_in_the_balance_before_anybody_looks_at_the_job(magic):
    magic.control.behaviour(render_seconds=10)
    magic.create(name="nsfw")
    magic.control.advance_clock(10)
    assert magic.credits() == 12_000


@pytest.mark.parametrize("content", [b"", b"this is not an image", b"\xff\xd8\xff\xe0 half a jpeg"])
def test_an_upload_that_is_no_image_ends_as_invalid_image_file(magic, content):
    magic.control.behaviour(render_seconds=0)
    job = magic.wait(magic.create(magic.upload(content)))
    assert job["error"]["code"] == "invalid_image_file"
    assert magic.credits() == 12_000


def test_a_heic_that_cannot_be_read_here_is_rendered_all_the_same(magic):
    magic.control.behaviour(render_seconds=0)
    content = b"\0\0\0\x18ftypheic" + bytes(200)
    assert magic.wait(magic.create(magic.upload(content, "heic")))["status"] == "complete"


@pytest.mark.parametrize("status", ["canceled", "error"])
def test_a_job_ended_from_outside_is_refunded_once(magic, status):
    project_id = magic.create()
    magic.control.set_job(project_id, status)
    job = magic.get(project_id)
    assert job["status"] == status
    assert job["credits_charged"] == 0
    magic.get(project_id)
    assert magic.credits() == 12_000


def test_a_job_fails_with_the_code_that_it_was_told(magic):
    project_id = magic.create()
    magic.control.set_job(project_id, "error", code="no_source_face", message="No face")
    assert magic.get(project_id)["error"] == {"code": "no_source_face", "message": "No face"}


def test_any_other_status_holds_until_it_is_changed(magic):
    magic.control.behaviour(render_seconds=0)
    project_id = magic.create()
    magic.control.set_job(project_id, "paused")
    magic.control.advance_clock(10_000)
    assert magic.get(project_id)["status"] == "paused"
    magic.control.set_job(project_id, "complete")
    assert magic.get(project_id)["status"] == "complete"


def test_a_doomed_job_cannot_be_completed(magic):
    project_id = magic.create(name="nsfw")
    with pytest.raises(ValueError, match="cannot complete: nsfw"):
        magic.control.set_job(project_id, "complete")


def test_the_same_create_twice_is_two_jobs_and_two_charges(magic):
    image = magic.upload()
    first, second = magic.create(image), magic.create(image)
    assert first != second
    assert magic.credits() == 12_000 - 480


def test_a_job_without_a_name_is_named_by_its_time(magic):
    assert magic.get(magic.create())["name"].startswith("Image To Video - 20")


def test_after_delete_the_project_is_there_and_disabled(magic):
    job = magic.complete()
    answer = magic.api.delete(f"/v1/video-projects/{job['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    deleted = magic.get(job["id"])
    assert deleted["enabled"] is False
    assert (deleted["downloads"], deleted["download"]) == ([], None)
    assert deleted["credits_charged"] == 240
    assert magic.files.get(job["download"]["url"]).status_code == 404


def test_after_delete_the_project_is_gone_where_the_switch_says_so(magic):
    magic.control.behaviour(deleted="not_found")
    job = magic.complete()
    assert magic.api.delete(f"/v1/video-projects/{job['id']}").status_code == 204
    assert magic.api.get(f"/v1/video-projects/{job['id']}").status_code == 404
    assert magic.api.delete(f"/v1/video-projects/{job['id']}").status_code == 404


@pytest.mark.parametrize(
    ("asked", "rendered"), [("kling-2.5", "kling-2.6"), ("seedance", "seedance-1.5"), ("ltx-2.5", "ltx-2.5")]
)
def test_old_model_names_are_routed(magic, asked, rendered):
    entry = magic.entry(magic.create(model=asked))
    assert (entry["requested_model"], entry["model"]) == (asked, rendered)


@pytest.mark.parametrize(
    ("tier", "fields", "model"),
    [
        ("free", {}, "ltx-2.5"),
        ("creator", {}, "kling-3.0"),
        ("creator", {"resolution": "480p"}, "seedance-1.5"),
        ("creator", {"end_seconds": 30}, "ltx-2.5"),
        ("creator", {"end_seconds": 1}, "ltx-2.5"),
    ],
)
def test_default_is_a_model_by_tier_resolution_and_length(magic, tier, fields, model):
    magic.control.account(tier=tier)
    assert magic.entry(magic.create(**fields))["model"] == model


def test_default_is_a_model_by_tier_alone_where_the_switch_says_so(magic):
    magic.control.behaviour(default_model="by_tier")
    assert magic.entry(magic.create(resolution="720p"))["model"] == "kling-3.0"
    assert magic.try_create(resolution="480p").status_code == 422


@pytest.mark.parametrize(
    ("tier", "style", "resolution"),
    [
        ("creator", {}, "720p"),
        ("free", {}, "480p"),
        ("creator", {"high_quality": True}, "1080p"),
        ("creator", {"quality_mode": "quick"}, "720p"),
    ],
)
def test_the_resolution_follows_from_tier_and_deprecated_style(magic, tier, style, resolution):
    magic.control.account(tier=tier)
    assert magic.entry(magic.create(style=style))["resolution"] == resolution


@pytest.mark.parametrize("image", ["https://example.com/a.jpg", "saved-items/abc/1.png"])
def test_an_image_from_elsewhere_becomes_a_test_card(magic, image):
    magic.control.behaviour(render_seconds=0)
    assert magic.wait(magic.create(image))["status"] == "complete"


def test_an_image_on_this_machine_is_fetched(magic, wait_until):
    magic.control.behaviour(render_seconds=0)
    picture = magic.complete()["download"]["url"]
    job = magic.wait(magic.create(picture))
    assert job["error"]["code"] == "invalid_image_file"
    gone = magic.wait(magic.create(f"{magic.server.storage_url}/gone.jpg"))
    assert gone["error"]["code"] == "invalid_image_path"
