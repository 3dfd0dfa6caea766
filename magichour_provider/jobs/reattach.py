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

from magichour_provider.jobs.state import JobState, Stage

if TYPE_CHECKING:
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
