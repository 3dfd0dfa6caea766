"""What a user asks for: its arguments with their types, its images, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from magichour_provider.exceptions import InvalidRequestError
from magichour_provider.jobs.arguments import (
    parse_flag,
    parse_id,
    parse_number,
    parse_path,
    parse_text,
    parse_whole_number,
)
from magichour_provider.storage.locations import address_of

if TYPE_CHECKING:
    from magichour_provider.storage.images import ImageFile, RemoteImage

    Images = tuple[RemoteImage | ImageFile, RemoteImage | ImageFile | None]

ValidateModel = Literal["error", "warn", "off"]
"""What to do if no known version of a model takes a request."""

OnUnknownCost = Literal["allow", "fail"]
"""What to do with a video whose rate is not published."""


@dataclass(frozen=True)
class VideoRequest:
    """What the user asked for, with its types; `from_arguments` reads it from rendered templates.

    :param end_seconds: length of the video in seconds.
    :param max_credits: what the video may cost, in credits; None: no limit.
    :param max_credits_per_run: what all videos of a Dag run may cost (see `run_budget`).
    :param on_unknown_cost: what to do with a video whose rate is not published; None: `fail` if there is a
        limit, else `allow`.
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
    max_credits: int | None = None
    max_credits_per_run: int | None = None
    on_unknown_cost: OnUnknownCost | None = None
    validate_model: ValidateModel = "error"

    @classmethod
    def from_arguments(cls, **arguments: Any) -> VideoRequest:
        """Read the fields as templates make them. Raises InvalidRequestError."""
        parsers: dict[str, Callable[[str, Any], Any]] = {
            **dict.fromkeys(("image", "end_image"), parse_path),
            **dict.fromkeys(("prompt", "name"), parse_text),
            **dict.fromkeys(("model", "resolution", "image_conn_id"), parse_id),
            **dict.fromkeys(("max_credits", "max_credits_per_run"), parse_whole_number),
            **{"end_seconds": parse_number, "audio": parse_flag},
        }
        read = {name: parse(name, arguments.get(name)) for name, parse in parsers.items()}
        if read["image"] is None:
            raise InvalidRequestError("image is empty: give a path, a URL or an uploaded file_path.")
        if read["end_seconds"] is None:
            raise InvalidRequestError("end_seconds is missing: give the video's length in seconds.")
        for name in ("image", "end_image"):
            read[name] = None if read[name] is None else address_of(read[name])
        return cls(**{**arguments, **read})


def open_images(request: VideoRequest) -> Images:
    """Find and check the image and the end image, if there is one.

    Raises ImageError, or NetworkError if a store is out of reach for now.
    """
    from magichour_provider.storage.images import open_image

    image = open_image(request.image, request.image_conn_id)
    return image, open_image(request.end_image, request.image_conn_id) if request.end_image else None


def fingerprint(request: VideoRequest, images: Images) -> str:
    """Hash everything that changes the video: images, prompt, model, length, and so on; not the name.

    An image file is identified by its bytes, any other image by its address without the signature.
    """
    from magichour_provider.storage.images import ImageFile

    def content_id(image: RemoteImage | ImageFile | None) -> str | None:
        if not isinstance(image, ImageFile):
            return image.unsigned_address if image is not None else None
        digest = hashlib.sha256()
        for chunk in image.iter_chunks():
            digest.update(chunk)
        return digest.hexdigest()

    parts = {
        "image": content_id(images[0]),
        "end_image": content_id(images[1]),
        **{name: getattr(request, name) for name in ("prompt", "model", "resolution", "end_seconds")},
        "audio": bool(request.audio),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
