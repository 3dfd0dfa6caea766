"""What both clients share: answers, uploads and downloads as httpx gives them, and silence in the log."""

from __future__ import annotations

import logging
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
"""Ask storage for the bytes as they are, so that the announced length is that of the file."""


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
        except httpx.HTTPError as error:
            raise download_broke(error) from None

    async def achunks(self) -> AsyncIterator[bytes]:
        """Yield the clip's bytes; DownloadError when the connection breaks."""
        try:
            async for chunk in self._response.aiter_raw(_CHUNK):
                yield chunk
        except httpx.HTTPError as error:
            raise download_broke(error) from None


def to_answer(response: httpx.Response) -> protocol.Answer:
    """The answer as the protocol reads it."""
    return protocol.Answer(response.status_code, response.headers, response.content)


def was_connected(error: httpx.TransportError) -> bool:
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


def download_broke(error: httpx.HTTPError) -> DownloadError:
    """The error for a download without an answer; names no URL, as it is signed."""
    return DownloadError(f"The connection to the clip's storage broke ({type(error).__name__}).")


def upload_broke(error: httpx.HTTPError) -> NetworkError:
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
    """Drop httpx's line for each request while one of ours is under way: it shows signed URLs."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _silent.get()


logging.getLogger("httpx").addFilter(_NotOurRequests())


@contextmanager
def no_request_log() -> Iterator[None]:
    """Send without httpx's own log line."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)
