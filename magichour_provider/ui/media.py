"""From what the tables know of a job to a clip that can be played."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from magichour_provider.client.models import JobStatus, VideoProject
from magichour_provider.exceptions import ConfigurationError, MagicHourError
from magichour_provider.jobs.reference import DEFAULT_CONN_ID
from magichour_provider.storage.locations import display
from magichour_provider.ui import coercion as told
from magichour_provider.ui import live_status as magic_hour
from magichour_provider.ui.media_files import ClipFile, find
from magichour_provider.ui.media_roots import ClipError, ClipRefusedError, admit
from magichour_provider.ui.queries import TaskRow
from magichour_provider.ui.settings import clip_roots
from magichour_provider.ui.view_models import Landed, Player

STORAGE, MAGIC_HOUR = "storage", "magic-hour"
_ORIGIN = re.compile(
    r"(https?://)(?:[^/?#@\\]*@)?((?:[A-Za-z0-9_-][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)(?=[/?#]|$)"
)


def landed_row(rows: Sequence[TaskRow]) -> TaskRow | None:
    """The task instance that has landed the clip."""
    return next((row for row in rows if _path(row) is not None), None)


def conn_id_of(rows: Sequence[TaskRow]) -> str:
    """The connection by which the job is reached."""
    named = (row.field("magichour_conn_id") for row in rows)
    return next(filter(None, named), DEFAULT_CONN_ID)


def open_landed(row: TaskRow, *, poster: bool = False) -> ClipFile:
    """Open the landed clip, or its poster, or the task's contact sheet.

    Raises ClipError where it may not be shown, or is not there.
    """
    picture = row.result.get("path" if row.is_sheet else "poster")
    path = told.text(picture) if poster else _path(row)
    if path is None:
        raise ClipRefusedError(
            "This task has landed no poster." if poster else "This task has landed no clip."
        )
    return find(
        path,
        dag_id=row.key.dag_id,
        rendered_path=row.field("path"),
        roots=_roots(),
        kind="poster" if poster else "clip",
    )


def may_be_shown(row: TaskRow) -> bool:
    """Whether the roots hold a landed clip, without looking whether it is there."""
    try:
        admit(
            str(row.result["path"]),
            dag_id=row.key.dag_id,
            rendered_path=row.field("path"),
            roots=_roots(),
        )
    except ClipError:
        return False
    return True


def stored_player(row: TaskRow) -> Player:
    """The player of a landed clip, without looking at the file."""
    return Player(
        video=f"clip?{row.key.query}",
        origin=STORAGE,
        poster=f"poster?{row.key.query}" if row.result.get("poster") else None,
        place=display(str(row.result["path"])),
    )


def remote_player(row: TaskRow) -> Player:
    """The player of a clip that comes from Magic Hour."""
    return Player(video=f"clip?{row.key.query}", origin=MAGIC_HOUR)


def is_playable(project: VideoProject) -> bool:
    """Whether Magic Hour has a clip of it."""
    return project.status == JobStatus.COMPLETE and bool(project.downloads)


def origin_of(project: VideoProject) -> str | None:
    """Scheme and host of the clip's link: what the page's policy must allow, and nothing secret.

    None where the host is not written as browsers write one: it would be taken for more of the policy.
    """
    found = _ORIGIN.match(project.downloads[0].url.get_secret_value())
    return found[1] + found[2] if found else None


def fresh_link(rows: Sequence[TaskRow]) -> str:
    """A link to the clip at Magic Hour, for a redirect. Raises ClipError."""
    project_id = rows[0].project_id
    if project_id is None:
        raise ClipRefusedError("No job is known of this task.")
    try:
        return magic_hour.clip_link(conn_id_of(rows), project_id)
    except MagicHourError as error:
        raise ClipRefusedError(str(error)) from None


def describe_landed(row: TaskRow) -> Landed:
    """What the task has said of the file."""
    result = row.result
    return Landed(
        place=display(str(result["path"])),
        size=told.whole(result.get("size")),
        sha256=told.text(result.get("sha256")),
        width=told.whole(result.get("width")),
        height=told.whole(result.get("height")),
        fps=told.number(result.get("fps")),
        duration=told.number(result.get("duration")),
    )


def _roots() -> Any:
    try:
        return clip_roots()
    except ConfigurationError as error:
        raise ClipRefusedError(str(error)) from None


def _path(row: TaskRow) -> str | None:
    return told.text(row.result.get("path")) if row.result.get("project_id") else None
