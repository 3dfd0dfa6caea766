"""Request bodies of the API origin, read as strictly as its schema says and no stricter.

Unknown keys pass (`external_id`, the ignored `width` and `height`); null and numbers in quotes do not.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator
from pydantic_core import ErrorDetails

from magichour_provider.client.pricing import MIN_SECONDS
from magichour_provider.client.pricing_table import MAX_SECONDS
from magichour_provider.sandbox.problems import Problem

_Path = Annotated[str, StringConstraints(min_length=1)]

_EXPECTED = {
    "assets": "object",
    "audio": "boolean",
    "end_seconds": "number",
    "high_quality": "boolean",
    "items": "array",
    "style": "object",
}
"""JSON type by field name; `string` where it is not here."""


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _is_not_null(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("null is not allowed")
        return value


class Assets(_Body):
    """`assets` of a create."""

    image_file_path: _Path
    end_image_file_path: _Path | None = None


class Style(_Body):
    """`style` of a create; all but the prompt is deprecated."""

    prompt: str | None = None
    high_quality: bool | None = None
    quality_mode: Literal["quick", "studio"] | None = None

    @property
    def resolution(self) -> str | None:
        """The resolution that the deprecated fields stand for."""
        if self.high_quality is not None:
            return "1080p" if self.high_quality else "720p"
        return {"quick": "720p", "studio": "1080p"}.get(self.quality_mode or "")


class CreateBody(_Body):
    """Body of `POST /v1/image-to-video`. Fields left out are None, though null itself is refused."""

    assets: Assets
    end_seconds: float = Field(ge=MIN_SECONDS, le=MAX_SECONDS, allow_inf_nan=False)
    model: str = "default"
    resolution: Literal["360p", "480p", "720p", "1080p", "4k"] | None = None
    audio: bool = False
    name: str | None = None
    style: Style = Style()


class UploadItem(_Body):
    """One file that the client wants to upload."""

    type: Literal["video", "audio", "image"]
    extension: str = Field(pattern="^[a-z0-9]+$")


class UploadUrlsBody(_Body):
    """Body of `POST /v1/files/upload-urls`."""

    items: list[UploadItem] = Field(min_length=1)


_BodyT = TypeVar("_BodyT", bound=_Body)


def parse(body: type[_BodyT], raw: bytes) -> _BodyT:
    """Read `raw` as `body`. Raises Problem 400 that names every wrong field."""
    if not raw.strip():
        raise Problem(400, "Missing request body")
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError):
        raise Problem(400, "The request body is not valid JSON") from None
    try:
        return body.model_validate(fields)
    except ValidationError as error:
        raise Problem(400, "; ".join(map(_message, error.errors()))) from None


def _message(problem: ErrorDetails) -> str:
    location: tuple[Any, ...] = problem["loc"]
    if not location:
        return "Invalid request body (expected object)"
    name = ".".join(map(str, location))
    expected = _EXPECTED.get(str(location[-1]), "string")
    if problem["type"] == "missing":
        return f"Missing required field: {name} (expected {expected})"
    return f"Invalid value for field: {name} (expected {expected}): {problem['msg']}"
