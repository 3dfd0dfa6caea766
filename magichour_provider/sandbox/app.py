"""The two web applications of a sandbox, and the server that runs both on a thread of this process."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from magichour_provider.sandbox import api, control, storage
from magichour_provider.sandbox.control import SandboxControl
from magichour_provider.sandbox.faults import AbortableProtocol, FaultMiddleware, Origin
from magichour_provider.sandbox.jobs import Sandbox
from magichour_provider.sandbox.schemas import SandboxError, Settings, validation_message

DEFAULT_KEY = "mhk_sandbox"
"""The key that `SandboxServer.api_key` gives if the settings have none."""
UNKNOWN_ROUTE = "(unknown)"
"""Stands in the request log for a path that is no route."""

_ANY_HOST = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to
_KEEP_ALIVE_SECONDS = 75


def api_app(sandbox: Sandbox, storage_port: int) -> ASGIApp:
    """The API origin with its control pages."""

    def answer(error: SandboxError) -> Response:
        code = {"code": error.code} if sandbox.behaviour.error_shape == "code" else {}
        return JSONResponse({**code, "message": str(error)}, error.status)

    app = _make_app(sandbox, [*api.routes, *control.routes], answer)
    app.state.storage_port = storage_port

    async def check_key(scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a wrong key before anything else is checked."""
        authorization = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        if sandbox.accepts_key(authorization):
            await app(scope, receive, send)
        else:
            await answer(SandboxError(401, "Unauthorized"))(scope, receive, send)

    with_faults = _with_faults(check_key, sandbox, "api", app.routes)

    async def choose(scope: Scope, receive: Receive, send: Send) -> None:
        is_control = scope["path"].startswith(control.PREFIX + "/")
        await (app if is_control else with_faults)(scope, receive, send)

    return choose


def storage_app(sandbox: Sandbox) -> ASGIApp:
    """The storage origin."""

    def answer(error: SandboxError) -> Response:
        body = f"<?xml version='1.0'?>\n<Error><Code>{error.code}</Code><Message>{error}</Message></Error>"
        return Response(body, error.status, error.headers, media_type="application/xml")

    app = _make_app(sandbox, storage.routes, answer)
    return _with_faults(app, sandbox, "storage", app.routes)


def _make_app(
    sandbox: Sandbox, routes: Sequence[BaseRoute], answer: Callable[[SandboxError], Response]
) -> Starlette:
    """An application in which every error is answered as a SandboxError."""

    async def handle(_request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error = SandboxError(404, "Not Found")
        elif isinstance(error, ValidationError):
            error = SandboxError(422, validation_message(error))
        elif not isinstance(error, SandboxError):
            error = SandboxError(500, "Internal Server Error")
        return answer(error)

    errors: list[Any] = [SandboxError, ValidationError, HTTPException, Exception]
    app = Starlette(routes=routes, exception_handlers=dict.fromkeys(errors, handle))
    app.state.sandbox = sandbox
    return app


def _with_faults(app: ASGIApp, sandbox: Sandbox, origin: Origin, routes: list[BaseRoute]) -> FaultMiddleware:
    def count(scope: Scope, status: int) -> None:
        matching = (route for route in routes if route.matches(scope)[0] is not Match.NONE)
        route = getattr(next(matching, None), "path", UNKNOWN_ROUTE)
        sandbox.requests[origin, scope["method"], route, status] += 1

    return FaultMiddleware(app, origin, sandbox.faults, count)


class SandboxServer:
    """A running sandbox, as a context manager.

    With port 0 the system chooses a port. Raises OSError if a port is in use.

        with SandboxServer(Settings(quick=True)) as sandbox:
            client = Client(token=sandbox.api_key, base_url=sandbox.url)
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        storage_port: int = 0,
    ) -> None:
        self._settings = settings or Settings()
        self._host = host
        self._ports = (port, storage_port)

    @property
    def url(self) -> str:
        """Base URL of the API origin."""
        return self._address(self._ports[0])

    @property
    def storage_url(self) -> str:
        """Base URL of the storage origin."""
        return self._address(self._ports[1])

    @property
    def api_key(self) -> str:
        """A valid key."""
        return self._settings.api_keys[0] if self._settings.api_keys else DEFAULT_KEY

    def __enter__(self) -> SandboxServer:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen on both ports; returns when both answer."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with ExitStack() as bound:
            sockets = [
                bound.enter_context(socket.create_server((self._host, port), family=family))
                for port in self._ports
            ]
            bound.pop_all()
        self._ports = (sockets[0].getsockname()[1], sockets[1].getsockname()[1])
        self._sandbox = Sandbox(self._settings)
        apps = (api_app(self._sandbox, self._ports[1]), storage_app(self._sandbox))
        self._servers = [
            uvicorn.Server(
                uvicorn.Config(
                    app,
                    http=AbortableProtocol,
                    ws="none",
                    loop="asyncio",
                    lifespan="off",
                    log_config=None,
                    log_level="warning",
                    access_log=False,
                    timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                    timeout_graceful_shutdown=1,
                )
            )
            for app in apps
        ]

        async def serve() -> None:
            pairs = zip(self._servers, sockets, strict=True)
            await asyncio.gather(*(server.serve([listening]) for server, listening in pairs))

        self._thread = threading.Thread(
            target=lambda: asyncio.run(serve()), name="magichour-sandbox", daemon=True
        )
        self._thread.start()
        self.control = SandboxControl(self.url)
        self.control.state()  # answered once both servers run

    def stop(self) -> None:
        """Close both ports, stop rendering, and remove temporary files."""
        self.control.close()
        for server in self._servers:
            server.should_exit = True
        self._thread.join()
        self._sandbox.close()

    def _address(self, port: int) -> str:
        host = "127.0.0.1" if self._host in _ANY_HOST else self._host
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
