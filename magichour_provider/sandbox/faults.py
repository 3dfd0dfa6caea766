"""Faults on demand: rules, and the gate in front of each origin that counts requests and applies them.

A dropped connection is a real one: the gate aborts the TCP transport, which `AbortableProtocol` puts
within its reach.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, model_validator
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from magichour_provider.sandbox.behaviour import readable
from magichour_provider.sandbox.problems import CODES

Origin = Literal["api", "storage"]

FAULT_KINDS = ("status", "delay", "drop", "truncate", "flip", "hold")


class FaultRule(BaseModel):
    """Which requests go wrong, how often, and how: exactly one of `FAULT_KINDS`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = "*"
    path: str
    """Glob over the path without the query, such as `/v1/video-projects/*`."""
    origin: Origin | None = None
    times: int | None = Field(default=None, ge=1)
    """How many requests it meets; null: every one."""

    status: int | None = Field(default=None, ge=200, le=599)
    headers: dict[str, str] = {}
    body: JsonValue = None
    delay: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Seconds of waiting; the request is handled normally after that."""
    drop: Literal["before", "after"] | None = None
    """Close the connection without an answer, before the request is handled or after."""
    truncate: int | None = Field(default=None, ge=0)
    """Bytes of the body that are sent, under the true Content-Length, before the connection is cut; an answer
    that is no longer, such as the last range of a clip, is not."""
    flip: int | None = Field(default=None, ge=0)
    """Offset, in the whole clip, of a byte that has one bit wrong; a range without that byte is right."""
    hold: Literal["before", "after"] | None = None
    """Answer nothing until the requests are released; a client that leaves before that, held before the
    request is handled, leaves nothing done."""

    @model_validator(mode="after")
    def _is_one_fault(self) -> FaultRule:
        kinds = [kind for kind in FAULT_KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(
                f"a rule needs exactly one of {', '.join(FAULT_KINDS)}; this has {kinds or 'none'}"
            )
        if self.status is None and (self.headers or self.body is not None):
            raise ValueError("headers and body go with status only")
        return self

    def matches(self, origin: Origin, method: str, path: str) -> bool:
        """Whether a request is one that this rule is about."""
        return (
            self.origin in (None, origin)
            and self.method.upper() in ("*", method)
            and fnmatchcase(path, self.path)
        )

    def answer(self) -> Response:
        """The answer of a `status` rule. Without a body: HTML for 502-504, as gateways do, else JSON."""
        status = self.status or 500
        if isinstance(self.body, str):
            return PlainTextResponse(self.body, status, self.headers)
        if self.body is None and status in (502, 503, 504):
            return HTMLResponse(f"<html><body><h1>{status}</h1></body></html>", status, self.headers)
        code = CODES.get(status, f"http_{status}")
        body = {"code": code, "message": "A fault of the sandbox"} if self.body is None else self.body
        return JSONResponse(body, status, self.headers)


class Faults:
    """The rules in force, in their order; a rule that met its last request is gone."""

    def __init__(self) -> None:
        self._rules: list[FaultRule] = []
        self.held = Held()

    def replace(self, rules: Sequence[Any]) -> None:
        """Put `rules` in the place of all that were there. Raises ValueError that says what is wrong."""
        try:
            self._rules = TypeAdapter(list[FaultRule]).validate_python(rules)
        except ValidationError as error:
            raise ValueError(readable(error)) from None

    def take(self, origin: Origin, method: str, path: str) -> FaultRule | None:
        """The first rule for this request, used up by one."""
        for index, rule in enumerate(self._rules):
            if not rule.matches(origin, method, path):
                continue
            if rule.times == 1:
                del self._rules[index]
            elif rule.times is not None:
                self._rules[index] = rule.model_copy(update={"times": rule.times - 1})
            return rule
        return None

    def remaining(self) -> list[dict[str, Any]]:
        """The rules left, as they would be posted."""
        return [rule.model_dump(exclude_defaults=True) for rule in self._rules]


class Held:
    """The requests that are being held, until they are released or their clients leave."""

    def __init__(self) -> None:
        self._requests: list[dict[str, str]] = []
        self._released = asyncio.Event()

    def entries(self) -> list[dict[str, str]]:
        """Method, path and `hold` of each, oldest first."""
        return list(self._requests)

    def release(self) -> None:
        """Let all of them go on."""
        self._released.set()
        self._released = asyncio.Event()

    async def keep(self, rule: FaultRule, scope: Scope, receive: Receive) -> bool:
        """Hold one request, whose body has been read; whether its client is still there when that ends."""
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
            self._requests.remove(entry)


class AbortableProtocol(H11Protocol):
    """uvicorn's HTTP protocol, with the TCP transport in `scope["state"]["transport"]`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the transport where the gate finds it."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


async def inject(
    rule: FaultRule, held: Held, app: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """Handle one request as `rule` says; a dropped one sends nothing."""
    if rule.hold is not None:
        await _hold(rule, held, app, scope, receive, send)
    elif rule.drop == "before":
        await _hang_up(scope, receive)
    elif rule.drop == "after":
        await app(scope, receive, _swallow)
        await _hang_up(scope, receive)
    elif rule.delay is not None:
        await asyncio.sleep(rule.delay)
        await app(scope, receive, send)
    elif rule.truncate is not None:
        cut = _CutBody(scope, send, rule.truncate)
        await app(scope, receive, cut)
        if cut.is_cut:
            await _disconnected(receive)
    elif rule.flip is not None:
        await app(scope, receive, _FlippedBit(send, rule.flip))
    else:
        await rule.answer()(scope, receive, send)


async def _hold(
    rule: FaultRule, held: Held, app: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    request = await _whole(receive)
    answer: list[Message] = []

    async def collect(message: Message) -> None:
        answer.append(message)

    if rule.hold == "after":
        await app(scope, _Replay(request, receive), collect)
    if not await held.keep(rule, scope, receive):
        return
    if rule.hold == "before":
        await app(scope, _Replay(request, receive), collect)
    for message in answer:
        await send(message)


async def _whole(receive: Receive) -> list[Message]:
    """The messages that make up the request's body."""
    messages = [await receive()]
    while messages[-1].get("more_body"):
        messages.append(await receive())
    return messages


class _Replay:
    """A `receive` that gives again what has been read, and then what comes."""

    def __init__(self, messages: Sequence[Message], receive: Receive) -> None:
        self._messages = list(messages)
        self._receive = receive

    async def __call__(self) -> Message:
        return self._messages.pop(0) if self._messages else await self._receive()


async def _disconnected(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


class _CutBody:
    """A `send` that passes so many bytes of the body on, and hangs up where there are more."""

    def __init__(self, scope: Scope, send: Send, length: int) -> None:
        self.is_cut = False
        self._scope = scope
        self._send = send
        self._left = length

    async def __call__(self, message: Message) -> None:
        if self.is_cut:
            return
        body = message.get("body", b"")
        if len(body) <= self._left:
            self._left -= len(body)
            await self._send(message)
            return
        self.is_cut = True
        if self._left:
            await self._send({**message, "body": body[: self._left], "more_body": True})
        await _flush(self._scope)
        self._scope["state"]["transport"].abort()


class _FlippedBit:
    """A `send` that changes the lowest bit of the byte at `offset` of the entity, where that passes."""

    def __init__(self, send: Send, offset: int) -> None:
        self._send = send
        self._ahead = offset

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._ahead -= _first_byte(message)
            await self._send(message)
            return
        body = message.get("body", b"")
        at = self._ahead
        self._ahead -= len(body)
        if 0 <= at < len(body):
            message = {**message, "body": body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]}
        await self._send(message)


def _first_byte(start: Message) -> int:
    """Offset of an answer's first byte in the entity: not 0 in a 206."""
    content_range = dict(start["headers"]).get(b"content-range", b"") if start["status"] == 206 else b""
    first = content_range.removeprefix(b"bytes ").partition(b"-")[0]
    return int(first) if first.isdigit() else 0


async def _flush(scope: Scope) -> None:
    """Wait until all that was sent has left this process, for an abort throws the rest away."""
    transport: asyncio.Transport = scope["state"]["transport"]
    while transport.get_write_buffer_size() and not transport.is_closing():  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.005)


async def _swallow(_message: Message) -> None:
    """A `send` that tells nobody."""


async def _hang_up(scope: Scope, receive: Receive) -> None:
    """Close the connection at once, and wait until the server has noticed."""
    scope["state"]["transport"].abort()
    await _disconnected(receive)
