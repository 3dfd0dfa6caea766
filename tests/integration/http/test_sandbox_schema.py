"""Answers against the schemas of the API's own specification, hidden and deprecated fields included."""

from __future__ import annotations

import copy

import jsonschema
import pytest

DATE = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z$"}


def record(properties):
    """An object of which every property is required, and none other allowed."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def nullable(schema):
    return {"anyOf": [schema, {"type": "null"}]}


TEXT, INTEGER, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
DOWNLOAD = record({"url": {"type": "string", "pattern": "^http://.+/output\\.mp4\\?.+"}, "expires_at": DATE})
CREATED = record({"id": TEXT, "estimated_frame_cost": INTEGER, "credits_charged": INTEGER})
PROJECT = record(
    {
        "id": TEXT,
        "name": nullable(TEXT),
        "status": {"enum": ["draft", "queued", "rendering", "complete", "error", "canceled"]},
        "type": TEXT,
        "created_at": DATE,
        "width": INTEGER,
        "height": INTEGER,
        "enabled": {"type": "boolean"},
        "start_seconds": {"type": "number", "minimum": 0},
        "end_seconds": {"type": "number", "minimum": 0.1},
        "total_frame_cost": INTEGER,
        "credits_charged": INTEGER,
        "fps": NUMBER,
        "error": nullable(record({"message": TEXT, "code": TEXT})),
        "downloads": {"type": "array", "items": DOWNLOAD},
        "download": nullable(DOWNLOAD),
    }
)
UPLOAD_URLS = record(
    {
        "items": {
            "type": "array",
            "items": record(
                {
                    "upload_url": {"type": "string", "pattern": "^http://.+/api-assets/.+\\?.+"},
                    "expires_at": DATE,
                    "file_path": {"type": "string", "pattern": "^api-assets/"},
                }
            ),
        }
    }
)
ACCOUNT = record(
    {
        "id": TEXT,
        "email": nullable(TEXT),
        "tier": {"enum": ["free", "creator", "pro", "business"]},
        "credits": {"type": "integer", "minimum": 0},
        "subscription": nullable(
            record(
                {
                    "name": nullable(TEXT),
                    "status": {"enum": ["active", "past_due"]},
                    "price": record({"amount": {"type": "integer", "minimum": 0}, "currency": TEXT}),
                    "discount": nullable(
                        record({"percent_off": nullable(NUMBER), "amount_off": nullable(INTEGER)})
                    ),
                    "billing_interval": {"enum": ["month", "year", None]},
                    "current_period_end": nullable(DATE),
                    "cancel_at_period_end": {"type": "boolean"},
                }
            )
        ),
    }
)
ERROR_CODES = {
    400: ["invalid_request"],
    401: ["unauthorized"],
    402: ["insufficient_credits", "subscription_required", "plan_upgrade_required"],
    404: ["not_found"],
    422: ["unprocessable_entity"],
}


def check(answer, schema, status=200):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    jsonschema.validate(answer.json(), schema)
    return answer.json()


def error_schema(status):
    return record({"code": {"enum": ERROR_CODES[status]}, "message": {"type": "string", "minLength": 1}})


def test_upload_urls_come_in_the_order_of_the_request(magic):
    items = [
        {"type": "image", "extension": "png"},
        {"type": "video", "extension": "mp4"},
        {"type": "audio", "extension": "mp3"},
        {"type": "image", "extension": "heic"},
    ]
    body = check(magic.api.post("/v1/files/upload-urls", json={"items": items}), UPLOAD_URLS)
    assert [item["file_path"].rpartition(".")[2] for item in body["items"]] == ["png", "mp4", "mp3", "heic"]


def test_create_answers_200_without_a_status(magic):
    body = check(magic.try_create(), CREATED)
    assert body["estimated_frame_cost"] == body["credits_charged"] == 240


@pytest.mark.parametrize("status", ["queued", "rendering", "canceled", "error"])
def test_a_project_without_a_clip_follows_the_schema(magic, status):
    project_id = magic.create()
    magic.control.set_job(project_id, status)
    body = check(magic.api.get(f"/v1/video-projects/{project_id}"), PROJECT)
    assert body["status"] == status
    assert body["downloads"] == []
    assert body["download"] is None
    assert (body["error"] is not None) == (status == "error")
    assert (body["width"], body["height"]) == (-1, -1)


def test_a_complete_project_follows_the_schema(magic):
    project_id = magic.complete(name="a name")["id"]
    body = check(magic.api.get(f"/v1/video-projects/{project_id}"), PROJECT)
    assert body["download"] == body["downloads"][0]
    assert len(body["downloads"]) == 1
    assert body["error"] is None
    assert body["name"] == "a name"
    assert body["type"] == "IMAGE_TO_VIDEO"
    assert body["total_frame_cost"] == body["credits_charged"] == 240


@pytest.mark.parametrize("tier", ["free", "creator", "pro", "business"])
def test_the_account_follows_the_schema(magic, tier):
    magic.control.account(tier=tier, credits=7)
    body = check(magic.api.get("/v1/account"), ACCOUNT)
    assert body["tier"] == tier
    assert body["credits"] == 7
    assert (body["subscription"] is None) == (tier == "free")


@pytest.mark.parametrize("shape", ["code", "message"])
def test_errors_have_the_shape_of_the_switch(magic, shape):
    magic.control.behaviour(error_shape=shape)
    magic.control.account(credits=1)
    answers = {
        400: magic.api.post("/v1/image-to-video", json={}),
        401: magic.api.get("/v1/account", headers={"Authorization": "Bearer wrong"}),
        402: magic.try_create(),
        404: magic.api.get("/v1/video-projects/unknown"),
        422: magic.try_create("api-assets/never/put.jpg"),
    }
    for status, answer in answers.items():
        schema = copy.deepcopy(error_schema(status))
        if shape == "message":
            del schema["properties"]["code"]
            schema["required"] = ["message"]
        check(answer, schema, status)


@pytest.mark.parametrize("on", [True, False])
def test_dates_carry_milliseconds_or_not(magic, on):
    magic.control.behaviour(milliseconds=on)
    job = magic.complete()
    dates = [job["created_at"], job["download"]["expires_at"], magic.upload_target()["expires_at"]]
    assert [("." in date) for date in dates] == [on, on, on]
