"""From what a user asked for to a submitted job: everything that can fail, fails before the create.

The order is the point: arguments, images, account, catalogue, budget, upload, and only then the one call
that costs credits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from magichour_provider.api import catalog
from magichour_provider.api.catalog import Choice
from magichour_provider.api.errors import BudgetError, CatalogError, InvalidRequestError, NotFoundError

if TYPE_CHECKING:
    from magichour_provider.api.client import MagicHourClient
    from magichour_provider.api.models import Account, CreatedJob, ImageToVideoRequest
    from magichour_provider.storage.source import Remote, Upload

log = logging.getLogger(__name__)

CheckCatalog = Literal["error", "warn", "off"]
CATALOG_CHECKS: tuple[CheckCatalog, ...] = ("error", "warn", "off")

N = TypeVar("N", int, float)


@dataclass(frozen=True)
class Order:
    """What the user asked for, with its types; `of` reads it from rendered templates.

    :param end_seconds: length of the clip in seconds.
    :param max_credits: the most that the clip may cost, in credits.
    """

    image: str
    end_seconds: float
    end_image: str | None = None
    prompt: str | None = None
    model: str | None = None
    resolution: str | None = None
    audio: bool | None = None
    name: str | None = None
    image_conn_id: str | None = None
    max_credits: int | None = None
    check_catalog: CheckCatalog = "error"

    @classmethod
    def of(cls, **arguments: Any) -> Order:
        """Read arguments that may be strings, as templates render them; InvalidRequestError else."""
        image = _text("image", arguments.get("image"))
        if image is None:
            raise InvalidRequestError("image is empty: give a path, a URL or an uploaded file_path.")
        end_seconds = _number("end_seconds", float, arguments.get("end_seconds"))
        if end_seconds is None:
            raise InvalidRequestError("end_seconds is missing: give the clip's length in seconds.")
        texts = ("end_image", "prompt", "model", "resolution", "name", "image_conn_id")
        return cls(
            image,
            end_seconds,
            **{key: _text(key, arguments.get(key)) for key in texts},
            audio=_flag("audio", arguments.get("audio")),
            max_credits=_number("max_credits", int, arguments.get("max_credits")),
            check_catalog=arguments.get("check_catalog", "error"),
        )


def submit(client: MagicHourClient, order: Order) -> CreatedJob:
    """Check, upload and create.

    Raises ImageError, CatalogError or BudgetError before anything is sent, an APIError or NetworkError
    before anything is bought, and SubmissionUnknownError where the create's outcome is unknown.
    """
    from magichour_provider.storage.source import open_source

    image = open_source(order.image, order.image_conn_id)
    end_image = open_source(order.end_image, order.image_conn_id) if order.end_image else None
    account = _account(client)
    _check_sizes(account, image, end_image)
    _check_catalog(order, image)
    _check_budget(order, account)
    return client.create_image_to_video(_request(client, order, image, end_image))


def estimate(order: Order, account: Account | None = None) -> int | None:
    """Credits that the clip will cost by the catalogue; None where that is not known."""
    resolution = order.resolution or catalog.default_resolution(account.tier if account else None)
    return catalog.estimate_credits(_choice(order, resolution=resolution))


def _account(client: MagicHourClient) -> Account | None:
    try:
        return client.get_account()
    except NotFoundError:
        log.info("This API does not tell the account's tier and credits: they are not checked beforehand.")
        return None


def _check_sizes(account: Account | None, *sources: Remote | Upload | None) -> None:
    from magichour_provider.storage.source import Upload

    limit = catalog.MAX_UPLOAD_BYTES.get(account.tier) if account else None
    for source in sources:
        if account and limit is not None and isinstance(source, Upload):
            source.check_size(limit, account.tier)


def _check_catalog(order: Order, image: Remote | Upload) -> None:
    if order.check_catalog == "off":
        return
    model = order.model or catalog.DEFAULT_MODEL
    if not catalog.is_known(model):
        log.warning("Model %r is not in this provider's catalogue; Magic Hour will decide.", model)
    try:
        catalog.validate(_choice(order, resolution=order.resolution, image_size=image.image_size))
    except CatalogError as error:
        if order.check_catalog == "error":
            raise
        log.warning("%s Submitting all the same, as check_catalog is 'warn'.", error.what)


def _check_budget(order: Order, account: Account | None) -> None:
    cost = estimate(order, account)
    if order.max_credits is not None:
        if cost is None:
            raise BudgetError(
                f"max_credits is {order.max_credits}, and what this clip costs is not published: "
                "name a model and a resolution of the catalogue that have a rate, or leave max_credits out.",
                remedy="Trying again cannot help before that.",
            )
        if cost > order.max_credits:
            raise BudgetError(f"The clip costs {cost} credits, and max_credits is {order.max_credits}.")
    if account is not None and account.credits < (cost if cost is not None else 1):
        needed = f"needs {cost}" if cost is not None else "needs credits"
        short = f", {cost - account.credits} short" if cost is not None else ""
        raise BudgetError(f"The clip {needed}, and the account has {account.credits}{short}.")
    log.info(
        "The clip will cost %s credits by the catalogue.", "an unknown number of" if cost is None else cost
    )


def _request(
    client: MagicHourClient, order: Order, image: Remote | Upload, end_image: Remote | Upload | None
) -> ImageToVideoRequest:
    from magichour_provider.api.models import ImageToVideoRequest
    from magichour_provider.storage.transfer import upload

    return ImageToVideoRequest(
        image_file_path=upload(client, image),
        end_image_file_path=upload(client, end_image) if end_image else None,
        end_seconds=order.end_seconds,
        prompt=order.prompt,
        model=order.model,
        resolution=order.resolution,
        audio=order.audio,
        name=order.name,
    )


def _choice(order: Order, *, resolution: str | None, image_size: tuple[int, int] | None = None) -> Choice:
    return Choice(
        model=order.model or catalog.DEFAULT_MODEL,
        end_seconds=order.end_seconds,
        resolution=resolution,
        audio=bool(order.audio),
        end_image=order.end_image is not None,
        image_size=image_size,
    )


def _text(name: str, value: Any) -> str | None:
    """Read a string; an empty one, and the `None` that a template renders to, count as left out."""
    if value is None or value in ("", "None"):
        return None
    if not isinstance(value, str):
        value = str(value) if hasattr(value, "__fspath__") or name == "image" else value
    if not isinstance(value, str):
        raise InvalidRequestError(f"{name} must be a string, not {value!r:.80}.")
    return value


def _number(name: str, kind: Callable[[Any], N], value: Any) -> N | None:
    if value is None or value in ("", "None"):
        return None
    try:
        number = kind(value)
    except (TypeError, ValueError):
        raise InvalidRequestError(f"{name} must be a number, not {value!r:.80}.") from None
    if not 0 < number < float("inf"):
        raise InvalidRequestError(f"{name} must be a positive number, not {value!r:.80}.")
    return number


def _flag(name: str, value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    words = {
        "true": True,
        "1": True,
        "yes": True,
        "false": False,
        "0": False,
        "no": False,
        "": None,
        "none": None,
    }
    try:
        return words[str(value).strip().lower()]
    except KeyError:
        raise InvalidRequestError(f"{name} must be true or false, not {value!r:.80}.") from None
