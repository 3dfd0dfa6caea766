"""The video of a job: from its file or from Magic Hour, as a player on a page and as an HTTP response.

Keys and signed links stay in this process. A link leaves it only as the target of a redirect.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, lru_cache, partial
from typing import Any, Final, ParamSpec, TypeVar
from urllib.parse import quote

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from magichour_provider.client.models import JobStatus, VideoProject
from magichour_provider.client.sync import MagicHourClient
from magichour_provider.exceptions import (
    ConfigurationError,
    JobDeletedError,
    JobNotCompleteError,
    MagicHourError,
    NotFoundError,
)
from magichour_provider.hooks.connection import settings_from_connection
from magichour_provider.jobs.reference import DEFAULT_CONN_ID
from magichour_provider.storage.locations import file_name_at, get_hostname, redact
from magichour_provider.ui.media_files import (
    AllowedFile,
    Kind,
    MediaError,
    MediaMissingError,
    MediaRefusedError,
    OpenFile,
    authorize,
    open_media,
    parse_roots,
)
from magichour_provider.ui.queries import TaskRow, as_text
from magichour_provider.ui.view_models import Balance, Player
from magichour_provider.version_compat import AirflowNotFoundException, BaseHook, conf

P = ParamSpec("P")
T = TypeVar("T")

MAX_THREADS: Final = 10
"""Threads of an API server that wait for Magic Hour and object stores at the same time."""
STATUS_SECONDS, BALANCE_SECONDS, LINK_SECONDS, ERROR_SECONDS = 3.0, 60.0, 60.0, 5.0
"""How long an answer of Magic Hour, and an error instead of one, is used again."""
_TIMEOUT_SECONDS = 10.0
_MAX_ENTRIES = 2000

_limiter: RunVar[CapacityLimiter] = RunVar("magichour_ui_threads")


async def run_in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function in one of the pages' own threads.

    Airflow's API server answers all requests, also those of running tasks, from one small pool of threads.
    """
    limiter = _limiter.get(None)
    if limiter is None:
        limiter = CapacityLimiter(MAX_THREADS)
        _limiter.set(limiter)
    return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=limiter)


# Magic Hour


class TTLCache:
    """Values that are used again for some seconds. Threads that need the same value share one request."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[Hashable, tuple[float, Any]] = {}
        self._locks = tuple(threading.Lock() for _ in range(64))

    def get(self, key: Hashable, seconds: float, load: Callable[[], T]) -> T:
        """The value of `key`, loaded if it is too old. A MagicHourError is kept for some seconds, too."""
        with self._locks[hash(key) % len(self._locks)]:
            expires, value = self._entries.get(key, (float("-inf"), None))
            if self._clock() >= expires:
                try:
                    value = load()
                except MagicHourError as error:
                    value, seconds = error, ERROR_SECONDS
                if len(self._entries) >= _MAX_ENTRIES:
                    self._entries.clear()
                self._entries[key] = (self._clock() + seconds, value)
        if isinstance(value, MagicHourError):
            raise value.with_traceback(None)
        loaded: T = value
        return loaded


answers = TTLCache()


def get_project(conn_id: str, project_id: str) -> VideoProject:
    """Ask Magic Hour for a job. Raises MagicHourError."""
    return answers.get(
        ("project", conn_id, project_id), STATUS_SECONDS, lambda: _client(conn_id).get_video(project_id)
    )


def get_balance(conn_id: str) -> Balance:
    """Tier and credits of a connection's account, or why they cannot be read."""

    def load() -> Balance:
        try:
            account = _client(conn_id).get_account()
        except NotFoundError:
            return Balance(conn_id, problem="This API does not give tier and credits.")
        except MagicHourError as error:
            return Balance(conn_id, problem=error.what)
        return Balance(conn_id, tier=account.tier, credits=account.credits)

    return answers.get(("balance", conn_id), BALANCE_SECONDS, load)


def get_fresh_link(rows: Sequence[TaskRow]) -> str:
    """A new signed link to the job's video: only for a redirect. Raises MediaError."""
    project_id, conn_id = rows[0].project_id, conn_id_of_job(rows)
    if project_id is None:
        raise MediaRefusedError("This task has no job yet.")

    def load() -> str:
        project = None
        with suppress(NotFoundError):
            project = _client(conn_id).get_video(project_id)
        if project is None or not project.enabled:
            raise JobDeletedError(f"Job {project_id} was deleted at Magic Hour.", project_id=project_id)
        if not is_playable(project):
            raise JobNotCompleteError(f"Job {project_id} has no video yet.", project_id=project_id)
        return project.downloads[0].url.get_secret_value()

    try:
        return answers.get(("link", conn_id, project_id), LINK_SECONDS, load)
    except MagicHourError as error:
        raise MediaRefusedError(error.what) from None  # its remedy is for a task


_client_of = lru_cache(maxsize=16)(MagicHourClient.from_settings)


def _client(conn_id: str) -> MagicHourClient:
    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise ConfigurationError(f"Connection {conn_id!r} is not defined.") from None
    settings = settings_from_connection(connection)
    return _client_of(replace(settings, timeout=min(settings.timeout, _TIMEOUT_SECONDS), max_attempts=1))


# The video of a job


def download_task(rows: Sequence[TaskRow]) -> TaskRow | None:
    """The task instance that downloaded the job's video."""
    return next((row for row in rows if row.video_path is not None), None)


def conn_id_of_job(rows: Sequence[TaskRow]) -> str:
    """The connection of the job's tasks."""
    return next(filter(None, (row.field("magichour_conn_id") for row in rows)), DEFAULT_CONN_ID)


def open_file(row: TaskRow, *, poster: bool = False) -> OpenFile:
    """Open a task's downloaded video, or its poster or contact sheet. Raises MediaError."""
    picture = row.result.get("path" if row.is_contact_sheet else "poster")
    path = as_text(picture) if poster else row.video_path
    if path is None:
        raise MediaRefusedError(f"This task has written no {'poster' if poster else 'video'}.")
    return open_at(row, path, "poster" if poster else "video")


def open_at(row: TaskRow, path: str, kind: Kind, *, confirmed_by: str = "path") -> OpenFile:
    """Open a file at the path that a task gives, if the task can have written it there. Raises MediaError.

    :param confirmed_by: the rendered field of the task that confirms the path.
    """
    try:
        return open_media(_authorize(row, path, confirmed_by), kind)
    except MediaMissingError:
        hostname = as_text(row.result.get("hostname"))
        if hostname in (None, get_hostname()):
            raise
        raise MediaMissingError(
            f"The file was saved by worker {hostname}. Airflow's API server has no such file."
        ) from None


def file_player(row: TaskRow) -> Player | None:
    """The player of a downloaded video; None if it is not below the roots. The file is not opened."""
    if not may_open(row, row.video_path or ""):
        return None
    poster = f"poster?{row.key.query}" if row.result.get("poster") else None
    return Player(f"video?{row.key.query}", poster, path=redact(row.video_path or ""))


def may_open(row: TaskRow, path: str) -> bool:
    """Whether `open_at` would try to open the file."""
    try:
        _authorize(row, path)
    except MediaError:
        return False
    return True


def _authorize(row: TaskRow, path: str, confirmed_by: str = "path") -> AllowedFile:
    try:
        roots = _parse_roots_once(str(conf.get("magichour", "ui_video_roots", fallback="") or ""))
    except ConfigurationError as error:
        raise MediaRefusedError(str(error)) from None
    return authorize(path, dag_id=row.key.dag_id, rendered_path=row.field(confirmed_by), roots=roots)


_parse_roots_once = cache(parse_roots)


def is_playable(project: VideoProject) -> bool:
    """Whether Magic Hour has a video of it."""
    return project.status == JobStatus.COMPLETE and bool(project.downloads)


def link_origin(project: VideoProject) -> str | None:
    """Scheme and host of the video's link, for the content security policy.

    None for a host that could be read as more of the policy.
    """
    origin = (
        r"(https?://)(?:[^/?#@\\]*@)?"
        r"((?:[A-Za-z0-9_-][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)(?=[/?#]|$)"
    )
    found = re.match(origin, project.downloads[0].url.get_secret_value())
    return found[1] + found[2] if found else None


# The file as an HTTP response


class _FileResponse(StreamingResponse):
    """Streams a part of a file, and closes it at the end, also if the client disconnects.

    Starlette's FileResponse opens a file again by its path, after it was checked, and reads no object store.
    """

    def __init__(self, file: OpenFile, part: range, status_code: int, headers: dict[str, str]) -> None:
        blocks = file.read(part.start, part.stop)

        async def read() -> AsyncIterator[bytes]:
            while block := await run_in_thread(next, blocks, b""):  # between two blocks no thread is held
                yield block

        super().__init__(read(), status_code, headers)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file.handle:
            await super().__call__(scope, receive, send)


def respond(file: OpenFile, request: Request) -> Response:
    """The response to a GET or HEAD of this file, which closes it (RFC 9110, sections 13 and 14).

    One range is served (206, or 416 if it contains no byte). Several ranges, and invalid ones, are ignored
    (200). `If-None-Match` and `If-Range` are observed.
    """
    asked, size = request.headers, file.size
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": file.etag,
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(file_name_at(file.location), safe='')}",
        "X-Content-Type-Options": "nosniff",
    }
    if "gzip" in asked.get("accept-encoding", ""):
        # Airflow's compression skips a response with an encoding; a compressed range would be wrong.
        headers["Content-Encoding"] = "identity"
    status, part = 200, range(size)
    known = [tag.strip().removeprefix("W/") for tag in asked.get("if-none-match", "").split(",")]
    if file.etag in known or known == ["*"]:
        status, part = 304, range(0)
    elif request.method == "GET" and asked.get("if-range") in (None, file.etag):
        wanted = parse_range(asked.get("range", ""), size)
        if wanted is not None:
            status, part = (206 if wanted else 416), wanted
    if part:
        headers |= {"Content-Length": str(len(part)), "Content-Type": file.media_type}
    if status == 206:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    elif status == 416:
        headers["Content-Range"] = f"bytes */{size}"
    if part and request.method == "GET":
        return _FileResponse(file, part, status, headers)
    file.handle.close()
    return Response(status_code=status, headers=headers)


def parse_range(header: str, size: int) -> range | None:
    """The bytes of a Range header in a file of `size` bytes: None to ignore it, empty for a 416."""
    match = re.fullmatch("bytes=([0-9]{0,99})-([0-9]{0,99})", header.strip(), re.IGNORECASE)
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        return range(size - min(int(match[2]), size), size)
    if match[2] and int(match[2]) < int(match[1]):
        return None
    return range(int(match[1]), min(int(match[2]) + 1, size) if match[2] else size)
