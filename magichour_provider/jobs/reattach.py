"""What a new try does with the record of an earlier one: go on with its job, submit anew, or ask a person.

| the record says | the new try |
|---|---|
| nothing | submits |
| a job, the same request, and the job goes on or is complete | takes it up; nothing is paid |
| a job that failed, was canceled or deleted | submits anew, and says why |
| a job, and the request has changed | submits anew |
| the task had succeeded, and was cleared | submits anew |
| a create of unknown outcome | fails and tells a person; cleared after that, it submits anew |
| the same, and a person has left the job's id | takes that job up |
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magichour_provider.client import is_project_id, library_url
from magichour_provider.exceptions import ImageError, SubmissionUnknownError
from magichour_provider.jobs.job_state import JobState, Stage
from magichour_provider.jobs.state import FOUND_KEY, REMEDY, JobStateStore
from magichour_provider.polling.outcome import TerminalStatus

if TYPE_CHECKING:
    from magichour_provider.polling.outcome import Outcome

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """What a look at a job has shown.

    :param ended: how it ended; None while it goes on.
    :param credits_charged: what it costs, in credits: 0 once it is refunded; None where nobody can tell.
    """

    ended: Outcome | None
    credits_charged: int | None


def find_resumable_job(
    records: JobStateStore,
    record: JobState | None,
    *,
    identify: Callable[[], str],
    look: Callable[[str], Look],
    balances: Callable[[JobState], str],
) -> JobState | None:
    """The submission of an earlier try to go on with, or None to submit anew.

    :param record: what that try has left.
    :param identify: the fingerprint of what is asked for now.
    :param look: what has become of a job.
    :param balances: what the account's balance says about a create of unknown outcome.

    Raises SubmissionUnknownError where an earlier create may have been taken and nobody knows its id.
    """
    if record is None:
        return None
    cleared = records.cleared_since(record)
    found = records.found_by_a_person() if record.project_id is None else None
    if found is not None:
        record = _adopted(records, record, found, look)
    if record.project_id is None:
        if record.stage is Stage.UNKNOWN and cleared:
            log.warning(
                "An earlier create has an unknown outcome, and the task was cleared: submitting anew."
            )
            records.count_as_spent()
            return None
        unknown = _unknown(record, balances(record))
        records.told(unknown)
        raise unknown
    if record.stage is Stage.DONE and cleared:
        log.info("The task had succeeded with job %s and was cleared: rendering anew.", record.project_id)
        return None
    if _has_changed(record, identify):
        log.warning("The request has changed since job %s was submitted: submitting anew.", record.project_id)
        return None
    seen = look(record.project_id)
    error = seen.ended.error() if seen.ended is not None else None
    if error is not None:
        records.charged(seen.credits_charged)
        log.warning("%s Submitting anew.", error.what)
        return None
    log.info("Taking up job %s of an earlier try (%s).", record.project_id, library_url(record.project_id))
    if cleared and seen.ended is not None:
        log.warning("It is complete: once this task has succeeded with it, a Clear renders another clip.")
    return record


def _adopted(records: JobStateStore, record: JobState, found: str, look: Callable[[str], Look]) -> JobState:
    seen = look(found) if is_project_id(found) else None
    if seen is None or (seen.ended is not None and seen.ended.ending is TerminalStatus.DELETED):
        raise SubmissionUnknownError(
            f"{found!r:.80}, which stands in this task's state store under {FOUND_KEY!r}, is not the id of a "
            "job of this account.",
            remedy="Correct it, or remove it, and clear this task.",
        )
    return records.adopt(record, found, seen.credits_charged)


def _has_changed(record: JobState, identify: Callable[[], str]) -> bool:
    try:
        return record.fingerprint != identify()
    except ImageError as error:
        log.warning("%s Going on with job %s, which was submitted with it.", error.what, record.project_id)
        return False


def _unknown(record: JobState, balances: str) -> SubmissionUnknownError:
    return SubmissionUnknownError(
        f"An earlier try was cut off at {record.at} while it submitted the job named {record.name!r}, before "
        f"its id could be kept.{balances}",
        remedy=REMEDY,
    )
