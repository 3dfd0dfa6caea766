"""How a wait ended, for sensor, operator and trigger.

The triggerer hands the worker an `Outcome` and nothing else. It holds ids, numbers and the API's own words
about a failure, never a signed URL, a prompt or a key: Airflow logs and stores it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from enum import Enum
from typing import Any

from magichour_provider import exceptions as errors
from magichour_provider.client import library_url, protocol
from magichour_provider.client.models import JobStatus, VideoProject

_MESSAGE_LIMIT = 500
_MODERATION = frozenset({"nsfw", "content_policy_violation"})


class TerminalStatus(str, Enum):
    """The ways in which a wait can end."""

    COMPLETE = "complete"
    FAILED = "failed"
    CANCELED = "canceled"
    DELETED = "deleted"
    TIMEOUT = "timeout"
    REFUSED = "refused"


_ENDINGS: dict[JobStatus | str, TerminalStatus] = {
    JobStatus.COMPLETE: TerminalStatus.COMPLETE,
    JobStatus.ERROR: TerminalStatus.FAILED,
    JobStatus.CANCELED: TerminalStatus.CANCELED,
}


@dataclass(frozen=True)
class Outcome:
    """The end of a wait for one job.

    :param status: the job's last known status.
    :param end_seconds: length of the video in seconds.
    :param error_status: HTTP status if the API refused the poll (`TerminalStatus.REFUSED`); None if the
        connection cannot be used.
    :param error_code: the API's code for a failed job or a refused request.
    :param noticed_by: `webhook` or `poll`.
    """

    ending: TerminalStatus
    project_id: str
    status: str | None = None
    name: str | None = None
    end_seconds: float | None = None
    credits_charged: int | None = None
    created_at: datetime | None = None
    error_status: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    noticed_by: str = "poll"

    def as_event(self) -> dict[str, Any]:
        """The payload of the trigger's one event: plain JSON."""
        created_at = None if self.created_at is None else self.created_at.isoformat()
        return {**asdict(self), "ending": self.ending.value, "created_at": created_at}

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> Outcome:
        """Read an event back. Raises ValueError if it is not an event of this provider."""
        if "ending" not in event or "project_id" not in event:
            raise ValueError("The event that resumed this task is not one of VideoJobTrigger.")
        known = {field.name: event[field.name] for field in fields(cls) if field.name in event}
        created_at = known.get("created_at") and datetime.fromisoformat(known["created_at"])
        return cls(**{**known, "ending": TerminalStatus(event["ending"]), "created_at": created_at or None})

    def error(self) -> errors.MagicHourError | None:
        """The error that this ending stands for; None if the video is ready."""
        project_id, job = self.project_id, f"Job {self.project_id}"
        message = self.error_message or "no explanation"
        if self.ending is TerminalStatus.COMPLETE:
            return None
        if self.ending is TerminalStatus.FAILED:
            kind = errors.ModerationError if self.error_code in _MODERATION else errors.JobFailedError
            what = f"{job} failed at Magic Hour ({self.error_code or 'no code'}): {message.rstrip('.')}."
            return kind(what, project_id=project_id, code=self.error_code)
        if self.ending is TerminalStatus.CANCELED:
            return errors.JobFailedError(
                f"{job} was canceled in Magic Hour's web app.",
                project_id=project_id,
                code=JobStatus.CANCELED.value,
                remedy="If you clear the submitting task, it submits another job, which is charged again.",
            )
        if self.ending is TerminalStatus.DELETED:
            what = f"{job} was deleted, or belongs to another account."
            return errors.JobDeletedError(what, project_id=project_id)
        if self.ending is TerminalStatus.TIMEOUT:
            status = f"status {self.status}" if self.status else "status unknown"
            what = f"{job} had not ended when the deadline passed ({status}, see {library_url(project_id)})."
            return errors.WaitTimeoutError(what, project_id=project_id)
        if self.error_status is None:
            return errors.ConfigurationError(
                self.error_message or "The job cannot be polled.",
                consequence=f"{job} and its credits are unaffected by this.",
            )
        return protocol.api_error(
            status=self.error_status,
            code=self.error_code,
            message=message,
            request=f"GET /v1/video-projects/{project_id}",
            project_id=project_id,
        )


def from_project(project: VideoProject) -> Outcome | None:
    """How a job ended; None if it is unfinished.

    An unknown status counts as unfinished: it is never taken for success, and the deadline ends the wait.
    """
    ending = _ENDINGS.get(project.status) if project.enabled else TerminalStatus.DELETED
    if ending is None:
        return None
    return Outcome(
        ending=ending,
        project_id=project.id,
        status=status_text(project),
        name=project.name,
        end_seconds=project.end_seconds,
        credits_charged=project.credits_charged,
        created_at=project.created_at,
        error_code=project.error.code if project.error else None,
        error_message=(project.error.message or "")[:_MESSAGE_LIMIT] or None if project.error else None,
    )


def from_error(project_id: str, error: Exception) -> Outcome | None:
    """The end of the wait that a failed poll means; None if polling again may help."""
    if isinstance(error, errors.NotFoundError):
        return Outcome(TerminalStatus.DELETED, project_id)
    if not isinstance(error, errors.MagicHourError) or error.retryable:
        return None
    refused = Outcome(TerminalStatus.REFUSED, project_id, error_message=error.what)
    if isinstance(error, errors.APIError):
        return replace(refused, error_status=error.status, error_code=error.code, error_message=error.message)
    return refused


def require_videos(project: VideoProject) -> VideoProject:
    """The finished job, with at least one URL. Raises JobNotCompleteError, or `Outcome.error`."""
    outcome = from_project(project)
    if outcome is None:
        raise errors.JobNotCompleteError(
            f"Job {project.id} is {status_text(project)}, not complete.", project_id=project.id
        )
    error = outcome.error()
    if error is not None:
        raise error
    if not project.downloads:
        raise errors.InvalidResponseError(f"Job {project.id} is complete, but has no video to download.")
    return project


def status_text(project: VideoProject) -> str:
    """The status as the API spells it."""
    return project.status.value if isinstance(project.status, JobStatus) else project.status
