"""`MagicHourClient`: thin I/O over `protocol`, by httpx; clips come by `clip_reader`.

It sends a call, asks the protocol whether to send it again, and lets it read the answer. Bytes for
storage go to the signed URLs as they were given: no authorization, no redirects, no logging.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

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
from magichour_provider.client.settings import ClientSettings
from magichour_provider.client.wire import (
    REQUEST_ERRORS,
    BoundedBody,
    check_upload,
    no_request_log,
    upload_broke,
)

if TYPE_CHECKING:
    from typing_extensions import Self

    from magichour_provider.client.download_headers import ResumePoint
    from magichour_provider.client.download_reader import ClipStream

T = TypeVar("T")
_NEVER_CONNECTED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Attempts(Protocol):
    """Somebody who must know of each time that a create is sent."""

    def begin(self) -> None:
        """The request is about to be sent; what this raises stops it."""

    def not_taken(self) -> None:
        """It was certainly not taken, and will be sent again after a pause."""


class MagicHourClient:
    """Synchronous client: one method for each operation. Use it as a context manager."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._headers = protocol.headers(settings.api_key)
        self._key = settings.api_key
        self._retry = protocol.RetryPolicy(max_attempts=settings.max_attempts)
        self._patience = settings.timeout
        self._host = settings.base_url
        # No connection is kept: a create on one that the server has just closed could not be told
        # from a create that was taken, and would end as SubmissionUnknownError for nothing.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._http = httpx.Client(**settings.options(), limits=limits)

    def create_upload_targets(self, extensions: Sequence[str]) -> tuple[UploadTarget, ...]:
        """Ask for one upload URL per image."""
        return self._send(protocol.create_upload_targets(extensions))

    def create_image_to_video(
        self, request: ImageToVideoRequest, attempts: Attempts | None = None
    ) -> CreatedJob:
        """Submit a job. Deducts credits; SubmissionUnknownError where nobody can tell whether it did.

        :param attempts: told of each time that the request is sent.
        """
        return self._send(protocol.create_image_to_video(request), attempts)

    def get_video(self, project_id: str) -> VideoProject:
        """Look at a job."""
        return self._send(protocol.get_video(project_id))

    def delete_video(self, project_id: str) -> None:
        """Remove a clip for good."""
        self._send(protocol.delete_video(project_id))

    def get_account(self) -> Account:
        """Read tier and credits; NotFoundError where the API does not have this endpoint yet."""
        return self._send(protocol.get_account())

    def put_upload(self, target: UploadTarget, chunks: Iterable[bytes], size: int) -> None:
        """Send `size` bytes to an upload URL."""
        with no_request_log():
            try:
                response = self._http.put(
                    target.upload_url.get_secret_value(),
                    content=chunks,
                    headers={"Content-Length": str(size)},
                )
            except REQUEST_ERRORS as error:
                raise upload_broke(error) from None
        check_upload(response.status_code)

    def open_clip(
        self, link: DownloadUrl, since: ResumePoint | None = None
    ) -> AbstractContextManager[ClipStream]:
        """Open a signed link, or the rest of its file `since` a position.

        Raises on entering: LinkExpiredError where the link is no longer good, ResumeNotPossibleError,
        DownloadError.
        """
        from magichour_provider.client.download_reader import open_clip

        return open_clip(self._settings, link, since)

    def name_for(self, *parts: str) -> str:
        """A name for something of this account's: only this key and host give it, and it tells neither."""
        told = "\n".join((self._host, *parts)).encode()
        return hmac.new(self._key.encode(), told, "sha256").hexdigest()[:32]

    def close(self) -> None:
        """Close the client's connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, call: protocol.Request[T], attempts: Attempts | None = None) -> T:
        attempt = 0
        while True:
            attempt += 1
            if attempts is not None:
                attempts.begin()
            try:
                answer = self._once(call)
            except REQUEST_ERRORS as error:
                connected = not isinstance(error, _NEVER_CONNECTED)
                pause = self._retry.after_failure(call, attempt, connected=connected)
                if pause is None:
                    raise protocol.failure(call, self._host, error, connected=connected) from None
            else:
                pause = self._retry.after_answer(call, answer, attempt)
                if pause is None:
                    return protocol.read(call, answer)
            if attempts is not None:
                attempts.not_taken()
            time.sleep(pause)

    def _once(self, call: protocol.Request[Any]) -> protocol.Response:
        with (
            no_request_log(),
            self._http.stream(call.method, call.path, json=call.json, headers=self._headers) as response,
        ):
            intake = BoundedBody(self._patience, self._key)
            for chunk in response.iter_raw():
                if not intake.take(chunk):
                    break
            return intake.answer(response.status_code, response.headers)
