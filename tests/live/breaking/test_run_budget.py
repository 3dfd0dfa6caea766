"""Mapped tasks that submit at once, with `max_credits_per_run`: real tasks, XComs and processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from report import Report, Row
from scene import CREATE, Scene

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

SECTION = "budget"


@dataclass(frozen=True)
class Spree:
    """A run that wants more clips than it has credits for; the first `killed` tasks die in their creates."""

    mode: str
    clips: int
    affordable: int
    killed: int = 0

    @property
    def id(self) -> str:
        """A name that no other has."""
        return f"budget {self.mode}"

    @property
    def what(self) -> str:
        """What is done, in the page's words."""
        killed = f"; {self.killed} of them are killed while their creates are in flight and taken"
        return f"{self.clips} tasks, credits for {self.affordable}{killed if self.killed else ''}"

    def play(self, scene: Scene) -> list[Any]:
        """Let them all submit; kill those whose creates are held once everybody else waits for them."""
        scene.begin(hold={**CREATE, "hold": "after"} if self.killed else None, times=self.killed)
        if self.killed:
            held = self.affordable - self.killed
            scene.until(lambda: len(scene.jobs()) == self.affordable, f"{held} are paid, the others held")
            for task in self._in_flight(scene):
                scene.kill(task)
        scene.finish()
        ends = Counter(f"{task['state']}, try {task['try_number']}" for task in scene.tasks())
        jobs = scene.jobs()
        errors = {scene.said(task) for task in scene.tasks() if task["state"] == "failed"}
        paid = sum(job["credits_charged"] > 0 for job in jobs)
        rendered = sum(job["status"] == "complete" for job in jobs)
        text = "; ".join(f"{count} {end}" for end, count in sorted(ends.items(), reverse=True))
        return [(Row(self.what, "mapped", text, self.clips, paid, rendered, ""), errors)]

    def _in_flight(self, scene: Scene) -> list[Any]:
        """The tasks whose creates are held: they alone have reserved credits for longer than a moment."""
        found: list[Any] = []

        def are_alone() -> bool:
            found[:] = [task for task in scene.tasks() if self._has_reserved(scene, task)]
            return len(found) == self.killed

        scene.until(are_alone, f"{self.killed} tasks have reserved credits")
        return found

    @staticmethod
    def _has_reserved(scene: Scene, task: Any) -> bool:
        where = (scene.dag_id, scene.name, "render", "magichour_credits", task["map_index"])
        return bool((scene.airflow.xcom(*where) or {}).get("reserved"))


MANY = Spree("mapped, many", clips=50, affordable=40)
FEW = Spree("mapped, few", clips=12, affordable=8, killed=2)
Played = Callable[[Spree], list[tuple[Row, set[str]]]]


@pytest.mark.parametrize("scenario", [pytest.param(MANY, id=MANY.id)])
def test_many_tasks_at_once_use_the_budget_up_and_never_exceed_it(
    scenario: Spree, played: Played, report: Report
) -> None:
    ((row, errors),) = played(scenario)
    assert (row.paid, row.ends) == (40, "40 success, try 1; 10 failed, try 1")
    assert all("of its max_credits_per_run, 2880." in error for error in errors)
    report.add(SECTION, row)


@pytest.mark.parametrize("scenario", [pytest.param(FEW, id=FEW.id)])
def test_what_killed_tasks_may_have_spent_counts(scenario: Spree, played: Played, report: Report) -> None:
    ((row, errors),) = played(scenario)
    assert (row.paid, row.ends) == (8, "6 success, try 1; 2 failed, try 2; 4 failed, try 1")
    assert sum("max_credits_per_run, 576." in error for error in errors) > 0
    report.add(SECTION, row)
