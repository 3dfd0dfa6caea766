"""Everything that is checked before credits are spent: images, account, model, estimate, balance.

A check costs nothing. All that can fail without a create fails here, before the upload.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from magichour_provider.client import pricing
from magichour_provider.exceptions import BudgetError, InvalidRequestError, MagicHourError, NotFoundError

if TYPE_CHECKING:
    from magichour_provider.client.models import Account, ImageToVideoRequest
    from magichour_provider.client.sync import MagicHourClient
    from magichour_provider.jobs.request import Images, VideoRequest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preflight:
    """A request that has passed every check; nothing has been sent yet.

    :param cost: credits by the catalogue; None if they are not known.
    :param reserved: credits that the video counts for until it is submitted.
    :param balance: the account's credits; None if the API does not tell.
    :param warnings: what is doubtful and was let through.
    """

    cost: int | None
    reserved: int
    balance: int | None
    warnings: tuple[str, ...] = ()


def read_account(client: MagicHourClient) -> Account | None:
    """Tier and credits; None if the API does not tell them. Raises APIError or NetworkError."""
    from magichour_provider.client.sync import send_with_retries

    try:
        return send_with_retries(client.get_account, client.retry_policy)
    except NotFoundError:
        log.info("This API does not tell the account's tier and credits: they are not checked beforehand.")
        return None


def check(account: Account | None, request: VideoRequest, images: Images) -> Preflight:
    """Check all that can be checked before anything is sent. Sends nothing. Raises InvalidRequestError."""
    from magichour_provider.storage.images import ImageFile

    tier = account.tier if account is not None else None
    max_bytes = pricing.MAX_UPLOAD_BYTES.get(tier) if tier is not None else None
    for image in images:
        if isinstance(image, ImageFile) and tier is not None and max_bytes is not None:
            image.check_size(max_bytes, tier)

    model_request = pricing.ModelRequest(
        model=request.model or pricing.DEFAULT_MODEL,
        end_seconds=request.end_seconds,
        resolution=request.resolution,
        audio=bool(request.audio),
        end_image=request.end_image is not None,
        image_size=images[0].image_size,
    )
    unknown_model = _describe_unknown_model(model_request.model)
    warnings = []
    if request.validate_model != "off":
        if unknown_model:
            warnings.append(f"{unknown_model}Magic Hour decides.")
        try:
            pricing.validate(model_request)
        except InvalidRequestError as error:
            if request.validate_model == "error":
                raise
            warnings.append(f"{error.what} Submitting nevertheless, because validate_model is 'warn'.")
    resolution = request.resolution or pricing.default_resolution(tier)
    cost = pricing.estimate_credits(replace(model_request, resolution=resolution))
    _check_limits(request, cost, unknown_model)
    if account is not None and account.credits < (1 if cost is None else cost):
        needs = "credits" if cost is None else f"{cost} credits"
        short = "" if cost is None else f", {cost - account.credits} short"
        raise BudgetError(
            f"The video needs {needs}, and the account has {account.credits}{short}.",
            code="insufficient_credits",
            remedy="Add credits at Magic Hour, or choose a shorter video or a cheaper model.",
        )
    reserved = cost if cost is not None else request.max_credits or 0
    return Preflight(cost, reserved, account.credits if account is not None else None, tuple(warnings))


def upload_images(client: MagicHourClient, request: VideoRequest, images: Images) -> ImageToVideoRequest:
    """Upload the images and build the body of the create, the only request that is left to send."""
    from magichour_provider.client.models import ImageToVideoRequest
    from magichour_provider.storage.images import upload_image

    image, end_image = images
    return ImageToVideoRequest(
        image_file_path=upload_image(client, image),
        end_image_file_path=upload_image(client, end_image) if end_image else None,
        end_seconds=request.end_seconds,
        prompt=request.prompt,
        model=request.model,
        resolution=request.resolution,
        audio=request.audio,
        name=request.name,
    )


def get_balance(client: MagicHourClient) -> int | None:
    """The account's credits; None if they cannot be read."""
    try:
        return client.get_account().credits
    except MagicHourError:
        return None


def _check_limits(request: VideoRequest, cost: int | None, unknown_model: str) -> None:
    limits = {"max_credits": request.max_credits, "max_credits_per_run": request.max_credits_per_run}
    if cost is not None:
        for name, limit in limits.items():
            if limit is not None and cost > limit:
                raise BudgetError(f"The video costs {cost} credits, and {name} is {limit}.")
    elif (request.on_unknown_cost or ("fail" if any(limits.values()) else "allow")) == "fail":
        raise BudgetError(
            f"{unknown_model}The cost of this video is not published, and a video of unknown cost is refused "
            f"here (max_credits={request.max_credits}, max_credits_per_run={request.max_credits_per_run}, "
            f"on_unknown_cost={request.on_unknown_cost!r}).",
            remedy="Name a model and a resolution that have a rate, or pass on_unknown_cost='allow'.",
        )


def _describe_unknown_model(model: str) -> str:
    """A sentence with a space behind it; empty for a known model."""
    near = pricing.closest_model(model)
    hint = f"; did you mean {near!r}?" if near else "."
    return "" if pricing.is_known(model) else f"Model {model!r} is not in this provider's catalogue{hint} "
