"""Magic Hour's API without I/O: build a request, read its response, decide whether it may be sent again.

The rule that must not be relaxed: a create (`Request.is_create`) is sent again only if the API cannot have
taken it, that is, if no connection was made, on 429 and on 503. The API has no idempotency key and no list
of jobs, so a create that is sent twice is charged twice.
"""

from __future__ import annotations

import codecs
import json as jsonlib
import random
import re
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from magichour_provider import __version__
from magichour_provider import exceptions as errors
from magichour_provider.client import is_project_id
from magichour_provider.client.downloads import CODINGS, build_decompressor
from magichour_provider.client.models import (
    Account,
    CreatedJob,
    ImageToVideoRequest,
    UploadTarget,
    UploadTargets,
    VideoProject,
)
from magichour_provider.client.settings import mask_proxy

T = TypeVar("T")
USER_AGENT = f"airflow-provider-magichour/{__version__}"
_MAX_BODY_BYTES = 4 << 20

_STATUS_ERRORS: Mapping[int, type[errors.APIError]] = {
    401: errors.AuthenticationError,
    402: errors.PaymentRequiredError,
    404: errors.NotFoundError,
    **dict.fromkeys((408, 425, 429), errors.UnavailableError),
}
_CERTAINLY_NOT_CREATED = frozenset({400, 401, 402, 403, 404, 422, 429, 503})
"""Statuses by which the API itself refuses a create. A 408 or 499 comes from a server in front of it."""


@dataclass(frozen=True)
class Response:
    """An HTTP response; the names of `headers` are matched in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class BoundedBody:
    """The body of one answer while it arrives: at most 4 MiB, within `timeout_seconds` in all.

    A server that sends without end, or one byte a minute, must not fill the memory or hold a task. A body
    that is cut off here is no valid JSON, so `parse_response` reports it.

    :param secret: replaced by `***` in the body, as some servers repeat the API key in their errors.
    """

    def __init__(
        self, timeout_seconds: float, secret: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._timeout_seconds, self._secret = timeout_seconds, secret.encode()
        self._clock = clock
        self._deadline = clock() + timeout_seconds
        self._body = bytearray()

    def feed(self, chunk: bytes) -> bool:
        """Add the next bytes; False if the body is full. Raises TimeoutError after the deadline."""
        if self._clock() > self._deadline:
            raise TimeoutError(f"the answer took longer than {self._timeout_seconds:g} seconds")
        self._body += chunk[: _MAX_BODY_BYTES - len(self._body)]
        return len(self._body) < _MAX_BODY_BYTES

    def response(self, status: int, headers: Mapping[str, str]) -> Response:
        """The answer, decoded to at most 4 MiB, without a byte order mark and without the API key.

        `identity` was asked for, but some proxies compress, and a paid job's id must not be lost by that.
        """
        body, coding = bytes(self._body), headers.get("content-encoding", "").strip().lower()
        is_json = body.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{")
        if body and coding in CODINGS and not is_json:
            with suppress(zlib.error):  # it is only called so
                body = build_decompressor(coding, body).decompress(body, _MAX_BODY_BYTES)
        body = body.removeprefix(codecs.BOM_UTF8)
        if len(self._secret) >= 6:  # a shorter one, as of a sandbox, may be part of any word
            body = body.replace(self._secret, b"***")
        return Response(status, headers, body)


@dataclass(frozen=True)
class Request(Generic[T]):
    """One request to the API, and how to read its response.

    :param parse: reads the body of a successful response; ValueError if it cannot be read.
    :param is_create: a success costs credits.
    :param project_id: the job that the request is about, for error messages.
    """

    method: str
    path: str
    parse: Callable[[bytes], T]
    json: dict[str, Any] | None = field(default=None, repr=False)
    is_create: bool = False
    project_id: str | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def content(self) -> bytes | None:
        """The body as JSON in ASCII, so that each text can be sent."""
        return None if self.json is None else jsonlib.dumps(self.json).encode()

    def headers(self, api_key: str) -> dict[str, str]:
        """Headers of a request to the API, never of one to storage: signed URLs take no authorization."""
        headers = {
            "Authorization": f"Bearer {api_key}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": USER_AGENT,
        }
        return headers if self.json is None else {**headers, "Content-Type": "application/json"}


# One function for each operation of the API that the provider uses (docs: api-reference).


def create_upload_targets(extensions: Sequence[str]) -> Request[tuple[UploadTarget, ...]]:
    """Get one upload URL per image (`POST /v1/files/upload-urls`, docs: api-reference/files)."""
    items = [{"type": "image", "extension": extension} for extension in extensions]

    def parse(body: bytes) -> tuple[UploadTarget, ...]:
        return UploadTargets.model_validate_json(body).items

    return Request("POST", "/v1/files/upload-urls", parse, json={"items": items})


def create_image_to_video(request: ImageToVideoRequest) -> Request[CreatedJob]:
    """Submit a job (`POST /v1/image-to-video`). Deducts credits."""
    parse = CreatedJob.model_validate_json
    return Request("POST", "/v1/image-to-video", parse, json=request.body(), is_create=True)


def get_video(project_id: str) -> Request[VideoProject]:
    """Get the state of a job (`GET /v1/video-projects/{id}`)."""

    def parse(body: bytes) -> VideoProject:
        project = VideoProject.model_validate_json(body)
        if project.id != project_id:
            raise ValueError("the response is about another project")
        return project

    return Request("GET", _project_path(project_id), parse, project_id=project_id)


def delete_video(project_id: str) -> Request[None]:
    """Delete a video (`DELETE /v1/video-projects/{id}`): no cancel and no refund."""
    return Request("DELETE", _project_path(project_id), lambda body: None, project_id=project_id)


def get_account() -> Request[Account]:
    """Get tier and credits (`GET /v1/account`, since September 2026)."""
    return Request("GET", "/v1/account", Account.model_validate_json)


def _project_path(project_id: str) -> str:
    if not is_project_id(project_id):
        raise errors.InvalidRequestError(
            f"{project_id!r} is not the id of a Magic Hour project.",
            remedy="Check that the task before this one returned its project_id.",
        )
    return f"/v1/video-projects/{project_id}"


def parse_response(request: Request[T], response: Response, *, now: datetime | None = None) -> T:
    """Return what the response holds, or raise the error that it stands for."""
    if not 200 <= response.status < 300:
        raise error_from_response(request, response, now=now)
    try:
        return request.parse(response.body)
    except (ValueError, RecursionError) as error:
        kind = errors.SubmissionUnknownError if request.is_create else errors.InvalidResponseError
        detail = type(error).__name__
        if isinstance(error, ValidationError):  # names of fields, never values: they may be signed URLs
            faults = error.errors(include_input=False, include_url=False, include_context=False)[:3]
            detail = "; ".join(
                f"{'.'.join(map(str, each['loc'])) or 'body'}: {each['type']}" for each in faults
            )
        raise kind(
            f"Magic Hour answered {request} with {response.status} and a body that cannot be read ({detail})."
        ) from None


def error_from_response(
    request: Request[Any], response: Response, *, now: datetime | None = None
) -> errors.MagicHourError:
    """The error for a response of failure, whose body may have either shape of the API's, or another."""
    status = response.status
    try:
        content = jsonlib.loads(response.body)
    except (ValueError, RecursionError):
        content = None
    explanation = content if isinstance(content, dict) else {}
    code, message = explanation.get("code"), explanation.get("message")
    if not isinstance(message, str) or not message:
        message = "no explanation" if content is not None else "no explanation in JSON"
    message = message[:500]
    if 300 <= status < 400:
        kind = errors.SubmissionUnknownError if request.is_create else errors.InvalidResponseError
        return kind(f"{request} was redirected ({status}): the connection's host is not the API's.")
    if status == 407:
        return errors.NetworkError(
            f"A proxy refused {request} ({status}): it asks for a user name and a password.",
            remedy="Put them into the URL of the proxy, then clear the task.",
        )
    if request.is_create and status not in _CERTAINLY_NOT_CREATED:
        what = f"Magic Hour answered {request} with {status}: {message.rstrip('.')}."
        return errors.SubmissionUnknownError(what)
    if status in (400, 403, 404) and request.project_id is not None and not isinstance(content, dict):
        # A gateway may answer instead of the API; its body is no JSON then.
        what = f"{request} was answered with {status}, by a server in front of the API."
        return errors.InvalidResponseError(what)
    return api_error(
        status=status,
        code=code if isinstance(code, str) else None,
        message=message,
        request=str(request),
        project_id=request.project_id,
        retry_after=parse_retry_after(response.headers.get("retry-after"), now=now),
    )


def api_error(*, status: int, **details: Any) -> errors.APIError:
    """The APIError for an HTTP status, with its other arguments."""
    kind = _STATUS_ERRORS.get(status) or (errors.UnavailableError if status >= 500 else errors.APIError)
    return kind(status=status, **details)


def parse_retry_after(value: str | None, *, now: datetime | None = None) -> float | None:
    """Seconds to wait by a `Retry-After` header (RFC 9110, 10.2.3), given as seconds or as a date."""
    if value is None:
        return None
    try:
        if re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
            return float(value)
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        return max(0.0, (moment - (now or datetime.now(timezone.utc))).total_seconds())
    except (TypeError, ValueError):
        return None


@dataclass(frozen=True)
class RetryPolicy:
    """Whether to send a request again after an error, and after how many seconds. Pure.

    :param max_attempts: how often one request is sent at most.
    :param base_seconds: the first delay; it doubles with each attempt, with 25 % of jitter.
    :param cap_seconds: the longest delay; a longer `Retry-After` is left to Airflow's own retries.
    """

    max_attempts: int = 4
    base_seconds: float = 0.5
    cap_seconds: float = 30.0

    def delay_seconds(
        self, error: errors.MagicHourError, attempt: int, *, is_create: bool = False
    ) -> float | None:
        """Seconds until the next attempt, or None if the request must not be sent again.

        :param attempt: the number of the attempt that failed, from 1.
        :param is_create: the request submits a job. It is sent again only if the API certainly did not
            take it: no connection was made, 429, or 503.
        """
        # A create that may have been received raises SubmissionUnknownError, not NetworkError.
        can_be_resent = isinstance(error, errors.NetworkError) or (
            isinstance(error, errors.UnavailableError) and (not is_create or error.status in (429, 503))
        )
        if attempt >= self.max_attempts or not can_be_resent:
            return None
        if error.retry_after is not None:
            return error.retry_after if error.retry_after <= self.cap_seconds else None
        backoff = self.base_seconds * 2.0 ** (attempt - 1) * random.uniform(0.75, 1.25)
        return min(self.cap_seconds, backoff)


def network_error(
    request: Request[Any], host: str, cause: Exception, *, may_have_arrived: bool, proxy: str | None = None
) -> errors.MagicHourError:
    """The error for a request without an answer.

    :param may_have_arrived: False if no byte of the request was sent, so that the server did not get it.
    :param proxy: URL of the proxy that the request was sent through.
    """
    reason, way = str(cause) or type(cause).__name__, _through(proxy)
    if request.is_create and may_have_arrived:
        what = f"{request} was sent to {host}{way} and no answer came ({reason})."
        return errors.SubmissionUnknownError(what)
    checked = "the connection's host" if proxy is None else "the proxy and the connection's host"
    return errors.NetworkError(
        f"{host} gave no answer to {request}{way} ({reason}).",
        remedy=f"Check {checked}; if the address is right, retry later.",
    )


# Errors of storage. None contains a signed URL.


def download_broke(error: Exception, proxy: str | None = None) -> errors.DownloadError:
    """The error for a download whose connection broke."""
    reason = f"{type(error).__name__}{_through(proxy)}"
    return errors.DownloadError(f"The connection to the video's storage broke ({reason}).")


def upload_broke(error: Exception, proxy: str | None = None) -> errors.NetworkError:
    """The error for an upload without an answer."""
    return errors.NetworkError(f"Uploading the image failed ({type(error).__name__}{_through(proxy)}).")


def _through(proxy: str | None) -> str:
    return "" if proxy is None else f" through the proxy {mask_proxy(proxy)}"


def check_upload(status: int) -> None:
    """Raise ImageError or NetworkError unless the storage accepted the bytes."""
    if status == 413:
        raise errors.ImageError("The image is larger than Magic Hour accepts.")
    if not 200 <= status < 300:
        raise errors.NetworkError(f"The image's storage refused the upload with status {status}.")
