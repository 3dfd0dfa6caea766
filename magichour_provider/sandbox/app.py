"""The two web applications of a sandbox, over one state."""

from __future__ import annotations

from functools import partial

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from magichour_provider.sandbox import api, control_routes, storage_routes
from magichour_provider.sandbox.control_routes import ControlError
from magichour_provider.sandbox.faults import Origin, inject
from magichour_provider.sandbox.ledger import DROPPED
from magichour_provider.sandbox.problems import Problem, not_found, unauthorized
from magichour_provider.sandbox.state import Sandbox
from magichour_provider.sandbox.storage_routes import Refusal

UNKNOWN_PATH = "(unknown)"
"""Stands in the ledger for a path that is no route."""


def api_app(sandbox: Sandbox, storage_port: int) -> ASGIApp:
    """The API origin with its control pages."""
    app = _bare_app(sandbox)
    app.state.storage_port = storage_port
    app.include_router(api.router)
    app.include_router(control_routes.router)

    async def refuse(_request: Request, problem: Exception) -> Response:
        if isinstance(problem, Problem):
            return problem.response(sandbox.behaviour)
        if isinstance(problem, HTTPException) and problem.status_code in (404, 405):
            return not_found().response(sandbox.behaviour)
        return Problem(500, "Internal Server Error").response(sandbox.behaviour)

    async def refuse_control(_request: Request, error: Exception) -> Response:
        status = error.status if isinstance(error, ControlError) else 500
        return JSONResponse({"message": str(error)}, status)

    for kind in (Problem, HTTPException, Exception):
        app.add_exception_handler(kind, refuse)
    app.add_exception_handler(ControlError, refuse_control)
    return Gate(_KeyCheck(app, sandbox), sandbox, "api", app)


def storage_app(sandbox: Sandbox) -> ASGIApp:
    """The storage origin."""
    app = _bare_app(sandbox)
    app.include_router(storage_routes.router)

    async def refuse(_request: Request, refusal: Exception) -> Response:
        if isinstance(refusal, Refusal):
            return refusal.response()
        return Refusal(404, "NoSuchKey", "The specified key does not exist").response()

    for kind in (Refusal, HTTPException):
        app.add_exception_handler(kind, refuse)
    return Gate(app, sandbox, "storage", app)


class Gate:
    """Stands before an origin: counts every request and lets fault rules have their way."""

    def __init__(self, inner: ASGIApp, sandbox: Sandbox, origin: Origin, routed: FastAPI) -> None:
        self._inner = inner
        self._sandbox = sandbox
        self._origin = origin
        self._routed = routed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or _is_control(scope):
            await self._inner(scope, receive, send)
            return
        count = partial(
            self._sandbox.requests.count, self._origin, scope["method"], template_of(self._routed, scope)
        )

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        rule = self._sandbox.faults.take(self._origin, scope["method"], scope["path"])
        if rule is None:
            await self._inner(scope, receive, counted)
            return
        if rule.drop is not None:
            count(DROPPED)
        await inject(rule, self._sandbox.faults.held, self._inner, scope, receive, counted)


class _KeyCheck:
    """Refuses a wrong key before anything else is looked at."""

    def __init__(self, inner: ASGIApp, sandbox: Sandbox) -> None:
        self._inner = inner
        self._sandbox = sandbox

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_control(scope):
            headers = dict(scope["headers"])
            if not self._sandbox.accepts_key(headers.get(b"authorization", b"").decode("latin-1")):
                await unauthorized().response(self._sandbox.behaviour)(scope, receive, send)
                return
        await self._inner(scope, receive, send)


def template_of(app: FastAPI, scope: Scope) -> str:
    """The route template that a request will meet, such as `/v1/video-projects/{id}`."""
    for route in app.routes:
        if route.matches(scope)[0] is not Match.NONE:
            return str(getattr(route, "path", UNKNOWN_PATH))
    return UNKNOWN_PATH


def _bare_app(sandbox: Sandbox) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.sandbox = sandbox
    return app


def _is_control(scope: Scope) -> bool:
    return str(scope["path"]).startswith(control_routes.PREFIX + "/")
