"""Faults on demand: rules, and the middleware in front of each origin that applies them and counts requests.

A dropped connection is a real one: the middleware closes the TCP transport, which `AbortableProtocol` puts
into the scope of a request.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from starlette.datastructures import URL, Headers, QueryParams
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from magichour_provider.sandbox.schemas import ERROR_CODES, PREFIX

if TYPE_CHECKING:
    from magichour_provider.sandbox.jobs import Sandbox

Origin = Literal["api", "storage", "webhook"]

FAULT_KINDS = (
    *("status", "redirect", "encode", "as_range", "delay"),
    *("drop", "truncate", "flip", "hold", "webhook"),
)

_REDIRECTED = "redirected"
"""The parameter in the query of an address to which a `redirect` rule led."""


class FaultRule(BaseModel):
    """Which requests fail, how often, and how: exactly one of `FAULT_KINDS`."""

    model_config = ConfigDict(extra="forbid")

    method: str = "*"
    path: str
    """Glob over the path without the query, such as `/v1/video-projects/*`; of a webhook over its type."""
    origin: Origin | None = None
    times: int | None = Field(default=None, ge=1)
    """Number of requests that the rule applies to; null: all."""

    status: int | None = Field(default=None, ge=200, le=599)
    headers: dict[str, str] = {}
    body: JsonValue = None
    redirect: Literal[301, 302, 303, 307, 308] | None = None
    """Redirect with this status to the same address with one more parameter, where the request is handled."""
    encode: Literal["gzip", "deflate"] | None = None
    """Compress a 200 as a proxy does, even for a client that accepts no coding: in chunks without
    Content-Length, with a weak ETag, and without ranges and checksums. Other answers pass."""
    as_range: str | None = None
    """Answer as if the request had this Range header: `bytes=0-` gives a whole file as 206. A request that
    has one passes."""
    delay: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Seconds before the request is handled."""
    drop: Literal["before", "after"] | None = None
    """Close the connection without an answer, before or after the request is handled."""
    truncate: int | None = Field(default=None, ge=0)
    """Bytes of the body that are sent, under the true Content-Length, before the connection is closed. An
    answer that is not longer, such as the last range of a video, is complete."""
    flip: int | None = Field(default=None, ge=0)
    """Offset, in the whole file, of a byte that has one wrong bit. A range without that byte is right."""
    hold: Literal["before", "after"] | None = None
    """Hold the request, before or after it is handled, until `release`. If the client disconnects from a
    request that is held before it is handled, it is never handled."""

    webhook: Literal["never", "twice", "wrong_signature", "old_timestamp"] | None = None
    """What happens to a webhook; `path` is its type. A late one has a `delay`; origin is `webhook`."""

    @model_validator(mode="after")
    def _is_one_fault(self) -> FaultRule:
        kinds = [kind for kind in FAULT_KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            kinds_allowed = ", ".join(FAULT_KINDS)
            raise ValueError(f"a rule needs exactly one of {kinds_allowed}; this has {kinds or 'none'}")
        if self.status is None and (self.headers or self.body is not None):
            raise ValueError("headers and body are allowed with status only")
        return self

    def response(self, url: URL) -> Response:
        """The answer of `redirect` or `status`. Without a body, 502 to 504 are HTML, as gateways send."""
        if self.redirect is not None:
            return RedirectResponse(url.include_query_params(**{_REDIRECTED: 1}), self.redirect)
        status = self.status or 500
        if isinstance(self.body, str):
            return PlainTextResponse(self.body, status, self.headers)
        if self.body is None and status in (502, 503, 504):
            return HTMLResponse(f"<html><body><h1>{status}</h1></body></html>", status, self.headers)
        code = ERROR_CODES.get(status, f"http_{status}")
        body = {"code": code, "message": "A fault of the sandbox"} if self.body is None else self.body
        return JSONResponse(body, status, self.headers)


class Faults:
    """The rules in order, and the requests that `hold` rules keep, by the event that lets them continue."""

    def __init__(self) -> None:
        self.rules: list[FaultRule] = []
        self.held: dict[asyncio.Event, dict[str, str]] = {}

    def take(self, origin: Origin, scope: Mapping[str, Any]) -> FaultRule | None:
        """The first rule for this request; it then applies one time less."""
        is_redirected = _REDIRECTED in QueryParams(scope["query_string"])
        for rule in self.rules:
            if (
                rule.origin in (None, origin)
                and rule.method.upper() in ("*", scope["method"])
                and fnmatchcase(scope["path"], rule.path)
                and not (rule.redirect and is_redirected)
            ):
                if rule.times is not None:
                    rule.times -= 1
                self.rules = [each for each in self.rules if each.times != 0]
                return rule
        return None

    def release(self) -> list[dict[str, str]]:
        """Let all held requests continue; returns method, path and `hold` of each, oldest first."""
        released, self.held = self.held, {}
        for event in released:
            event.set()
        return list(released.values())


class AbortableProtocol(H11Protocol):
    """uvicorn's HTTP protocol, with the TCP transport in `scope["state"]["transport"]`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the transport where the middleware finds it."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


class FaultMiddleware:
    """Counts every request of one origin and applies the fault rules to it; the control API is exempt."""

    def __init__(self, app: ASGIApp, origin: Origin, sandbox: Sandbox, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._origin = origin
        self._sandbox = sandbox
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["path"].startswith(f"{PREFIX}/"):
            await self._app(scope, receive, send)
            return

        def count(status: int) -> None:
            matching = (route for route in self._routes if route.matches(scope)[0] is not Match.NONE)
            route = getattr(next(matching, None), "path", "(unknown)")
            self._sandbox.requests[self._origin, scope["method"], route, status] += 1

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        rule = self._sandbox.faults.take(self._origin, scope)
        if rule is None:
            await self._app(scope, receive, counted)
        elif rule.hold is not None:
            await self._hold(rule.hold, scope, receive, counted)
        elif rule.drop is not None:
            count(0)
            if rule.drop == "after":
                await self._app(scope, receive, _discard)
            scope["state"]["transport"].close()
            await _disconnected(receive)
        elif rule.delay is not None:
            await asyncio.sleep(rule.delay)
            await self._app(scope, receive, counted)
        elif rule.truncate is not None:
            transport: asyncio.Transport = scope["state"]["transport"]
            await self._app(scope, receive, _truncating(counted, rule.truncate, transport))
            if transport.is_closing():
                await _disconnected(receive)
        elif rule.flip is not None:
            await self._app(scope, receive, _flipping(counted, rule.flip))
        elif rule.encode is not None:
            await self._app(scope, receive, _encoding(counted, rule.encode))
        elif rule.as_range is not None:
            # The first of two headers counts: that of the client.
            asked = (b"range", rule.as_range.encode())
            await self._app({**scope, "headers": [*scope["headers"], asked]}, receive, counted)
        else:
            await rule.response(URL(scope=scope))(scope, receive, counted)

    async def _hold(self, hold: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the request, and hold it before or after it is handled. If its client leaves, it ends."""
        request, answer = [await receive()], []
        while request[-1].get("more_body"):
            request.append(await receive())

        async def replay() -> Message:
            return request.pop(0) if request else await receive()

        async def collect(message: Message) -> None:
            answer.append(message)

        if hold == "after":
            await self._app(scope, replay, collect)
        faults, released = self._sandbox.faults, asyncio.Event()
        faults.held[released] = {"method": scope["method"], "path": scope["path"], "hold": hold}
        leaving = asyncio.ensure_future(_disconnected(receive))
        leaving.add_done_callback(lambda _: released.set())
        try:
            await released.wait()
        finally:
            has_left = leaving.done()
            leaving.cancel()
            faults.held.pop(released, None)
        if has_left:
            return
        if hold == "before":
            await self._app(scope, replay, send)
        for message in answer:
            await send(message)


def _truncating(send: Send, length: int, transport: asyncio.Transport) -> Send:
    """A `send` that closes the connection after `length` bytes of a longer body."""
    left = length

    async def cut(message: Message) -> None:
        nonlocal left
        body = message.get("body", b"")
        if len(body) <= left and not transport.is_closing():
            left -= len(body)
            await send(message)
        elif not transport.is_closing():
            if left:
                await send({**message, "body": body[:left], "more_body": True})
            transport.close()  # which sends what is in its buffer, unlike an abort

    return cut


def _flipping(send: Send, offset: int) -> Send:
    """A `send` that changes the lowest bit of the byte at `offset` of the file."""
    position = 0

    async def flip(message: Message) -> None:
        nonlocal position
        if message.get("status") == 206:
            content_range = dict(message["headers"])[b"content-range"]
            position = int(content_range.removeprefix(b"bytes ").partition(b"-")[0])
        body = message.get("body", b"")
        at = offset - position
        if 0 <= at < len(body):
            message = {**message, "body": body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]}
        position += len(body)
        await send(message)

    return flip


def _encoding(send: Send, coding: str) -> Send:
    """A `send` that compresses the body of a 200."""
    compressor = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
    is_encoded = False

    async def encode(message: Message) -> None:
        nonlocal is_encoded
        if message["type"] == "http.response.start":
            is_encoded = message["status"] == 200
            if is_encoded:
                sent = Headers(raw=message["headers"])
                headers = {"content-encoding": coding, "vary": "Accept-Encoding"}
                headers |= {name: sent[name] for name in ("content-type", "last-modified") if name in sent}
                headers |= {"etag": f"W/{sent['etag']}"} if "etag" in sent else {}
                message = {**message, "headers": Headers(headers).raw}
        elif is_encoded:
            body = compressor.compress(message.get("body", b""))
            body += b"" if message.get("more_body") else compressor.flush()
            message = {**message, "body": body}
        await send(message)

    return encode


async def _disconnected(receive: Receive) -> None:
    """Return when the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _discard(_message: Message) -> None:
    """A `send` that sends nothing."""
