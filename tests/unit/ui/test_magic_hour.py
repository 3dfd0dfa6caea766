"""What is kept of Magic Hour's answers, and that many pages cost one question."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from magichour_provider.exceptions import NetworkError
from magichour_provider.ui import live_status as magic_hour
from magichour_provider.ui import media as clips
from magichour_provider.ui.live_status import TTLCache

MANY = 8


def all_at_once(ask):
    """Ask from many threads that begin together; what each of them got."""
    start = Barrier(MANY)

    def one(_):
        start.wait()
        try:
            return ask()
        except NetworkError as error:
            return error

    with ThreadPoolExecutor(MANY) as pool:
        return list(pool.map(one, range(MANY)))


@pytest.fixture
def slow():
    """A question that takes a while, and how often it was asked."""
    asked = []

    def ask(answer):
        asked.append(answer)
        time.sleep(0.1)
        if isinstance(answer, Exception):
            raise answer
        return answer

    ask.asked = asked
    return ask


def test_many_who_ask_together_cost_one_question(slow):
    kept = TTLCache()
    assert all_at_once(lambda: kept.get("job", 60.0, lambda: slow("rendering"))) == ["rendering"] * MANY
    assert slow.asked == ["rendering"]


def test_an_error_is_kept_for_a_while_so_that_a_slow_one_holds_one_thread(slow):
    kept, error = TTLCache(), NetworkError("no answer")
    assert all_at_once(lambda: kept.get("job", 60.0, lambda: slow(error))) == [error] * MANY
    assert slow.asked == [error]


def test_an_error_ends_by_itself(slow, monkeypatch):
    kept, error = TTLCache(), NetworkError("no answer")
    monkeypatch.setattr(magic_hour, "FAILURE_SECONDS", 0.0)
    with pytest.raises(NetworkError):
        kept.get("job", 60.0, lambda: slow(error))
    assert kept.get("job", 60.0, lambda: slow("complete")) == "complete"


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
def test_only_an_origin_that_is_nothing_else_gets_into_the_policy(link, origin):
    project = SimpleNamespace(downloads=[SimpleNamespace(url=SecretStr(link))])
    assert clips.origin_of(project) == origin
