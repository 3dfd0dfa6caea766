"""A real server that sends open files as the pages do, behind a compression like Airflow's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from processes import wait_until
from starlette.concurrency import run_in_threadpool
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS

collect_ignore_glob = [] if AIRFLOW_V_3_1_PLUS else ["test_*.py"]  # Airflow 3.0 has no place for pages

TIMEOUT_SECONDS = 30.0


@pytest.fixture(scope="session")
def _server() -> Iterator[tuple[dict[str, Any], str]]:
    from magichour_provider.ui.media import respond

    opened: dict[str, Any] = {}

    async def video(scope: Scope, receive: Receive, send: Send) -> None:
        response = await run_in_threadpool(lambda: respond(opened["open"](), Request(scope)))
        await response(scope, receive, send)

    app = GZipMiddleware(video, minimum_size=1024, compresslevel=5)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert wait_until(lambda: server.started, timeout=TIMEOUT_SECONDS)
    yield opened, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(TIMEOUT_SECONDS)


@pytest.fixture
def client_for(_server: tuple[dict[str, Any], str]) -> Iterator[Callable[..., httpx.Client]]:
    """A client of the server, which sends what `open_file` opens. Like a video element, it takes no gzip."""
    opened, url = _server
    options: dict[str, Any] = {"base_url": url, "trust_env": False, "timeout": TIMEOUT_SECONDS}
    with httpx.Client(headers={"Accept-Encoding": "identity"}, **options) as client:

        def client_for(open_file: Callable[[], Any]) -> httpx.Client:
            opened["open"] = open_file
            return client

        yield client_for
