"""What is refused, with which status and words."""

from __future__ import annotations

import pytest


def refused(answer, status, *words):
    assert answer.status_code == status, answer.text
    for word in words:
        assert word in answer.json()["message"]
    return answer.json().get("code")


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer invalid", "Bearer mhk_WRONG", "Bearer a-bad-key", "Bearer revoked", "Basic abc"],
)
def test_a_wrong_key_is_refused_before_anything_else(magic, authorization):
    headers = {"Authorization": authorization}
    answers = (
        magic.api.get("/v1/account", headers=headers),
        magic.api.post("/v1/image-to-video", content=b"not json", headers=headers),
        magic.api.get("/v1/video-projects/unknown", headers=headers),
        magic.api.get("/no/such/route", headers=headers),
    )
    for answer in answers:
        assert refused(answer, 401, "Unauthorized") == "unauthorized"


def test_unknown_ids_and_routes_are_404(magic):
    assert refused(magic.api.get("/v1/video-projects/unknown"), 404, "Not Found") == "not_found"
    assert refused(magic.api.delete("/v1/video-projects/unknown"), 404) == "not_found"
    assert refused(magic.api.get("/v1/nothing"), 404) == "not_found"
    assert refused(magic.api.get("/v1/image-to-video"), 404) == "not_found"


IMAGE = {"image_file_path": "saved-items/a.png"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"assets": IMAGE}, "Missing required field: end_seconds (expected number)"),
        ({"end_seconds": 5}, "Missing required field: assets (expected object)"),
        ({}, "; Missing required field"),
        ({"assets": {}, "end_seconds": 5}, "assets.image_file_path (expected string)"),
        ({"assets": {"image_file_path": ""}, "end_seconds": 5}, "assets.image_file_path"),
        ({"assets": IMAGE, "end_seconds": "5"}, "end_seconds (expected number)"),
        ({"assets": IMAGE, "end_seconds": True}, "end_seconds (expected number)"),
        ({"assets": IMAGE, "end_seconds": 0.5}, "end_seconds"),
        ({"assets": IMAGE, "end_seconds": 61}, "end_seconds"),
        ({"assets": IMAGE, "end_seconds": 5, "audio": "yes"}, "audio (expected boolean)"),
        ({"assets": IMAGE, "end_seconds": 5, "resolution": "8k"}, "resolution"),
        ({"assets": IMAGE, "end_seconds": 5, "resolution": None}, "resolution"),
        ({"assets": IMAGE, "end_seconds": 5, "model": "kling-9"}, "kling-9"),
        ({"assets": IMAGE, "end_seconds": 5, "style": {"quality_mode": "best"}}, "style.quality_mode"),
        ([], "expected object"),
    ],
)
def test_a_body_outside_the_schema_is_400_and_names_the_field(magic, body, words):
    assert refused(magic.api.post("/v1/image-to-video", json=body), 400, words) == "invalid_request"
    assert magic.control.state()["jobs"] == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_is_400(magic, content):
    refused(magic.api.post("/v1/image-to-video", content=content), 400)


def test_unknown_keys_and_the_ignored_size_pass(magic):
    assert magic.try_create(external_id="x", width=1, height=None).status_code == 200


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": "kling-2.6", "end_seconds": 7}, "end_seconds 7"),
        ({"model": "ltx-2.5", "end_seconds": 5.5}, "end_seconds 5.5"),
        ({"model": "sora-2", "end_seconds": 4, "resolution": "1080p"}, "resolution '1080p'"),
        ({"model": "wan-2.2", "audio": True}, "no audio"),
        (
            {
                "model": "veo3.1",
                "end_seconds": 16,
                "assets": {**IMAGE, "end_image_file_path": "saved-items/b.png"},
            },
            "8",
        ),
        (
            {"model": "wan-2.2", "assets": {**IMAGE, "end_image_file_path": "saved-items/b.png"}},
            "no end image",
        ),
    ],
)
def test_what_the_model_does_not_take_is_refused_with_the_status_of_the_switch(magic, status, fields, words):
    magic.control.behaviour(validation_status=status)
    refused(magic.try_create("saved-items/a.png", **fields), status, words)


def test_sora_takes_only_portrait_or_landscape(magic, make_jpeg):
    sora = {"model": "sora-2", "end_seconds": 4}
    refused(magic.try_create(magic.upload(make_jpeg(300, 300)), **sora), 422, "9:16 or 16:9")
    assert magic.try_create(magic.upload(make_jpeg(180, 320)), **sora).status_code == 200


def test_audio_that_a_model_does_not_have_is_left_out_where_the_switch_says_so(magic):
    magic.control.behaviour(unsupported_audio="ignore")
    assert magic.entry(magic.create(model="wan-2.2", audio=True))["audio"] is False


def test_an_unknown_model_is_rendered_where_the_switch_says_so(magic):
    magic.control.behaviour(unknown_model="accept")
    assert magic.try_create(model="kling-9", end_seconds=2).json()["credits_charged"] == 96


@pytest.mark.parametrize(
    ("status", "model_code", "resolution_code"),
    [
        (402, "subscription_required", "plan_upgrade_required"),
        (403, "forbidden", "forbidden"),
        (422, "unprocessable_entity", "unprocessable_entity"),
    ],
)
def test_plan_gates_have_the_status_of_the_switch(magic, status, model_code, resolution_code):
    magic.control.account(tier="free")
    magic.control.behaviour(plan_gate_status=status)
    assert refused(magic.try_create(model="kling-3.0"), status, "kling-3.0") == model_code
    assert refused(magic.try_create(model="ltx-2.5", resolution="720p"), status, "720p") == resolution_code
    assert magic.try_create(model="ltx-2.5", resolution="480p").status_code == 200


@pytest.mark.parametrize(("status", "code"), [(402, "insufficient_credits"), (422, "unprocessable_entity")])
def test_too_few_credits_are_refused_and_nothing_is_taken(magic, status, code):
    magic.control.behaviour(no_credits_status=status)
    magic.control.account(credits=239)
    assert refused(magic.try_create(), status, "239") == code
    assert magic.credits() == 239
    magic.control.account(credits=240)
    assert magic.try_create().status_code == 200
    assert magic.credits() == 0


def test_a_missing_upload_fails_at_create(magic):
    target = magic.upload_target()
    assert refused(magic.try_create(target["file_path"]), 422, target["file_path"], "PUT")
    assert magic.control.state()["jobs"] == []


def test_a_missing_upload_fails_the_job_where_the_switch_says_so(magic):
    magic.control.behaviour(missing_upload="job", render_seconds=0)
    job = magic.wait(magic.create(magic.upload_target()["file_path"]))
    assert job["error"]["code"] == "invalid_image_path"
    assert magic.credits() == 12_000


def test_a_missing_end_image_fails_at_create(magic):
    assets = {"image_file_path": magic.upload(), "end_image_file_path": "api-assets/no/thing.png"}
    refused(magic.try_create(assets=assets), 422, "api-assets/no/thing.png")


def test_uploads_are_gone_after_seven_days(magic):
    image = magic.upload()
    magic.control.advance_clock(7 * 86_400 - 60)
    assert magic.try_create(image).status_code == 200
    magic.control.advance_clock(120)
    refused(magic.try_create(image), 422, image)


@pytest.mark.parametrize("status", [400, 422])
def test_an_extension_that_is_not_taken_is_refused_with_the_list(magic, status):
    magic.control.behaviour(validation_status=status)
    body = {"items": [{"type": "image", "extension": "gif"}]}
    refused(magic.api.post("/v1/files/upload-urls", json=body), status, "items.0.extension", "jpeg, jpg")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "items (expected array)"),
        ({"items": []}, "items"),
        ({"items": [{"type": "image", "extension": ".PNG"}]}, "items.0.extension"),
        ({"items": [{"type": "gif", "extension": "gif"}]}, "items.0.type"),
    ],
)
def test_a_wrong_request_for_upload_urls_is_400(magic, body, words):
    assert refused(magic.api.post("/v1/files/upload-urls", json=body), 400, words) == "invalid_request"


def test_the_account_endpoint_may_be_missing(magic):
    magic.control.behaviour(account_endpoint=False)
    refused(magic.api.get("/v1/account"), 404)
