"""A user marks or clears the task at each point, and clears a marked task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from report import USER_ACTIONS
from runs import CREATE, DEFERRABLE, PUT, SYNCHRONOUS

from magichour_provider.version_compat import AIRFLOW_V_3_4_PLUS

UPLOADING = "during the upload"
IN_TIME = "during the create; the response comes within 5 seconds"
TOO_LATE = "during the create; the response does not come within 5 seconds"
WAITING = "while it waits in the worker"
DEFERRED = "while it is deferred"
SUCCEEDED = "after its success"
HOLDS: dict[str, dict[str, Any]] = {
    UPLOADING: {**PUT, "hold": "after"},
    IN_TIME: {**CREATE, "hold": "after"},
    TOO_LATE: {**CREATE, "hold": "after"},
}


class End(NamedTuple):
    """How the task ends.

    :param requested: videos requested so far; clearing requests another one if the last is known to be done.
    :param unnamed: jobs whose id no task has learnt, so that no log names them.
    """

    ends: str
    job: str
    requested: int = 1
    paid: int = 1
    unnamed: int = 0


@dataclass(frozen=True)
class Action:
    """What a user does, when, and how the task must end: when marked, and after clearing."""

    act: str
    moment: str
    mode: str
    ends: tuple[End, ...]

    @property
    def id(self):
        return f"{self.what}, {self.mode}"

    @property
    def what(self):
        """What is done, in the page's words."""
        return f"{self.act} {self.moment}"

    def play(self, starter, run_id):
        """Do it, and clear a task that was marked; rows, and how many jobs no log names."""
        run = starter.start(f"breaking_{self.mode}", run_id, hold=HOLDS.get(self.moment))
        self._reach(run)
        self._act(run)
        if self.act == "cleared":
            run.finish()
            return [self._seen(run, self.what, self.ends[0])]
        run.complete()
        marked = self._seen(run, self.what, self.ends[0])
        run.clear()
        run.finish()
        return [marked, self._seen(run, f"{self.what}; then cleared", self.ends[1])]

    def _reach(self, run):
        if self.moment in HOLDS:
            run.until_held()
        elif self.moment == WAITING:
            run.until(lambda: [job["polls"] > 1 for job in run.jobs()] == [True], "the job is polled")
        else:
            run.until_in("deferred")
            run.until(lambda: run.only_job()["polls"], "the triggerer polls the job")
        if self.moment == SUCCEEDED:
            run.finish()
            run.until_recorded("done")

    def _act(self, run):
        task = run.task()
        if self.act == "cleared":
            run.clear()
        else:
            run.mark(self.act.removeprefix("marked "))
        if self.moment in (*HOLDS, WAITING):
            run.until_signed("terminated")
            if self.moment != TOO_LATE:
                run.sandbox.release()
            run.until_gone(task)
        elif self.moment == DEFERRED and self.act != "cleared":
            job_id = run.only_job()["id"]
            run.until(
                lambda: job_id in run.log().partition("invoking on_kill")[2], "the triggerer reports the job"
            )

    def _seen(self, run, what, end):
        written = run.log_files()
        unnamed = sum(job["id"] not in written for job in run.jobs())
        return run.row(what, self.mode, requested=end.requested), unnamed


REPORTED = End("failed, attempt 1", "job-reported")
NOT_SUBMITTED = End("failed, attempt 1", "not-submitted", paid=0)
CUT_OFF = End("failed, attempt 1", "unknown-reported", unnamed=1)
MARKED_SUCCESS = End("success, attempt 1", "job-reported")
SUBMITTED = End("success, attempt 2", "submitted")
REATTACHED = End("success, attempt 2", "reattached")
UNKNOWN = End("failed, attempt 2", "unknown-reported")
RESUBMITTED = End("success, attempt 2", "resubmitted", requested=2, paid=2)

ACTIONS = [
    *(
        Action("marked failed", UPLOADING, mode, (NOT_SUBMITTED, SUBMITTED))
        for mode in (SYNCHRONOUS, DEFERRABLE)
    ),
    *(Action("marked failed", IN_TIME, mode, (REPORTED, REATTACHED)) for mode in (SYNCHRONOUS, DEFERRABLE)),
    Action("marked failed", TOO_LATE, DEFERRABLE, (CUT_OFF, UNKNOWN._replace(unnamed=1))),
    Action("marked failed", WAITING, SYNCHRONOUS, (REPORTED, REATTACHED)),
    Action("marked failed", DEFERRED, DEFERRABLE, (REPORTED, REATTACHED)),
    Action("marked success", DEFERRED, DEFERRABLE, (MARKED_SUCCESS, REATTACHED)),
    Action("cleared", UPLOADING, DEFERRABLE, (SUBMITTED,)),
    # Before 3.4 Airflow stores nothing for a cleared attempt.
    Action("cleared", IN_TIME, DEFERRABLE, (REATTACHED if AIRFLOW_V_3_4_PLUS else UNKNOWN,)),
    Action("cleared", TOO_LATE, DEFERRABLE, (UNKNOWN._replace(unnamed=1),)),
    Action("cleared", WAITING, SYNCHRONOUS, (REATTACHED,)),
    Action("cleared", DEFERRED, DEFERRABLE, (REATTACHED,)),
    Action("cleared", SUCCEEDED, DEFERRABLE, (RESUBMITTED,)),
]


@pytest.mark.parametrize("scenario", [pytest.param(action, id=action.id) for action in ACTIONS])
def test_user_action_never_pays_twice(scenario, played, report):
    seen = played(scenario)
    found = [End(row.ends, row.job, row.requested, row.paid, unnamed) for row, unnamed in seen]
    assert found == list(scenario.ends)
    for row, _ in seen:
        assert row.rendered == row.paid
        report.add(USER_ACTIONS, row)
