"""`AsyncMagicHourClient`: Magic Hour's API over aiohttp. It sends each request once and raises.

It does the same as `MagicHourClient`. It uses aiohttp itself, which needs a seventh of httpx's CPU, and a
third of what httpx needs on an aiohttp transport: a triggerer polls thousands of times.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
from yarl import URL

from magichour_provider.client import protocol
from magichour_provider.client.downloads import (
    AsyncDownloadStream,
    DownloadHeaders,
    ResumePoint,
    redirect_target,
)
from magichour_provider.client.models import (
    Account,
    CreatedJob,
    DownloadUrl,
    ImageToVideoRequest,
    UploadTarget,
    VideoProject,
)
from magichour_provider.client.settings import ClientSettings, proxy_for
from magichour_provider.exceptions import DownloadError

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")
REQUEST_ERRORS = (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError, OverflowError)
"""What aiohttp raises for a request; ValueError for a URL or a proxy that cannot be used."""
NEVER_SENT = (
    *(aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError),
    *(aiohttp.InvalidURL, UnicodeError),
)
"""Errors before the request left: the server certainly did not receive it."""
_NOT_CONNECTED = [aiohttp.TraceConnectionCreateStartParams]
_CHUNK_BYTES = 1 << 20
_MAX_REDIRECTS = 5
_MAX_HEADER_BYTES = 64 << 10


class AsyncMagicHourClient:
    """Asynchronous client: one method for each operation, each sent once. Closes `session` when it is closed.

    Of a session that keeps connections open a create may raise SubmissionUnknownError needlessly; submit by
    `MagicHourClient`.

    :param session: the aiohttp session to use.
    """

    def __init__(self, session: aiohttp.ClientSession, settings: ClientSettings) -> None:
        self._session = session
        self._settings = settings
        self._base_url = settings.base_url.rstrip("/")
        self._proxy = proxy_for(settings, settings.base_url)
        seconds = settings.timeout
        self._timeout = aiohttp.ClientTimeout(total=2 * seconds, sock_connect=seconds, sock_read=seconds)

    @classmethod
    async def from_settings(cls, settings: ClientSettings, *, max_connections: int = 8) -> Self:
        """A client with a session of its own. The certificates are read in a thread, which takes 25 ms.

        :param max_connections: how many sockets it opens at most.

        Raises ConfigurationError for certificates or a proxy that cannot be used.
        """
        has_proxy = proxy_for(settings, settings.base_url) is not None
        tls = await asyncio.to_thread(settings.tls)
        connector = aiohttp.TCPConnector(limit=max_connections, keepalive_timeout=30.0, ssl=tls)
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
            trace_configs=[_trace_connections()] if has_proxy else None,
        )
        return cls(session, settings)

    async def create_upload_targets(self, extensions: Sequence[str]) -> tuple[UploadTarget, ...]:
        """Get one upload URL per image (`POST /v1/files/upload-urls`)."""
        return await self._send(protocol.create_upload_targets(extensions))

    async def create_image_to_video(self, request: ImageToVideoRequest) -> CreatedJob:
        """Submit a job (`POST /v1/image-to-video`). Deducts credits.

        Raises SubmissionUnknownError if the API may have received it and no usable answer came.
        """
        return await self._send(protocol.create_image_to_video(request))

    async def get_video(self, project_id: str) -> VideoProject:
        """Get the state of a job (`GET /v1/video-projects/{id}`)."""
        return await self._send(protocol.get_video(project_id))

    async def delete_video(self, project_id: str) -> None:
        """Delete a video at Magic Hour (`DELETE /v1/video-projects/{id}`): no cancel and no refund."""
        await self._send(protocol.delete_video(project_id))

    async def get_account(self) -> Account:
        """Get tier and credits (`GET /v1/account`); NotFoundError if the API has no such endpoint yet."""
        return await self._send(protocol.get_account())

    async def put_upload(self, target: UploadTarget, chunks: AsyncIterable[bytes], size: int) -> None:
        """Send `size` bytes to an upload URL. Raises ImageError or NetworkError."""
        url = target.upload_url.get_secret_value()
        headers, proxy = {"Content-Length": str(size)}, None
        try:
            proxy = proxy_for(self._settings, url)
            async with self._send_to_storage("PUT", url, proxy, data=chunks, headers=headers) as response:
                status = response.status
        except REQUEST_ERRORS as error:
            raise protocol.upload_broke(error, proxy) from None
        protocol.check_upload(status)

    @asynccontextmanager
    async def open_download(
        self, url: DownloadUrl, resume_from: ResumePoint | None = None
    ) -> AsyncIterator[AsyncDownloadStream]:
        """Open a signed URL, or the rest of its file. Raises DownloadError.

        Of its subclasses, LinkExpiredError means that `get_video` gives a new URL, ResumeNotPossibleError
        that only the whole file is available.
        """
        headers = {"Accept-Encoding": "identity"}  # the announced length is that of the bytes that arrive
        if resume_from is not None:
            headers |= resume_from.request_headers()
        target, proxy = url.url.get_secret_value(), None
        for _ in range(1 + _MAX_REDIRECTS):
            try:
                proxy = proxy_for(self._settings, target)
                response = await self._send_to_storage(
                    "GET", target, proxy, headers=headers, read_bufsize=_CHUNK_BYTES
                )
            except REQUEST_ERRORS as error:
                raise protocol.download_broke(error, proxy) from None
            try:
                redirected = redirect_target(response.status, response.headers, target)
                if redirected is None:
                    found = DownloadHeaders.from_response(response.status, response.headers, resume_from)
                    yield AsyncDownloadStream(found, _chunks(response, proxy))
                    return
                target = redirected
            finally:
                response.close()
        raise DownloadError(f"The video's storage redirects more than {_MAX_REDIRECTS} times.", is_final=True)

    async def aclose(self) -> None:
        """Close the session."""
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def _send_to_storage(self, method: str, url: str, proxy: str | None, **options: Any) -> Any:
        """A request to storage, with the signed URL exactly as it was given."""
        seconds = self._settings.timeout
        return self._session.request(
            method,
            URL(url, encoded=True),
            proxy=proxy,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds),
            skip_auto_headers=("Content-Type",),
            **options,
        )

    async def _send(self, request: protocol.Request[T]) -> T:
        events: list[type] = []
        try:
            async with self._session.request(
                request.method,
                self._base_url + request.path,
                data=request.content(),
                headers=request.headers(self._settings.api_key),
                proxy=self._proxy,
                allow_redirects=False,
                timeout=self._timeout,
                trace_request_ctx=events,
            ) as response:
                body = protocol.BoundedBody(self._settings.timeout, self._settings.api_key)
                async for chunk in response.content.iter_any():
                    if not body.feed(chunk):
                        break
        except REQUEST_ERRORS as error:
            # aiohttp quotes the URL of a proxy with its password, and answers that may repeat the API key.
            shown: Exception = error
            if isinstance(error, aiohttp.ClientResponseError):
                shown = OSError(f"{type(error).__name__}, status {error.status}")
            may_have_arrived = events != _NOT_CONNECTED and not isinstance(error, NEVER_SENT)
            raise protocol.network_error(
                request, self._base_url, shown, may_have_arrived=may_have_arrived, proxy=self._proxy
            ) from None
        return protocol.parse_response(request, body.response(response.status, response.headers))


def _trace_connections() -> aiohttp.TraceConfig:
    """Notes in a request's `trace_request_ctx`, a list, that a connection begins, and that it is there.

    A proxy's tunnel is a part of it. If that breaks, aiohttp raises what it raises if the server breaks off.
    """

    async def note(_session: aiohttp.ClientSession, context: Any, event: Any) -> None:
        if context.trace_request_ctx is not None:
            context.trace_request_ctx.append(type(event))

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_start.append(note)
    trace.on_connection_create_end.append(note)
    return trace


async def _chunks(response: aiohttp.ClientResponse, proxy: str | None) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            yield chunk
    except REQUEST_ERRORS as error:
        raise protocol.download_broke(error, proxy) from None
