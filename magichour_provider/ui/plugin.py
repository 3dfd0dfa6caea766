"""The plugin that Airflow loads. The pages themselves are imported in the API server, by their first request.

All parts of Airflow load plugins, also workers, so this module imports little.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.plugins_manager import AirflowPlugin

from magichour_provider.airflow_internals import provider_plugins_are_loaded
from magichour_provider.operators._base import SuccessListener
from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS, conf

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

PREFIX = "/magichour"


@cache
def _app() -> Any:
    from magichour_provider.ui.app import make_app

    return make_app()


async def pages(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request (ASGI). The first one builds the pages' application."""
    await _app()(scope, receive, send)


def _views() -> list[dict[str, Any]]:
    base = urlsplit(str(conf.get("api", "base_url", fallback="") or "")).path.rstrip("/") + PREFIX
    view = {"name": "Magic Hour", "icon": f"{base}/static/icon.svg"}
    view["icon_dark_mode"] = f"{base}/static/icon-dark.svg"
    nav = {"href": f"{base}/", "destination": "nav", "category": "browse", "url_route": "magichour"}
    task = "dag_id={DAG_ID}&run_id={RUN_ID}&task_id={TASK_ID}&map_index={MAP_INDEX}"
    tab = {"href": f"{base}/task?{task}", "destination": "task_instance", "url_route": "magichour_video"}
    return [{**view, **nav}, {**view, **tab}]


_is_enabled = AIRFLOW_V_3_1_PLUS and conf.getboolean("magichour", "ui_enabled", fallback=True)


class MagicHourPlugin(AirflowPlugin):
    """The tab of task instances and the page of all videos. `[magichour] ui_enabled = False` removes them.

    The listener stays: by it `ImageToVideoOperator` knows of its success.
    """

    name = "magichour"
    fastapi_apps = [{"app": pages, "url_prefix": PREFIX, "name": "Magic Hour"}] if _is_enabled else []
    external_views = _views() if _is_enabled else []
    listeners = [SuccessListener()]  # noqa: RUF012


ENTRY_POINT = None if provider_plugins_are_loaded() else MagicHourPlugin
"""For `airflow.plugins`. With `[core] lazy_discover_providers = False` Airflow loads the plugin from the
provider info, and a plugin that it finds twice is an import error."""
