"""The web application of each origin, and the server that runs both on a thread of this process."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from magichour_provider.sandbox import api, control, storage
from magichour_provider.sandbox.control import SandboxControl
from magichour_provider.sandbox.faults import AbortableProtocol, FaultMiddleware, Origin
from magichour_provider.sandbox.jobs import Sandbox
from magichour_provider.sandbox.schemas import PREFIX, SandboxError, Settings, validation_message
from magichour_provider.sandbox.webhooks import send_webhooks


def make_app(sandbox: Sandbox, origin: Origin) -> FaultMiddleware:
    """The application of one origin, behind its faults. It answers every error as a SandboxError."""

    async def handle(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error = SandboxError(404, "Not Found")
        elif isinstance(error, ValidationError):
            is_control = request.url.path.startswith(PREFIX)
            error = SandboxError(422 if is_control else 400, validation_message(error))
        elif not isinstance(error, SandboxError):
            error = SandboxError(500, "Internal Server Error")
        if origin == "api":
            return JSONResponse({"code": error.code, "message": str(error)}, error.status)
        body = f"<?xml version='1.0'?>\n<Error><Code>{error.code}</Code><Message>{error}</Message></Error>"
        return Response(body, error.status, error.headers, media_type="application/xml")

    routes = [*api.routes, *control.routes] if origin == "api" else storage.routes
    errors: list[Any] = [SandboxError, ValidationError, HTTPException, Exception]
    app = Starlette(routes=routes, exception_handlers=dict.fromkeys(errors, handle))
    app.state.sandbox = sandbox
    return FaultMiddleware(app, origin, sandbox, routes)


class SandboxServer:
    """A running sandbox, as a context manager.

    With port 0 the system chooses a port. Raises OSError if a port is in use.

        with SandboxServer(Settings(quick=True)) as sandbox:
            client = Client(token=sandbox.api_key, base_url=sandbox.url)
    """

    url: str
    """Base URL of the API origin."""
    storage_url: str
    """Base URL of the storage origin."""
    api_key: str
    """A valid key."""

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
        self.api_key = (*self._settings.api_keys, "mhk_sandbox")[0]

    def __enter__(self) -> SandboxServer:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen on both ports; returns when both answer."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        sockets = [socket.create_server((self._host, port), family=family) for port in self._ports]
        host = "127.0.0.1" if self._host in ("", "0.0.0.0", "::") else self._host  # noqa: S104 - compared
        host = f"[{host}]" if ":" in host else host
        self.url, self.storage_url = (f"http://{host}:{each.getsockname()[1]}" for each in sockets)
        self._sandbox = Sandbox(self._settings, storage_port=sockets[1].getsockname()[1])
        options: dict[str, Any] = {
            **{"http": AbortableProtocol, "ws": "none", "lifespan": "off"},
            **{"log_config": None, "log_level": "warning", "access_log": False},
            **{"timeout_keep_alive": 75, "timeout_graceful_shutdown": 1},
        }
        apps = (make_app(self._sandbox, "api"), make_app(self._sandbox, "storage"))
        self._servers = [uvicorn.Server(uvicorn.Config(app, **options)) for app in apps]

        async def serve() -> None:
            webhooks = asyncio.create_task(send_webhooks(self._sandbox, self.storage_url))
            pairs = zip(self._servers, sockets, strict=True)
            await asyncio.gather(*(server.serve([listening]) for server, listening in pairs))
            webhooks.cancel()

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
