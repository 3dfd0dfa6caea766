"""Counts of the requests that each origin answered."""

from __future__ import annotations

from collections import Counter
from typing import Any

DROPPED = 0
"""Stands for the status of a request whose connection was closed without an answer."""


class RequestLedger:
    """Requests by origin, method, route template and status. Holds no key, no query, no real path."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str, int]] = Counter()

    def count(self, origin: str, method: str, template: str, status: int) -> None:
        """One more request, answered with `status` (DROPPED: not at all)."""
        self._counts[origin, method, template, status] += 1

    def entries(self) -> list[dict[str, Any]]:
        """The counts, in the order in which each kind was first seen."""
        return [
            {"origin": origin, "method": method, "path": template, "status": status, "count": count}
            for (origin, method, template, status), count in self._counts.items()
        ]
