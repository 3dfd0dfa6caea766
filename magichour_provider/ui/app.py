"""The pages' FastAPI application: its routes, who may use them, and its headers.

    GET /            the gallery                         GET /task        the tab of a task instance
    GET /video       a video's bytes, or a redirect      GET /poster      its poster, or a contact sheet
    GET /balances    a fragment of the gallery           GET /static/...
    POST /webhooks/{connection id}    Magic Hour's webhooks, without a user

No page changes anything. Each is made for one user and may not be cached.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar
from urllib.parse import parse_qsl

from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.utils.session import create_session
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException as StarletteHTTPException

from magichour_provider import __version__
from magichour_provider.ui import access, batches, media, queries
from magichour_provider.ui.gallery import build_gallery
from magichour_provider.ui.media_files import MediaError, MediaUnavailableError
from magichour_provider.ui.queries import TaskRow
from magichour_provider.ui.task_page import build_task_page
from magichour_provider.ui.view_models import FILTERS, TaskKey
from magichour_provider.ui.webhooks import WebhookReceiver

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_TITLES = {
    401: "You are not logged in",
    403: "You may not see this page",
    404: "There is nothing here",
    422: "This address is incomplete",
    502: "The video cannot be read now",
}
_NOT_FOUND = "There is no such task, or you may not read the tasks and XComs of its Dag in Airflow."
_INVALID_ADDRESS = "A part of the address is missing or invalid."
_HEADERS = {
    "Cache-Control": "private, no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_loader = PackageLoader("magichour_provider.ui")
_templates = Environment(
    loader=_loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_templates.filters.update(FILTERS)


async def _task_key(
    request: Request, dag_id: str, run_id: str, task_id: str, map_index: str = "-1"
) -> TaskKey:
    """The task instance of an address. If it is not mapped, Airflow leaves `{MAP_INDEX}` in the address."""
    # Airflow 3.1 does not encode ids in the address, and most run ids contain a plus.
    run_id = dict(parse_qsl(request.url.query.replace("+", "%2B"))).get("run_id", run_id)
    if "\0" in dag_id + run_id + task_id:  # PostgreSQL refuses such a text
        raise HTTPException(404, _NOT_FOUND)
    index = int(map_index) if re.fullmatch("[0-9]{1,9}", map_index) else -1
    return TaskKey(dag_id, run_id, task_id, index)


TaskKeyDep = Annotated[TaskKey, Depends(_task_key)]


def make_app() -> FastAPI:
    """Build the application. Airflow mounts it."""
    app = FastAPI(title="Magic Hour", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")
    app.add_api_route("/", _in_thread(_gallery), response_class=HTMLResponse)
    app.add_api_route("/balances", _in_thread(_balances), response_class=HTMLResponse)
    app.add_api_route("/task", _in_thread(_task), response_class=HTMLResponse)
    app.add_api_route("/video", _in_thread(_video), methods=["GET", "HEAD"])
    app.add_api_route("/poster", _in_thread(_poster), methods=["GET", "HEAD"])
    app.add_api_route("/webhooks/{conn_id}", WebhookReceiver().receive, methods=["POST"])
    for error in (StarletteHTTPException, RequestValidationError, MediaError, Exception):
        app.add_exception_handler(error, _error_page)
    return app


def _in_thread(route: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """A route that runs in one of the pages' own threads."""

    @wraps(route)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return await media.run_in_thread(route, *args, **kwargs)

    # FastAPI up to 0.117 evaluates annotations in this module's names, not in those of the route.
    run.__signature__ = signature(route, eval_str=True)  # type: ignore[attr-defined]
    return run


def _gallery(
    request: Request,
    user: GetUserDep,
    dag_id: str = "",
    state: Annotated[str, Query(pattern="^(|in progress|success|failed)$")] = "",
    before: str = "",
) -> Response:
    time = queries.as_time(before)
    if before and time is None:
        raise HTTPException(422, _INVALID_ADDRESS)
    with create_session() as session:
        dag_ids = queries.get_dag_ids(session)
    # No connection to the database is held while the auth manager is asked.
    readable = access.readable_dag_ids(user, dag_ids)
    with create_session() as session:
        gallery = build_gallery(session, readable, dag_id=dag_id or None, state=state or None, before=time)
    return _page(request, "gallery.html", gallery=gallery)


def _balances(request: Request, user: GetUserDep) -> Response:
    with create_session() as session:
        conn_ids = queries.get_connection_ids(session)
    readable = [conn_id for conn_id in sorted(conn_ids) if access.may_read_connection(user, conn_id)]
    return _page(request, "balances.html", balances=[media.get_balance(conn_id) for conn_id in readable])


def _task(
    request: Request,
    user: GetUserDep,
    key: TaskKeyDep,
    status: Annotated[str, Query(pattern=f"^(|{'|'.join(batches.STATUSES)})$")] = "",
    page: Annotated[int, Query(ge=1, le=10**9)] = 1,
    item: str = "",
) -> Response:
    rows = _readable_tasks(user, key)
    if not rows[0].is_magichour:
        return _page(request, "not_ours.html")
    shown, media_origin = build_task_page(rows, status=status or None, number=page, item=item or None)
    return _page(request, "task.html", media_origin=media_origin, page=shown)


def _video(request: Request, user: GetUserDep, key: TaskKeyDep, item: str = "") -> Response:
    rows = _readable_tasks(user, key)
    if item:
        return media.respond(batches.open_video(rows[0], item), request)
    download, file_error = media.download_task(rows), None
    if download is not None:
        try:
            return media.respond(media.open_file(download), request)
        except MediaError as error:
            file_error = error
    try:
        return RedirectResponse(media.get_fresh_link(rows), status_code=307, headers=_HEADERS)
    except MediaError as error:
        raise file_error or error from None


def _poster(request: Request, user: GetUserDep, key: TaskKeyDep) -> Response:
    rows = _readable_tasks(user, key)
    return media.respond(media.open_file(media.download_task(rows) or rows[0], poster=True), request)


def _readable_tasks(user: GetUserDep, key: TaskKey) -> list[TaskRow]:
    """The task instance, and the others of its job. Raises the same 404 if it is hidden or does not exist."""
    if not access.may_read(user, key.dag_id):
        raise HTTPException(404, _NOT_FOUND)
    with create_session() as session:
        row = queries.get_task(session, key)
        if row is None:
            raise HTTPException(404, _NOT_FOUND)
        return queries.get_tasks_of_job(session, row) if row.is_magichour else [row]


def _error_page(request: Request, error: Exception) -> Response:
    """A page that explains the error. The details of an internal error go only to the log."""
    if isinstance(error, StarletteHTTPException):
        status, message = error.status_code, str(error.detail)
    elif isinstance(error, MediaError):
        status, message = 502 if isinstance(error, MediaUnavailableError) else 404, str(error)
    elif isinstance(error, RequestValidationError):
        status, message = 422, _INVALID_ADDRESS
    else:
        log.error("The page failed.", exc_info=error)
        status, message = 500, "The page failed. The log of the API server has the error."
    title = _TITLES.get(status, "This did not work")
    return _page(request, "refused.html", status_code=status, status=status, title=title, message=message)


def _page(
    request: Request, template: str, *, status_code: int = 200, media_origin: str | None = None, **values: Any
) -> HTMLResponse:
    root = str(request.scope.get("root_path", "")).rstrip("/")
    values |= {"root": root, "airflow": root.rpartition("/")[0] + "/", "version": __version__}
    text = _templates.get_template(template).render(**values)
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"media-src 'self'{f' {media_origin}' if media_origin else ''}; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'self'; base-uri 'none'"
    )
    content = text.encode("utf-8", "backslashreplace")  # a name in an XCom may be of bytes that are not UTF-8
    return HTMLResponse(content, status_code, {**_HEADERS, "Content-Security-Policy": policy})
