"""What both clients share: answers, uploads and downloads as httpx gives them, and silence in the log."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import httpx

from magichour_provider.api import protocol
from magichour_provider.api.errors import DownloadError, ImageError, LinkExpiredError, NetworkError

_LINK_GONE = frozenset({401, 403, 404, 410})
_CHUNK = 1 << 20
RAW = {"Accept-Encoding": "identity"}
"""Ask for the bytes as they are: the announced length is then the true one, and nothing can unfold."""

MAX_ANSWER_BYTES = 4 << 20
REQUEST_ERRORS = (httpx.HTTPError, httpx.InvalidURL, UnicodeError)
"""What a request by httpx can raise, a URL that cannot be used included."""


@dataclass(frozen=True)
class ClipStream:
    """An open download: `size` in bytes as announced, or None, and the body still to be read."""

    size: int | None
    content_type: str | None
    _response: httpx.Response = field(repr=False)

    def chunks(self) -> Iterator[bytes]:
        """Yield the clip's bytes; DownloadError when the connection breaks."""
        try:
            yield from self._response.iter_raw(_CHUNK)
        except REQUEST_ERRORS as error:
            raise download_broke(error) from None

    async def achunks(self) -> AsyncIterator[bytes]:
        """Yield the clip's bytes; DownloadError when the connection breaks."""
        try:
            async for chunk in self._response.aiter_raw(_CHUNK):
                yield chunk
        except async_request_errors() as error:
            raise download_broke(error) from None


class Intake:
    """The body of one answer as it comes in: at most `MAX_ANSWER_BYTES`, within `seconds` in all.

    Without a limit a broken server could fill the memory, or hold a task by a byte now and then. A body
    that is cut here cannot be read as JSON, which the protocol reports.
    """

    def __init__(self, response: httpx.Response, seconds: float, secret: str) -> None:
        self._response = response
        self._secret = secret.encode()
        self._seconds = seconds
        self._ends = time.monotonic() + seconds
        self._body = bytearray()

    def take(self, chunk: bytes) -> bool:
        """Take the next bytes; False when there is enough. Raises ReadTimeout when the time is up."""
        if time.monotonic() > self._ends:
            raise httpx.ReadTimeout(f"the answer took longer than {self._seconds:g} seconds")
        self._body += chunk[: MAX_ANSWER_BYTES - len(self._body)]
        return len(self._body) < MAX_ANSWER_BYTES

    def answer(self) -> protocol.Answer:
        """The answer as the protocol reads it; an API key that is echoed in it is not."""
        body = bytes(self._body).replace(self._secret, b"***") if self._secret else bytes(self._body)
        return protocol.Answer(self._response.status_code, self._response.headers, body)


def async_request_errors() -> tuple[type[Exception], ...]:
    """What a request by httpx on aiohttp can raise; httpx-aiohttp does not map all of aiohttp's errors."""
    import aiohttp

    return (*REQUEST_ERRORS, aiohttp.ClientError)


def was_connected(error: Exception) -> bool:
    """Whether the request may have reached the server.

    httpx-aiohttp reports a connection that was cut after the request as ConnectTimeout, so the class
    of the httpx error says nothing here; the class of aiohttp's own does.
    """
    import aiohttp

    never = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
    return not isinstance(error.__cause__, never)


def clip_stream(response: httpx.Response) -> ClipStream:
    """The open download, or the error that the storage's status stands for."""
    if response.status_code in _LINK_GONE:
        raise LinkExpiredError(f"The link to the clip is not good any more ({response.status_code}).")
    if response.status_code != 200:
        raise DownloadError(f"The clip's storage answered with status {response.status_code}.")
    length = response.headers.get("content-length", "")
    return ClipStream(
        int(length) if length.isdigit() else None, response.headers.get("content-type"), response
    )


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
