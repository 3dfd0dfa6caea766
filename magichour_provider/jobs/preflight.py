"""Everything that is checked before credits are spent: images, account, model, estimate, balance.

A check costs nothing. All that can fail without a create fails here, before the upload.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magichour_provider.client import pricing
from magichour_provider.client.pricing import ModelRequest
from magichour_provider.exceptions import BudgetError, CatalogError, MagicHourError, NotFoundError

if TYPE_CHECKING:
    from magichour_provider.client.models import Account, ImageToVideoRequest
    from magichour_provider.client.sync import MagicHourClient
    from magichour_provider.jobs.request import Images, VideoRequest
    from magichour_provider.storage.images import ImageFile, RemoteImage

log = logging.getLogger(__name__)

_ADD_CREDITS = "Add credits at Magic Hour, or choose a shorter video or a cheaper model."
_NO_CREDITS = "insufficient_credits"


@dataclass(frozen=True)
class Preflight:
    """A request that has passed every check; nothing has been sent yet.

    :param cost: credits by the catalogue; None if they are not known.
    :param balance: the account's credits; None if the API does not tell.
    """

    cost: int | None
    balance: int | None

    def reserved_credits(self, request: VideoRequest) -> int:
        """What the video counts for until it is submitted."""
        return self.cost if self.cost is not None else request.limits.max_credits or 0


def check(client: MagicHourClient, request: VideoRequest, images: Images) -> Preflight:
    """Check all that can be checked before anything is sent.

    Raises ImageError, CatalogError or BudgetError; APIError or NetworkError if the account cannot be read.
    """
    account = _get_account(client)
    _check_image_sizes(account, images)
    _check_model(request, images.image)
    cost = estimate(request, account)
    _check_limits(request, cost)
    if account is not None:
        _check_balance(cost, account)
    return Preflight(cost, account.credits if account else None)


def upload_images(client: MagicHourClient, request: VideoRequest, images: Images) -> ImageToVideoRequest:
    """Upload the images and build the body of the create, the only request that is left to send."""
    from magichour_provider.client.models import ImageToVideoRequest
    from magichour_provider.storage.images import upload_image

    return ImageToVideoRequest(
        image_file_path=upload_image(client, images.image),
        end_image_file_path=upload_image(client, images.end_image) if images.end_image else None,
        end_seconds=request.end_seconds,
        prompt=request.prompt,
        model=request.model,
        resolution=request.resolution,
        audio=request.audio,
        name=request.name,
    )


def estimate(request: VideoRequest, account: Account | None = None) -> int | None:
    """Credits that the video costs by the catalogue; None if they are not known."""
    resolution = request.resolution or pricing.default_resolution(account.tier if account else None)
    return pricing.estimate_credits(_model_request(request, resolution=resolution))


def get_balance(client: MagicHourClient) -> int | None:
    """The account's credits; None if they cannot be read."""
    try:
        return client.get_account().credits
    except MagicHourError:
        return None


def compare_balances(before: int | None, now: int | None, cost: int | None) -> str:
    """What the balance hints about a create of unknown outcome; it proves nothing, as others spend too."""
    if before is None:
        return ""
    if now is None:
        return f" The account had {before} credits before; it cannot be read now."
    change = (
        f"{before - now} fewer" if now < before else f"{now - before} more" if now > before else "as many"
    )
    price = f"; the video costs {cost}" if cost is not None else ""
    return f" The account had {before} credits before, and has {now} now, {change}{price}."


def _get_account(client: MagicHourClient) -> Account | None:
    from magichour_provider.client.sync import send_with_retries

    try:
        return send_with_retries(client.get_account, client.retry_policy)
    except NotFoundError:
        log.info("This API does not tell the account's tier and credits: they are not checked beforehand.")
        return None


def _check_image_sizes(account: Account | None, images: Images) -> None:
    from magichour_provider.storage.images import ImageFile

    limit = pricing.MAX_UPLOAD_BYTES.get(account.tier) if account else None
    for source in (images.image, images.end_image):
        if account and limit is not None and isinstance(source, ImageFile):
            source.check_size(limit, account.tier)


def _check_model(request: VideoRequest, image: RemoteImage | ImageFile) -> None:
    if request.validate_model == "off":
        return
    model = request.model or pricing.DEFAULT_MODEL
    if not pricing.is_known(model):
        log.warning("%s Magic Hour decides.", _describe_unknown_model(model))
    try:
        pricing.validate(_model_request(request, resolution=request.resolution, image_size=image.image_size))
    except CatalogError as error:
        if request.validate_model == "error":
            raise
        log.warning("%s Submitting nevertheless, because validate_model is 'warn'.", error.what)


def _check_limits(request: VideoRequest, cost: int | None) -> None:
    limits, model = request.limits, request.model or pricing.DEFAULT_MODEL
    if cost is not None:
        log.info("The video will cost %s credits by the catalogue.", cost)
        for name in ("max_credits", "max_credits_per_run"):
            limit = getattr(limits, name)
            if limit is not None and cost > limit:
                raise BudgetError(f"The video costs {cost} credits, and {name} is {limit}.")
    elif limits.allows_unknown_cost:
        log.info("The cost of the video is not known before it is submitted.")
    else:
        unknown = "" if pricing.is_known(model) else f"{_describe_unknown_model(model)} "
        raise BudgetError(
            f"{unknown}The cost of this video is not published, and a video of unknown cost is refused here "
            f"(max_credits={limits.max_credits}, max_credits_per_run={limits.max_credits_per_run}, "
            f"on_unknown_cost={limits.on_unknown_cost!r}).",
            remedy="Name a model and a resolution that have a rate, or pass on_unknown_cost='allow'.",
        )


def _check_balance(cost: int | None, account: Account) -> None:
    if account.credits >= (1 if cost is None else cost):
        return
    needs = "credits" if cost is None else f"{cost} credits"
    short = "" if cost is None else f", {cost - account.credits} short"
    raise BudgetError(
        f"The video needs {needs}, and the account has {account.credits}{short}.",
        code=_NO_CREDITS,
        remedy=_ADD_CREDITS,
    )


def _describe_unknown_model(model: str) -> str:
    near = pricing.closest_model(model)
    hint = f"; did you mean {near!r}?" if near else "."
    return f"Model {model!r} is not in this provider's catalogue{hint}"


def _model_request(
    request: VideoRequest, *, resolution: str | None, image_size: tuple[int, int] | None = None
) -> ModelRequest:
    return ModelRequest(
        model=request.model or pricing.DEFAULT_MODEL,
        end_seconds=request.end_seconds,
        resolution=resolution,
        audio=bool(request.audio),
        end_image=request.end_image is not None,
        image_size=image_size,
    )
