"""The tab of one task instance, from what Airflow and Magic Hour know of its job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from magichour_provider.client.models import JobStatus, VideoProject
from magichour_provider.client.projects import library_url
from magichour_provider.exceptions import MagicHourError, NotFoundError
from magichour_provider.operators._base import describe_error
from magichour_provider.polling.outcome import of_project, status_text
from magichour_provider.storage.locations import display
from magichour_provider.ui import coercion as told
from magichour_provider.ui import live_status as magic_hour
from magichour_provider.ui import media as clips
from magichour_provider.ui.error_help import UNTOLD, explain
from magichour_provider.ui.media_roots import ClipError
from magichour_provider.ui.queries import TaskRow, moment
from magichour_provider.ui.states import FINAL_STATES
from magichour_provider.ui.view_models import Failure, TaskPage

T = TypeVar("T")

_ENDED = frozenset({JobStatus.COMPLETE.value, JobStatus.ERROR.value, JobStatus.CANCELED.value})
_REFRESH_SECONDS = 5
_GONE = "Magic Hour does not have this job any more: it was deleted, or the connection is of another account."


@dataclass(frozen=True)
class Shown:
    """A page, and the one foreign origin that its player needs; None: none."""

    page: TaskPage
    media_origin: str | None = None


def compose(rows: Sequence[TaskRow]) -> Shown:
    """The page of `rows[0]`; the others are about the same job. Asks Magic Hour what is not known."""
    row, facts = rows[0], _Facts(rows)
    page = TaskPage(
        key=row.key,
        operator=row.operator,
        state=row.state,
        status=facts.status,
        name=facts.text("name"),
        model=facts.text("model"),
        resolution=facts.text("resolution"),
        end_seconds=facts.number("end_seconds"),
        prompt=facts.field("prompt"),
        image=_shown_image(facts.field("image")),
        credits_charged=facts.credits_charged,
        queued_seconds=facts.number("queued_seconds"),
        rendering_seconds=facts.number("rendering_seconds"),
        submitted_at=facts.submitted_at,
        project_id=row.project_id,
        library_url=library_url(row.project_id) if row.project_id else None,
        failure=explain(row.failure) if row.state == "failed" or row.failure else None,
        refresh_seconds=None if row.state in FINAL_STATES else _REFRESH_SECONDS,
    )
    return _with_clip(page, rows)


def _with_clip(page: TaskPage, rows: Sequence[TaskRow]) -> Shown:
    """With the clip from where it has landed, else from Magic Hour, else a note that says why not."""
    if rows[0].is_sheet:
        return Shown(_with_sheet(page, rows[0]))
    landed = clips.landed_row(rows)
    if landed is not None:
        page = replace(page, landed=clips.describe_landed(landed))
        try:
            clips.open_landed(landed).close()
        except ClipError as error:
            page = replace(page, notes=(*page.notes, str(error)))
        else:
            return Shown(replace(page, player=clips.stored_player(landed)))
    if page.project_id is None or (page.status in _ENDED and page.status != JobStatus.COMPLETE.value):
        return Shown(page)
    return _with_remote(page, rows, page.project_id)


def _with_sheet(page: TaskPage, row: TaskRow) -> TaskPage:
    if "path" not in row.result:
        return page
    page = replace(page, landed=clips.describe_landed(row))
    try:
        clips.open_landed(row, poster=True).close()
    except ClipError as error:
        return replace(page, notes=(*page.notes, str(error)))
    return replace(page, picture=f"poster?{row.key.query}")


def _with_remote(page: TaskPage, rows: Sequence[TaskRow], project_id: str) -> Shown:
    try:
        project = magic_hour.project(clips.conn_id_of(rows), project_id)
    except NotFoundError:
        return Shown(replace(page, notes=(*page.notes, _GONE)))
    except MagicHourError as error:
        return Shown(replace(page, notes=(*page.notes, f"Magic Hour could not be asked. {error}")))
    page = _with_news(page, project)
    if not clips.is_playable(project):
        return Shown(page)
    return Shown(replace(page, player=clips.remote_player(rows[0])), clips.origin_of(project))


def _with_news(page: TaskPage, project: VideoProject) -> TaskPage:
    charged, status = project.credits_charged, status_text(project)
    return replace(
        page,
        status=status,
        is_live=True,
        name=page.name or project.name,
        end_seconds=page.end_seconds or project.end_seconds,
        credits_charged=page.credits_charged if charged is None else charged,
        submitted_at=page.submitted_at or project.created_at,
        refresh_seconds=page.refresh_seconds if status in _ENDED else _REFRESH_SECONDS,
        failure=page.failure if page.failure not in (None, UNTOLD) else _failure_of(project) or page.failure,
    )


def _failure_of(project: VideoProject) -> Failure | None:
    """Why the job failed, in Magic Hour's own words; None where it did not."""
    outcome = of_project(project)
    error = outcome.error() if outcome is not None else None
    return None if error is None else explain(describe_error(error, credits_charged=project.credits_charged))


class _Facts:
    """What the task instances of one job say of it: the last word first."""

    def __init__(self, rows: Sequence[TaskRow]) -> None:
        self._rows = rows
        described = sorted(
            (row.result for row in rows), key=lambda result: str(result.get("status")) not in _ENDED
        )
        self._results = [result for result in described if result]
        self._record = next((row.record for row in rows if row.record), {})

    @property
    def status(self) -> str | None:
        if self._rows[0].failure.get("error") in ("JobFailedError", "ModerationError"):
            return JobStatus.ERROR.value
        if clips.landed_row(self._rows) is not None:
            return JobStatus.COMPLETE.value
        return self.text("status")

    @property
    def credits_charged(self) -> int | None:
        sources = [*(row.failure for row in self._rows), *self._results, self._record]
        return self._first(told.whole(source.get("credits_charged")) for source in sources)

    @property
    def submitted_at(self) -> datetime | None:
        return moment(self._record.get("at"))

    def text(self, name: str) -> str | None:
        value = self._first(result.get(name) for result in self._results)
        return str(value) if value is not None else self.field(name)

    def number(self, name: str) -> float | None:
        value = self._first([*(result.get(name) for result in self._results), self.field(name)])
        try:
            return None if value is None else told.number(float(value))
        except (TypeError, ValueError, OverflowError):
            return None

    def field(self, name: str) -> str | None:
        found = (row.field(name) for row in self._rows)
        return next((value for value in found if value), None)

    @staticmethod
    def _first(values: Iterable[T | None]) -> T | None:
        return next((value for value in values if value is not None), None)


def _shown_image(image: str | None) -> str | None:
    return None if image is None else display(image)
