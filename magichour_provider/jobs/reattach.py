"""What a new attempt does with the job state of an earlier one: re-attach, submit, or fail.

| the state says | the new attempt |
|---|---|
| nothing | submits |
| a create of unknown outcome | fails and tells the user; if the task is cleared after that, it submits |
| the same, and the user has left the job's id | re-attaches to that job |
| a job with which the task succeeded, and the task was cleared since | submits |
| a job of another request | submits |
| a job that failed, was canceled or deleted | submits, and says why |
| a job of the same request that runs or is complete | re-attaches: nothing is paid |
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

from magichour_provider.client import is_project_id, library_url
from magichour_provider.client.models import CreatedJob
from magichour_provider.client.sync import send_with_retries
from magichour_provider.exceptions import LIBRARY_URL, NotFoundError, SubmissionUnknownError
from magichour_provider.jobs.preflight import get_balance
from magichour_provider.jobs.state import JobState, JobStateStore, Stage
from magichour_provider.jobs.state_backends import RECOVERED_KEY
from magichour_provider.polling.outcome import Outcome, TerminalStatus, from_project
from magichour_provider.polling.poller import get_video

if TYPE_CHECKING:
    from magichour_provider.client.models import VideoProject
    from magichour_provider.client.sync import MagicHourClient
    from magichour_provider.jobs.submit import Cancellation

log = logging.getLogger(__name__)


def read_settled(
    store: JobStateStore, identity: str | None, cancellation: Cancellation, sleep: Callable[[float], None]
) -> JobState | None:
    """The job state, once no other task is sending its create."""
    for waits in count():
        state = store.read(identity)
        if state is None or not store.is_in_flight(state):
            return state
        if waits == 0:
            log.info("Another task is submitting this video; waiting for its job. State: %s", store.where)
        cancellation.raise_if_cancelled()
        sleep(random.uniform(0.7, 1.3))
    raise AssertionError  # pragma: no cover


def reattach(
    state: JobState,
    identity: str | None,
    store: JobStateStore,
    client: MagicHourClient,
    cancellation: Cancellation,
) -> VideoProject | None:
    """The job of an earlier attempt; None if this one must submit. It decides by the table above.

    :param state: what an earlier attempt, or another run, has left.
    :param identity: the fingerprint of the request; None if it is not known.

    Raises SubmissionUnknownError.
    """
    if state.project_id is None:
        state = _attach_recovered(state, store, client)
    cleared = store.cleared_since(state)
    if state.project_id is None:
        if state.stage is not Stage.UNKNOWN or not cleared:
            interrupted = (
                f"A previous attempt was interrupted at {state.at} while it submitted a job; the job's id "
                "was not recorded."
            )
            raise unknown_outcome(interrupted, state, store, client, cancellation)
        reason = "An earlier create has an unknown outcome, and the task was cleared."
    elif state.stage is Stage.DONE and cleared:
        reason = f"The task had succeeded with job {state.project_id}, and was cleared since."
    elif identity is not None and state.fingerprint != identity:
        reason = f"The request has changed since job {state.project_id} was submitted."
    else:
        cancellation.job = CreatedJob(id=state.project_id, credits_charged=state.credits_charged)
        project, ended = poll_job(client, state.project_id)
        store.set_credits(project.credits_charged if project is not None else None)
        error = ended.error() if ended is not None else None
        if project is not None and error is None:
            log.info(
                "Re-attaching to job %s of an earlier attempt (%s).", project.id, library_url(project.id)
            )
            if cleared and ended is not None:
                log.warning(
                    "It is complete. Once this task has succeeded with it, a Clear renders another video."
                )
            if project.credits_charged is None:
                project = project.model_copy(update={"credits_charged": state.credits_charged})
            return project
        cancellation.job = None
        reason = error.what if error is not None else ""
    log.warning("%s Submitting again.", reason)
    store.spent += store.unknown_credits
    return None


def unknown_outcome(
    what: str, intent: JobState, store: JobStateStore, client: MagicHourClient, cancellation: Cancellation
) -> SubmissionUnknownError:
    """Record a create that may have been received, and return the error that says so.

    A killed attempt records nothing: a user may have cleared the task before this report, and that Clear
    does not answer it. It compares the account's credits before and after, which proves nothing: others
    spend, too.
    """
    what = f"{what} The job is named {intent.name!r}."
    if intent.balance is not None:
        now = get_balance(client)
        what += f" The account had {intent.balance} credits before"
        if now is None:
            what += "; it cannot be read now."
        else:
            fewer_or_more = "fewer" if now < intent.balance else "more"
            change = f"{abs(intent.balance - now)} {fewer_or_more}" if now != intent.balance else "as many"
            price = f"; the video costs {intent.cost}" if intent.cost is not None else ""
            what += f", and has {now} now, {change}{price}."
    remedy = (
        "This task is not retried, because a second create could be charged again. Wait a minute and search "
        f"the Magic Hour library ({LIBRARY_URL}) for this name. If the job exists, store its id in "
        f"{store.where} under {RECOVERED_KEY!r} and clear the task{store.how_to_clear}: it re-attaches. "
        "If it does not exist, clear the task: it submits again."
    )
    error = SubmissionUnknownError(what, remedy=remedy if store.available else None)
    if cancellation.cancelled:
        log.error("%s", error)
    else:
        store.mark_unknown(error)
    return error


def _attach_recovered(state: JobState, store: JobStateStore, client: MagicHourClient) -> JobState:
    """The state with the job that a user has found for a create of unknown outcome, if there is one."""
    found = store.recovered_job_id()
    if found is None:
        return state
    project, ended = poll_job(client, found) if is_project_id(found) else (None, None)
    if project is None or (ended is not None and ended.ending is TerminalStatus.DELETED):
        raise SubmissionUnknownError(
            f"{found!r:.80}, stored in {store.where} under {RECOVERED_KEY!r}, is not the id of a job of this "
            "account.",
            remedy="Correct it, or remove it, and clear this task.",
        )
    return store.attach_recovered(state, found, project.credits_charged)


def poll_job(client: MagicHourClient, project_id: str) -> tuple[VideoProject | None, Outcome | None]:
    """The job, None if there is no such job; and how it ended, None while it runs.

    Raises APIError or NetworkError if Magic Hour does not tell.
    """
    try:
        project = send_with_retries(lambda: get_video(client, project_id), client.retry_policy)
    except NotFoundError:
        return None, Outcome(TerminalStatus.DELETED, project_id)
    return project, from_project(project)
