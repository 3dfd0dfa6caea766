"""Which model takes which duration, resolution, audio and end image, and what a second of it costs.

The API has no endpoint for this. Its reference page lists the combinations and changes them every few
weeks (docs: api-reference/models). So `models.json` keeps every known version of each model, and a
combination is refused only if no version takes it. An unknown model passes, with a warning: Magic Hour
decides.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction
from importlib.resources import files
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from magichour_provider.exceptions import InvalidRequestError

MIN_SECONDS = 1
MAX_SECONDS = 60
RESOLUTIONS = ("360p", "480p", "720p", "1080p", "4k")
DEFAULT_MODEL = "default"


class Tier(str, Enum):
    """Account tiers, as `GET /v1/account` names them."""

    FREE = "free"
    CREATOR = "creator"
    PRO = "pro"
    BUSINESS = "business"


MAX_UPLOAD_BYTES: Mapping[str, int] = {
    Tier.FREE.value: 200 * 10**6,
    Tier.CREATOR.value: 2 * 10**9,
    Tier.PRO.value: 5 * 10**9,
    Tier.BUSINESS.value: 10 * 10**9,
}
"""Largest upload by tier, in bytes (docs: integration/inputs-and-outputs)."""

IMAGE_EXTENSIONS = frozenset(
    {"png", "jpg", "jpeg", "jfif", "heic", "heif", "webp", "avif", "jp2", "tiff", "tif", "bmp"}
)
"""Image extensions that `POST /v1/files/upload-urls` accepts, lower case, without the dot."""


class Audio(str, Enum):
    """What a model does with `audio: true`."""

    NO = "no"
    FREE = "free"
    EXTRA = "costs more"
    ALWAYS = "always on"


def _parse_durations(text: str) -> tuple[int, ...]:
    durations: list[int] = []
    for part in text.split(", "):
        first, _, last = part.partition("-")
        durations += range(int(first), int(last or first) + 1)
    return tuple(durations)


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EndImage(_Entry):
    """Resolutions at which a model takes an end image, and up to which duration in seconds."""

    resolutions: tuple[str, ...]
    max_seconds: int = MAX_SECONDS


class Rate(_Entry):
    """Credits for one second of output; `audio` is what audio adds."""

    video: int
    audio: int = 0


class ModelSpec(_Entry):
    """What one version of the documentation says about one model: an entry of `models.json`.

    :param source: the month of that version.
    :param durations: the lengths that it takes, in whole seconds.
    :param rates: the published credit rates by resolution.
    """

    source: str
    durations: Annotated[tuple[int, ...], BeforeValidator(_parse_durations), Field(alias="seconds")]
    resolutions: tuple[str, ...]
    audio: Audio
    end_image: EndImage | None = None
    rates: Mapping[str, Rate] = Field(default={}, alias="credits_per_second")
    aspect_ratios: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelRequest:
    """A request as the catalogue sees it. `resolution` and `image_size` (pixels) are None if not known."""

    model: str
    end_seconds: float
    resolution: str | None = None
    audio: bool = False
    end_image: bool = False
    image_size: tuple[int, int] | None = None


def is_known(model: str) -> bool:
    """Whether the catalogue knows `model`."""
    return model == DEFAULT_MODEL or model in MODELS or model in AUDIO_ALIASES


def closest_model(model: str) -> str | None:
    """The known model that a misspelt name may mean."""
    names = difflib.get_close_matches(model.lower(), [*MODELS, *AUDIO_ALIASES], n=1)
    return names[0] if names else None


def validate(request: ModelRequest) -> None:
    """Refuse a combination that no known version of the model takes.

    Raises InvalidRequestError, with the objections of the newest version and what it takes instead. A model
    that the catalogue does not know passes; see `is_known`.
    """
    resolved = _resolve_alias(request)
    if not is_known(resolved.model):
        return
    objections = []
    if not MIN_SECONDS <= resolved.end_seconds <= MAX_SECONDS:
        objections.append(
            f"end_seconds {resolved.end_seconds:g} is not between {MIN_SECONDS} and {MAX_SECONDS}"
        )
    if resolved.resolution not in (None, *RESOLUTIONS):
        objections.append(f"resolution {resolved.resolution!r} is none of {', '.join(RESOLUTIONS)}")
    if not objections and resolved.model in MODELS:
        by_version = [_objections(resolved, spec) for spec in MODELS[resolved.model]]
        objections = by_version[-1] if all(by_version) else []
    if objections:
        raise InvalidRequestError(
            f"Model {request.model!r} does not take this: {'; '.join(objections)}.",
            remedy="Correct the task's arguments, or pass validate_model='warn' if Magic Hour has changed "
            "its models.",
        )


def default_resolution(tier: str | None) -> str | None:
    """The resolution that Magic Hour uses if none is given; None if the tier is not known."""
    if tier is None:
        return None
    return "480p" if tier == Tier.FREE.value else "720p"


def estimate_credits(request: ModelRequest) -> int | None:
    """Credits that the video will cost, or None if the rate is not published.

    `resolution` must be given. `default` has no estimate, as it stands for another model by tier,
    resolution and length. Rates are credits per second of output (docs: api-reference/models).
    """
    resolved = _resolve_alias(request)
    for spec in reversed(MODELS.get(resolved.model, ())):
        rate = spec.rates.get(resolved.resolution or "")
        if rate is not None:
            per_second = rate.video + (rate.audio if resolved.audio else 0)
            return round(per_second * resolved.end_seconds)
    return None


def format_durations(durations: tuple[int, ...]) -> str:
    """`1-10, 15, 20`: three or more whole seconds in a row as one range."""
    runs: list[list[int]] = []
    for seconds in durations:
        if runs and seconds == runs[-1][-1] + 1:
            runs[-1].append(seconds)
        else:
            runs.append([seconds])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def _resolve_alias(request: ModelRequest) -> ModelRequest:
    model = AUDIO_ALIASES.get(request.model)
    return request if model is None else replace(request, model=model, audio=True)


def _objections(request: ModelRequest, spec: ModelSpec) -> list[str]:
    objections = []
    if request.end_seconds not in spec.durations:
        lengths = format_durations(spec.durations)
        objections.append(f"end_seconds {request.end_seconds:g} is none of {lengths}")
    if request.resolution is not None and request.resolution not in spec.resolutions:
        objections.append(f"resolution {request.resolution!r} is none of {', '.join(spec.resolutions)}")
    if request.audio and spec.audio is Audio.NO:
        objections.append("it has no audio")
    end_image = spec.end_image
    if request.end_image and end_image is None:
        objections.append("it takes no end image")
    elif request.end_image and end_image is not None:
        if request.end_seconds > end_image.max_seconds:
            objections.append(f"it takes an end image only up to {end_image.max_seconds} seconds")
        elif request.resolution not in (None, *end_image.resolutions):
            objections.append(f"it takes an end image only at {', '.join(end_image.resolutions)}")
    if spec.aspect_ratios and request.image_size:
        width, height = request.image_size
        known = [Fraction(each.replace(":", "/")) for each in spec.aspect_ratios]
        if not any(abs(Fraction(width, height) / each - 1) <= 0.02 for each in known):
            objections.append(f"the image is {width}x{height} pixels, and it takes only 9:16 or 16:9")
    return objections


_CATALOG = json.loads(files("magichour_provider.client").joinpath("models.json").read_text("utf-8"))

MODELS = TypeAdapter(dict[str, tuple[ModelSpec, ...]]).validate_python(_CATALOG["models"])
"""Every known model; its versions from the oldest to the newest."""

AUDIO_ALIASES: Mapping[str, str] = _CATALOG["audio_aliases"]
"""Deprecated names that mean the base model with `audio: true`."""
