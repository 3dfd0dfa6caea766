"""From what a user asked for to a submitted job: everything that can fail, fails before the create.

The order is the point: arguments, images, account, catalogue, budget, upload, and only then the one call
that costs credits.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from magichour_provider.client import pricing as catalog
from magichour_provider.client.pricing import ModelRequest
from magichour_provider.exceptions import (
    CatalogError,
    InvalidRequestError,
    MagicHourError,
    NotFoundError,
)
from magichour_provider.jobs.budget import Limits, check_balance, unknown_model
from magichour_provider.jobs.coercion import flag, number, text, whole_number

if TYPE_CHECKING:
    from magichour_provider.client.models import Account, ImageToVideoRequest
    from magichour_provider.client.sync import MagicHourClient
    from magichour_provider.jobs.choices import ValidateModel
    from magichour_provider.storage.images import Remote, Upload

log = logging.getLogger(__name__)

_TEXTS = ("image", "end_image", "prompt", "model", "resolution", "name", "image_conn_id")
_LIMITS = ("max_credits", "max_credits_per_run", "on_unknown_cost")
_OTHERS = ("end_seconds", "audio", "validate_model", *_LIMITS)


@dataclass(frozen=True)
class VideoRequest:
    """What the user asked for, with its types; `of` reads it from rendered templates.

    :param end_seconds: length of the clip in seconds.
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
    def arguments() -> tuple[str, ...]:
        """The names that `of` takes."""
        return _TEXTS + _OTHERS

    @classmethod
    def of(cls, **arguments: Any) -> VideoRequest:
        """Read arguments that may be strings, as templates render them; InvalidRequestError else."""
        image = text("image", arguments.get("image"))
        if image is None:
            raise InvalidRequestError("image is empty: give a path, a URL or an uploaded file_path.")
        end_seconds = number("end_seconds", arguments.get("end_seconds"))
        if end_seconds is None:
            raise InvalidRequestError("end_seconds is missing: give the clip's length in seconds.")
        return cls(
            image,
            end_seconds,
            **{key: text(key, arguments.get(key)) for key in _TEXTS if key != "image"},
            audio=flag("audio", arguments.get("audio")),
            limits=Limits(
                whole_number("max_credits", arguments.get("max_credits")),
                whole_number("max_credits_per_run", arguments.get("max_credits_per_run")),
                arguments.get("on_unknown_cost"),
            ),
            validate_model=arguments.get("validate_model", "error"),
        )


@dataclass(frozen=True)
class Images:
    """The images of an order, checked and readable."""

    image: Remote | Upload
    end_image: Remote | Upload | None = None
    _contents: dict[Remote | Upload, str] = field(default_factory=dict, repr=False)

    def content(self, source: Remote | Upload) -> str:
        """What tells an image from others: a file's SHA-256, for which it is read once; else its address."""
        if source not in self._contents:
            self._contents[source] = _content(source)
        return self._contents[source]


@dataclass(frozen=True)
class Preflight:
    """An order that has passed every check; nothing has been sent yet.

    :param cost: credits by the catalogue; None where that is not known.
    :param balance: the account's credits; None where the API does not tell.
    """

    cost: int | None
    balance: int | None


def open_images(order: VideoRequest) -> Images:
    """Find and check the images; ImageError where one cannot be used."""
    from magichour_provider.storage.images import open_source

    return Images(
        open_source(order.image, order.image_conn_id),
        open_source(order.end_image, order.image_conn_id) if order.end_image else None,
    )


def check(client: MagicHourClient, order: VideoRequest, images: Images) -> Preflight:
    """Check all that can be checked before anything is sent.

    Raises ImageError, CatalogError or BudgetError; APIError or NetworkError where the account cannot be read.
    """
    account = _account(client)
    _check_sizes(account, images.image, images.end_image)
    _check_catalog(order, images.image)
    cost = estimate(order, account)
    order.limits.check(cost, order.model or catalog.DEFAULT_MODEL)
    if account is not None:
        check_balance(cost, account)
    return Preflight(cost, account.credits if account else None)


def upload_images(client: MagicHourClient, order: VideoRequest, images: Images) -> ImageToVideoRequest:
    """Upload the images; the request is what the one call that is left sends."""
    from magichour_provider.client.models import ImageToVideoRequest
    from magichour_provider.storage.transfer import upload

    return ImageToVideoRequest(
        image_file_path=upload(client, images.image),
        end_image_file_path=upload(client, images.end_image) if images.end_image else None,
        end_seconds=order.end_seconds,
        prompt=order.prompt,
        model=order.model,
        resolution=order.resolution,
        audio=order.audio,
        name=order.name,
    )


def balance_now(client: MagicHourClient) -> int | None:
    """The account's credits; None where nobody can tell."""
    try:
        return client.get_account().credits
    except MagicHourError:
        return None


def compare_balances(before: int | None, now: int | None, cost: int | None) -> str:
    """What the account's balance says about a create of unknown outcome: a hint, as others spend, too."""
    if before is None:
        return ""
    if now is None:
        return f" The account had {before} credits before; it cannot be read now."
    change = (
        f"{before - now} fewer" if now < before else f"{now - before} more" if now > before else "as many"
    )
    price = f"; the clip costs {cost}" if cost is not None else ""
    return f" The account had {before} credits before, and has {now} now, {change}{price}."


def fingerprint(order: VideoRequest, images: Images) -> str:
    """Hash everything that changes the clip: the images' content, prompt, model, length, and so on.

    An image that Magic Hour fetches itself counts by its address without the query, which a signature
    changes with every try. The name changes nothing.
    """
    parts = {
        "image": images.content(images.image),
        "end_image": images.content(images.end_image) if images.end_image else None,
        "prompt": order.prompt,
        "model": order.model,
        "resolution": order.resolution,
        "end_seconds": order.end_seconds,
        "audio": bool(order.audio),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _content(source: Remote | Upload) -> str:
    from magichour_provider.storage.images import Remote

    if isinstance(source, Remote):
        return source.display
    digest = hashlib.sha256()
    for chunk in source.iter_chunks():
        digest.update(chunk)
    return digest.hexdigest()


def estimate(order: VideoRequest, account: Account | None = None) -> int | None:
    """Credits that the clip will cost by the catalogue; None where that is not known."""
    resolution = order.resolution or catalog.default_resolution(account.tier if account else None)
    return catalog.estimate_credits(_choice(order, resolution=resolution))


def _account(client: MagicHourClient) -> Account | None:
    from magichour_provider.client.sync import send_with_retries

    try:
        return send_with_retries(client.get_account, client.retry_policy)
    except NotFoundError:
        log.info("This API does not tell the account's tier and credits: they are not checked beforehand.")
        return None


def _check_sizes(account: Account | None, *sources: Remote | Upload | None) -> None:
    from magichour_provider.storage.images import Upload

    limit = catalog.MAX_UPLOAD_BYTES.get(account.tier) if account else None
    for source in sources:
        if account and limit is not None and isinstance(source, Upload):
            source.check_size(limit, account.tier)


def _check_catalog(order: VideoRequest, image: Remote | Upload) -> None:
    if order.validate_model == "off":
        return
    model = order.model or catalog.DEFAULT_MODEL
    if not catalog.is_known(model):
        log.warning("%s Magic Hour will decide.", unknown_model(model))
    try:
        catalog.validate(_choice(order, resolution=order.resolution, image_size=image.image_size))
    except CatalogError as error:
        if order.validate_model == "error":
            raise
        log.warning("%s Submitting all the same, as validate_model is 'warn'.", error.what)


def _choice(
    order: VideoRequest, *, resolution: str | None, image_size: tuple[int, int] | None = None
) -> ModelRequest:
    return ModelRequest(
        model=order.model or catalog.DEFAULT_MODEL,
        end_seconds=order.end_seconds,
        resolution=resolution,
        audio=bool(order.audio),
        end_image=order.end_image is not None,
        image_size=image_size,
    )
