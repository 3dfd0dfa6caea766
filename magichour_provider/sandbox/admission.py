"""Whether a create is taken, as what, and at which price. Pure: no clock, no disk, no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from magichour_provider.client import pricing as catalog
from magichour_provider.client.pricing import ModelRequest, Tier
from magichour_provider.client.pricing_table import AUDIO_ALIASES, MODELS, Audio
from magichour_provider.exceptions import CatalogError
from magichour_provider.sandbox.behaviour import Behaviour
from magichour_provider.sandbox.bodies import CreateBody
from magichour_provider.sandbox.jobs import Order
from magichour_provider.sandbox.problems import Problem

FALLBACK_RATE = 48
"""Credits per second where no rate is published: that of most models at 720p."""

ROUTES: Mapping[str, str] = MappingProxyType({"kling-2.5": "kling-2.6", "seedance": "seedance-1.5"})
"""Old names and the models that render for them (docs: changelog, 10 August and 15 June 2026)."""

_FREE_FAMILY = "ltx"
_FREE_MODEL = "ltx-2.5"
_PAID_MODEL = "kling-3.0"
_LOW_RESOLUTION_MODEL = "seedance-1.5"
_LONG_SECONDS = 15


@dataclass(frozen=True)
class Admission:
    """The rules of one moment: the account's tier and the behaviour."""

    tier: Tier
    behaviour: Behaviour

    def order(self, body: CreateBody, default_name: str, image_size: tuple[int, int] | None) -> Order:
        """Admit `body`. Raises Problem: unknown model, plan gate, or a combination that is not taken."""
        self._check_model_is_known(body.model)
        asked = ModelRequest(
            model=body.model,
            end_seconds=body.end_seconds,
            resolution=body.resolution or body.style.resolution or catalog.default_resolution(self.tier),
            audio=body.audio,
            end_image=body.assets.end_image_file_path is not None,
            image_size=image_size,
        )
        self._check_plan(asked)
        choice = self._resolve_default(asked) if asked.model == catalog.DEFAULT_MODEL else asked
        choice = self._checked(choice)
        base = AUDIO_ALIASES.get(choice.model, choice.model)
        model = ROUTES.get(base, base)
        return Order(
            name=default_name if body.name is None else body.name,
            requested_model=body.model,
            model=model,
            resolution=choice.resolution or "720p",
            end_seconds=choice.end_seconds,
            audio=choice.audio or _always_sounds(choice.model),
            fps=30 if model == "sora-2" else 24,
            credits=price(choice),
            image_file_path=body.assets.image_file_path,
            end_image_file_path=body.assets.end_image_file_path,
            prompt=body.style.prompt,
        )

    def _check_model_is_known(self, model: str) -> None:
        if self.behaviour.unknown_model == "refuse" and not catalog.is_known(model):
            raise Problem(400, f"Invalid value for field: model (expected enum): unknown model {model!r}")

    def _check_plan(self, choice: ModelRequest) -> None:
        """The free tier has 480p and the ltx models (docs: billing/subscription-pricing)."""
        if self.tier is not Tier.FREE:
            return
        status = self.behaviour.plan_gate_status
        if choice.model != catalog.DEFAULT_MODEL and not choice.model.startswith(_FREE_FAMILY):
            code = "subscription_required" if status == 402 else None
            raise Problem(status, f"Model {choice.model} needs a subscription", code)
        if choice.resolution not in ("360p", "480p"):
            code = "plan_upgrade_required" if status == 402 else None
            raise Problem(status, f"Resolution {choice.resolution} is not in the free plan", code)

    def _resolve_default(self, choice: ModelRequest) -> ModelRequest:
        """What `default` stands for: by tier alone, or by request (docs: api-reference/models)."""
        if self.tier is Tier.FREE:
            return replace(choice, model=_FREE_MODEL)
        if self.behaviour.default_model == "by_tier":
            return replace(choice, model=_PAID_MODEL)
        if choice.resolution == "480p":
            preferred = _LOW_RESOLUTION_MODEL
        else:
            preferred = _FREE_MODEL if choice.end_seconds > _LONG_SECONDS else _PAID_MODEL
        first = replace(choice, model=preferred)
        return first if _is_taken(first) else replace(choice, model=_FREE_MODEL)

    def _checked(self, choice: ModelRequest) -> ModelRequest:
        """`choice` as it will be rendered: itself, or without the audio that its model does not have."""
        silent = replace(choice, audio=False)
        if self.behaviour.unsupported_audio == "ignore" and not _is_taken(choice) and _is_taken(silent):
            return silent
        try:
            catalog.validate(choice)
        except CatalogError as error:
            raise Problem(self.behaviour.validation_status, error.what) from None
        return choice


def price(choice: ModelRequest) -> int:
    """Credits for `choice`: the catalogue's estimate, or FALLBACK_RATE a second where it has none."""
    estimate = catalog.estimate_credits(choice)
    return round(FALLBACK_RATE * choice.end_seconds) if estimate is None else estimate


def _always_sounds(model: str) -> bool:
    vintages = MODELS.get(model, ())
    return model in AUDIO_ALIASES or any(vintage.audio is Audio.ALWAYS for vintage in vintages)


def _is_taken(choice: ModelRequest) -> bool:
    try:
        catalog.validate(choice)
    except CatalogError:
        return False
    return True
