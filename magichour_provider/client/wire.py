"""How answers, uploads and downloads are read, by either client; and what the one of httpx needs besides."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import httpx

from magichour_provider.client import protocol
from magichour_provider.exceptions import DownloadError, ImageError, NetworkError

MAX_ANSWER_BYTES = 4 << 20
_SECRET_BYTES = 6
REQUEST_ERRORS = (httpx.HTTPError, httpx.InvalidURL, TimeoutError, UnicodeError)
"""What a request by httpx can raise, a URL that cannot be used included."""


class BoundedBody:
    """The body of one answer as it comes in: at most `MAX_ANSWER_BYTES`, within `seconds` in all.

    Without a limit a broken server could fill the memory, or hold a task by a byte now and then. A body
    that is cut here cannot be read as JSON, which the protocol reports.
    """

    def __init__(self, seconds: float, secret: str) -> None:
        self._secret = secret.encode()
        self._seconds = seconds
        self._ends = time.monotonic() + seconds
        self._body = bytearray()

    def take(self, chunk: bytes) -> bool:
        """Take the next bytes; False when there is enough. Raises TimeoutError when the time is up."""
        if time.monotonic() > self._ends:
            raise TimeoutError(f"the answer took longer than {self._seconds:g} seconds")
        self._body += chunk[: MAX_ANSWER_BYTES - len(self._body)]
        return len(self._body) < MAX_ANSWER_BYTES

    def answer(self, status: int, headers: Mapping[str, str]) -> protocol.Response:
        """The answer as the protocol reads it; an API key that is echoed in it is not."""
        body = bytes(self._body)
        if len(self._secret) >= _SECRET_BYTES:  # a shorter one, as for a sandbox, may be a part of any word
            body = body.replace(self._secret, b"***")
        return protocol.Response(status, headers, body)


def download_broke(error: Exception) -> DownloadError:
    """The error for a download without an answer; names no URL, as it is signed."""
    return DownloadError(f"The connection to the clip's storage broke ({type(error).__name__}).")


def upload_broke(error: Exception) -> NetworkError:
    """The error for an upload without an answer; names no URL, as it is signed."""
    return NetworkError(f"Uploading the image failed ({type(error).__name__}).")


def check_upload(status: int) -> None:
    """Raise unless the storage took the bytes."""
    if status == 413:
        raise ImageError("The image is larger than Magic Hour takes.")
    if not 200 <= status < 300:
        raise NetworkError(f"The image's storage refused the upload with status {status}.")


_silent: ContextVar[bool] = ContextVar("magichour_silent", default=False)


class _NotOurRequests(logging.Filter):
    """Drop what httpx and httpcore log while a request of ours is under way: it shows signed URLs."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _silent.get()


for _logger in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy"):
    logging.getLogger(_logger).addFilter(_NotOurRequests())


@contextmanager
def no_request_log() -> Iterator[None]:
    """Send without the log lines of httpx and httpcore."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)
