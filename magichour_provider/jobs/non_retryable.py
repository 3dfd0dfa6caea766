"""A paid job that no record lets a new try take up: below Airflow 3.3, or with `durable=False`.

Airflow must not retry such a task then, whatever has failed, as that would pay for a second job.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout

from magichour_provider.client import library_url
from magichour_provider.exceptions import MagicHourError

if TYPE_CHECKING:
    from magichour_provider.client.models import CreatedJob
    from magichour_provider.jobs.state import JobStateStore

_INSTEAD = "VideoJobSensor and DownloadVideoOperator take it up for nothing"


@contextmanager
def fail_without_retry(job: CreatedJob, records: JobStateStore) -> Iterator[None]:
    """Make every failure final, and name the job, where there is no record of it."""
    try:
        yield
    except AirflowFailException:
        raise
    except (Exception, AirflowTaskTimeout) as error:
        if records.available:
            raise
        reason = error.what if isinstance(error, MagicHourError) else f"{type(error).__name__}: {error}"
        raise AirflowFailException(
            f"Job {job.id} is submitted and goes on at Magic Hour ({library_url(job.id)}); its "
            f"{job.credits_charged} credits are charged. Then this task failed: {reason}. It is not retried, "
            f"as that would pay for a second job: {_INSTEAD}."
        ) from error


@contextmanager
def fail_resume_without_retry(name: str, records: JobStateStore, *errors: type[Exception]) -> Iterator[None]:
    """Make `errors` of a resumed task final, which does not know its job, where there is no record of it."""
    try:
        yield
    except errors as error:
        if records.available:
            raise
        raise AirflowFailException(
            f"{error} The job named {name!r} goes on at Magic Hour and its credits are charged. This task is "
            "not retried, as that would pay for a second job: its log and its XCom 'project_id' name the "
            f"job; {_INSTEAD}."
        ) from error
