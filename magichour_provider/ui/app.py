"""The pages' application: addresses, who may open them, and how an answer leaves.

    GET /            the gallery                         GET /task        the tab of a task instance
    GET /clip        a clip's bytes, or a redirect       GET /poster      its poster, or a contact sheet
    GET /balances    a fragment of the gallery           GET /static/...

Nothing here changes anything. Every answer is made for one user and is kept by no cache.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl

from airflow.utils.session import create_session
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException as StarletteHTTPException

from magichour_provider import __version__
from magichour_provider.ui import gallery, task_page
from magichour_provider.ui import live_status as magic_hour
from magichour_provider.ui import media as clips
from magichour_provider.ui import queries as tables
from magichour_provider.ui.access import Viewer, ViewerDep
from magichour_provider.ui.filters import FILTERS
from magichour_provider.ui.media_roots import ClipError, ClipUnavailableError
from magichour_provider.ui.queries import TaskRow
from magichour_provider.ui.range_response import answer
from magichour_provider.ui.threadpool import apart
from magichour_provider.ui.view_models import TaskKey

log = logging.getLogger(__name__)

_TITLES = {
    401: "You are not logged in",
    403: "You may not see this",
    404: "There is nothing here",
    422: "This address is not complete",
    502: "The clip cannot be read now",
}
_NOT_YOURS = "There is no such task, or you may not read its Dag's tasks and XComs in Airflow."
_INCOMPLETE = "A part of the address is missing, or is not of its kind."
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'{media}; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'self'; base-uri 'none'"
)
_HEADERS = {
    "Cache-Control": "private, no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_templates = Environment(
    loader=PackageLoader("magichour_provider.ui"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters.update(FILTERS)


async def _key(request: Request, dag_id: str, run_id: str, task_id: str, map_index: str = "-1") -> TaskKey:
    """The task instance that an address names; Airflow leaves `{MAP_INDEX}` in it where there is none."""
    # Airflow 3.1 writes ids into the address as they are, and most runs have a plus in theirs.
    run_id = dict(parse_qsl(request.url.query.replace("+", "%2B"))).get("run_id", run_id)
    if "\0" in dag_id + run_id + task_id:  # a database may refuse to look for it
        raise HTTPException(404, _NOT_YOURS)
    index = int(map_index) if re.fullmatch("[0-9]{1,9}", map_index) else -1
    return TaskKey(dag_id, run_id, task_id, index)


KeyDep = Annotated[TaskKey, Depends(_key)]


def make_app() -> FastAPI:
    """Build the application; Airflow mounts it."""
    app = FastAPI(title="Magic Hour", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")
    app.add_api_route("/", apart(_gallery), response_class=HTMLResponse)
    app.add_api_route("/balances", apart(_balances), response_class=HTMLResponse)
    app.add_api_route("/task", apart(_task), response_class=HTMLResponse)
    app.add_api_route("/clip", apart(_clip), methods=["GET", "HEAD"])
    app.add_api_route("/poster", apart(_poster), methods=["GET", "HEAD"])
    app.add_exception_handler(StarletteHTTPException, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse)
    app.add_exception_handler(Exception, _refuse)
    return app


def _gallery(
    request: Request,
    viewer: ViewerDep,
    dag_id: str = "",
    state: Annotated[str, Query(pattern="^(|in progress|success|failed)$")] = "",
    before: str = "",
) -> Response:
    moment = tables.moment(before)
    if before and moment is None:
        raise HTTPException(422, _INCOMPLETE)
    with create_session() as session:
        dag_ids = tables.dag_ids(session)
    # No connection of the pool is held while the auth manager is asked.
    readable = viewer.readable_dag_ids(dag_ids)
    with create_session() as session:
        shown = gallery.compose(session, readable, dag_id=dag_id or None, state=state or None, before=moment)
    return _page(request, "gallery.html", gallery=shown)


def _balances(request: Request, viewer: ViewerDep) -> Response:
    with create_session() as session:
        known = magic_hour.connection_ids(session)
    readable = [conn_id for conn_id in known if viewer.may_read_connection(conn_id)]
    return _page(
        request, "balances.html", balances=tuple(magic_hour.balance(conn_id) for conn_id in readable)
    )


def _task(request: Request, viewer: ViewerDep, key: KeyDep) -> Response:
    rows = _readable(viewer, key)
    if not rows[0].is_ours:
        return _page(request, "not_ours.html")
    shown = task_page.compose(rows)
    return _page(request, "task.html", media_origin=shown.media_origin, page=shown.page)


def _clip(request: Request, viewer: ViewerDep, key: KeyDep) -> Response:
    rows = _readable(viewer, key)
    landed = clips.landed_row(rows)
    refusal = None
    if landed is not None:
        try:
            return answer(clips.open_landed(landed), request)
        except ClipError as error:
            refusal = error
    try:
        return RedirectResponse(clips.fresh_link(rows), status_code=307, headers=_HEADERS)
    except ClipError as error:
        raise _http(refusal or error) from None


def _poster(request: Request, viewer: ViewerDep, key: KeyDep) -> Response:
    rows = _readable(viewer, key)
    try:
        return answer(clips.open_landed(clips.landed_row(rows) or rows[0], poster=True), request)
    except ClipError as error:
        raise _http(error) from None


def _readable(viewer: Viewer, key: TaskKey) -> list[TaskRow]:
    """The task instance and its relatives, where the user may read them. Raises 404 else, whichever it is."""
    if not viewer.may_read(key.dag_id):
        raise HTTPException(404, _NOT_YOURS)
    with create_session() as session:
        row = tables.task_row(session, key)
        if row is None:
            raise HTTPException(404, _NOT_YOURS)
        return tables.relatives(session, row) if row.is_ours else [row]


def _http(error: ClipError) -> HTTPException:
    return HTTPException(502 if isinstance(error, ClipUnavailableError) else 404, str(error))


def _refuse(request: Request, error: Exception) -> Response:
    """A page that says what is wrong; of an error of our own no more than that there was one."""
    if isinstance(error, StarletteHTTPException):
        status, message = error.status_code, str(error.detail)
    elif isinstance(error, RequestValidationError):
        status, message = 422, _INCOMPLETE
    else:
        log.error("The page could not be made.", exc_info=error)
        status, message = 500, "The page could not be made. The API server's log says why."
    title = _TITLES.get(status, "This did not work")
    return _page(request, "refused.html", status_code=status, status=status, title=title, message=message)


def _page(
    request: Request,
    template: str,
    *,
    status_code: int = 200,
    media_origin: str | None = None,
    **values: Any,
) -> HTMLResponse:
    root = str(request.scope.get("root_path", "")).rstrip("/")
    text = _templates.get_template(template).render(
        root=root, airflow=root.rpartition("/")[0] + "/", version=__version__, **values
    )
    policy = _POLICY.format(media=f" {media_origin}" if media_origin else "")
    return HTMLResponse(text, status_code, {**_HEADERS, "Content-Security-Policy": policy})
