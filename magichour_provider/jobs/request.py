"""What a user asks for: its arguments with their types, its images, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

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

ValidateModel = Literal["error", "warn", "off"]
"""What to do if no known version of a model takes a request."""

OnUnknownCost = Literal["allow", "fail"]
"""What to do with a video whose rate is not published."""


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

    @classmethod
    def from_arguments(
        cls,
        *,
        image: object,
        end_seconds: object,
        end_image: object = None,
        prompt: object = None,
        model: object = None,
        resolution: object = None,
        audio: object = None,
        name: object = None,
        image_conn_id: object = None,
        max_credits: object = None,
        max_credits_per_run: object = None,
        on_unknown_cost: OnUnknownCost | None = None,
        validate_model: ValidateModel = "error",
    ) -> VideoRequest:
        """Read an operator's arguments as templates make them. Raises InvalidRequestError."""
        first, last = parse_path("image", image), parse_path("end_image", end_image)
        if first is None:
            raise InvalidRequestError("image is empty: give a path, a URL or an uploaded file_path.")
        seconds = parse_number("end_seconds", end_seconds)
        if seconds is None:
            raise InvalidRequestError("end_seconds is missing: give the video's length in seconds.")
        return cls(
            address_of(first),
            seconds,
            end_image=None if last is None else address_of(last),
            prompt=parse_text("prompt", prompt),
            model=parse_id("model", model),
            resolution=parse_id("resolution", resolution),
            audio=parse_flag("audio", audio),
            name=parse_text("name", name),
            image_conn_id=parse_id("image_conn_id", image_conn_id),
            limits=Limits(
                parse_whole_number("max_credits", max_credits),
                parse_whole_number("max_credits_per_run", max_credits_per_run),
                on_unknown_cost,
            ),
            validate_model=validate_model,
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
