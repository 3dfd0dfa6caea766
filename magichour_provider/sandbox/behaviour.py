"""The switches: what Magic Hour does differently from one vintage of its documentation to another.

Defaults follow the newest vintage (October 2026).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from magichour_provider.sandbox.checksums import ClipChecksum
from magichour_provider.sandbox.padding import MIN_BOX_BYTES


class Behaviour(BaseModel):
    """How this sandbox behaves where more than one behaviour is documented, or none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    render_seconds: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    """Seconds from create to the end of a job: the first quarter `queued`, the rest `rendering`."""
    error_shape: Literal["code", "message"] = "code"
    """Error bodies: `{"code", "message"}` (since September 2026) or `{"message"}` alone."""
    missing_upload: Literal["create", "job"] = "create"
    """A `file_path` without bytes: refused at create (422), or job error `invalid_image_path`."""
    expired_status: Literal[403, 404] = 403
    """Status of an expired, tampered or unsigned storage URL."""
    deleted: Literal["disabled", "not_found"] = "disabled"
    """GET after DELETE: 200 with `enabled: false`, or 404."""
    plan_gate_status: Literal[402, 403, 422] = 402
    """Status where the tier does not include the model or the resolution."""
    no_credits_status: Literal[402, 422] = 402
    """Status where the balance is too small (422 before 5 March 2026)."""
    validation_status: Literal[400, 422] = 422
    """Status of values that fit the schema and not the model, and of an extension that is not taken."""
    milliseconds: bool = True
    """Whether `created_at` and `expires_at` carry milliseconds."""
    account_endpoint: bool = True
    """Whether `GET /v1/account` exists (added in autumn 2026)."""
    unsupported_audio: Literal["refuse", "ignore"] = "refuse"
    """`audio: true` on a model without audio."""
    unknown_model: Literal["refuse", "accept"] = "refuse"
    """A model outside the enum: 400, or rendered like any other."""
    oversize: Literal["put", "job"] = "put"
    """A file above the tier's limit: PUT answered 413, or job error `file_too_large`."""
    max_upload_bytes: int | None = Field(default=None, ge=0)
    """The limit for `oversize`; null: the tier's own."""
    default_model: Literal["by_request", "by_tier"] = "by_request"
    """What `default` stands for: by tier, resolution and length, or by tier alone."""
    storage_authorization: Literal["refuse", "ignore"] = "refuse"
    """An Authorization header on a signed URL: 400, as object stores do, or not looked at."""
    video_checksum: ClipChecksum = "etag-md5"
    """Which store's checksums a clip is served with; Magic Hour documents none."""
    ranges: bool = True
    """Whether a clip can be had in parts; if not, a Range header is not looked at."""
    video_padding_bytes: int = Field(default=0, ge=0, le=1 << 40)
    """Bytes, at least 8, by which clips ordered from now on are larger; they play as before. The first
    request for one waits for its checksum, a few seconds per GiB."""
    downloads_per_job: int = Field(default=1, ge=1, le=100)
    """How many clips, each with bytes of its own, a job comes to that is ordered from now on."""

    @field_validator("video_padding_bytes")
    @classmethod
    def _holds_a_box(cls, padding: int) -> int:
        if 0 < padding < MIN_BOX_BYTES:
            raise ValueError(f"must be 0, or {MIN_BOX_BYTES} and more")
        return padding

    def changed(self, switches: Mapping[str, Any]) -> Behaviour:
        """A copy with `switches` set. Raises ValueError that names the switch."""
        try:
            return Behaviour.model_validate({**self.model_dump(), **switches})
        except ValidationError as error:
            raise ValueError(readable(error)) from None


def parse_switches(pairs: Iterable[str]) -> dict[str, Any]:
    """Read `key=value` texts of the command line; values as JSON where they are, else as text."""
    switches: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{pair!r} is not of the form key=value")
        try:
            switches[key] = json.loads(value)
        except ValueError:
            switches[key] = value
    return switches


def readable(error: ValidationError) -> str:
    """A pydantic error as one line that names each field."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    )
