"""What a new attempt does with the job state of an earlier one: re-attach, submit, or fail. No I/O.

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

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from magichour_provider.exceptions import LIBRARY_URL
from magichour_provider.jobs.state import RECOVERED_KEY, JobState, Stage

if TYPE_CHECKING:
    from magichour_provider.client.models import VideoProject
    from magichour_provider.polling.outcome import Outcome


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


@dataclass(frozen=True)
class PollResult:
    """What polling a job once has shown.

    :param ended: how the job ended; None while it runs.
    :param credits_charged: what it costs, in credits: 0 after a refund; None if that is not known.
    :param project: the API's answer; None if the job was not found.
    """

    ended: Outcome | None
    credits_charged: int | None
    project: VideoProject | None = None


def needs_poll(state: JobState | None, *, cleared: bool) -> bool:
    """Whether the decision depends on what has become of the job."""
    return state is not None and state.project_id is not None and not (state.stage is Stage.DONE and cleared)


def decide(state: JobState | None, *, cleared: bool, changed: bool, poll: PollResult | None) -> Decision:
    """The table above.

    :param state: what an earlier attempt, or another run, has left; with the job that a user has found.
    :param cleared: whether a user has cleared the task since.
    :param changed: whether another video is asked for now.
    :param poll: what has become of the job; None if `needs_poll` says no, or the request has changed.
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
    if changed or poll is None:
        return Decision(Action.SUBMIT, f"The request has changed since job {state.project_id} was submitted.")
    error = poll.ended.error() if poll.ended is not None else None
    if error is not None:
        return Decision(Action.SUBMIT, error.what)
    return Decision(Action.REATTACH)


def unknown_remedy(where: str) -> str:
    """What to do about a create of unknown outcome; `where` names the place of the job state."""
    return (
        "This task is not retried, because a second create could be charged again. Wait a minute and search "
        f"the Magic Hour library ({LIBRARY_URL}) for this name. If the job exists, store its id in {where} "
        f"under {RECOVERED_KEY!r} and clear the task: it re-attaches. If it does not exist, clear the "
        "task: it submits again."
    )
