"""Both sides of the wire, read strictly: what our clients send and what the sandbox answers.

The clients forgive what they read, so that Magic Hour may grow; a test of a client against the sandbox
would therefore not see the two drift away from the API together. Here every exchange is held against our
transcription of the API's OpenAPI document: no unknown field, none missing, no other status, enum or format.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft4Validator, FormatChecker

from magichour_provider import exceptions as errors
from magichour_provider.client.aio import AsyncMagicHourClient
from magichour_provider.client.models import ImageToVideoRequest, JobStatus
from magichour_provider.client.pricing import IMAGE_EXTENSIONS, Tier
from magichour_provider.client.settings import ClientSettings
from magichour_provider.client.sync import MagicHourClient
from magichour_provider.jobs.request import VideoRequest, check, open_images, upload_images
from magichour_provider.sandbox import Behaviour, SandboxServer, Settings
from magichour_provider.sandbox import app as sandbox_server

SPEC = json.loads(Path(__file__).with_name("openapi-image-to-video.json").read_text())
IMAGE = "dags_examples/images/grace_hopper.jpg"

UPLOAD_URLS = ("POST", "/v1/files/upload-urls")
CREATE = ("POST", "/v1/image-to-video")
GET = ("GET", "/v1/video-projects/{id}")
DELETE = ("DELETE", "/v1/video-projects/{id}")
ACCOUNT = ("GET", "/v1/account")

REQUEST = ImageToVideoRequest(image_file_path="https://example.com/still.png", end_seconds=5)
FEW = {"end_seconds": 5}
ALL = {
    "end_seconds": 6,
    "end_image": IMAGE,
    "prompt": "closer",
    "model": "ltx-2.3",
    "resolution": "480p",
    "audio": True,
    "name": "a name",
}

FORMATS = FormatChecker(formats=())
"""Checked here, for jsonschema passes over a format whose optional library is not installed."""


@FORMATS.checks("date-time", raises=ValueError)
def is_date_time(value: Any) -> bool:
    if not isinstance(value, str):
        return True
    datetime.fromisoformat(value.replace("Z", "+00:00"))
    return bool(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", value))


@FORMATS.checks("uri")
def is_uri(value: Any) -> bool:
    pattern = r"[A-Za-z][A-Za-z0-9+.-]*://[\w.:@%~\[\]-]+([/?#][\w.~:/?#\[\]@!$&'()*+,;=%-]*)?"
    return not isinstance(value, str) or bool(re.fullmatch(pattern, value, re.ASCII))


@FORMATS.checks("float")
def is_float(value: Any) -> bool:
    return not isinstance(value, (int, float)) or math.isfinite(value)


@dataclass(frozen=True)
class Exchange:
    """One request and its answer; header names in lower case."""

    method: str
    path: str
    query: bytes
    sent_headers: dict[str, str]
    sent: bytes
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def operation(self) -> tuple[str, str]:
        for template in SPEC["paths"]:
            if re.fullmatch(template.replace("{id}", "[^/]+"), self.path):
                return self.method, template
        return self.method, self.path

    def faults_of_request(self) -> list[str]:
        operation = described(self.operation)
        if operation is None:
            return [f"{self.method} {self.path} is no operation"]
        faults = [] if self.sent_headers.get("authorization", "").startswith("Bearer ") else ["no Bearer key"]
        faults += ["a query that is no parameter"] if self.query else []
        return faults + faults_of_body(operation.get("requestBody", {}), self.sent_headers, self.sent)

    def faults_of_answer(self) -> list[str]:
        answers = (described(self.operation) or {}).get("responses", {})
        if str(self.status) not in answers:
            return [f"{self.status} is no answer of {self.operation}"]
        return faults_of_body(resolved(answers[str(self.status)]), self.headers, self.body)


def described(operation: tuple[str, str]) -> dict[str, Any] | None:
    method, template = operation
    return SPEC["paths"].get(template, {}).get(method.lower())


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in part:
        return part
    return reduce(lambda node, name: node[name], part["$ref"].removeprefix("#/").split("/"), SPEC)


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI 3.0 schema as JSON Schema that allows no property beyond those it names."""
    read = dict(resolved(schema))
    if read.pop("nullable", False):
        read["type"] = [read["type"], "null"]
    if "properties" in read:
        read["properties"] = {name: strict(each) for name, each in read["properties"].items()}
        read["additionalProperties"] = False
    if "items" in read:
        read["items"] = strict(read["items"])
    return read


def faults_of_body(part: dict[str, Any], headers: dict[str, str], body: bytes) -> list[str]:
    if "content" not in part:
        return [f"a body where none belongs: {body[:80]!r}"] if body else []
    if headers.get("content-type") != "application/json":
        return [f"content type {headers.get('content-type')}"]
    try:
        value = json.loads(body, parse_constant=refuse_constant)
    except ValueError as error:
        return [f"not JSON: {error}"]
    reader = Draft4Validator(strict(part["content"]["application/json"]["schema"]), format_checker=FORMATS)
    return [f"{error.json_path}: {error.message}" for error in reader.iter_errors(value)]


def refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class Recorder:
    """Stands before the sandbox's API and keeps every exchange but those of the control pages."""

    def __init__(self, app: Any, exchanges: list[Exchange]) -> None:
        self.app = app
        self.exchanges = exchanges

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/__sandbox__/"):
            await self.app(scope, receive, send)
            return
        sent = await whole_body(receive)
        unread = [{"type": "http.request", "body": sent, "more_body": False}]
        start: dict[str, Any] = {}
        body = bytearray()

        async def hear() -> Any:
            return unread.pop() if unread else await receive()

        async def say(message: Any) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    self.keep(scope, sent, start, bytes(body))
            await send(message)

        await self.app(scope, hear, say)

    def keep(self, scope: Any, sent: bytes, start: dict[str, Any], body: bytes) -> None:
        request = (scope["method"], scope["path"], scope["query_string"], texts(scope["headers"]), sent)
        self.exchanges.append(Exchange(*request, start["status"], texts(start["headers"]), body))


async def whole_body(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def texts(headers: Any) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


@dataclass
class Wire:
    """A sandbox that is listened to, and one kind of client for it."""

    server: SandboxServer
    kind: str
    exchanges: list[Exchange] = field(default_factory=list)

    def call(self, method: str, *arguments: Any, key: str | None = None) -> Any:
        """Call one method of the client, which tries once."""
        settings = ClientSettings(key or self.server.api_key, self.server.url, max_attempts=1)
        if self.kind == "sync":
            with MagicHourClient.from_settings(settings) as client:
                return getattr(client, method)(*arguments)

        async def call() -> Any:
            async with await AsyncMagicHourClient.from_settings(settings) as client:
                return await getattr(client, method)(*arguments)

        return asyncio.run(call())

    def prepared(self, **fields: Any) -> ImageToVideoRequest:
        order = VideoRequest.of(image=IMAGE, **fields)
        with MagicHourClient.from_settings(ClientSettings(self.server.api_key, self.server.url)) as client:
            images = open_images(order)
            check(client, order, images)
            return upload_images(client, order, images)

    def checked(self) -> list[tuple[tuple[str, str], int]]:
        """Operations and statuses since the test began; fails where one exchange breaks the contract."""
        for each in self.exchanges:
            assert (each.operation, each.status, each.faults_of_request()) == (
                each.operation,
                each.status,
                [],
            )
        return self.checked_answers()

    def checked_answers(self) -> list[tuple[tuple[str, str], int]]:
        for each in self.exchanges:
            assert (each.operation, each.status, each.faults_of_answer()) == (each.operation, each.status, [])
        return [(each.operation, each.status) for each in self.exchanges]


@pytest.fixture(scope="module")
def listened():
    exchanges: list[Exchange] = []
    api_app = sandbox_server.api_app
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox_server, "api_app", lambda *given: Recorder(api_app(*given), exchanges))
        with SandboxServer(Settings(quick=True, behaviour=Behaviour(render_seconds=0.2))) as server:
            yield server, exchanges


@pytest.fixture(params=["sync", "async"])
def wire(request, listened):
    server, exchanges = listened
    server.control.reset()
    exchanges.clear()
    return Wire(server, request.param, exchanges)


one_kind = pytest.mark.parametrize("wire", ["sync"], indirect=True)

CALLS = {
    ACCOUNT: ("get_account",),
    UPLOAD_URLS: ("create_upload_targets", ["png"]),
    CREATE: ("create_image_to_video", REQUEST),
    GET: ("get_video", "cm1"),
    DELETE: ("delete_video", "cm1"),
}


@pytest.mark.parametrize(("fields", "uploads"), [(FEW, 1), (ALL, 2)], ids=["few", "all"])
def test_an_order_keeps_the_contract_from_its_check_to_its_create(wire, fields, uploads):
    wire.call("create_image_to_video", wire.prepared(**fields))
    assert wire.checked() == [(ACCOUNT, 200), *[(UPLOAD_URLS, 200)] * uploads, (CREATE, 200)]
    assert len(leaves(json.loads(wire.exchanges[-1].sent))) == len(fields) + len(["image"])


def leaves(value: Any) -> list[Any]:
    return [leaf for each in value.values() for leaf in leaves(each)] if isinstance(value, dict) else [value]


def test_upload_urls_for_every_extension_keep_the_contract(wire):
    targets = wire.call("create_upload_targets", sorted(IMAGE_EXTENSIONS))
    assert len(targets) == len(IMAGE_EXTENSIONS)
    assert wire.checked() == [(UPLOAD_URLS, 200)]


@pytest.mark.parametrize("milliseconds", [True, False])
@pytest.mark.parametrize("status", list(JobStatus))
def test_a_look_keeps_the_contract_in_every_state(wire, status, milliseconds):
    wire.server.control.behaviour(milliseconds=milliseconds)
    job = wire.call("create_image_to_video", REQUEST)
    wire.server.control.set_job(job.id, status.value)
    assert wire.call("get_video", job.id).status is status
    assert wire.checked() == [(CREATE, 200), (GET, 200)]


@pytest.mark.parametrize("status", ["rendering", "complete", "error"])
def test_a_delete_and_a_look_after_it_keep_the_contract(wire, status):
    job = wire.call("create_image_to_video", REQUEST)
    wire.server.control.set_job(job.id, status)
    wire.call("delete_video", job.id)
    assert wire.call("get_video", job.id).enabled is False
    wire.server.control.behaviour(deleted="not_found")
    with pytest.raises(errors.NotFoundError):
        wire.call("get_video", job.id)
    assert wire.checked() == [(CREATE, 200), (DELETE, 204), (GET, 200), (GET, 404)]


@pytest.mark.parametrize("tier", list(Tier))
def test_the_account_keeps_the_contract_on_every_tier(wire, tier):
    wire.server.control.account(tier=tier.value, credits=0)
    assert wire.call("get_account").tier == tier.value
    assert wire.checked() == [(ACCOUNT, 200)]


@pytest.mark.parametrize("operation", list(CALLS), ids=" ".join)
def test_a_wrong_key_and_a_broken_server_keep_the_contract(wire, operation):
    with pytest.raises(errors.AuthenticationError):
        wire.call(*CALLS[operation], key="wrong")
    wire.server.control.faults([{"path": "/v1/*", "status": 500}])
    with pytest.raises(errors.MagicHourError):
        wire.call(*CALLS[operation])
    assert wire.checked() == [(operation, 401), (operation, 500)]


@pytest.mark.parametrize("operation", [GET, DELETE], ids=" ".join)
def test_an_unknown_project_keeps_the_contract(wire, operation):
    with pytest.raises(errors.NotFoundError):
        wire.call(*CALLS[operation])
    assert wire.checked() == [(operation, 404)]


@pytest.mark.parametrize(
    ("account", "fields", "code"),
    [
        ({"credits": 1}, {}, "insufficient_credits"),
        ({"tier": "free"}, {"model": "kling-3.0"}, "subscription_required"),
        ({"tier": "free"}, {"model": "ltx-2.3", "resolution": "720p"}, "plan_upgrade_required"),
    ],
)
def test_a_create_that_cannot_be_paid_keeps_the_contract(wire, account, fields, code):
    wire.server.control.account(**account)
    with pytest.raises(errors.PaymentRequiredError) as refused:
        wire.call("create_image_to_video", REQUEST.model_copy(update=fields))
    assert refused.value.code == code
    assert wire.checked() == [(CREATE, 402)]


@pytest.mark.parametrize(
    "fields", [{"image_file_path": "api-assets/never/put.png"}, {"model": "ltx-2.3", "end_seconds": 11}]
)
def test_a_create_that_makes_no_sense_keeps_the_contract(wire, fields):
    with pytest.raises(errors.InvalidParametersError):
        wire.call("create_image_to_video", REQUEST.model_copy(update=fields))
    assert wire.checked() == [(CREATE, 422)]


def test_an_extension_that_is_not_taken_keeps_the_contract(wire):
    with pytest.raises(errors.InvalidParametersError):
        wire.call("create_upload_targets", ["exe"])
    assert wire.checked() == [(UPLOAD_URLS, 422)]


@pytest.mark.parametrize(
    "fields", [{"model": "kling-9"}, {"end_seconds": 61}, {"end_seconds": 0.5}, {"resolution": "8k"}]
)
def test_what_the_reader_refuses_of_a_request_the_sandbox_refuses_too(wire, fields):
    with pytest.raises(errors.InvalidParametersError):
        wire.call("create_image_to_video", REQUEST.model_copy(update=fields))
    assert wire.checked_answers() == [(CREATE, 400)]
    (fault,) = wire.exchanges[0].faults_of_request()
    assert fault.startswith(f"$.{next(iter(fields))}: ")


def test_the_reader_checks_every_format_of_the_document():
    used = set(re.findall(r'"format": "([^"]+)"', json.dumps(SPEC)))
    assert used == set(FORMATS.checkers)


LINK = {"url": "http://127.0.0.1:1/output.mp4?sig=a", "expires_at": "2026-10-01T10:00:00Z"}


@one_kind
@pytest.mark.parametrize(
    ("change", "at"),
    [
        ({"surprise": 1}, "$"),
        ({"name": ...}, "$"),
        ({"status": "done"}, "$.status"),
        ({"id": None}, "$.id"),
        ({"width": 1.0}, "$.width"),
        ({"width": True}, "$.width"),
        ({"fps": "24"}, "$.fps"),
        ({"end_seconds": math.nan}, "not JSON"),
        ({"created_at": "yesterday"}, "$.created_at"),
        ({"created_at": "2026-10-01 10:00:00Z"}, "$.created_at"),
        ({"created_at": "2026-10-01T10:00:00"}, "$.created_at"),
        ({"error": {"code": "nsfw"}}, "$.error"),
        ({"downloads": [{**LINK, "size": 1}]}, "$.downloads[0]"),
        ({"downloads": [{**LINK, "url": "/output.mp4"}]}, "$.downloads[0].url"),
        ({"downloads": [{**LINK, "url": "http://host/a b"}]}, "$.downloads[0].url"),
        ({"download": {**LINK, "expires_at": 1}}, "$.download.expires_at"),
    ],
    ids=str,
)
def test_the_reader_sees_what_is_wrong_in_an_answer(wire, change, at):
    job = wire.call("create_image_to_video", REQUEST)
    wire.call("get_video", job.id)
    right = wire.exchanges[-1]
    body = {key: value for key, value in {**json.loads(right.body), **change}.items() if value is not ...}
    (fault,) = replace(right, body=json.dumps(body).encode()).faults_of_answer()
    assert fault.startswith(f"{at}: ")


@one_kind
@pytest.mark.parametrize(
    "wrong",
    [
        {"sent": b'{"end_seconds": 5, "assets": {"image_file_path": "a", "external_id": 1}}'},
        {"sent": b'{"end_seconds": "5", "assets": {"image_file_path": "a"}}'},
        {"sent": b'{"end_seconds": 5}'},
        {"sent": b""},
        {"sent_headers": {"authorization": "Bearer key", "content-type": "text/plain"}},
        {"sent_headers": {"content-type": "application/json"}},
        {"query": b"key=value"},
        {"method": "PUT"},
        {"method": "DELETE", "path": "/v1/video-projects/cm1"},
    ],
    ids=str,
)
def test_the_reader_sees_what_is_wrong_in_a_request(wire, wrong):
    wire.call("create_image_to_video", REQUEST)
    assert len(replace(wire.exchanges[0], **wrong).faults_of_request()) == 1


@one_kind
@pytest.mark.parametrize("wrong", [{"status": 201}, {"headers": {"content-type": "text/html"}}], ids=str)
def test_the_reader_sees_an_answer_of_another_kind(wire, wrong):
    wire.call("get_account")
    assert len(replace(wire.exchanges[0], **wrong).faults_of_answer()) == 1
