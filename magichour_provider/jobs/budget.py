"""What a clip may cost: the limits of one clip, and whether the account can pay for it. No I/O."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magichour_provider.client import pricing as catalog
from magichour_provider.exceptions import BudgetError
from magichour_provider.jobs.choices import OnUnknownCost

if TYPE_CHECKING:
    from magichour_provider.client.models import Account

log = logging.getLogger(__name__)

_ADD_CREDITS = "Add credits at Magic Hour, or choose a shorter clip or a cheaper model."
_NO_CREDITS = "insufficient_credits"


@dataclass(frozen=True)
class Limits:
    """What the user allows, in credits; None: no limit.

    :param max_credits: for one clip.
    :param max_credits_per_run: for all clips of a Dag run (see `run_budget`).
    :param on_unknown_cost: what to do with a clip whose rate is not published; None: `fail` where there is
        a limit, else `allow`.
    """

    max_credits: int | None = None
    max_credits_per_run: int | None = None
    on_unknown_cost: OnUnknownCost | None = None

    @property
    def allows_unknown_cost(self) -> bool:
        """Whether a clip may be submitted whose cost nobody knows beforehand."""
        if self.on_unknown_cost is not None:
            return self.on_unknown_cost == "allow"
        return self.max_credits is None and self.max_credits_per_run is None

    def check(self, cost: int | None, model: str) -> None:
        """Refuse a clip that costs too much, or nobody knows how much. Raises BudgetError."""
        if cost is None:
            self._check_unknown(model)
            return
        log.info("The clip will cost %s credits by the catalogue.", cost)
        for name in ("max_credits", "max_credits_per_run"):
            limit = getattr(self, name)
            if limit is not None and cost > limit:
                raise BudgetError(f"The clip costs {cost} credits, and {name} is {limit}.")

    def _check_unknown(self, model: str) -> None:
        if self.allows_unknown_cost:
            log.info("What the clip costs is not known before it is submitted.")
            return
        unknown = "" if catalog.is_known(model) else f"{unknown_model(model)} "
        raise BudgetError(
            f"{unknown}What this clip costs is not published, and a clip of unknown cost is refused here "
            f"(max_credits={self.max_credits}, max_credits_per_run={self.max_credits_per_run}, "
            f"on_unknown_cost={self.on_unknown_cost!r}).",
            remedy="Name a model and a resolution that have a rate, or pass on_unknown_cost='allow'; trying "
            "again cannot help before that.",
        )


def check_balance(cost: int | None, account: Account) -> None:
    """Refuse a clip that the account cannot pay for. Raises BudgetError that says what is missing."""
    if cost is None and account.credits < 1:
        raise BudgetError(
            f"The clip needs credits, and the account has {account.credits}.",
            code=_NO_CREDITS,
            remedy=_ADD_CREDITS,
        )
    if cost is not None and account.credits < cost:
        short = cost - account.credits
        raise BudgetError(
            f"The clip needs {cost} credits, and the account has {account.credits}, {short} short.",
            code=_NO_CREDITS,
            remedy=_ADD_CREDITS,
        )


def unknown_model(model: str) -> str:
    """Say that a model is not in the catalogue, and which one may have been meant."""
    near = catalog.closest_model(model)
    hint = f"; did you mean {near!r}?" if near else "."
    return f"Model {model!r} is not in this provider's catalogue{hint}"
