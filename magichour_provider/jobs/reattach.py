"""What a new attempt does with the job state of an earlier one: re-attach, submit, or fail.

| the state says | the new attempt |
|---|---|
| nothing | submits |
| a job of the same request that runs or is complete | re-attaches: nothing is paid |
| a job that failed, was canceled or deleted | submits, and says why |
| a job of another request | submits |
| a job with which the task succeeded, and the task was cleared since | submits |
| a create of unknown outcome | fails and tells the user; if the task is cleared after that, it submits |
| the same, and the user has left the job's id | re-attaches to that job |
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from itertools import count
from typing import TYPE_CHECKING

from magichour_provider.client import is_project_id
from magichour_provider.client.sync import send_with_retries
from magichour_provider.exceptions import NotFoundError, SubmissionUnknownError
from magichour_provider.jobs.state import JobState, JobStateStore, Stage
from magichour_provider.jobs.state_backends import RECOVERED_KEY
from magichour_provider.polling import outcome
from magichour_provider.polling.poller import get_video

if TYPE_CHECKING:
    from magichour_provider.client.models import VideoProject
    from magichour_provider.client.sync import MagicHourClient
    from magichour_provider.jobs.submit import Cancellation
    from magichour_provider.polling.outcome import Outcome

log = logging.getLogger(__name__)

_CONFLICT_POLL_SECONDS = 1.0


class Action(str, Enum):
    """What to do."""

    SUBMIT = "submit"
    REATTACH = "re-attach"
    FAIL = "fail"


@dataclass(frozen=True)
class Decision:
    """What to do, and a sentence for the log."""

    action: Action
    reason: str = ""


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
        sleep(_CONFLICT_POLL_SECONDS * random.uniform(0.7, 1.3))  # noqa: S311
    raise AssertionError  # pragma: no cover


def attach_recovered(
    state: JobState | None, store: JobStateStore, client: MagicHourClient
) -> JobState | None:
    """The state with the job that a user has found for a create of unknown outcome, if there is one."""
    if state is None or state.project_id is not None:
        return state
    found = store.recovered_job_id()
    if found is None:
        return state
    project, ended = poll(client, found) if is_project_id(found) else (None, None)
    if project is None or (ended is not None and ended.ending is outcome.TerminalStatus.DELETED):
        raise SubmissionUnknownError(
            f"{found!r:.80}, stored in {store.where} under {RECOVERED_KEY!r}, is not the id of a job of this "
            "account.",
            remedy="Correct it, or remove it, and clear this task.",
        )
    return store.attach_recovered(state, found, project.credits_charged)


def poll(client: MagicHourClient, project_id: str) -> tuple[VideoProject | None, Outcome | None]:
    """The job, None if there is no such job; and how it ended, None while it runs."""
    try:
        project = send_with_retries(lambda: get_video(client, project_id), client.retry_policy)
    except NotFoundError as error:
        return None, outcome.from_error(project_id, error)
    return project, outcome.from_project(project)


def needs_poll(state: JobState | None, *, cleared: bool) -> bool:
    """Whether the decision depends on what has become of the job."""
    return state is not None and state.project_id is not None and not (state.stage is Stage.DONE and cleared)


def decide(state: JobState | None, *, cleared: bool, changed: bool, ended: Outcome | None) -> Decision:
    """The table above.

    :param state: what an earlier attempt, or another run, has left; with the job that a user has found.
    :param cleared: whether a user has cleared the task since.
    :param changed: whether another video is asked for now.
    :param ended: how the job ended; None while it runs, or if it was not polled.
    """
    if state is None:
        return Decision(Action.SUBMIT)
    if state.project_id is None:
        if state.stage is Stage.UNKNOWN and cleared:
            return Decision(
                Action.SUBMIT, "An earlier create has an unknown outcome, and the task was cleared."
            )
        return Decision(Action.FAIL)
    if state.stage is Stage.DONE and cleared:
        return Decision(
            Action.SUBMIT, f"The task had succeeded with job {state.project_id}, and was cleared since."
        )
    if changed:
        return Decision(Action.SUBMIT, f"The request has changed since job {state.project_id} was submitted.")
    error = ended.error() if ended is not None else None
    if error is not None:
        return Decision(Action.SUBMIT, error.what)
    return Decision(Action.REATTACH)
