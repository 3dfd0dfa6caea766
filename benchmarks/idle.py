"""A trigger that never fires: it shows the cost of any deferred task in the triggerer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

CLASSPATH = "idle.IdleTrigger"


class IdleTrigger(BaseTrigger):
    """Never fires."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """It has no arguments."""
        return CLASSPATH, {}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait without end."""
        yield await asyncio.get_running_loop().create_future()
