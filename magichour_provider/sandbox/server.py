"""A sandbox that runs inside this process: two web servers on a thread of their own."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from types import TracebackType

import uvicorn
from starlette.types import ASGIApp

from magichour_provider.sandbox.app import api_app, storage_app
from magichour_provider.sandbox.control import SandboxControl
from magichour_provider.sandbox.faults import AbortableProtocol
from magichour_provider.sandbox.state import Sandbox, Settings

DEFAULT_KEY = "mhk_sandbox"
"""A key that a sandbox takes when it was given none of its own."""

_ANY_HOST = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to
_START_SECONDS = 30.0
_KEEP_ALIVE_SECONDS = 75


class SandboxServer:
    """A running sandbox, as a context manager.

    Port 0 lets the system choose. Raises OSError where a port is taken.

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
        self._servers: list[uvicorn.Server] = []

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
        """A key that this sandbox takes."""
        return self._settings.api_keys[0] if self._settings.api_keys else DEFAULT_KEY

    def __enter__(self) -> SandboxServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen on both ports; returns when both answer."""
        self._sandbox = Sandbox(self._settings)
        try:
            sockets = self._bind()
        except OSError:
            self._sandbox.close()
            raise
        self._ports = (sockets[0].getsockname()[1], sockets[1].getsockname()[1])
        apps = (api_app(self._sandbox, self._ports[1]), storage_app(self._sandbox))
        self._servers = [_server(app) for app in apps]
        self._thread = threading.Thread(
            target=asyncio.run, args=(_serve(self._servers, sockets),), name="magichour-sandbox", daemon=True
        )
        self._thread.start()
        self._wait_until_started()
        self.control = SandboxControl(self.url)

    def stop(self) -> None:
        """Close both ports, stop rendering, and remove what is temporary."""
        self.control.close()
        self._end()

    def _end(self) -> None:
        for server in self._servers:
            server.should_exit = True
        self._thread.join()
        self._sandbox.close()

    def _bind(self) -> list[socket.socket]:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        sockets: list[socket.socket] = []
        try:
            for port in self._ports:
                sockets.append(socket.create_server((self._host, port), family=family))
        except OSError:
            for bound in sockets:
                bound.close()
            raise
        return sockets

    def _wait_until_started(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not all(server.started for server in self._servers):
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self._end()
                raise RuntimeError("The sandbox did not start")
            time.sleep(0.01)

    def _address(self, port: int) -> str:
        host = "127.0.0.1" if self._host in _ANY_HOST else self._host
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _server(app: ASGIApp) -> uvicorn.Server:
    config = uvicorn.Config(
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
    return uvicorn.Server(config)


async def _serve(servers: list[uvicorn.Server], sockets: list[socket.socket]) -> None:
    await asyncio.gather(*(server.serve([bound]) for server, bound in zip(servers, sockets, strict=True)))
