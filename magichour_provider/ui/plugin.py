"""What Airflow loads: where the pages are, and nothing of what they need.

Every part of Airflow loads plugins, workers too; the pages themselves are imported in the API server, by the
first request to them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from airflow.plugins_manager import AirflowPlugin
from airflow.providers.common.compat.sdk import conf

from magichour_provider.airflow_internals import provider_plugins_are_loaded
from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS

PREFIX = "/magichour"

_Message = MutableMapping[str, Any]


class Pages:
    """The pages' application, made when it is first asked for."""

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(
        self,
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        """Answer one request (ASGI)."""
        if self._app is None:
            from magichour_provider.ui.app import make_app

            self._app = make_app()
        await self._app(scope, receive, send)


def _views() -> list[dict[str, Any]]:
    base = urlsplit(str(conf.get("api", "base_url", fallback="") or "")).path.rstrip("/") + PREFIX
    icons = {"icon": f"{base}/static/icon.svg", "icon_dark_mode": f"{base}/static/icon-dark.svg"}
    task = "dag_id={DAG_ID}&run_id={RUN_ID}&task_id={TASK_ID}&map_index={MAP_INDEX}"
    return [
        {
            "name": "Magic Hour",
            "href": f"{base}/",
            "destination": "nav",
            "category": "browse",
            "url_route": "magichour",
            **icons,
        },
        {
            "name": "Magic Hour",
            "href": f"{base}/task?{task}",
            "destination": "task_instance",
            "url_route": "magichour_clip",
            **icons,
        },
    ]


_are_wanted = AIRFLOW_V_3_1_PLUS and conf.getboolean("magichour", "ui_enabled", fallback=True)


class MagicHourPlugin(AirflowPlugin):
    """The tab on task instances and the page for all clips; `[magichour] ui_enabled = False` removes them."""

    name = "magichour"
    fastapi_apps = [{"app": Pages(), "url_prefix": PREFIX, "name": "Magic Hour"}] if _are_wanted else []
    external_views = _views() if _are_wanted else []


ENTRY_POINT = None if provider_plugins_are_loaded() else MagicHourPlugin
"""For `airflow.plugins`: a plugin in the provider info is loaded only where providers are looked for eagerly,
and one that is found by both ways is reported as an import error."""
