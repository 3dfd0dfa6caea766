"""The sandbox's API origin. Every answer of these tests is held against the OpenAPI document."""

from __future__ import annotations

import io
import json
import struct
from contextlib import nullcontext
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft4Validator
from openapi_contract import CREATE, UPLOAD_URLS, Exchange, request_schema
from PIL import Image, UnidentifiedImageError
from pydantic import ValidationError

from magichour_provider.sandbox import Settings
from magichour_provider.sandbox.jobs import Sandbox
from magichour_provider.sandbox.schemas import CreateBody, JobRequest, UploadUrlsBody

BALANCE = 12_000


@pytest.fixture
def magic(magic):
    magic.api.event_hooks = {"response": [check_contract]}
    yield magic
    magic.api.event_hooks = {"response": []}


def check_contract(answer):
    url, headers = answer.request.url, answer.request.headers
    given = (answer.status_code, answer.headers, answer.read())
    assert Exchange(answer.request.method, url.path, url.query, headers, b"", *given).answer_errors() == []


def refused(answer, status, *words):
    assert answer.status_code == status, answer.text
    for word in words:
        assert word in answer.json()["message"]
    return answer.json().get("code")


def failure(magic, project_id):
    """Why a job ended without a video, by waiting for it."""
    with pytest.raises(ValueError, match="cannot complete") as refusal:
        magic.control.set_job(project_id, "complete")
    magic.control.advance_clock(1)
    job = magic.get(project_id)
    assert (job["status"], job["credits_charged"], job["width"], job["height"]) == ("error", 0, -1, -1)
    assert job["error"]["code"] in str(refusal.value)
    return job["error"]["code"]


# The life of a job


def test_create_is_queued_then_rendering_then_complete(magic):
    magic.control.behaviour(render_seconds=1000)
    answer = magic.try_create()
    assert answer.json()["estimated_frame_cost"] == answer.json()["credits_charged"] == 240
    project_id = answer.json()["id"]
    assert magic.get(project_id)["status"] == "queued"
    magic.control.advance_clock(260)
    assert magic.get(project_id)["status"] == "rendering"
    magic.control.set_job(project_id, "paused")
    magic.control.advance_clock(10_000)
    assert magic.entry(project_id)["status"] == "paused", "a status that was set stays"
    magic.control.set_job(project_id, "complete")
    job = magic.get(project_id)
    assert (job["status"], job["type"], job["error"]) == ("complete", "IMAGE_TO_VIDEO", None)
    assert [job["download"]] == job["downloads"]


@pytest.mark.parametrize("where", [{"style": {"prompt": "very NSFW"}}, {"name": "nsfw"}])
def test_moderation_refunds_even_before_a_poll(magic, where):
    project_id = magic.create(**where)
    assert magic.credits() == BALANCE - 240
    magic.control.advance_clock(1)
    assert magic.credits() == BALANCE
    assert failure(magic, project_id) == "nsfw"
    assert [charge["credits"] for charge in magic.entry(project_id)["charges"]] == [240, -240]


@pytest.mark.parametrize("render_seconds", [1, 4, 7])
def test_status_and_its_refund_are_shown_together_while_time_passes(render_seconds):
    moments = iter(datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=s) for s in range(1000))
    sandbox = Sandbox(Settings(quick=True))
    sandbox.now = lambda: next(moments)
    sandbox.behaviour = sandbox.behaviour.changed({"render_seconds": render_seconds})
    request = JobRequest(
        "a name", "ltx-2.3", "ltx-2.3", "480p", 5, False, 24, 240, "saved-items/a", prompt="nsfw"
    )
    job = sandbox.submit(request)
    for _ in range(render_seconds):
        for shown in (sandbox.project(job, "http://127.0.0.1"), sandbox.state()["jobs"][0]):
            assert (shown["status"] == "error") == (shown["credits_charged"] == 0)
    assert shown["status"] == "error"
    sandbox.close()


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 half a jpeg"])
def test_upload_that_is_no_image_fails_as_invalid_image_file(magic, content):
    assert failure(magic, magic.create(magic.upload(content))) == "invalid_image_file"
    assert magic.credits() == BALANCE


@pytest.mark.parametrize("extension", ["heic", "tif"])
def test_image_that_pillow_cannot_decode_is_rendered(magic, extension):
    file = io.BytesIO()
    Image.new("F", (8, 8)).save(file, "TIFF")
    bits = [struct.pack("<HHII", 258, 3, 1, number) for number in (32, 64)]
    content = {"heic": b"\0\0\0\x18ftypheic" + bytes(200), "tif": file.getvalue().replace(*bits)}[extension]
    with pytest.raises(UnidentifiedImageError), Image.open(io.BytesIO(content)):
        pass
    assert magic.complete(image=magic.upload(content, extension))["status"] == "complete"


@pytest.mark.parametrize("status", ["canceled", "error"])
def test_job_ended_by_a_test_is_refunded_once(magic, status):
    project_id = magic.create()
    magic.control.set_job(project_id, status, code="no_source_face", message="No face")
    for _ in range(2):
        job = magic.get(project_id)
        assert (job["status"], job["credits_charged"], job["downloads"]) == (status, 0, [])
    assert job["error"] == ({"code": "no_source_face", "message": "No face"} if status == "error" else None)
    assert magic.credits() == BALANCE


def test_same_create_twice_is_two_jobs_and_two_charges(magic):
    image = magic.upload()
    first, second = magic.create(image), magic.create(image)
    assert first != second
    assert magic.credits() == BALANCE - 480
    assert magic.get(first)["name"].startswith("Image To Video - 20")


@pytest.mark.parametrize(("deleted", "status"), [("disabled", 200), ("not_found", 404)])
def test_delete_removes_the_video(magic, deleted, status):
    magic.control.behaviour(deleted=deleted)
    job = magic.complete()
    path = f"/v1/video-projects/{job['id']}"
    answer = magic.api.delete(path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert magic.files.get(job["download"]["url"]).status_code == 404
    answer = magic.api.get(path)
    assert answer.status_code == status
    if status == 200:
        gone = answer.json()
        assert (gone["enabled"], gone["downloads"], gone["credits_charged"]) == (False, [], 240)
    assert magic.api.delete(path).status_code == (204 if status == 200 else 404)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model": "kling-2.5"}, {"requested_model": "kling-2.5", "model": "kling-2.6"}),
        ({"model": "seedance"}, {"requested_model": "seedance", "model": "seedance-1.5"}),
        ({}, {"model": "kling-3.0", "resolution": "720p", "audio": False}),
        ({"resolution": "480p"}, {"model": "seedance-1.5"}),
        ({"end_seconds": 30}, {"model": "ltx-2.5"}),
        ({"end_seconds": 1}, {"model": "ltx-2.5"}),
        ({"model": "veo3.1-audio", "end_seconds": 4}, {"model": "veo3.1", "audio": True}),
    ],
)
def test_create_resolves_model_resolution_and_audio(magic, fields, expected):
    assert magic.entry(magic.create(**fields)).items() >= expected.items()


def test_free_tier_renders_ltx_at_480p_and_nothing_else(magic):
    magic.control.account(tier="free")
    assert magic.entry(magic.create()).items() >= {"model": "ltx-2.5", "resolution": "480p"}.items()
    assert refused(magic.try_create(model="kling-3.0"), 402, "kling-3.0") == "subscription_required"
    answer = magic.try_create(model="ltx-2.5", resolution="720p")
    assert refused(answer, 402, "720p") == "plan_upgrade_required"


# What is refused


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer mhk_WRONG", "Basic abc"],
)
def test_wrong_key_is_401_before_anything_else(magic, authorization):
    headers = {"Authorization": authorization}
    answers = (
        magic.api.get("/v1/account", headers=headers),
        magic.api.post("/v1/image-to-video", content=b"not json", headers=headers),
        magic.api.get("/v1/video-projects/unknown", headers=headers),
    )
    assert {refused(answer, 401, "Unauthorized") for answer in answers} == {"unauthorized"}


def test_unknown_id_route_or_method_is_404(magic):
    answers = [magic.api.request(method, "/v1/video-projects/unknown") for method in ("GET", "DELETE")]
    magic.api.event_hooks = {"response": []}
    answers += [magic.api.get(path) for path in ("/v1/nothing", "/v1/image-to-video")]
    assert {refused(answer, 404, "Not Found") for answer in answers} == {"not_found"}


IMAGE = {"image_file_path": "saved-items/a.png"}
TWO_IMAGES = {**IMAGE, "end_image_file_path": "saved-items/b.png"}

TEXTS = st.sampled_from(["", "text", 1, None, True])
BOOLEANS = st.sampled_from([True, False, "true", 0, None])


def objects(**fields):
    """JSON objects with any of these fields; a list is one of its values."""
    optional = {
        name: st.sampled_from(each) if isinstance(each, list) else each for name, each in fields.items()
    }
    return st.fixed_dictionaries({}, optional=optional)


CREATES = objects(
    assets=objects(image_file_path=TEXTS, end_image_file_path=TEXTS) | TEXTS,
    end_seconds=[1, 5, 5.5, 60, 0.5, 61, "5", True, None],
    resolution=["480p", "8k", None, 480],
    audio=BOOLEANS,
    name=TEXTS,
    style=objects(prompt=TEXTS, high_quality=BOOLEANS, quality_mode=["quick", "best", None]) | TEXTS,
    width=[1, None],
    external_id=TEXTS,
)
ITEMS = objects(type=["image", "video", "gif", None], extension=["png", ".png", "PNG", "", 1])
UPLOADS = objects(items=st.lists(ITEMS, max_size=2) | TEXTS)


@given(st.tuples(st.just(CreateBody), CREATES) | st.tuples(st.just(UploadUrlsBody), UPLOADS))
def test_request_bodies_are_accepted_exactly_if_the_openapi_document_allows_them(case):
    model, body = case
    schema = request_schema(CREATE if model is CreateBody else UPLOAD_URLS, strict=False)
    is_valid = Draft4Validator(schema).is_valid(body)
    with nullcontext() if is_valid else pytest.raises(ValidationError):
        model.model_validate_json(json.dumps(body))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"assets": IMAGE}, "Missing required field: end_seconds"),
        ({}, "; Missing required field"),
        ({"assets": IMAGE, "end_seconds": "5"}, "Invalid value for field: end_seconds"),
        ({"assets": IMAGE, "end_seconds": 5, "model": "kling-9"}, "kling-9"),
        ([], "body"),
        (b"\xff\xfe", "body"),
    ],
)
def test_body_outside_the_schema_is_400_and_names_the_field(magic, body, words):
    content = body if isinstance(body, bytes) else json.dumps(body)
    answer = magic.api.post("/v1/image-to-video", content=content)
    assert refused(answer, 400, words) == "invalid_request"
    assert magic.control.state()["jobs"] == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": "kling-2.6", "end_seconds": 7}, "end_seconds 7"),
        ({"model": "ltx-2.5", "end_seconds": 5.5}, "end_seconds 5.5"),
        ({"model": "sora-2", "end_seconds": 4, "resolution": "1080p"}, "resolution '1080p'"),
        ({"model": "wan-2.2", "audio": True}, "no audio"),
        ({"model": "veo3.1", "end_seconds": 16, "assets": TWO_IMAGES}, "8"),
        ({"model": "wan-2.2", "assets": TWO_IMAGES}, "no end image"),
    ],
)
def test_combination_that_the_model_does_not_support_is_422(magic, fields, words):
    refused(magic.try_create("saved-items/a.png", **fields), 422, words)


def test_unknown_model_is_rendered_if_the_switch_says_so(magic):
    magic.control.behaviour(unknown_model="accept")
    for model in ("kling-9", "wan-3.0"):  # neither has a published rate
        assert magic.try_create(model=model, end_seconds=2).json()["credits_charged"] == 96


def test_too_few_credits_is_402_and_nothing_is_charged(magic):
    magic.control.account(credits=239)
    assert refused(magic.try_create(), 402, "239") == "insufficient_credits"
    assert magic.credits() == 239
    magic.control.account(credits=240)
    assert magic.try_create().status_code == 200
    assert magic.credits() == 0


def test_missing_upload_fails_at_create(magic):
    for assets in (
        {"image_file_path": "api-assets/no/a.png"},
        {**IMAGE, "end_image_file_path": "api-assets/no/a.png"},
    ):
        refused(magic.try_create(assets=assets), 422, "api-assets/no/a.png", "PUT")
    assert magic.control.state()["jobs"] == []


def test_uploads_are_deleted_after_seven_days(magic):
    image = magic.upload()
    magic.control.advance_clock(7 * 86_400 - 60)
    assert magic.try_create(image).status_code == 200
    magic.control.advance_clock(120)
    refused(magic.try_create(image), 422, image)


def test_upload_urls_come_in_the_order_of_the_request_or_are_refused_with_the_list(magic):
    names = [("image", "png"), ("video", "mp4"), ("audio", "mp3"), ("image", "heic")]
    items = [{"type": kind, "extension": extension} for kind, extension in names]
    targets = magic.api.post("/v1/files/upload-urls", json={"items": items}).json()["items"]
    assert [item["file_path"].rpartition(".")[2] for item in targets] == ["png", "mp4", "mp3", "heic"]
    body = {"items": [{"type": "image", "extension": "gif"}]}
    refused(magic.api.post("/v1/files/upload-urls", json=body), 422, "items.0.extension", "jpeg, jpg")
