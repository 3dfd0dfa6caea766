"""Requests and responses of the API as pydantic models.

The readers take the fields that they need and forgive the rest: fields come and go between versions of the
API, and the sets of statuses, types and error codes grow. Signed URLs are `SecretStr`, so that no repr, log
or dump shows one.
"""

from __future__ import annotations

from datetime import datetime, timezone
from enum import Enum
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from magichour_provider.client import PROJECT_ID_PATTERN


class JobStatus(str, Enum):
    """Statuses of a video project (docs: api-reference/video-projects)."""

    DRAFT = "draft"
    QUEUED = "queued"
    RENDERING = "rendering"
    COMPLETE = "complete"
    ERROR = "error"
    CANCELED = "canceled"


def _check_http_url(value: Any) -> Any:
    """Accept only absolute http(s) URLs; the error does not show the value."""
    if isinstance(value, str) and not value.startswith(("https://", "http://")):
        raise ValueError("not an http(s) URL")
    return value


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)


Moment = Annotated[datetime, AfterValidator(_in_utc)]
"""A time; without a zone it is in UTC, as all times of Magic Hour are."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
SignedUrl = Annotated[SecretStr, BeforeValidator(_check_http_url)]
"""A URL that gives access by itself; no repr, log or dump shows it."""


class _Response(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class _Lenient(_Response):
    """A response in which only `id`, `status` and `url` must be valid; any other invalid value is dropped.

    Neither the id of a paid job nor its end must be missed because of another field.
    """

    @field_validator("*", mode="wrap")
    @classmethod
    def _drop_invalid(cls, value: Any, read: ValidatorFunctionWrapHandler, field: ValidationInfo) -> Any:
        try:
            return read(value)
        except ValueError:
            if field.field_name in ("id", "status", "url"):
                raise
            return cls.model_fields[str(field.field_name)].get_default()


class UploadTarget(_Response):
    """Where to PUT one file, and the `file_path` by which a request names it afterwards."""

    upload_url: SignedUrl
    file_path: str


class UploadTargets(_Response):
    """Response of `POST /v1/files/upload-urls`; `items` in the order of the request."""

    items: tuple[UploadTarget, ...]


class CreatedJob(_Lenient):
    """Response of `POST /v1/image-to-video`: the job exists and `credits_charged` credits are deducted."""

    id: str = Field(pattern=f"^{PROJECT_ID_PATTERN}$")
    credits_charged: int | None = None


class DownloadUrl(_Lenient):
    """A signed URL of the video (`downloads[]`); valid until `expires_at`, without any header."""

    url: SignedUrl
    expires_at: Moment | None = None


class JobFailure(_Lenient):
    """Why a job failed."""

    code: str | None = None
    message: str | None = None


class VideoProject(_Lenient):
    """A job, as `GET /v1/video-projects/{id}` describes it.

    `end_seconds` in seconds, `credits_charged` in credits (an estimate until complete, 0 once refunded),
    `width` and `height` in pixels (-1 if Magic Hour does not know them). An unknown status stays a string.
    """

    id: str
    status: Annotated[JobStatus | str, Field(union_mode="left_to_right")]
    name: str | None = None
    type: str | None = None
    created_at: Moment | None = None
    enabled: bool = True
    end_seconds: Finite | None = None
    width: int | None = None
    height: int | None = None
    fps: Finite | None = None
    credits_charged: int | None = None
    error: JobFailure | None = None
    downloads: tuple[DownloadUrl, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _fold_singular_download(cls, data: Any) -> Any:
        """Use `download`, the deprecated predecessor, if there are no `downloads`."""
        if isinstance(data, dict) and not data.get("downloads"):
            single = data.get("download")
            return {**data, "downloads": [single] if single else []}
        return data


class Account(_Response):
    """Tier and spendable credits (`GET /v1/account`)."""

    tier: str
    credits: int


class ImageToVideoRequest(BaseModel):
    """Body of `POST /v1/image-to-video`.

    :param image_file_path: an uploaded `file_path`, an http(s) URL, or a library URL.
    :param end_seconds: length of the video in seconds.
    :param model: None leaves the choice to Magic Hour, by the account's tier.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    image_file_path: str = Field(min_length=1, repr=False)
    end_seconds: float = Field(gt=0)
    end_image_file_path: str | None = Field(default=None, min_length=1, repr=False)
    prompt: str | None = None
    model: str | None = None
    resolution: str | None = None
    audio: bool | None = None
    name: str | None = None

    def body(self) -> dict[str, Any]:
        """The JSON object to send, without the values that are not given, and without an empty prompt."""
        paths = {"image_file_path", "end_image_file_path"}
        body = self.model_dump(exclude={*paths, "prompt"}, exclude_none=True)
        body["assets"] = self.model_dump(include=paths, exclude_none=True)
        if self.prompt:
            body["style"] = {"prompt": self.prompt}
        return body
