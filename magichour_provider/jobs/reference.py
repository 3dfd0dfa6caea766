"""What one task hands to the next about a job."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus, urlsplit

from magichour_provider.client import is_project_id, library_url
from magichour_provider.exceptions import InvalidRequestError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.client.models import VideoProject
    from magichour_provider.polling.outcome import Outcome

DEFAULT_CONN_ID = "magichour_default"

_SECRET_CHARS = 12
_NAME_LIMIT = 100
_RUN_LIMIT = 50
_HASH_CHARS = 6


@dataclass(frozen=True)
class JobReference:
    """A job by its id, with what its submitter knew of it."""

    project_id: str
    model: str | None = None
    resolution: str | None = None
    credits_charged: int | None = None

    @classmethod
    def from_value(cls, value: object) -> JobReference:
        """Read a project id, or what an operator of this provider returned: a dict, or a template of it."""
        given = _literal(value) if isinstance(value, str) and value.lstrip().startswith("{") else value
        job = cls(given.strip()) if isinstance(given, str) else None
        if isinstance(given, Mapping) and isinstance(given.get("project_id"), str):
            job = cls(
                given["project_id"],
                _text(given.get("model")),
                _text(given.get("resolution")),
                _count(given.get("credits_charged")),
            )
        if job is None or not is_project_id(job.project_id):
            raise InvalidRequestError(
                f"{value!r:.80} is not the id of a Magic Hour project: give an id, or the output of "
                "ImageToVideoOperator; did the task before this one return it?",
                consequence="This task costs nothing.",
            )
        return job

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
            "url": library_url(self.project_id),
        }


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _literal(text: str) -> object:
    """The value that a template has rendered as text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def job_name(context: Context) -> str:
    """Name a job so that a user finds the task by it: Dag, task, map index and run, in 100 characters.

    Where that is too long, the ids of Dag and task are shortened, and a very long run id.
    """
    ti = context["ti"]
    index = f"[{ti.map_index}]" if ti.map_index is not None and ti.map_index >= 0 else ""
    rest = f"{index} {_shortened(ti.run_id, _RUN_LIMIT)}"
    room = _NAME_LIMIT - len(rest) - len(" ")
    task = _shortened(ti.task_id, max(room // 2, room - len(ti.dag_id)))
    return f"{_shortened(ti.dag_id, room - len(task))} {task}{rest}"


def _shortened(text: str, limit: int) -> str:
    """The text, or as much of it as fits before a hash of the whole."""
    if len(text) <= limit:
        return text
    mark = "~" + hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARS]
    return text[: limit - len(mark)] + mark


def url_secrets(address: object) -> set[str]:
    """What in a web address gives access by itself: its query, and the long values in it."""
    if not isinstance(address, str) or "://" not in address:
        return set()
    query = urlsplit(address.strip()).query
    values = [part.partition("=")[2] for part in query.split("&")]
    values += [unquote_plus(value) for value in values]
    return {value for value in (query, *values) if len(value) >= _SECRET_CHARS}
