"""What one task hands to the next about a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus, urlsplit

from magichour_provider.api.errors import LIBRARY_URL, InvalidRequestError

if TYPE_CHECKING:
    from magichour_provider.waiting.outcome import Outcome

DEFAULT_CONN_ID = "magichour_default"
_SECRET_CHARS = 12


@dataclass(frozen=True)
class JobReference:
    """A job by its id, with what its submitter knew of it."""

    project_id: str
    model: str | None = None
    resolution: str | None = None

    @classmethod
    def of(cls, value: object) -> JobReference:
        """Read a project id, or the dict that an operator of this provider returned."""
        if isinstance(value, str) and value.strip():
            return cls(value.strip())
        if isinstance(value, Mapping) and isinstance(value.get("project_id"), str):
            return cls(value["project_id"], value.get("model"), value.get("resolution"))
        raise InvalidRequestError(
            f"project_id is {value!r:.80}: give a project id, or the output of ImageToVideoOperator."
        )

    def result(self, outcome: Outcome) -> dict[str, Any]:
        """What operator and sensor return: small, plain JSON, without a signed URL."""
        return job_result(
            self,
            status=outcome.status,
            name=outcome.name,
            end_seconds=outcome.end_seconds,
            credits_charged=outcome.credits_charged,
        )


def job_result(
    job: JobReference,
    *,
    status: str | None,
    name: str | None,
    end_seconds: float | None,
    credits_charged: int | None,
) -> dict[str, Any]:
    """The contract of the XCom: seconds and credits, None where nobody knows."""
    return {
        "project_id": job.project_id,
        "status": status,
        "name": name,
        "model": job.model,
        "resolution": job.resolution,
        "end_seconds": end_seconds,
        "credits_charged": credits_charged,
        "url": library_url(job.project_id),
    }


def library_url(project_id: str) -> str:
    """The page of Magic Hour's library that shows the project to a person."""
    return LIBRARY_URL + project_id


def signatures_of(address: object) -> set[str]:
    """What in a web address gives access by itself: its query, and the long values in it."""
    if not isinstance(address, str) or "://" not in address:
        return set()
    query = urlsplit(address.strip()).query
    values = [part.partition("=")[2] for part in query.split("&")]
    values += [unquote_plus(value) for value in values]
    return {value for value in (query, *values) if len(value) >= _SECRET_CHARS}
