"""The tab of one task instance: job status, video, credits, and errors with what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from magichour_provider import exceptions
from magichour_provider.client import library_url
from magichour_provider.client.models import JobStatus
from magichour_provider.exceptions import JobDeletedError, MagicHourError, NotFoundError
from magichour_provider.operators._base import NOTICED_BY_KEY, describe_error
from magichour_provider.polling.outcome import from_project, status_text
from magichour_provider.storage.locations import redact
from magichour_provider.ui import batches, media
from magichour_provider.ui.media_files import MediaError
from magichour_provider.ui.queries import (
    FAILED,
    STATES,
    SUCCESS,
    TaskRow,
    as_integer,
    as_mapping,
    as_number,
    as_text,
    as_time,
)
from magichour_provider.ui.view_models import BatchSummary, Failure, MediaInfo, Player, TaskPage

T = TypeVar("T")

_ENDED = frozenset({JobStatus.COMPLETE.value, JobStatus.ERROR.value, JobStatus.CANCELED.value})
_REFRESH_SECONDS, _REFRESH_BATCH_SECONDS = 5, 15
_DELETED = (
    "Magic Hour does not have this video any more: a user or a task with delete_remote deleted it, or the "
    "connection uses another account. A deleted video cannot be restored."
)
_SAVED = (
    "The video was deleted at Magic Hour after it was saved. Its file is named below. No new job is needed."
)
_DELETED_REMEDY = (
    "If the video was deleted on purpose, there is nothing to do. If you need another one, clear the "
    "submitting task: its new job is charged again."
)
UNKNOWN_FAILURE = Failure(
    title="The task failed",
    message="It did not write an error that could be shown here.",
    remedy=(
        "Read the task's log. On Airflow 3.3, clearing the task re-attaches to its job at no cost, if Magic "
        "Hour still has the job."
    ),
)


def build_task_page(
    rows: Sequence[TaskRow], *, status: str | None = None, number: int = 1, item: str | None = None
) -> tuple[TaskPage, str | None]:
    """The page of `rows[0]`, and the origin at Magic Hour from which its player loads. May ask Magic Hour.

    The other rows are of the same job.

    :param status: which videos of a batch are listed, one of `batches.STATUSES`; None for all.
    :param number: which page of them, from 1 on.
    :param item: the key of the one that is played.
    """
    row, page = rows[0], _stored_page(rows)
    if row.is_batch:
        videos, notes = batches.read_videos(row, status, number)
        page = replace(page, videos=videos, notes=notes)
        try:
            return replace(page, player=batches.player(row, item) if item else None), None
        except MediaError as error:
            return _with_note(page, str(error)), None
    written = row if row.is_contact_sheet and "path" in row.result else media.download_task(rows)
    if written is not None:
        page = replace(page, file=_describe_file(written.result))
        if row.failure.get("error") == JobDeletedError.__name__:
            page = replace(page, failure=Failure(JobDeletedError.title, _SAVED))
        try:
            media.open_file(written, poster=row.is_contact_sheet).handle.close()
        except MediaError as error:
            page = _with_note(page, str(error))
        else:
            if row.is_contact_sheet:
                return replace(page, picture=f"poster?{row.key.query}"), None
            return replace(page, player=media.file_player(written)), None
    has_failed = page.status in _ENDED and page.status != JobStatus.COMPLETE.value
    if row.is_contact_sheet or page.project_id is None or has_failed:
        return page, None
    return _add_live_status(page, rows, page.project_id)


def _stored_page(rows: Sequence[TaskRow]) -> TaskPage:
    """What the task instances of one job wrote about it; a result with an ended status counts first."""
    row = rows[0]
    written = [row.result for row in rows if row.result]
    results = sorted(written, key=lambda result: str(result.get("status")) not in _ENDED)
    job_state = next((row.job_state for row in rows if row.job_state), {})

    def field(name: str) -> str | None:
        return next(filter(None, (row.field(name) for row in rows)), None)

    def text(name: str) -> str | None:
        value = _first(result.get(name) for result in results)
        return str(value) if value is not None else field(name)

    status = text("status")
    if row.failure.get("error") in ("JobFailedError", "ModerationError"):
        is_canceled = row.failure.get("code") == JobStatus.CANCELED.value
        status = JobStatus.CANCELED.value if is_canceled else JobStatus.ERROR.value
    elif media.download_task(rows) is not None:
        status = JobStatus.COMPLETE.value
    with_credits = [*(row.failure for row in rows), *results, row.batch, job_state]
    try:
        seconds: Any = _first([*(result.get("end_seconds") for result in results), field("end_seconds")])
        end_seconds = as_number(float(seconds))
    except (TypeError, ValueError, OverflowError):
        end_seconds = None
    image = field("image")
    refresh_seconds = _REFRESH_BATCH_SECONDS if row.is_batch else _REFRESH_SECONDS
    return TaskPage(
        key=row.key,
        operator=row.operator,
        state=row.state,
        status=status,
        name=text("name"),
        model=text("model"),
        resolution=text("resolution"),
        end_seconds=end_seconds,
        prompt=field("prompt"),
        image=None if image is None else redact(image),
        credits_charged=_first(as_integer(source.get("credits_charged")) for source in with_credits),
        submitted_at=as_time(job_state.get("at")),
        project_id=row.project_id,
        library_url=library_url(row.project_id) if row.project_id else None,
        failure=explain(row.failure) if row.state == "failed" or row.failure else None,
        batch=_describe_batch(row.batch),
        noticed_by=next(filter(None, (as_text(row.xcoms.get(NOTICED_BY_KEY)) for row in rows)), None),
        refresh_seconds=None if row.state in STATES[SUCCESS] | STATES[FAILED] else refresh_seconds,
    )


def _describe_batch(summary: Mapping[str, Any]) -> BatchSummary | None:
    """What a batch has written about itself; values of another kind are left out."""
    if not summary:
        return None
    names = ("items", "complete", "submitted", "not_submitted", "failed", "refused", "unknown", "unchanged")
    counts = [(name.replace("_", " "), as_integer(summary.get(name))) for name in names]
    failed = summary.get("failures")
    entries = [as_mapping(entry) for entry in failed] if isinstance(failed, list) else []
    fields = ("key", "status", "code", "message")
    rows = [[as_text(entry.get(name)) or "" for name in fields] for entry in entries]
    manifest = as_text(summary.get("manifest"))
    return BatchSummary(
        counts=tuple((name, count) for name, count in counts if count is not None),
        manifest=None if manifest is None else redact(manifest),
        failures=tuple((key, status, code, message) for key, status, code, message in rows),
    )


def _describe_file(result: Mapping[str, Any]) -> MediaInfo:
    return MediaInfo(
        path=redact(str(result["path"])),
        size=as_integer(result.get("size")),
        sha256=as_text(result.get("sha256")),
        width=as_integer(result.get("width")),
        height=as_integer(result.get("height")),
        fps=as_number(result.get("fps")),
        duration=as_number(result.get("duration")),
    )


def explain(failure: Mapping[str, Any]) -> Failure:
    """Read the error that a task pushed, with the title of its class; its own remedy stays in the message."""
    if not failure:
        return UNKNOWN_FAILURE
    error = getattr(exceptions, str(failure.get("error")), None)
    message = str(failure.get("message") or UNKNOWN_FAILURE.message)
    if not (isinstance(error, type) and issubclass(error, MagicHourError)):
        return Failure(MagicHourError.title, message)
    charged, credits_sentence = as_integer(failure.get("credits_charged")), None
    if charged:
        credits_sentence = f"The job was charged {charged:,} credits."
    elif charged == 0 and failure.get("project_id") and "refunded" not in message:
        credits_sentence = "The credits of the job were refunded."
    what = message.removesuffix(error.default_remedy).strip()
    remedy = error.default_remedy if what != message else None
    return Failure(
        title=error.title,
        message=what or message,
        remedy=_DELETED_REMEDY if error is JobDeletedError else remedy,
        code=as_text(failure.get("code")),
        credits=credits_sentence,
    )


def _with_note(page: TaskPage, note: str) -> TaskPage:
    return replace(page, notes=(*page.notes, note))


def _add_live_status(page: TaskPage, rows: Sequence[TaskRow], project_id: str) -> tuple[TaskPage, str | None]:
    """The page with Magic Hour's answer about the job, and with its video if it is complete."""
    try:
        project = media.get_project(media.conn_id_of_job(rows), project_id)
    except NotFoundError:
        return _without_video(page), None
    except MagicHourError as error:
        return _with_note(page, f"Magic Hour could not be asked. {error.what}"), None
    charged, status = project.credits_charged, status_text(project)
    is_running = project.enabled and status not in _ENDED
    page = replace(
        page,
        status=status,
        is_live=True,
        name=page.name or project.name,
        end_seconds=page.end_seconds or project.end_seconds,
        credits_charged=page.credits_charged if charged is None else charged,
        submitted_at=page.submitted_at or project.created_at,
        refresh_seconds=_REFRESH_SECONDS if is_running else page.refresh_seconds,
    )
    if not project.enabled:
        return _without_video(page), None
    outcome = from_project(project)
    failure = outcome.error() if outcome is not None else None
    if failure is not None and page.failure in (None, UNKNOWN_FAILURE):
        page = replace(page, failure=explain(describe_error(failure, credits_charged=charged)))
    if not media.is_playable(project):
        return page, None
    return replace(page, player=Player(f"video?{page.key.query}")), media.link_origin(project)


def _without_video(page: TaskPage) -> TaskPage:
    """The page of a job that was deleted at Magic Hour."""
    what, remedy = (_DELETED, _DELETED_REMEDY) if page.file is None else (_SAVED, None)
    if page.failure == UNKNOWN_FAILURE:  # its remedy is true only of a job that exists
        return replace(page, failure=Failure(JobDeletedError.title, what, remedy))
    is_named = page.failure is not None and page.failure.message == what
    return page if is_named else _with_note(page, what)


def _first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)
