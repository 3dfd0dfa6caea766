"""Mapped tasks that submit at once with `max_credits_per_run`: real tasks, XComs and processes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import pytest
from airflow_rest import Json
from report import BUDGET
from runs import CREATE


@dataclass(frozen=True)
class Budget:
    """A run that requests more videos than its budget allows; `killed` tasks die in their creates."""

    id: str
    dag_id: str
    requested: int
    affordable: int
    ends: str
    killed: int = 0

    def play(self, starter, run_id):
        """Let all submit; kill those whose creates are held once the others wait for them."""
        hold = {**CREATE, "hold": "after"} if self.killed else None
        run = starter.start(self.dag_id, run_id, hold=hold, times=self.killed)
        if self.killed:
            run.until(lambda: len(run.jobs()) == self.affordable, "the budget is used")
            for task in self._reserving(run):
                run.kill(task)
        run.finish()
        ends = Counter(f"{task['state']}, attempt {task['try_number']}" for task in run.tasks())
        refused = sum("BudgetError" in run.errors(task) for task in run.tasks() if task["state"] == "failed")
        killed = f"; {self.killed} tasks are killed during the create, after Magic Hour has received it"
        what = f"{self.requested} tasks, credits for {self.affordable}{killed if self.killed else ''}"
        text = "; ".join(f"{count} {end}" for end, count in sorted(ends.items(), reverse=True))
        return replace(run.row(what, "mapped"), ends=text), refused

    def _reserving(self, run):
        """The tasks whose creates are held: they alone have reserved credits for longer than a moment."""
        found: list[Json] = []

        def are_alone():
            found[:] = [task for task in run.tasks() if self._has_reserved(run, task)]
            return len(found) == self.killed

        run.until(are_alone, f"{self.killed} tasks have reserved credits")
        return found

    @staticmethod
    def _has_reserved(run, task):
        return bool((run.xcom(key="magichour_credits", map_index=task["map_index"]) or {}).get("reserved"))


MANY = Budget("budget many", "breaking_budget_many", 50, 40, "40 success, attempt 1; 10 failed, attempt 1")
FEW = Budget(
    "budget few",
    "breaking_budget_few",
    12,
    8,
    "6 success, attempt 1; 2 failed, attempt 2; 4 failed, attempt 1",
    killed=2,
)


@pytest.mark.parametrize("scenario", [pytest.param(each, id=each.id) for each in (MANY, FEW)])
def test_run_budget_is_used_and_never_exceeded(scenario, played, report):
    row, refused = played(scenario)
    assert (row.paid, row.rendered, row.ends) == (scenario.affordable, scenario.affordable, scenario.ends)
    assert refused == scenario.requested - scenario.affordable
    report.add(BUDGET, row)
