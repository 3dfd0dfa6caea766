"""Magic Hour's answers: one request for many pages, in threads of the pages' own, and no more in a header."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace

import anyio
import pytest
from anyio import to_thread
from pydantic import SecretStr

from magichour_provider.exceptions import NetworkError
from magichour_provider.ui.media import MAX_THREADS, TTLCache, link_origin, run_in_thread

THREADS = 8


def at_once(ask):
    """The results of many threads that start together."""
    start = Barrier(THREADS)

    def run(_):
        start.wait()
        try:
            return ask()
        except NetworkError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


@pytest.mark.parametrize("answer", ["rendering", NetworkError("no answer")])
def test_cache_loads_an_answer_or_an_error_once_for_many_threads(answer):
    cache, calls = TTLCache(), []

    def load():
        calls.append(answer)
        time.sleep(0.1)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert at_once(lambda: cache.get("job", 60.0, load)) == [answer] * THREADS
    assert calls == [answer]


def test_cache_loads_again_after_its_time():
    now, answers = [0.0], iter(["rendering", NetworkError("no answer"), "complete"])
    cache = TTLCache(clock=lambda: now[0])

    def ask_at(seconds):
        def load():
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        now[0] = seconds
        return cache.get("job", 3.0, load)

    assert ask_at(0.0) == ask_at(2.9) == "rendering"
    with pytest.raises(NetworkError):
        ask_at(3.1)
    assert ask_at(9.0) == "complete"


def test_waiting_pages_leave_airflows_threads_free():
    finish, started = threading.Event(), threading.Semaphore(0)

    def page():
        started.release()
        finish.wait(30)

    async def scenario():
        pool = to_thread.current_default_thread_limiter()
        async with anyio.create_task_group() as group:
            for _ in range(int(pool.total_tokens) + MAX_THREADS):
                group.start_soon(run_in_thread, page)
            for _ in range(MAX_THREADS):
                await to_thread.run_sync(started.acquire)
            assert pool.borrowed_tokens == 0
            assert not started.acquire(blocking=False)
            finish.set()

    anyio.run(scenario)


@pytest.mark.parametrize(
    ("link", "origin"),
    [
        ("https://videos.magichour.ai/x.mp4?sig=1", "https://videos.magichour.ai"),
        ("http://127.0.0.1:8080/x.mp4", "http://127.0.0.1:8080"),
        ("https://[::1]:8080/x.mp4", "https://[::1]:8080"),
        ("https://user:secret@videos.example/x.mp4", "https://videos.example"),
        ("https://videos.example?sig=1", "https://videos.example"),
        ("https://x; script-src 'unsafe-inline'; y/x.mp4", None),
        ("https://x 'unsafe-inline'/x.mp4", None),
        ("https://x,default-src *", None),
        ("https://*/x.mp4", None),
        ("https://x\r\nSet-Cookie: a=b/x.mp4", None),
        ("https://good.example\\@evil.example/x.mp4", None),
        ("https://bücher.example/x.mp4", None),
        ("https://[::1/x.mp4", None),
        ("https:///x.mp4", None),
    ],
)
def test_link_origin_is_only_an_origin(link, origin):
    project = SimpleNamespace(downloads=[SimpleNamespace(url=SecretStr(link))])
    assert link_origin(project) == origin
