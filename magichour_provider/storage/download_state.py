"""The record of a delivered clip, by which a new try knows it after it was removed at Magic Hour.

It lives in Airflow's task state store (3.3), and is written before the removal. Below 3.3 a file that has the
project's id for a name is known by that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from magichour_provider.airflow_internals import NEVER_EXPIRE

if TYPE_CHECKING:
    from airflow.sdk import Context

KEY = "magichour_download"


class DeliveryRecord:
    """What the running task has landed for these arguments."""

    def __init__(self, context: Context, arguments: Mapping[str, Any]) -> None:
        self._store = context.get("task_state_store")
        self._arguments = dict(arguments)

    def write(self, result: Mapping[str, Any]) -> None:
        """Keep what was landed."""
        if self._store is not None:
            stored = {"arguments": self._arguments, "result": dict(result)}
            self._store.set(KEY, stored, retention=NEVER_EXPIRE)

    def read(self) -> dict[str, Any] | None:
        """What an earlier try has landed for the same arguments."""
        stored: Any = self._store.get(KEY) if self._store is not None else None
        if stored is None or stored["arguments"] != self._arguments:
            return None
        result: dict[str, Any] = stored["result"]
        return result
