"""Every known vintage of every model: what it takes, and what a second of it costs.

Sources: the image-to-video reference page (June 2026), its August 2026 version with the credit rates of
the models page, the official Python SDK 0.90.0 (October 2026) and 0.62.0 (April 2026, for legacy names).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from types import MappingProxyType

MAX_SECONDS = 60


class Audio(str, Enum):
    """What a model does with `audio: true`."""

    NO = "no"
    FREE = "free"
    EXTRA = "costs more"
    ALWAYS = "always on"


@dataclass(frozen=True)
class EndImage:
    """Resolutions at which a model takes an end image, and up to which duration in seconds."""

    resolutions: tuple[str, ...]
    max_seconds: int = MAX_SECONDS


@dataclass(frozen=True)
class Rate:
    """Credits for one second of output; `audio` is what audio adds. None: not published."""

    video: int | None = None
    audio: int | None = 0


@dataclass(frozen=True)
class ModelSpec:
    """What one version of the documentation says about one model."""

    source: str
    durations: tuple[int, ...]
    resolutions: tuple[str, ...]
    audio: Audio
    end_image: EndImage | None = None
    rates: Mapping[str, Rate] = field(default_factory=dict)
    aspect_ratios: tuple[Fraction, ...] | None = None


# A row: durations, resolutions, audio, end image, rates.

_PORTRAIT_OR_LANDSCAPE = (Fraction(9, 16), Fraction(16, 9))
_JUN, _AUG, _OCT, _APR = "June 2026", "August 2026", "October 2026", "April 2026"


def _seconds(*parts: int | tuple[int, int]) -> tuple[int, ...]:
    durations: list[int] = []
    for part in parts:
        durations += [part] if isinstance(part, int) else range(part[0], part[1] + 1)
    return tuple(durations)


_LTX = _seconds((1, 10), 15, 20, 25, 30)
_WAN_22 = _seconds((3, 10), 15)
_WAN_30 = _seconds((2, 10), 15, 20, 25, 30)
_KLING_3 = _seconds((3, 15))
_VEO_LITE_JUN = _seconds(8, 16, 24, 32, 40, 48, 56)
_VEO = _seconds(4, 6, *_VEO_LITE_JUN)
_SEEDANCE = _seconds((4, 12))
_SEEDANCE_2 = _seconds((4, 15))
_SORA = _seconds(4, 8, 12, 24, 36, 48, 60)
_SD_HD = ("480p", "720p")
_SD_FHD = ("480p", "720p", "1080p")
_HD_FHD = ("720p", "1080p")
_HD_4K = ("720p", "1080p", "4k")

_RATES_24 = {"480p": Rate(24), "720p": Rate(48), "1080p": Rate(72)}
_RATES_KLING_26 = {"720p": Rate(36), "1080p": Rate(72)}
_RATES_KLING_3 = {"720p": Rate(48, 24), "1080p": Rate(72, 24), "4k": Rate(240, 48)}
_RATES_SEEDANCE_15 = {"480p": Rate(30, 30), "720p": Rate(60, 60), "1080p": Rate(90, 90)}
_RATES_SEEDANCE_2 = {"480p": Rate(144), "720p": Rate(288)}
_RATES_SEEDANCE_2_MINI = {"480p": Rate(96), "720p": Rate(192)}
_RATES_SEEDANCE_25 = {"480p": Rate(288), "720p": Rate(576)}
_RATES_VEO = {"720p": Rate(96, 24), "1080p": Rate(120, 24)}
_RATES_VEO_LITE = {"720p": Rate(48, 24), "1080p": Rate(72, 24)}

_VEO_END = EndImage(_HD_FHD, max_seconds=8)
_KLING_26 = ModelSpec(_AUG, (5, 10), _HD_FHD, Audio.NO, EndImage(("1080p",)), _RATES_KLING_26)
_SEEDANCE_15 = ModelSpec(_AUG, _SEEDANCE, _SD_FHD, Audio.EXTRA, EndImage(_SD_FHD), _RATES_SEEDANCE_15)

MODELS: Mapping[str, tuple[ModelSpec, ...]] = MappingProxyType(
    {
        "gemini-omni-1.1": (
            ModelSpec(
                _OCT,
                _seconds((3, 10)),
                ("360p", *_HD_4K),
                Audio.NO,
                EndImage(("360p", *_HD_4K)),
            ),
        ),
        "kling-1.6": (ModelSpec(_APR, tuple(range(5, 61, 5)), _HD_FHD, Audio.NO),),
        "kling-2.5": (
            ModelSpec(_JUN, (5, 10), _HD_FHD, Audio.FREE, EndImage(("1080p",)), _RATES_KLING_26),
            _KLING_26,
        ),
        "kling-2.6": (_KLING_26,),
        "kling-3.0": (ModelSpec(_JUN, _KLING_3, _HD_4K, Audio.EXTRA, EndImage(_HD_4K), _RATES_KLING_3),),
        "ltx-2": (ModelSpec(_APR, _LTX, _SD_FHD, Audio.ALWAYS),),
        "ltx-2.3": (ModelSpec(_JUN, _LTX, _SD_FHD, Audio.FREE, EndImage(_SD_FHD), _RATES_24),),
        "ltx-2.5": (
            ModelSpec(_OCT, _seconds((1, 60)), _SD_FHD, Audio.FREE, EndImage(_SD_FHD), {"720p": Rate(48)}),
        ),
        "minimax-h3": (
            ModelSpec(_AUG, _LTX, _SD_FHD, Audio.FREE, None, _RATES_24),
            ModelSpec(_OCT, _seconds((1, 30)), _SD_FHD, Audio.FREE, EndImage(_SD_FHD), _RATES_24),
        ),
        "seedance": (
            ModelSpec(_APR, _seconds((2, 12)), _SD_FHD, Audio.NO, EndImage(_SD_FHD)),
            ModelSpec(_JUN, _SEEDANCE, _SD_FHD, Audio.NO),
            _SEEDANCE_15,
        ),
        "seedance-1.5": (_SEEDANCE_15,),
        "seedance-2.0": (
            ModelSpec(_JUN, _SEEDANCE_2, _SD_HD, Audio.FREE, EndImage(_SD_HD), _RATES_SEEDANCE_2),
            ModelSpec(
                _OCT,
                _SEEDANCE_2,
                (*_SD_FHD, "4k"),
                Audio.FREE,
                EndImage((*_SD_FHD, "4k")),
                _RATES_SEEDANCE_2,
            ),
        ),
        "seedance-2.0-fast": (ModelSpec(_OCT, _SEEDANCE_2, _SD_HD, Audio.FREE, EndImage(_SD_HD)),),
        "seedance-2.0-mini": (
            ModelSpec(_AUG, _SEEDANCE_2, _SD_HD, Audio.FREE, EndImage(_SD_HD), _RATES_SEEDANCE_2_MINI),
        ),
        "seedance-2.5": (
            ModelSpec(_AUG, _seconds((4, 30)), _SD_HD, Audio.FREE, EndImage(_SD_HD), _RATES_SEEDANCE_25),
            ModelSpec(_OCT, _seconds((4, 30)), _SD_FHD, Audio.FREE, EndImage(_SD_FHD), _RATES_SEEDANCE_25),
        ),
        "sora-2": (
            ModelSpec(
                _AUG,
                _SORA,
                ("720p",),
                Audio.FREE,
                None,
                {"720p": Rate(120)},
                aspect_ratios=_PORTRAIT_OR_LANDSCAPE,
            ),
        ),
        "veo3.1": (
            ModelSpec(_JUN, _VEO, _HD_FHD, Audio.EXTRA, None, _RATES_VEO),
            ModelSpec(_AUG, _VEO, _HD_FHD, Audio.EXTRA, _VEO_END, _RATES_VEO),
        ),
        "veo3.1-lite": (
            ModelSpec(_JUN, _VEO_LITE_JUN, _HD_FHD, Audio.EXTRA, None, _RATES_VEO_LITE),
            ModelSpec(_AUG, _VEO, _HD_FHD, Audio.EXTRA, _VEO_END, _RATES_VEO_LITE),
        ),
        "wan-2.2": (ModelSpec(_JUN, _WAN_22, _SD_FHD, Audio.NO, None, _RATES_24),),
        "wan-3.0": (ModelSpec(_OCT, _WAN_30, _SD_FHD, Audio.FREE, EndImage(_SD_FHD)),),
    }
)
"""Every known model; its vintages from the oldest to the newest."""

AUDIO_ALIASES: Mapping[str, str] = MappingProxyType(
    {"kling-2.5-audio": "kling-2.5", "veo3.1-audio": "veo3.1"}
)
"""Deprecated names that mean the base model with `audio: true`."""
