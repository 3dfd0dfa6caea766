"""Settings, switches, request bodies and error answers of the sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from magichour_provider.client.pricing import Tier

PREFIX = "/__sandbox__"
"""The path of the control API."""
ERROR_CODES: Mapping[int, str] = {
    400: "invalid_request",
    401: "unauthorized",
    402: "insufficient_credits",
    403: "forbidden",
    404: "not_found",
    422: "unprocessable_entity",
    429: "too_many_requests",
    500: "internal_server_error",
}
"""`code` by status. 403 and 429 are in no specification; their codes are invented here."""


class Behaviour(BaseModel):
    """Switches for everything that differs between versions of Magic Hour's documentation, or is in none.

    The defaults follow the newest documentation (October 2026).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    render_seconds: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    """Seconds from create to the end of a job: the first quarter `queued`, the rest `rendering`."""
    expired_status: Literal[403, 404] = 403
    """Status of an expired, tampered or unsigned storage URL."""
    deleted: Literal["disabled", "not_found"] = "disabled"
    """GET after DELETE: 200 with `enabled: false`, or 404."""
    account_endpoint: bool = True
    """Whether `GET /v1/account` exists (added in autumn 2026)."""
    unknown_model: Literal["refuse", "accept"] = "refuse"
    """A model outside the enum: 400, or rendered like any other."""
    video_checksum: Literal["etag-md5", "none", "content-md5", "goog", "sha-256", "digest"] = "etag-md5"
    """Which store's checksum headers a video is served with; Magic Hour documents none."""
    ranges: bool = True
    """Whether parts of a video can be requested; if not, the Range header is ignored."""
    video_padding_bytes: int = Field(default=0, ge=0, le=1 << 40, multiple_of=8)
    """Bytes by which videos created from now on are larger, on disk sparse; they play as before. The first
    request for such a video computes its checksum, which takes a few seconds per GiB."""
    video_fragmented: bool = False
    """Whether videos created from now on are fragmented mp4, which names no duration in its `moov`."""
    video_ending: str = Field(default="", max_length=1 << 16)
    """Text after the last box of videos created from now on; length and checksum include it."""
    downloads_per_job: int = Field(default=1, ge=1, le=100)
    """Number of different videos that each job created from now on has."""
    max_running_jobs: int | None = Field(default=None, ge=0)
    """Jobs that the account may have queued or rendering; a further create gets 429. Null: no limit."""
    webhook_url: str | None = Field(default=None, pattern="^https?://")
    """Where webhooks are posted, for jobs that start or end from now on; null: nowhere."""
    webhook_secret: str | None = Field(default=None, repr=False)
    """What they are signed with."""

    def changed(self, switches: Mapping[str, Any]) -> Behaviour:
        """A copy with `switches` set. Raises pydantic's ValidationError."""
        return Behaviour.model_validate({**self.model_dump(), **switches})


@dataclass(frozen=True)
class Settings:
    """How a sandbox starts, and what a reset restores.

    If `api_keys` is empty, every key is valid that does not contain invalid, wrong, bad or revoked.
    `quick` renders tiny videos.
    """

    api_keys: tuple[str, ...] = field(default=(), repr=False)
    tier: Tier = Tier.CREATOR
    credits: int = 12_000
    quick: bool = False
    behaviour: Behaviour = field(default_factory=Behaviour)


@dataclass(frozen=True)
class JobRequest:
    """A validated create, and its cost in credits."""

    name: str
    requested_model: str
    model: str
    resolution: str
    end_seconds: float
    audio: bool
    fps: int
    credits: int
    image_file_path: str
    end_image_file_path: str | None = None
    prompt: str | None = None


class SandboxError(Exception):
    """An error answer: status, message, `code` (default: the usual one of the status) and headers."""

    def __init__(
        self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None
    ) -> None:
        self.status = status
        self.code = code or ERROR_CODES[status]
        self.headers = headers
        super().__init__(message)


class _Body(BaseModel):
    """A request body. Unknown keys pass, as Magic Hour ignores them; null and numbers in quotes do not."""

    model_config = ConfigDict(frozen=True, strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _is_not_null(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("null is not allowed")
        return value


class Assets(_Body):
    """`assets` of a create."""

    image_file_path: str = Field(min_length=1)
    end_image_file_path: str | None = Field(default=None, min_length=1)


class Style(_Body):
    """`style` of a create; all but the prompt is deprecated."""

    prompt: str | None = None
    high_quality: bool | None = None
    quality_mode: Literal["quick", "studio"] | None = None


class CreateBody(_Body):
    """Body of `POST /v1/image-to-video`. A field that was left out is None; null itself is refused."""

    assets: Assets
    end_seconds: float = Field(ge=1, le=60, allow_inf_nan=False)
    model: str = "default"
    resolution: Literal["360p", "480p", "720p", "1080p", "4k"] | None = None
    audio: bool = False
    name: str | None = None
    style: Style = Style()


class ForcedStatus(BaseModel):
    """Body of `POST /__sandbox__/jobs/{id}`: a status that holds against clock and renderer.

    `canceled` and `error` end the job with a refund, `complete` finishes it at once. Any other status, known
    to the API or not, stays until the next change. `code` and `message` go with `error`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: str = Field(min_length=1)
    code: str = "unknown_error"
    message: str = "A test made this job fail."


class UploadItem(_Body):
    """One file that the client wants to upload."""

    type: Literal["video", "audio", "image"]
    extension: str = Field(pattern="^[a-z0-9]+$")


class UploadUrlsBody(_Body):
    """Body of `POST /v1/files/upload-urls`."""

    items: list[UploadItem] = Field(min_length=1)


def validation_message(error: ValidationError) -> str:
    """A pydantic error as one line that names each wrong field, as Magic Hour does."""
    return "; ".join(
        f"{'Missing required field' if each['type'] == 'missing' else 'Invalid value for field'}: "
        f"{'.'.join(map(str, each['loc'])) or 'body'} ({each['msg']})"
        for each in error.errors(include_url=False, include_context=False, include_input=False)
    )


def iso(moment: datetime) -> str:
    """`moment`, which is in UTC, in Magic Hour's form: ISO 8601 with milliseconds and `Z`."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
