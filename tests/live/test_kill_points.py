"""`kill -9` of the task's own process at each point of a submission, in every mode."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from report import KILLED
from runs import CREATE, DEFERRABLE, MAPPED, POLL, PUT, SCHEDULER_DIES, SYNCHRONOUS, UPLOAD

DAGS = {SYNCHRONOUS: "synchronous", DEFERRABLE: "deferrable", MAPPED: "mapped"}
RECOVERED_KEY = "magichour_recovered_job_id"


@dataclass(frozen=True)
class Point:
    """A place in the life of a task: where it is held or stops, and what the next attempt can know.

    :param hold: the sandbox's rule that keeps the task there; `stop_at`: the Dag's own delay. With neither
        the task is killed while it waits in the worker.
    :param is_known: whether the next attempt can know what became of the create.
    :param paid: jobs that were charged by the time of the kill.
    """

    what: str
    hold: dict[str, Any] = field(default_factory=dict, hash=False)
    stop_at: str = ""
    is_known: bool = True
    paid: int = 1

    def reach(self, run):
        """Wait until the task is there."""
        if self.hold:
            run.until_held()
        elif self.stop_at == "resume":
            run.until_in("deferred")
            run.complete()
            run.until_signed("stopped")
        elif self.stop_at:
            run.until_signed("stopped")
        else:
            run.until(lambda: [job["polls"] > 1 for job in run.jobs()] == [True], "the job is polled")


BEFORE_UPLOAD = Point("before the upload", hold={**UPLOAD, "hold": "before"}, paid=0)
AFTER_UPLOAD = Point("after the upload", hold={**PUT, "hold": "after"}, paid=0)
NOT_RECEIVED = Point(
    "during the create, before Magic Hour has received it",
    hold={**CREATE, "hold": "before"},
    is_known=False,
    paid=0,
)
RECEIVED = Point(
    "during the create, after Magic Hour has received it", hold={**CREATE, "hold": "after"}, is_known=False
)
ANSWERED = Point("after the response, before its id is stored", stop_at="answer", is_known=False)
STORED = Point("after the id is stored", stop_at="defer")
POLLING = Point(STORED.what, hold={**POLL, "hold": "before"})
"""The same in synchronous mode: the first poll follows."""
WAITING = Point("while it waits in the worker")
RESUMED = Point("when it resumes", stop_at="resume")
SUBMISSION = (BEFORE_UPLOAD, AFTER_UPLOAD, NOT_RECEIVED, RECEIVED, ANSWERED)


@dataclass(frozen=True)
class Kill:
    """One kill.

    :param dags: what the id of its Dag begins with.
    """

    point: Point
    mode: str
    with_supervisor: bool = False
    dags: str = "breaking"

    @property
    def id(self):
        return f"{self.mode} {self.what}"

    @property
    def what(self):
        """What is done, in the page's words."""
        return f"{self.point.what}{', its supervisor too' if self.with_supervisor else ''}"

    @property
    def dag_id(self):
        return f"{self.dags}_{DAGS[self.mode]}"

    @property
    def requested(self):
        """How many videos are requested."""
        return 3 if self.mode == MAPPED else 1

    @property
    def is_cleared(self):
        """Whether a user clears the task after it has failed."""
        return not self.point.is_known and self.mode != MAPPED

    @property
    def is_recovered(self):
        """Whether the user finds the job in the library first, and stores its id with the task."""
        return self.is_cleared and self.mode == DEFERRABLE and self.point.paid == 1

    def play(self, starter, run_id):
        """Kill the task's process between `reach` and `end`; rows and errors."""
        run, victim = self.reach(self.start(starter, run_id))
        run.kill(victim, with_supervisor=self.with_supervisor)
        return self.end(run, victim)

    def start(self, starter, run_id, **conf):
        hold, stop_at = self.point.hold or None, self.point.stop_at
        return starter.start(self.dag_id, run_id, hold=hold, stop_at=stop_at, **conf)

    def reach(self, run):
        """Bring the run to the point of the kill; the run, and the task instance to kill."""
        self.point.reach(run)
        return run, run.until_one_runs() if self.mode == MAPPED else run.until_in("running")

    def end(self, run, victim):
        """Let the run end, and if the task fails do what its message says; rows and errors."""
        run.finish()
        index = victim["map_index"]
        row = run.row(self.what, self.mode, requested=self.requested, map_index=index)
        errors = run.errors(run.task(map_index=index))
        return row, errors, self._clear(run) if self.is_cleared else None

    def _clear(self, run):
        if self.is_recovered:
            run.store(RECOVERED_KEY, run.only_job()["id"])
        run.clear(keeps_state=self.is_recovered)
        run.finish()
        if self.is_recovered:
            return run.row(f"{self.what}; then a user stores the job's id and clears the task", self.mode)
        what = f"{self.what}; then a user clears the task"
        return run.row(what, self.mode, requested=1 + self.point.paid)


KILLS = [
    *(Kill(point, mode) for point in SUBMISSION for mode in (SYNCHRONOUS, DEFERRABLE)),
    Kill(POLLING, SYNCHRONOUS),
    Kill(STORED, DEFERRABLE),
    Kill(WAITING, SYNCHRONOUS),
    Kill(RESUMED, DEFERRABLE),
    *(Kill(point, MAPPED) for point in (RECEIVED, STORED)),
    *(Kill(point, SYNCHRONOUS, with_supervisor=True) for point in (RECEIVED, POLLING)),
]


def assert_clear_refusal(message, kill):
    """The message names the job, the balance, the place to search and what to do."""
    for part in ("12000 credits", RECOVERED_KEY, "https://magichour.ai/my-library", kill.dag_id):
        assert part in message


def params(kills):
    return [
        pytest.param(kill, id=kill.id, marks=SCHEDULER_DIES if kill.with_supervisor else ()) for kill in kills
    ]


@pytest.mark.parametrize("scenario", params([kill for kill in KILLS if kill.point.is_known]))
def test_kill_retry_ends_with_the_video_paid_once(scenario, played, report):
    row, _, _ = played(scenario)
    code = "reattached" if scenario.point.paid else "submitted"
    assert (row.ends, row.job) == ("success, attempt 2", code)
    assert row.paid == row.rendered == scenario.requested
    report.add(KILLED, row, place=KILLS.index(scenario))


@pytest.mark.parametrize("scenario", params([kill for kill in KILLS if not kill.point.is_known]))
def test_kill_in_create_fails_retry_with_unknown_submission(scenario, played, report):
    row, errors, _ = played(scenario)
    paid = scenario.requested - 1 + scenario.point.paid
    assert (row.ends, row.job) == ("failed, attempt 2", "unknown-reported")
    assert row.paid == row.rendered == paid
    assert_clear_refusal(errors["AirflowFailException"], scenario)
    report.add(KILLED, row, place=KILLS.index(scenario))


@pytest.mark.parametrize("scenario", params([kill for kill in KILLS if kill.is_cleared]))
def test_clear_after_unknown_submission(scenario, played, report):
    _, _, row = played(scenario)
    code = "reattached" if scenario.is_recovered else "resubmitted" if scenario.point.paid else "submitted"
    requested = 1 if scenario.is_recovered else 1 + scenario.point.paid
    assert (row.ends, row.job) == ("success, attempt 3", code)
    assert row.requested == row.paid == row.rendered == requested
    report.add(KILLED, row, place=KILLS.index(scenario))
