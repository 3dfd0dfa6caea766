"""A worker that comes back after Airflow has given it up, and a timeout that passes during the create."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest
from report import KILLED
from runs import CREATE, PUT, SCHEDULER_DIES, SYNCHRONOUS, thaw

EXECUTION_TIMEOUT = 16
"""Seconds during the create by which the 15 of the Dag, which begin earlier, are over."""
TIMED = "synchronous, with a timeout"
PLACE = 1000
"""Below the rows of the kills."""


@dataclass(frozen=True)
class Frozen:
    """The worker is frozen between upload and create until another attempt has succeeded."""

    id: str = "frozen"

    def play(self, starter, run_id):
        """Freeze, let the heartbeat timeout pass and the next attempt succeed, and thaw."""
        run = starter.start("breaking_synchronous", run_id, hold={**PUT, "hold": "after"})
        run.until_held()
        task = run.until_in("running")
        runner, supervisor = run.processes(task)
        for process in (supervisor, runner):
            process.suspend()
        try:
            run.finish()
        finally:
            run.sandbox.release()
            thaw(runner)
            run.until(lambda: not _is_connected(run, runner), "the upload's response is read")
            thaw(supervisor)
        run.until_gone(task)
        run.complete()
        what = "frozen with its supervisor between upload and create, until the next attempt has succeeded"
        return [run.row(f"not killed: {what}", SYNCHRONOUS)]


@dataclass(frozen=True)
class Late:
    """`execution_timeout` passes during the create, which Magic Hour has received.

    :param is_answered: whether the response comes within the time that the provider still gives it.
    """

    is_answered: bool

    @property
    def id(self):
        return "answered late" if self.is_answered else "never answered"

    def play(self, starter, run_id):
        """Let the time run out; if the response is lost, clear the task as its message says."""
        what = "not killed: `execution_timeout` passes during the create, after Magic Hour has received it"
        run = starter.start("breaking_timed", run_id, hold={**CREATE, "hold": "after"})
        if self.is_answered:
            run.until_held()
            held = time.monotonic()
            run.until(lambda: time.monotonic() - held > EXECUTION_TIMEOUT, "the timeout has passed")
            run.sandbox.release()
            run.finish()
            return [run.row(f"{what}; then the response comes", TIMED)]
        run.finish()
        failed = run.row(what, TIMED)
        run.clear()
        run.finish()
        return [failed, run.row(f"{what}; then a user clears the task", TIMED, requested=2)]


FROZEN, ANSWERED, UNANSWERED = Frozen(), Late(is_answered=True), Late(is_answered=False)


@pytest.mark.parametrize(
    ("scenario", "job"),
    [
        pytest.param(FROZEN, "submitted", id=FROZEN.id, marks=SCHEDULER_DIES),
        pytest.param(ANSWERED, "reattached", id=ANSWERED.id),
    ],
)
def test_worker_that_returns_late_submits_nothing_twice(scenario, job, played, report):
    (row,) = played(scenario)
    assert (row.ends, row.job, row.paid, row.rendered) == ("success, attempt 2", job, 1, 1)
    report.add(KILLED, row, place=PLACE)


@pytest.mark.parametrize("scenario", [pytest.param(UNANSWERED, id=UNANSWERED.id)])
def test_execution_timeout_without_response_fails_without_retry(scenario, played, report):
    failed, cleared = played(scenario)
    assert (failed.ends, failed.job, failed.paid) == ("failed, attempt 1", "unknown-reported", 1)
    assert (cleared.ends, cleared.job, cleared.paid) == ("success, attempt 2", "resubmitted", 2)
    for row in (failed, cleared):
        report.add(KILLED, row, place=PLACE)


def _is_connected(run, process):
    """Whether a process has a connection to the run's sandbox: to its API or to its storage."""
    return any(link.raddr and link.raddr.port in run.ports for link in process.net_connections("tcp"))
