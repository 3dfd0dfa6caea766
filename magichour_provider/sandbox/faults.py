"""Faults on demand: rules, and the middleware in front of each origin that applies them and counts requests.

A dropped connection is a real one: the middleware aborts the TCP transport, which `AbortableProtocol` puts
into the scope of a request.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, model_validator
from starlette.datastructures import URL, Headers, QueryParams
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from magichour_provider.sandbox.schemas import ERROR_CODES

Origin = Literal["api", "storage"]

FAULT_KINDS = ("status", "redirect", "encode", "as_range", "delay", "drop", "truncate", "flip", "hold")

_DROPPED = 0
_REDIRECTED = "redirected"
"""The parameter in the query of an address to which a `redirect` rule led."""
_FLUSH_POLL_SECONDS = 0.005


class FaultRule(BaseModel):
    """Which requests fail, how often, and how: exactly one of `FAULT_KINDS`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = "*"
    path: str
    """Glob over the path without the query, such as `/v1/video-projects/*`."""
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

    @model_validator(mode="after")
    def _is_one_fault(self) -> FaultRule:
        kinds = [kind for kind in FAULT_KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(
                f"a rule needs exactly one of {', '.join(FAULT_KINDS)}; this has {kinds or 'none'}"
            )
        if self.status is None and (self.headers or self.body is not None):
            raise ValueError("headers and body are allowed with status only")
        return self

    def matches(self, origin: Origin, scope: Scope) -> bool:
        """Whether the rule applies to a request."""
        if self.redirect is not None and _REDIRECTED in QueryParams(scope["query_string"]):
            return False
        is_origin = self.origin in (None, origin)
        is_method = self.method.upper() in ("*", scope["method"])
        return is_origin and is_method and fnmatchcase(scope["path"], self.path)

    def response(self, url: URL) -> Response:
        """The answer of a rule with `redirect`, or with `status`.

        Without a body, 502 to 504 are HTML, as gateways send, and others JSON.
        """
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
    """The rules in order; a rule that has been applied `times` times is removed."""

    def __init__(self) -> None:
        self.held = HeldRequests()
        self._rules: list[FaultRule] = []

    def replace(self, rules: bytes) -> None:
        """Replace all rules by a JSON list. Raises pydantic's ValidationError, and then changes nothing."""
        self._rules = TypeAdapter(list[FaultRule]).validate_json(rules)

    def take(self, origin: Origin, scope: Scope) -> FaultRule | None:
        """The first rule for this request; it then applies one time less."""
        for index, rule in enumerate(self._rules):
            if not rule.matches(origin, scope):
                continue
            if rule.times == 1:
                del self._rules[index]
            elif rule.times is not None:
                self._rules[index] = rule.model_copy(update={"times": rule.times - 1})
            return rule
        return None

    def remaining(self) -> list[dict[str, Any]]:
        """The rules that are left, as they would be posted."""
        return [rule.model_dump(exclude_defaults=True) for rule in self._rules]


class HeldRequests:
    """The requests that `hold` rules keep, until they are released or their clients disconnect."""

    def __init__(self) -> None:
        self._requests: list[dict[str, str]] = []
        self._released = asyncio.Event()

    def entries(self) -> list[dict[str, str]]:
        """Method, path and `hold` of each, oldest first."""
        return list(self._requests)

    def release(self) -> list[dict[str, str]]:
        """Let all of them continue; which they were."""
        released, self._requests = self._requests, []
        self._released.set()
        self._released = asyncio.Event()
        return released

    async def wait(self, rule: FaultRule, scope: Scope, receive: Receive) -> bool:
        """Hold one request, whose body has been read. Returns whether its client is still connected."""
        entry = {"method": scope["method"], "path": scope["path"], "hold": str(rule.hold)}
        self._requests.append(entry)
        leaving = asyncio.ensure_future(_disconnected(receive))
        releasing = asyncio.ensure_future(self._released.wait())
        try:
            done, _ = await asyncio.wait((leaving, releasing), return_when=asyncio.FIRST_COMPLETED)
            return leaving not in done
        finally:
            leaving.cancel()
            releasing.cancel()
            self._requests = [each for each in self._requests if each is not entry]


class AbortableProtocol(H11Protocol):
    """uvicorn's HTTP protocol, with the TCP transport in `scope["state"]["transport"]`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the transport where the middleware finds it."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


class FaultMiddleware:
    """Counts every request of one origin and applies the fault rules to it.

    :param count: called with method, path and the status of the answer; 0 if the connection was dropped.
    """

    def __init__(
        self, app: ASGIApp, origin: Origin, faults: Faults, count: Callable[[Scope, int], None]
    ) -> None:
        self._app = app
        self._origin = origin
        self._faults = faults
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._count(scope, message["status"])
            await send(message)

        rule = self._faults.take(self._origin, scope)
        if rule is None:
            await self._app(scope, receive, counted)
        elif rule.hold is not None:
            await self._hold(rule, scope, receive, counted)
        elif rule.drop is not None:
            self._count(scope, _DROPPED)
            if rule.drop == "after":
                await self._app(scope, receive, _discard)
            scope["state"]["transport"].abort()
            await _disconnected(receive)
        elif rule.delay is not None:
            await asyncio.sleep(rule.delay)
            await self._app(scope, receive, counted)
        elif rule.truncate is not None:
            await self._truncate(rule.truncate, scope, receive, counted)
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

    async def _hold(self, rule: FaultRule, scope: Scope, receive: Receive, send: Send) -> None:
        request = [await receive()]
        while request[-1].get("more_body"):
            request.append(await receive())
        answer: list[Message] = []

        async def replay() -> Message:
            return request.pop(0) if request else await receive()

        async def collect(message: Message) -> None:
            answer.append(message)

        if rule.hold == "after":
            await self._app(scope, replay, collect)
        if not await self._faults.held.wait(rule, scope, receive):
            return
        if rule.hold == "before":
            await self._app(scope, replay, collect)
        for message in answer:
            await send(message)

    async def _truncate(self, length: int, scope: Scope, receive: Receive, send: Send) -> None:
        transport: asyncio.Transport = scope["state"]["transport"]
        left, is_cut = length, False

        async def cut(message: Message) -> None:
            nonlocal left, is_cut
            body = message.get("body", b"")
            if is_cut:
                return
            if len(body) <= left:
                left -= len(body)
                await send(message)
                return
            is_cut = True
            if left:
                await send({**message, "body": body[:left], "more_body": True})
            # An abort discards what has not left this process yet, and there is no event to wait for.
            while transport.get_write_buffer_size() and not transport.is_closing():  # noqa: ASYNC110
                await asyncio.sleep(_FLUSH_POLL_SECONDS)
            transport.abort()

        await self._app(scope, receive, cut)
        if is_cut:
            await _disconnected(receive)


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
