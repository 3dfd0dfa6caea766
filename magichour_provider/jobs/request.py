"""What a user asks for: read from rendered templates, typed, and identified by a fingerprint."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

from magichour_provider.exceptions import InvalidRequestError

if TYPE_CHECKING:
    from magichour_provider.storage.images import ImageFile, RemoteImage

ValidateModel = Literal["error", "warn", "off"]
"""What to do if no known version of a model takes a request."""

OnUnknownCost = Literal["allow", "fail"]
"""What to do with a video whose rate is not published."""

IfExists = Literal["skip", "overwrite", "fail"]
"""What to do if a target exists: leave this video as it is, replace the file, or refuse."""

_TEXTS = ("image", "end_image", "prompt", "model", "resolution", "name", "image_conn_id")
_LIMITS = ("max_credits", "max_credits_per_run", "on_unknown_cost")
_OTHERS = ("end_seconds", "audio", "validate_model", *_LIMITS)
_FLAGS = MappingProxyType(
    {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": None, "none": None}
)


@dataclass(frozen=True)
class Limits:
    """What the user allows, in credits; None: no limit.

    :param max_credits: for one video.
    :param max_credits_per_run: for all videos of a Dag run (see `run_budget`).
    :param on_unknown_cost: what to do with a video whose rate is not published; None: `fail` if there is a
        limit, else `allow`.
    """

    max_credits: int | None = None
    max_credits_per_run: int | None = None
    on_unknown_cost: OnUnknownCost | None = None

    @property
    def allows_unknown_cost(self) -> bool:
        """Whether a video may be submitted before its cost is known."""
        if self.on_unknown_cost is not None:
            return self.on_unknown_cost == "allow"
        return self.max_credits is None and self.max_credits_per_run is None


@dataclass(frozen=True)
class VideoRequest:
    """What the user asked for, with its types; `from_arguments` reads it from rendered templates.

    :param end_seconds: length of the video in seconds.
    :param limits: what it may cost, in credits.
    """

    image: str = field(repr=False)
    end_seconds: float
    end_image: str | None = field(default=None, repr=False)
    prompt: str | None = None
    model: str | None = None
    resolution: str | None = None
    audio: bool | None = None
    name: str | None = None
    image_conn_id: str | None = None
    limits: Limits = field(default_factory=Limits)
    validate_model: ValidateModel = "error"

    @staticmethod
    def argument_names() -> tuple[str, ...]:
        """The names that `from_arguments` takes."""
        return _TEXTS + _OTHERS

    @classmethod
    def from_arguments(cls, **arguments: Any) -> VideoRequest:
        """Read arguments, which may be strings as templates render them. Raises InvalidRequestError."""
        image = parse_text("image", arguments.get("image"))
        if image is None:
            raise InvalidRequestError("image is empty: give a path, a URL or an uploaded file_path.")
        end_seconds = parse_number("end_seconds", arguments.get("end_seconds"))
        if end_seconds is None:
            raise InvalidRequestError("end_seconds is missing: give the video's length in seconds.")
        return cls(
            image,
            end_seconds,
            **{key: parse_text(key, arguments.get(key)) for key in _TEXTS if key != "image"},
            audio=parse_flag("audio", arguments.get("audio")),
            limits=Limits(
                parse_whole_number("max_credits", arguments.get("max_credits")),
                parse_whole_number("max_credits_per_run", arguments.get("max_credits_per_run")),
                arguments.get("on_unknown_cost"),
            ),
            validate_model=arguments.get("validate_model", "error"),
        )


@dataclass(frozen=True)
class Images:
    """The images of a request, checked and readable."""

    image: RemoteImage | ImageFile
    end_image: RemoteImage | ImageFile | None = None
    _digests: dict[RemoteImage | ImageFile, str] = field(default_factory=dict, repr=False)

    def content_id(self, source: RemoteImage | ImageFile) -> str:
        """The SHA-256 of an image file, which is read once for it; the address of any other image.

        A file is identified by its bytes, an address without its query, because a signature changes with
        every attempt.
        """
        from magichour_provider.storage.images import RemoteImage

        if isinstance(source, RemoteImage):
            return source.display
        if source not in self._digests:
            digest = hashlib.sha256()
            for chunk in source.iter_chunks():
                digest.update(chunk)
            self._digests[source] = digest.hexdigest()
        return self._digests[source]


def open_images(request: VideoRequest) -> Images:
    """Find and check the images. Raises ImageError, or NetworkError if a store is out of reach for now."""
    from magichour_provider.storage.images import open_image

    return Images(
        open_image(request.image, request.image_conn_id),
        open_image(request.end_image, request.image_conn_id) if request.end_image else None,
    )


def fingerprint(request: VideoRequest, images: Images) -> str:
    """Hash everything that changes the video: images, prompt, model, length, and so on; not the name."""
    parts = {
        "image": images.content_id(images.image),
        "end_image": images.content_id(images.end_image) if images.end_image else None,
        "prompt": request.prompt,
        "model": request.model,
        "resolution": request.resolution,
        "end_seconds": request.end_seconds,
        "audio": bool(request.audio),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def check_choice(name: str, value: object, choices: object) -> None:
    """Raise ValueError unless `value` is one of the literal type `choices`."""
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(choices)))}, not {value!r}.")


def parse_text(name: str, value: Any) -> str | None:
    """Read a string or a path; an empty one, and the `None` that a template renders to, is None."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if text is None or (isinstance(text, str) and text.strip() in ("", "None")):
        return None
    if not isinstance(text, str):
        raise InvalidRequestError(f"{name} must be a string, not {type(value).__name__}.")
    return text.strip() if name in ("image", "end_image") else text


def parse_number(name: str, value: Any) -> float | None:
    """Read a positive number, or None."""
    if value is None or (isinstance(value, str) and value.strip() in ("", "None")):
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise InvalidRequestError(f"{name} must be a positive number, not {value!r:.80}.")
    return number


def parse_whole_number(name: str, value: Any) -> int | None:
    """Read a positive whole number, or None."""
    number = parse_number(name, value)
    if number is not None and not number.is_integer():
        raise InvalidRequestError(f"{name} must be a whole number, not {value!r:.80}.")
    return None if number is None else int(number)


def parse_flag(name: str, value: Any) -> bool | None:
    """Read true, false, or neither."""
    if value is None or isinstance(value, bool):
        return value
    try:
        return _FLAGS[str(value).strip().lower()]
    except KeyError:
        raise InvalidRequestError(f"{name} must be true or false, not {value!r:.80}.") from None
