"""What a rescheduled sensor has seen of its job, kept from poke to poke: each is a process of its own.

It lives in Airflow's task state store (3.3). Below there is none, and such a sensor does not know how long
its job was in the queue. It is a convenience, so nothing here raises.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.polling.poller import Poller

log = logging.getLogger(__name__)

KEY = "magichour_poke_state"
"""Key in the state store: the job's id, and the epoch seconds of `_MOMENTS`, as far as they are known."""
_MOMENTS = ("queued_at", "rendering_since")


def recall(context: Context, project_id: str) -> dict[str, float]:
    """What earlier pokes have seen of this job, as arguments for `Watch`."""
    try:
        store = context.get("task_state_store")
        kept = store.get(KEY) if store is not None else None
    except Exception as error:
        log.debug("What earlier pokes have seen cannot be read.", exc_info=error)
        return {}
    if not isinstance(kept, Mapping) or kept.get("project_id") != project_id:
        return {}
    return {name: float(kept[name]) for name in _MOMENTS if isinstance(kept.get(name), (int, float))}


def remember(context: Context, watch: Poller, recalled: Mapping[str, float]) -> None:
    """Keep what this poke has seen for the next one; written when there is news, twice in a job's life."""
    seen = {name: value for name in _MOMENTS if (value := getattr(watch, name)) is not None}
    if seen.keys() <= recalled.keys():
        return
    try:
        store = context.get("task_state_store")
        if store is not None:
            store.set(KEY, {"project_id": watch.project_id, **seen})
    except Exception as error:
        log.debug("What this poke has seen cannot be kept.", exc_info=error)
