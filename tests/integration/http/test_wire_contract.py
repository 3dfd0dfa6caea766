"""What our clients send, held strictly against the OpenAPI document."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import httpx
import pytest
from openapi_contract import ACCOUNT, CREATE, DELETE, FORMATS, GET, SPEC, UPLOAD_URLS, Exchange

from magichour_provider import exceptions as errors
from magichour_provider.client.aio import AsyncMagicHourClient
from magichour_provider.client.models import ImageToVideoRequest, JobStatus
from magichour_provider.client.pricing import IMAGE_EXTENSIONS
from magichour_provider.client.settings import ClientSettings
from magichour_provider.client.sync import MagicHourClient
from magichour_provider.sandbox import SandboxServer

REQUEST = ImageToVideoRequest(image_file_path="https://example.com/still.png", end_seconds=5)
FULL_REQUEST = ImageToVideoRequest(
    image_file_path="saved-items/a.png",
    end_seconds=6,
    end_image_file_path="saved-items/b.png",
    prompt="closer",
    model="ltx-2.3",
    resolution="480p",
    audio=True,
    name="a name",
)
CALLS = {
    ACCOUNT: ("get_account",),
    UPLOAD_URLS: ("create_upload_targets", ["png"]),
    CREATE: ("create_image_to_video", REQUEST),
    GET: ("get_video", "cm1"),
    DELETE: ("delete_video", "cm1"),
}


@dataclass
class Wire:
    """A sandbox, one kind of client for it, and the requests with the statuses that answered them."""

    server: SandboxServer
    kind: str
    exchanges: list[Exchange] = field(default_factory=list)

    def call(self, method: str, *arguments: Any, key: str | None = None) -> Any:
        settings = ClientSettings(key or self.server.api_key, self.server.url)
        if self.kind == "async":
            return asyncio.run(self._call_async(settings, method, *arguments))

        def keep(answer: httpx.Response) -> None:
            sent = answer.request
            self._keep(sent.method, sent.url, sent.url.query, sent.headers, sent.read(), answer.status_code)

        with httpx.Client(trust_env=False, event_hooks={"response": [keep]}) as http:
            return getattr(MagicHourClient(http, settings), method)(*arguments)

    async def _call_async(self, settings: ClientSettings, method: str, *arguments: Any) -> Any:
        trace, body = aiohttp.TraceConfig(), bytearray()

        async def on_sent(_session: Any, _context: Any, chunk: Any) -> None:
            body.extend(chunk.chunk)

        async def on_end(_session: Any, _context: Any, end: Any) -> None:
            sent = end.response.request_info
            query = sent.url.query_string.encode()
            self._keep(sent.method, sent.url, query, sent.headers, bytes(body), end.response.status)

        trace.on_request_chunk_sent.append(on_sent)
        trace.on_request_end.append(on_end)
        async with aiohttp.ClientSession(trace_configs=[trace]) as session:
            return await getattr(AsyncMagicHourClient(session, settings), method)(*arguments)

    def _keep(self, method: str, url: Any, query: bytes, headers: Any, sent: bytes, status: int) -> None:
        lower_case = {name.lower(): value for name, value in headers.items()}
        self.exchanges.append(Exchange(method, url.path, query, lower_case, sent, status, {}, b""))

    def operations(self) -> list[tuple[tuple[str, str], int]]:
        """Operations and statuses so far; fails if a request breaks the contract."""
        for each in self.exchanges:
            assert (each.operation, each.request_errors()) == (each.operation, [])
        return [(each.operation, each.status) for each in self.exchanges]


@pytest.fixture(params=["sync", "async"])
def wire(request, magichour_sandbox):
    return Wire(magichour_sandbox, request.param)


@pytest.mark.parametrize(("body", "fields"), [(REQUEST, 2), (FULL_REQUEST, 8)], ids=["few", "all"])
def test_create_sends_the_fields_that_were_given_and_no_others(wire, body, fields):
    wire.call("create_image_to_video", body)
    assert wire.operations() == [(CREATE, 200)]
    assert len(leaves(json.loads(wire.exchanges[-1].sent))) == fields


def leaves(value: Any) -> list[Any]:
    return [leaf for each in value.values() for leaf in leaves(each)] if isinstance(value, dict) else [value]


def test_upload_urls_for_every_extension_keep_the_contract(wire):
    targets = wire.call("create_upload_targets", sorted(IMAGE_EXTENSIONS))
    assert len(targets) == len(IMAGE_EXTENSIONS)
    assert wire.operations() == [(UPLOAD_URLS, 200)]


@pytest.mark.parametrize("status", list(JobStatus))
def test_poll_and_delete_keep_the_contract_in_every_status(wire, status):
    job = wire.call("create_image_to_video", REQUEST)
    wire.server.control.set_job(job.id, status.value)
    assert wire.call("get_video", job.id).status is status
    wire.call("delete_video", job.id)
    assert wire.call("get_video", job.id).enabled is False
    assert wire.operations() == [(CREATE, 200), (GET, 200), (DELETE, 204), (GET, 200)]


def test_account_keeps_the_contract(wire):
    assert wire.call("get_account").credits == 12_000
    assert wire.operations() == [(ACCOUNT, 200)]


@pytest.mark.parametrize("operation", list(CALLS), ids=" ".join)
def test_wrong_key_and_server_error_keep_the_contract(wire, operation):
    with pytest.raises(errors.AuthenticationError):
        wire.call(*CALLS[operation], key="wrong")
    wire.server.control.faults([{"path": "/v1/*", "status": 500}])
    with pytest.raises(errors.MagicHourError):
        wire.call(*CALLS[operation])
    assert wire.operations() == [(operation, 401), (operation, 500)]


@pytest.mark.parametrize("operation", [GET, DELETE], ids=" ".join)
def test_unknown_project_keeps_the_contract(wire, operation):
    with pytest.raises(errors.NotFoundError):
        wire.call(*CALLS[operation])
    assert wire.operations() == [(operation, 404)]


@pytest.mark.parametrize(
    ("account", "fields", "code"),
    [
        ({"credits": 1}, {}, "insufficient_credits"),
        ({"tier": "free"}, {"model": "kling-3.0"}, "subscription_required"),
        ({"tier": "free"}, {"model": "ltx-2.3", "resolution": "720p"}, "plan_upgrade_required"),
    ],
)
def test_create_without_credits_or_plan_is_402_and_keeps_the_contract(wire, account, fields, code):
    wire.server.control.account(**account)
    with pytest.raises(errors.PaymentRequiredError) as refused:
        wire.call("create_image_to_video", REQUEST.model_copy(update=fields))
    assert refused.value.code == code
    assert wire.operations() == [(CREATE, 402)]


# The reader of the document itself


def test_every_format_of_the_document_is_checked():
    used = set(re.findall(r'"format": "([^"]+)"', json.dumps(SPEC)))
    assert used == set(FORMATS.checkers)


LINK = {"url": "http://127.0.0.1:1/output.mp4?sig=a", "expires_at": "2026-10-01T10:00:00Z"}


@pytest.mark.parametrize("wire", ["sync"], indirect=True)
def test_wrong_exchanges_are_found(wire, magic):
    job = wire.call("create_image_to_video", REQUEST)
    (create,) = wire.exchanges
    headers = {"content-type": "application/json"}
    answer = magic.api.get(f"/v1/video-projects/{job.id}").content
    get = Exchange("GET", f"/v1/video-projects/{job.id}", b"", {}, b"", 200, headers, answer)
    for change, at in [
        ({"surprise": 1}, "$"),
        ({"name": ...}, "$"),
        ({"status": "done"}, "$.status"),
        ({"width": 1.5}, "$.width"),
        ({"end_seconds": float("nan")}, "not JSON"),
        ({"created_at": "2026-10-01 10:00:00Z"}, "$.created_at"),
        ({"error": {"code": "nsfw"}}, "$.error"),
        ({"downloads": [{**LINK, "size": 1}]}, "$.downloads[0]"),
        ({"downloads": [{**LINK, "url": "http://host/a b"}]}, "$.downloads[0].url"),
    ]:
        body = {key: value for key, value in {**json.loads(get.body), **change}.items() if value is not ...}
        (error,) = replace(get, body=json.dumps(body).encode()).answer_errors()
        assert error.startswith(f"{at}: ")
    for wrong in [
        {"sent": b'{"end_seconds": 5, "assets": {"image_file_path": "a", "external_id": 1}}'},
        {"sent": b'{"end_seconds": 5}'},
        {"sent_headers": {"authorization": "Bearer key", "content-type": "text/plain"}},
        {"sent_headers": {"content-type": "application/json"}},
        {"query": b"key=value"},
        {"method": "PUT"},
    ]:
        assert len(replace(create, **wrong).request_errors()) == 1
    for wrong in [{"status": 201}, {"headers": {"content-type": "text/html"}}]:
        assert len(replace(get, **wrong).answer_errors()) == 1
