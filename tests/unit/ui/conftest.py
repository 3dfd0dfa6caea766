"""A real server that gives out landed clips as Airflow does: read in threads, behind its compression."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from magichour_provider.ui.media_files import ClipFile
from magichour_provider.ui.media_roots import ClipRefusedError, ClipUnavailableError
from magichour_provider.ui.range_response import answer

PATIENCE_SECONDS = 30.0
HEAD = b"\0\0\0\x18ftypisom"


class ClipServer:
    """`open_clip` is called anew for each request, as `find` will be."""

    def __init__(self) -> None:
        self.open_clip: Callable[[], ClipFile] | None = None
        app = Starlette(
            routes=[Route("/clip", self._clip)],
            middleware=[Middleware(GZipMiddleware, minimum_size=1024, compresslevel=5)],
        )
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def start(self) -> str:
        self._thread.start()
        wait_until(lambda: self._server.started)
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE_SECONDS)

    async def _clip(self, request: Request) -> Response:
        return await run_in_threadpool(self._answer, request)

    def _answer(self, request: Request) -> Response:
        try:
            return answer(self.open_clip(), request)
        except ClipRefusedError as error:
            return PlainTextResponse(error.reason, 403)
        except ClipUnavailableError as error:
            return PlainTextResponse(error.reason, 502)


def wait_until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def _server() -> Iterator[tuple[ClipServer, str]]:
    server = ClipServer()
    yield server, server.start()
    server.stop()


@pytest.fixture
def browser(_server: tuple[ClipServer, str]) -> Iterator[Callable[..., httpx.Client]]:
    """Gives a client of a server of what `open_clip` opens; like a video element, it takes no compression."""
    clients = []

    def browser(open_clip: Callable[[], ClipFile]) -> httpx.Client:
        server, url = _server
        server.open_clip = open_clip
        headers = {"Accept-Encoding": "identity"}
        client = httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE_SECONDS, headers=headers)
        clients.append(client)
        return client

    yield browser
    for client in clients:
        client.close()


@pytest.fixture
def patiently() -> Callable[..., None]:
    return wait_until


@pytest.fixture
def clip_bytes() -> bytes:
    """So much that GZip would compress it, and that it would pay; what starts like an mp4."""
    return HEAD + bytes(range(256)) * 40
