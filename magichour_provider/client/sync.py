"""`MagicHourClient`: Magic Hour's API over httpx. It sends each request once and raises.

The caller decides whether a request is sent again: by `send_with_retries` if it may be repeated; in
`jobs/submit.py` for the create, which may be charged twice. Signed URLs are used as they were given,
without authorization, redirects or logging.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from magichour_provider.client import protocol
from magichour_provider.client.models import (
    Account,
    CreatedJob,
    DownloadUrl,
    ImageToVideoRequest,
    UploadTarget,
    VideoProject,
)
from magichour_provider.client.protocol import BoundedBody, RetryPolicy
from magichour_provider.client.settings import ClientSettings, proxy_for
from magichour_provider.exceptions import MagicHourError

if TYPE_CHECKING:
    from typing_extensions import Self

    from magichour_provider.client.downloads import AsyncDownloadStream, DownloadStream, ResumePoint

T = TypeVar("T")
REQUEST_ERRORS = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError, OverflowError)
"""What a request raises: httpx's own errors, and those of encoders, sockets and TLS that it lets through."""
NEVER_SENT = (
    *(httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError),
    *(httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError),
)
"""Errors before the request left: the server certainly did not receive it."""


class ProxiedTransport(httpx.BaseTransport):
    """Sends each request through the proxy that `proxy_for` gives, as `AsyncMagicHourClient` does.

    It keeps no connection open. A create on a kept connection that the server has just closed cannot be
    distinguished from a create that was received, and would end as SubmissionUnknownError.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._settings, self._tls = settings, settings.tls()
        self._transports: dict[str | None, httpx.HTTPTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. Raises ConfigurationError if the environment's proxy cannot be used."""
        proxy = proxy_for(self._settings, str(request.url))
        if proxy not in self._transports:
            tls_to_proxy = self._tls if proxy is not None and proxy.startswith("https:") else None
            self._transports[proxy] = httpx.HTTPTransport(
                verify=self._tls,
                proxy=None if proxy is None else httpx.Proxy(proxy, ssl_context=tls_to_proxy),
                limits=httpx.Limits(max_keepalive_connections=0),
                trust_env=False,
            )
        return self._transports[proxy].handle_request(request)

    def close(self) -> None:
        """Close the connections."""
        for transport in self._transports.values():
            transport.close()


class SendTrace:
    """Observes httpcore while it sends a request: whether it began, and whether the request may have left.

    A proxy that breaks off while it is asked for a tunnel raises the same error as a server that breaks off
    after it received the request.
    """

    def __init__(self) -> None:
        self.has_begun = self.may_have_left = False

    def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        """An event of httpcore (httpcore's docs: extensions, `trace`)."""
        self.has_begun = True
        if event.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
            self.may_have_left = True


def send_with_retries(
    call: Callable[[], T], policy: RetryPolicy, sleep: Callable[[float], object] = time.sleep
) -> T:
    """Call until it succeeds or `policy` gives up. Only for requests that cost nothing if repeated."""
    attempt = 1
    while True:
        try:
            return call()
        except MagicHourError as error:
            delay = policy.delay_seconds(error, attempt)
            if delay is None:
                raise
        sleep(delay)
        attempt += 1


class MagicHourClient:
    """Synchronous client: one method for each operation, each sent once. Closes `http` when it is closed.

    :param http: the httpx client to use.
    """

    def __init__(self, http: httpx.Client, settings: ClientSettings) -> None:
        self._http = http
        self._settings = settings
        self._base_url = settings.base_url.rstrip("/")

    @classmethod
    def from_settings(cls, settings: ClientSettings) -> Self:
        """A client with an httpx client of its own. Takes some 25 ms.

        Raises ConfigurationError for certificates or a proxy that cannot be used.
        """
        proxy_for(settings, settings.base_url)
        timeout = httpx.Timeout(settings.timeout)
        http = httpx.Client(transport=ProxiedTransport(settings), timeout=timeout, trust_env=False)
        return cls(http, settings)

    @property
    def retry_policy(self) -> RetryPolicy:
        """When a request that failed is sent again."""
        return RetryPolicy(max_attempts=self._settings.max_attempts)

    def create_upload_targets(self, extensions: Sequence[str]) -> tuple[UploadTarget, ...]:
        """Get one upload URL per image (`POST /v1/files/upload-urls`)."""
        return self._send(protocol.create_upload_targets(extensions))

    def create_image_to_video(self, request: ImageToVideoRequest) -> CreatedJob:
        """Submit a job (`POST /v1/image-to-video`). Deducts credits.

        Raises SubmissionUnknownError if the API may have received it and no usable answer came.
        """
        return self._send(protocol.create_image_to_video(request))

    def get_video(self, project_id: str) -> VideoProject:
        """Get the state of a job (`GET /v1/video-projects/{id}`)."""
        return self._send(protocol.get_video(project_id))

    def delete_video(self, project_id: str) -> None:
        """Delete a video at Magic Hour (`DELETE /v1/video-projects/{id}`): no cancel and no refund."""
        self._send(protocol.delete_video(project_id))

    def get_account(self) -> Account:
        """Get tier and credits (`GET /v1/account`); NotFoundError if the API has no such endpoint yet."""
        return self._send(protocol.get_account())

    def put_upload(self, target: UploadTarget, chunks: Iterable[bytes], size: int) -> None:
        """Send `size` bytes to an upload URL. Raises ImageError or NetworkError."""
        url = target.upload_url.get_secret_value()
        headers, proxy = {"Content-Length": str(size)}, None
        try:
            proxy = proxy_for(self._settings, url)
            with _no_request_log():
                response = self._http.put(url, content=chunks, headers=headers, follow_redirects=False)
        except REQUEST_ERRORS as error:
            raise protocol.upload_broke(error, proxy) from None
        protocol.check_upload(response.status_code)

    def open_download(
        self, url: DownloadUrl, resume_from: ResumePoint | None = None
    ) -> AbstractContextManager[DownloadStream]:
        """Open a signed URL, or the rest of its file. It is read in a thread by aiohttp.

        Raises DownloadError on entering. Of its subclasses, LinkExpiredError means that `get_video` gives a
        new URL, ResumeNotPossibleError that only the whole file is available.
        """
        from magichour_provider.client.aio import AsyncMagicHourClient
        from magichour_provider.client.downloads import read_ahead

        @asynccontextmanager
        async def open_stream() -> AsyncIterator[AsyncDownloadStream]:
            async with (
                await AsyncMagicHourClient.from_settings(self._settings, max_connections=1) as client,
                client.open_download(url, resume_from) as stream,
            ):
                yield stream

        return read_ahead(open_stream)

    def close(self) -> None:
        """Close the client's connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _send(self, request: protocol.Request[T]) -> T:
        trace = SendTrace()
        try:
            with (
                _no_request_log(),
                self._http.stream(
                    request.method,
                    self._base_url + request.path,
                    content=request.content(),
                    headers=request.headers(self._settings.api_key),
                    follow_redirects=False,
                    extensions={"trace": trace},
                ) as response,
            ):
                body = BoundedBody(self._settings.timeout, self._settings.api_key)
                for chunk in response.iter_raw():
                    if not body.feed(chunk):
                        break
        except MagicHourError:
            raise
        except Exception as error:
            if not (request.is_create or isinstance(error, REQUEST_ERRORS)):
                raise
            is_unsent = not trace.may_have_left and (
                trace.has_begun or self._http.is_closed or isinstance(error, NEVER_SENT)
            )
            proxy = proxy_for(self._settings, self._base_url)
            raise protocol.network_error(
                request, self._base_url, error, may_have_arrived=not is_unsent, proxy=proxy
            ) from None
        return protocol.parse_response(request, body.response(response.status_code, response.headers))


_is_own_request: ContextVar[bool] = ContextVar("magichour_own_request", default=False)


for _logger in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy"):
    logging.getLogger(_logger).addFilter(lambda record: not _is_own_request.get())


@contextmanager
def _no_request_log() -> Iterator[None]:
    """Drop the records of httpx and httpcore meanwhile: they show signed URLs."""
    token = _is_own_request.set(True)
    try:
        yield
    finally:
        _is_own_request.reset(token)
