"""The one account of a sandbox: its tier and its credits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from magichour_provider.client.pricing import MAX_UPLOAD_BYTES, Tier
from magichour_provider.sandbox.clock import iso

MONTHLY_PRICES = {Tier.CREATOR: 1900, Tier.PRO: 3900, Tier.BUSINESS: 9900}
"""US cents a month (docs: billing/subscription-pricing)."""

_BILLING_PERIOD = timedelta(days=30)


@dataclass
class Account:
    """Tier and spendable credits; `opened` is the start of the billing period."""

    tier: Tier
    credits: int
    opened: datetime

    @property
    def max_upload_bytes(self) -> int:
        """Largest upload that the tier allows, in bytes."""
        return MAX_UPLOAD_BYTES[self.tier.value]

    def body(self, *, milliseconds: bool) -> dict[str, Any]:
        """The answer of `GET /v1/account`."""
        return {
            "id": "sandbox-account",
            "email": "sandbox@example.com",
            "tier": self.tier.value,
            "credits": self.credits,
            "subscription": self._subscription(milliseconds=milliseconds),
        }

    def _subscription(self, *, milliseconds: bool) -> dict[str, Any] | None:
        if self.tier is Tier.FREE:
            return None
        return {
            "name": self.tier.value.capitalize(),
            "status": "active",
            "price": {"amount": MONTHLY_PRICES[self.tier], "currency": "usd"},
            "discount": None,
            "billing_interval": "month",
            "current_period_end": iso(self.opened + _BILLING_PERIOD, milliseconds=milliseconds),
            "cancel_at_period_end": False,
        }
