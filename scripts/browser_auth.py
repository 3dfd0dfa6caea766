"""An auth manager with users who may read some Dags only, for a live Airflow with a browser.

Airflow's own SimpleAuthManager knows roles and no Dags. A real deployment's auth manager does; this one has
just enough of it to show what a page lets through.
"""

from __future__ import annotations

import json
import os
from typing import Any

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

AUTH_MANAGER = "browser_auth.SomeDagsAuthManager"
READABLE_DAGS = "LIVE_AIRFLOW_READABLE_DAGS"
"""Variable with JSON: the ids of the Dags that a user may see, by user; one who is not in it sees all."""


class SomeDagsAuthManager(SimpleAuthManager):
    """SimpleAuthManager, and Dags that some users do not see."""

    def is_authorized_dag(self, *, user: Any, details: Any = None, **kwargs: Any) -> bool:
        """Whether the role allows it and the Dag, where one is named, is among the user's own."""
        if not super().is_authorized_dag(user=user, details=details, **kwargs):
            return False
        readable: dict[str, list[str]] = json.loads(os.environ[READABLE_DAGS])
        dag_id = details.id if details else None
        return dag_id is None or user.username not in readable or dag_id in readable[user.username]
