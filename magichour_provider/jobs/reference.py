"""What one task hands to the next about a job."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus, urlsplit

from magichour_provider.client import is_project_id, library_url
from magichour_provider.exceptions import InvalidRequestError
from magichour_provider.jobs.arguments import describe_type, unrender

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.client.models import VideoProject
    from magichour_provider.polling.outcome import Outcome

DEFAULT_CONN_ID = "magichour_default"


@dataclass(frozen=True)
class JobReference:
    """A job by its id, with what its submitter knew of it. `created_at`: ISO 8601."""

    project_id: str
    model: str | None = None
    resolution: str | None = None
    credits_charged: int | None = None
    created_at: str | None = None

    @property
    def submitted(self) -> float | None:
        """When the job was submitted, in epoch seconds; None if it is not known."""
        try:
            return datetime.fromisoformat(self.created_at or "").timestamp()
        except ValueError:
            return None

    @classmethod
    def from_value(cls, value: object) -> JobReference:
        """Read a project id, or what an operator of this provider returned, also if a template rendered it.

        Raises InvalidRequestError.
        """
        given = unrender(value)
        fields = given if isinstance(given, Mapping) else {"project_id": given}
        names = ("project_id", "model", "resolution", "credits_charged", "created_at")
        project_id, model, resolution, credits, created_at = map(fields.get, names)
        if isinstance(project_id, int) and not isinstance(project_id, bool):
            project_id = str(project_id)  # an id of digits only, rendered natively
        if not isinstance(project_id, str) or not is_project_id(project_id.strip()):
            found = "nothing" if given is None else describe_type("project_id", given)
            raise InvalidRequestError(
                f"project_id must be the id of a Magic Hour project, or the output of ImageToVideoOperator, "
                f"not {found}.",
                consequence="This task costs nothing.",
                remedy="Check what the task before this one returned, then clear this task.",
            )
        return cls(
            project_id.strip(),
            model if isinstance(model, str) else None,
            resolution if isinstance(resolution, str) else None,
            credits if isinstance(credits, int) and not isinstance(credits, bool) else None,
            created_at if isinstance(created_at, str) else None,
        )

    def result(self, job: Outcome | VideoProject) -> dict[str, Any]:
        """What operator and sensor return: small, plain JSON, without a signed URL; None if not known."""
        return {
            "project_id": self.project_id,
            "status": job.status.value if isinstance(job.status, Enum) else job.status,
            "name": job.name,
            "model": self.model,
            "resolution": self.resolution,
            "end_seconds": job.end_seconds,
            "credits_charged": job.credits_charged,
            "created_at": job.created_at.isoformat() if job.created_at is not None else self.created_at,
            "url": library_url(self.project_id),
        }


def job_name(context: Context) -> str | None:
    """Name a job so that a user finds the task by it: Dag, task, map index and run, in 100 characters.

    If that is too long, the ids of Dag and task are shortened, and a very long run id. None outside of a run.
    """
    ti = context.get("ti")
    if ti is None:
        return None
    index = f"[{ti.map_index}]" if isinstance(ti.map_index, int) and ti.map_index >= 0 else ""
    rest = f"{index} {_shortened(ti.run_id, 50)}"
    room = 100 - len(rest) - len(" ")
    task = _shortened(ti.task_id, max(room // 2, room - len(ti.dag_id)))
    return f"{_shortened(ti.dag_id, room - len(task))} {task}{rest}"


def _shortened(text: str, limit: int) -> str:
    """The text, or as much of it as fits before a hash of the whole."""
    if len(text) <= limit:
        return text
    mark = "~" + hashlib.sha256(text.encode()).hexdigest()[:6]
    return text[: limit - len(mark)] + mark


def url_secrets(address: object) -> set[str]:
    """What in a web address gives access by itself: its query, and the long values in it."""
    if not isinstance(address, str) or "://" not in address:
        return set()
    query = urlsplit(address.strip()).query
    values = [part.partition("=")[2] for part in query.split("&")]
    values += [unquote_plus(value) for value in values]
    return {value for value in (query, *values) if len(value) >= 12}
