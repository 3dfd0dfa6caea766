"""Which model takes which duration, resolution, audio and end image, and what a second of it costs.

The API has no endpoint for this; its reference page lists the combinations, and changes them every few
weeks. So the catalogue keeps every known vintage of a model side by side and refuses a combination only
if no vintage takes it. A model that it does not know passes, with a warning: Magic Hour decides.
The vintages themselves and their sources are in `catalog_table`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from magichour_provider.client.pricing_table import (
    AUDIO_ALIASES,
    MAX_SECONDS,
    MODELS,
    Audio,
    EndImage,
    ModelSpec,
)
from magichour_provider.exceptions import CatalogError

MIN_SECONDS = 1
RESOLUTIONS = ("360p", "480p", "720p", "1080p", "4k")
DEFAULT_MODEL = "default"

_ASPECT_TOLERANCE = 0.02


class Tier(str, Enum):
    """Account tiers, as `GET /v1/account` names them."""

    FREE = "free"
    CREATOR = "creator"
    PRO = "pro"
    BUSINESS = "business"


MAX_UPLOAD_BYTES: Mapping[str, int] = MappingProxyType(
    {
        Tier.FREE.value: 200 * 10**6,
        Tier.CREATOR.value: 2 * 10**9,
        Tier.PRO.value: 5 * 10**9,
        Tier.BUSINESS.value: 10 * 10**9,
    }
)
"""Largest upload by tier, in bytes (docs: integration/inputs-and-outputs)."""

IMAGE_EXTENSIONS = frozenset(
    {"png", "jpg", "jpeg", "jfif", "heic", "heif", "webp", "avif", "jp2", "tiff", "tif", "bmp"}
)
"""Image extensions that `POST /v1/files/upload-urls` takes, lower case, without the dot."""


@dataclass(frozen=True)
class ModelRequest:
    """A request as the catalogue sees it. `resolution` and `image_size` are None where not known."""

    model: str
    end_seconds: float
    resolution: str | None = None
    audio: bool = False
    end_image: bool = False
    image_size: tuple[int, int] | None = None


def is_known(model: str) -> bool:
    """Whether the catalogue can say anything about `model`."""
    return model == DEFAULT_MODEL or model in MODELS or model in AUDIO_ALIASES


def nearest(model: str) -> str | None:
    """The known model that a misspelt name may mean."""
    names = difflib.get_close_matches(model.lower(), [*MODELS, *AUDIO_ALIASES], n=1)
    return names[0] if names else None


def validate(choice: ModelRequest) -> None:
    """Refuse a combination that no known vintage of the model takes.

    Raises CatalogError, with the newest vintage's objections and what it takes instead. A model that
    the catalogue does not know passes; `is_known` tells.
    """
    base = _base_of(choice)
    objections = _schema_objections(base)
    if not objections and base.model in MODELS:
        by_vintage = [_objections(base, vintage) for vintage in MODELS[base.model]]
        objections = by_vintage[-1] if all(by_vintage) else []
    if objections:
        raise CatalogError(f"Model {choice.model!r} does not take this: {'; '.join(objections)}.")


def default_resolution(tier: str | None) -> str | None:
    """The resolution that Magic Hour takes when none is given; None where the tier is not known."""
    if tier is None:
        return None
    return "480p" if tier == Tier.FREE.value else "720p"


def estimate_credits(choice: ModelRequest) -> int | None:
    """Credits that the clip will cost, or None where the rate is not published.

    `resolution` must be given; `default` has no estimate, as it stands for another model by tier,
    resolution and length. Rates are credits per second of output (docs: api-reference/models).
    """
    base = _base_of(choice)
    for vintage in reversed(MODELS.get(base.model, ())):
        rate = vintage.rates.get(base.resolution or "")
        if rate is None or rate.video is None:
            continue
        if base.audio and vintage.audio is Audio.EXTRA and rate.audio is None:
            continue
        per_second = rate.video + (rate.audio or 0 if base.audio else 0)
        return round(per_second * base.end_seconds)
    return None


def _base_of(choice: ModelRequest) -> ModelRequest:
    if choice.model not in AUDIO_ALIASES:
        return choice
    return ModelRequest(
        AUDIO_ALIASES[choice.model],
        choice.end_seconds,
        choice.resolution,
        audio=True,
        end_image=choice.end_image,
        image_size=choice.image_size,
    )


def _schema_objections(choice: ModelRequest) -> list[str]:
    """What the request schema itself refuses, whatever the model."""
    if not is_known(choice.model):
        return []
    objections = []
    if not MIN_SECONDS <= choice.end_seconds <= MAX_SECONDS:
        objections.append(
            f"end_seconds {choice.end_seconds:g} is not between {MIN_SECONDS} and {MAX_SECONDS}"
        )
    if choice.resolution not in (None, *RESOLUTIONS):
        objections.append(f"resolution {choice.resolution!r} is none of {', '.join(RESOLUTIONS)}")
    return objections


def _objections(choice: ModelRequest, vintage: ModelSpec) -> list[str]:
    objections = []
    if choice.end_seconds not in vintage.durations:
        objections.append(f"end_seconds {choice.end_seconds:g} is none of {ranges(vintage.durations)}")
    if choice.resolution is not None and choice.resolution not in vintage.resolutions:
        objections.append(f"resolution {choice.resolution!r} is none of {', '.join(vintage.resolutions)}")
    if choice.audio and vintage.audio is Audio.NO:
        objections.append("it has no audio")
    if choice.end_image:
        objections += _end_image_objections(choice, vintage.end_image)
    if vintage.aspect_ratios and choice.image_size and not _has_aspect(choice.image_size, vintage):
        width, height = choice.image_size
        objections.append(f"the image is {width}x{height} pixels, and it takes only 9:16 or 16:9")
    return objections


def _end_image_objections(choice: ModelRequest, end_image: EndImage | None) -> list[str]:
    if end_image is None:
        return ["it takes no end image"]
    if choice.end_seconds > end_image.max_seconds:
        return [f"it takes an end image only up to {end_image.max_seconds} seconds"]
    if choice.resolution is not None and choice.resolution not in end_image.resolutions:
        return [f"it takes an end image only at {', '.join(end_image.resolutions)}"]
    return []


def _has_aspect(size: tuple[int, int], vintage: ModelSpec) -> bool:
    aspect = size[0] / size[1]
    return any(abs(aspect / float(ratio) - 1) <= _ASPECT_TOLERANCE for ratio in vintage.aspect_ratios or ())


def ranges(durations: tuple[int, ...]) -> str:
    """`1-10, 15, 20`: three or more whole seconds in a row as one range."""
    runs: list[list[int]] = []
    for seconds in durations:
        if runs and seconds == runs[-1][-1] + 1:
            runs[-1].append(seconds)
        else:
            runs.append([seconds])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)
