"""A person marks or clears the task at each point: what is paid, what goes on, and what a Clear then does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from report import Report
from scene import CREATE, DEFERRABLE, PUT, SYNCHRONOUS, Scene, Seen

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

SECTION = "by a person"
Played = Callable[["Action"], list[Seen]]

UPLOADING = "during the upload"
IN_TIME = "while the create is in flight, which is then answered within 5 seconds"
TOO_LATE = "while the create is in flight, which is not answered within 5 seconds"
WAITING = "while it waits in the worker"
DEFERRED = "while it is deferred"
SUCCEEDED = "after its success"

_HOLDS = {
    UPLOADING: {**PUT, "hold": "after"},
    IN_TIME: {**CREATE, "hold": "after"},
    TOO_LATE: {**CREATE, "hold": "after"},
}
_IN_A_PROCESS = (*_HOLDS, WAITING)


@dataclass(frozen=True)
class End:
    """How the task ends.

    :param ends: its state and try.
    :param clips: clips asked for so far; a Clear asks for another one where the last is known to be done.
    :param paid: clips paid for.
    :param says: part of what the task says.
    :param unnamed: jobs whose id nobody has learnt, so that no log names them.
    """

    ends: str
    clips: int = 1
    paid: int = 1
    says: str = ""
    unnamed: int = 0


@dataclass(frozen=True)
class Action:
    """What a person does, when, and how the task must end; where it was marked, also after a Clear."""

    act: str
    moment: str
    mode: str
    ends: tuple[End, ...]

    @property
    def id(self) -> str:
        """A name that no other has."""
        return f"{self.what}, {self.mode}"

    @property
    def what(self) -> str:
        """What is done, in the page's words."""
        return f"{self.act} {self.moment}"

    def play(self, scene: Scene) -> list[Seen]:
        """Do it, and clear a task that was marked."""
        scene.begin(hold=_HOLDS.get(self.moment))
        self._reach(scene)
        self._act(scene)
        if self.act == "cleared":
            scene.finish()
            return [scene.seen(self.what, clips=self.ends[0].clips)]
        scene.complete_jobs()
        marked = scene.seen(self.what)
        scene.clear()
        scene.finish()
        return [marked, scene.seen(f"{self.what}; then cleared", clips=self.ends[1].clips)]

    def _reach(self, scene: Scene) -> None:
        if self.moment in _HOLDS:
            scene.until_held()
        elif self.moment == WAITING:
            scene.until_waiting_in_the_worker()
        else:
            scene.until_in("deferred")
            scene.until(lambda: scene.jobs()[0]["polls"], "the triggerer looks at the job")
        if self.moment == SUCCEEDED:
            scene.finish()
            scene.until_done()

    def _act(self, scene: Scene) -> None:
        (task,) = scene.tasks()
        if self.act == "cleared":
            scene.clear()
        else:
            scene.mark(self.act.removeprefix("marked "))
        if self.moment in _IN_A_PROCESS:
            scene.until_signed("terminated")
            if self.moment != TOO_LATE:
                scene.sandbox.control.release()
            scene.until_gone(task)
        elif self.moment == DEFERRED and self.act != "cleared":
            scene.until(lambda: scene.said({**task, "try_number": 1}), "the triggerer says what goes on")


GOES_ON = "goes on at Magic Hour"
TAKEN_UP = "Taking up job"
UNKNOWN = "just clear the task"

FAILED = End("failed, try 1", says=GOES_ON)
ANSWERED = End("failed, try 1")
UNPAID = End("failed, try 1", paid=0)
CUT_OFF = End("failed, try 1", unnamed=1)
MARKED_SUCCESS = End("success, try 1", says=GOES_ON)
NEW_TRY = End("success, try 2")
SAME_JOB = End("success, try 2", says=TAKEN_UP)
TOLD = End("failed, try 2", says=UNKNOWN)
TOLD_BLINDLY = End("failed, try 2", says=UNKNOWN, unnamed=1)
SECOND_ORDER = End("success, try 2", clips=2, paid=2, says="rendering anew")

ACTIONS = [
    Action("marked failed", UPLOADING, SYNCHRONOUS, (UNPAID, NEW_TRY)),
    Action("marked failed", UPLOADING, DEFERRABLE, (UNPAID, NEW_TRY)),
    Action("marked failed", IN_TIME, SYNCHRONOUS, (ANSWERED, SAME_JOB)),
    Action("marked failed", IN_TIME, DEFERRABLE, (ANSWERED, SAME_JOB)),
    Action("marked failed", TOO_LATE, DEFERRABLE, (CUT_OFF, TOLD_BLINDLY)),
    Action("marked failed", WAITING, SYNCHRONOUS, (FAILED, SAME_JOB)),
    Action("marked failed", DEFERRED, DEFERRABLE, (FAILED, SAME_JOB)),
    Action("marked success", DEFERRED, DEFERRABLE, (MARKED_SUCCESS, SAME_JOB)),
    Action("cleared", UPLOADING, DEFERRABLE, (NEW_TRY,)),
    Action("cleared", IN_TIME, DEFERRABLE, (TOLD,)),  # Airflow lets a cleared try write nothing any more
    Action("cleared", TOO_LATE, DEFERRABLE, (TOLD_BLINDLY,)),
    Action("cleared", WAITING, SYNCHRONOUS, (SAME_JOB,)),
    Action("cleared", DEFERRED, DEFERRABLE, (SAME_JOB,)),
    Action("cleared", SUCCEEDED, DEFERRABLE, (SECOND_ORDER,)),
]


@pytest.mark.parametrize("scenario", [pytest.param(action, id=action.id) for action in ACTIONS])
def test_what_a_person_does_to_a_task_never_pays_twice_for_a_clip(
    scenario: Action, played: Played, report: Report
) -> None:
    seen = played(scenario)
    expected = [(end.ends, end.clips, end.paid, end.unnamed) for end in scenario.ends]
    assert [_end(each) for each in seen] == expected
    assert all(each.row.rendered == each.row.paid for each in seen), "what was paid for is there in the end"
    for each, end in zip(seen, scenario.ends, strict=True):
        assert end.says in each.said
    for each in seen:
        report.add(SECTION, each.row)


def _end(seen: Seen) -> tuple[str, int, int, int]:
    return (seen.row.ends, seen.row.clips, seen.row.paid, len(seen.unnamed))
