"""`kill -9` of the task's own process at each point of a submission, in every mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from report import Report
from scene import CREATE, DEFERRABLE, MAPPED, PUT, SYNCHRONOUS, UPLOAD, Scene, Seen

from magichour_provider.jobs.state import FOUND_KEY

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

SECTION = "killed"
Played = Callable[["Kill"], list[Seen]]

NOT_KNOWN = (
    "before its id could be kept",
    "12000 credits",
    "magichour_recovered_job_id",
    "just clear the task",
)
"""What a person is told whose clip may have been paid for."""


@dataclass(frozen=True)
class Point:
    """A place in the life of a task: where it is held or stops, and what a new try makes of it.

    :param hold: the sandbox's rule that keeps the task there; `stop_at`: the Dag's own delay; None of both:
        while it waits in the worker.
    :param known: whether the new try can tell what became of the create.
    :param paid: creates that were charged by the time of the kill.
    """

    what: str
    hold: tuple[tuple[str, str], ...] = ()
    stop_at: str = ""
    known: bool = True
    paid: int = 1

    def reach(self, scene: Scene) -> None:
        """Begin, and wait until the task is there."""
        scene.begin(stop_at=self.stop_at, hold=dict(self.hold) or None)
        if self.hold:
            scene.until_held()
        elif self.stop_at == "resume":
            scene.until_in("deferred")
            scene.complete_jobs()
            scene.until_signed("stopped")
        elif self.stop_at:
            scene.until_signed("stopped")
        else:
            scene.until_waiting_in_the_worker()


def _held(request: dict[str, str], when: str) -> tuple[tuple[str, str], ...]:
    return (*request.items(), ("hold", when))


BEFORE_UPLOAD = Point("before the upload", hold=_held(UPLOAD, "before"), paid=0)
AFTER_UPLOAD = Point("after the upload", hold=_held(PUT, "after"), paid=0)
NOT_TAKEN = Point(
    "while the create is in flight and not taken", hold=_held(CREATE, "before"), known=False, paid=0
)
TAKEN = Point("while the create is in flight and taken", hold=_held(CREATE, "after"), known=False)
ANSWERED = Point("after the answer, before the record", stop_at="answer", known=False)
RECORDED = Point("after the record", stop_at="record")
WAITING = Point("while it waits in the worker")
RESUMED = Point("on resume", stop_at="resume")

SUBMISSION = (BEFORE_UPLOAD, AFTER_UPLOAD, NOT_TAKEN, TAKEN, ANSWERED, RECORDED)


@dataclass(frozen=True)
class Kill:
    """One kill."""

    point: Point
    mode: str
    with_supervisor: bool = False

    @property
    def id(self) -> str:
        """A name that no other has."""
        return f"{self.mode} {self.what}"

    @property
    def what(self) -> str:
        """What is done, in the page's words."""
        return f"{self.point.what}{', its supervisor too' if self.with_supervisor else ''}"

    @property
    def clips(self) -> int:
        """How many clips are asked for."""
        return 3 if self.mode == MAPPED else 1

    @property
    def is_told(self) -> bool:
        """Whether a person is told that nobody can tell, and does something about it here."""
        return not self.point.known and self.mode != MAPPED

    @property
    def is_found(self) -> bool:
        """Whether that person finds the job in the library, and leaves its id with the task."""
        return self.is_told and self.mode == DEFERRABLE and self.point.paid == 1

    def play(self, scene: Scene) -> list[Seen]:
        """Kill, let things go on; and where the task fails, do as its message says."""
        self.point.reach(scene)
        victim = scene.until_others_are_deferred() if self.mode == MAPPED else scene.until_in("running")
        scene.kill(victim, with_supervisor=self.with_supervisor)
        scene.finish()
        index = victim["map_index"]
        seen = [scene.seen(self.what, clips=self.clips, map_index=index)]
        return [*seen, self._settle(scene)] if self.is_told else seen

    def _settle(self, scene: Scene) -> Seen:
        if self.is_found:
            (job,) = scene.jobs()
            scene.store(FOUND_KEY, job["id"])
        scene.clear()
        scene.finish()
        if self.is_found:
            return scene.seen(f"{self.what}; then found by a person, and cleared")
        return scene.seen(f"{self.what}; then cleared by a person", clips=1 + self.point.paid)


KILLS = [
    *(Kill(point, mode) for point in SUBMISSION for mode in (SYNCHRONOUS, DEFERRABLE)),
    Kill(WAITING, SYNCHRONOUS),
    Kill(RESUMED, DEFERRABLE),
    *(Kill(point, MAPPED) for point in (TAKEN, RECORDED)),
    *(Kill(point, SYNCHRONOUS, with_supervisor=True) for point in (TAKEN, RECORDED)),
]


def _named(kills: list[Kill]) -> list[object]:
    return [pytest.param(kill, id=kill.id) for kill in kills]


@pytest.mark.parametrize("scenario", _named([kill for kill in KILLS if kill.point.known]))
def test_a_killed_task_ends_with_the_clip_that_was_paid_for_once(
    scenario: Kill, played: Played, report: Report
) -> None:
    (seen,) = played(scenario)
    row = seen.row
    assert (row.ends, row.paid, row.rendered) == ("success, try 2", scenario.clips, scenario.clips)
    assert ("Taking up job" in seen.said) == bool(scenario.point.paid)
    report.add(SECTION, row, place=KILLS.index(scenario))


@pytest.mark.parametrize("scenario", _named([kill for kill in KILLS if not kill.point.known]))
def test_a_task_killed_where_nobody_can_tell_says_so_and_pays_nothing_more(
    scenario: Kill, played: Played, report: Report
) -> None:
    seen, *_ = played(scenario)
    row, paid = seen.row, scenario.clips - 1 + scenario.point.paid
    assert (row.ends, row.paid, row.rendered) == ("failed, try 2", paid, paid)
    assert [part for part in NOT_KNOWN if part not in seen.said] == []
    assert f"breaking_{scenario.mode.split(',')[0]}" in seen.said, "the job's name begins with the Dag's"
    assert "https://magichour.ai/my-library" in seen.said
    report.add(SECTION, row, place=KILLS.index(scenario))


@pytest.mark.parametrize("scenario", _named([kill for kill in KILLS if kill.is_found]))
def test_who_was_told_and_finds_the_job_gets_its_clip_for_what_was_paid(
    scenario: Kill, played: Played, report: Report
) -> None:
    _, seen = played(scenario)
    row = seen.row
    assert (row.ends, row.paid, row.rendered) == ("success, try 3", 1, 1)
    assert "Taking up job" in seen.said
    report.add(SECTION, row, place=KILLS.index(scenario))


@pytest.mark.parametrize("scenario", _named([kill for kill in KILLS if kill.is_told and not kill.is_found]))
def test_who_was_told_and_clears_the_task_orders_the_clip_that_they_did_not_find(
    scenario: Kill, played: Played, report: Report
) -> None:
    _, seen = played(scenario)
    row, clips = seen.row, 1 + scenario.point.paid
    assert (row.ends, row.clips, row.paid, row.rendered) == ("success, try 3", clips, clips, clips)
    assert "submitting anew" in seen.said
    report.add(SECTION, row, place=KILLS.index(scenario))
