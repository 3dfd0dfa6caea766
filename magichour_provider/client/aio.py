"""`AsyncMagicHourClient`: thin I/O over `protocol`, by aiohttp.

It does what `MagicHourClient` does. It speaks aiohttp itself, as that asks a third of the CPU that
httpx on aiohttp's transport does, and a seventh of httpx's own: a triggerer looks thousands of times.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
from yarl import URL

from magichour_provider.client import protocol
from magichour_provider.client.download_headers import (
    DownloadHeaders,
    ResumePoint,
    read_head,
    request_headers,
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

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")
REQUEST_ERRORS = (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError)
"""What a request can raise; ValueError stands for a URL or a proxy that cannot be used."""
NEVER_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
)
_KEEP_IDLE_SECONDS = 30.0
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class AsyncClipStream:
    """An open download: its head, and the bytes still to be read."""

    head: DownloadHeaders
    _response: aiohttp.ClientResponse = field(repr=False)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the clip's bytes; DownloadError when the connection breaks."""
        try:
            async for chunk in self._response.content.iter_chunked(_CHUNK_BYTES):
                yield chunk
        except REQUEST_ERRORS as error:
            raise protocol.download_broke(error) from None


async def build_session(settings: ClientSettings, *, max_connections: int = 8) -> aiohttp.ClientSession:
    """A session of the running event loop, with the settings' certificates.

    The certificates are read in a thread, as that takes some 25 ms.

    :param max_connections: how many sockets it opens at most.
    """
    connector = aiohttp.TCPConnector(
        limit=max_connections,
        keepalive_timeout=_KEEP_IDLE_SECONDS,
        ssl=await asyncio.to_thread(settings.tls),
    )
    return aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    )


class AsyncMagicHourClient:
    """Asynchronous client: one method for each operation, each sent once. Closes `session` when it is closed.

    :param session: the aiohttp session to use, as `build_session` makes it.
    """

    def __init__(self, session: aiohttp.ClientSession, settings: ClientSettings) -> None:
        self._session = session
        self._settings = settings
        self._base_url = settings.base_url.rstrip("/")
        self._headers = protocol.headers(settings.api_key)
        self._proxy = proxy_for(settings, settings.base_url)
        seconds = settings.timeout
        self._timeout = aiohttp.ClientTimeout(total=2 * seconds, sock_connect=seconds, sock_read=seconds)

    @classmethod
    async def from_settings(cls, settings: ClientSettings, *, max_connections: int = 8) -> Self:
        """A client with a session of its own."""
        return cls(await build_session(settings, max_connections=max_connections), settings)

    async def create_upload_targets(self, extensions: Sequence[str]) -> tuple[UploadTarget, ...]:
        """Ask for one upload URL per image."""
        return await self._send(protocol.create_upload_targets(extensions))

    async def create_image_to_video(self, request: ImageToVideoRequest) -> CreatedJob:
        """Submit a job. Deducts credits; SubmissionUnknownError where nobody can tell whether it did."""
        return await self._send(protocol.create_image_to_video(request))

    async def get_video(self, project_id: str) -> VideoProject:
        """Look at a job."""
        return await self._send(protocol.get_video(project_id))

    async def delete_video(self, project_id: str) -> None:
        """Remove a clip for good."""
        await self._send(protocol.delete_video(project_id))

    async def get_account(self) -> Account:
        """Read tier and credits; NotFoundError where the API does not have this endpoint yet."""
        return await self._send(protocol.get_account())

    async def put_upload(self, target: UploadTarget, chunks: AsyncIterable[bytes], size: int) -> None:
        """Send `size` bytes to an upload URL."""
        url = target.upload_url.get_secret_value()
        try:
            async with self._transfer(
                "PUT", url, data=chunks, headers={"Content-Length": str(size)}
            ) as response:
                status = response.status
        except REQUEST_ERRORS as error:
            raise protocol.upload_broke(error) from None
        protocol.check_upload(status)

    @asynccontextmanager
    async def open_clip(
        self, link: DownloadUrl, since: ResumePoint | None = None
    ) -> AsyncIterator[AsyncClipStream]:
        """Open a signed link, or the rest of its file `since` a position.

        Raises LinkExpiredError where the link is no longer good, ResumeNotPossibleError, DownloadError.
        """
        try:
            response = await self._transfer(
                "GET",
                link.url.get_secret_value(),
                headers=request_headers(since),
                read_bufsize=_CHUNK_BYTES,
            )
        except REQUEST_ERRORS as error:
            raise protocol.download_broke(error) from None
        try:
            yield AsyncClipStream(read_head(response.status, response.headers, since), response)
        finally:
            response.close()

    async def aclose(self) -> None:
        """Close the client's connections."""
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _transfer(self, method: str, url: str, **options: Any) -> Any:
        """A request to storage, by the signed URL exactly as it was given."""
        seconds = self._settings.timeout
        return self._session.request(
            method,
            URL(url, encoded=True),
            proxy=proxy_for(self._settings, url),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds),
            skip_auto_headers=("Content-Type",),
            **options,
        )

    async def _send(self, request: protocol.Request[T]) -> T:
        try:
            async with self._session.request(
                request.method,
                self._base_url + request.path,
                json=request.json,
                headers=self._headers,
                proxy=self._proxy,
                allow_redirects=False,
                timeout=self._timeout,
            ) as response:
                body = protocol.BoundedBody(self._settings.timeout, self._settings.api_key)
                async for chunk in response.content.iter_any():
                    if not body.feed(chunk):
                        break
        except REQUEST_ERRORS as error:
            raise protocol.network_error(
                request,
                self._base_url,
                _without_secrets(error),
                may_have_arrived=not isinstance(error, NEVER_SENT),
            ) from None
        return protocol.parse_response(request, body.response(response.status, response.headers))


def _without_secrets(error: Exception) -> Exception:
    """The error as a log may show it.

    aiohttp names the proxy's URL, with its password, if a proxy refuses; and quotes an answer that is not
    HTTP, in which the API key may be repeated.
    """
    if isinstance(error, aiohttp.ClientResponseError):
        return OSError(f"{type(error).__name__}, status {error.status}")
    return error
