"""Of two triggerers one is frozen until the other has its triggers, and then comes back.

When it comes back, it gets the order to cancel its triggers as if a user had acted on their tasks
(apache/airflow#73454).
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from report import PARTS
from runs import DEFERRABLE, MAPPED, POLL, Run
from test_moving_parts import COUNT, MANY, ONE, assert_own_jobs

from magichour_provider.operators._base import kill_message

CAPACITY = 10
"""How many triggers the first triggerer takes; one of them is that of the job that ends meanwhile."""
CANCELLED = "Trigger cancelled by user action, invoking on_kill"
KILLED = kill_message("", None).partition(".")[0]
"""The beginning of the message about the job of a killed task."""


@dataclass(frozen=True)
class Return:
    """What the frozen triggerer came back to.

    :param rendering: jobs that were still rendering, and have ended since then.
    :param ended: a job that had ended, and whose task had succeeded.
    :param marked: a job whose task a user then marked as failed.
    """

    rendering: Run
    ended: Run
    marked: Run
    counts_then: dict[str, int]
    cancelled: int


@pytest.fixture(scope="module")
def after_return(parts, parts_starter):
    """The whole story, played once; it leaves Airflow with the first triggerer, of small capacity."""
    parts.kill("triggerer")
    parts.start("triggerer", "--capacity", str(CAPACITY))
    ended = parts_starter.start(ONE, "ended-meanwhile")
    ended.until_counts(deferred=1)
    ended.until_polled()
    rendering = parts_starter.start(MANY, "rendered-meanwhile")
    freeze_until_taken_over(parts, rendering, ended)
    assert ended.finish() == "success"

    ended.sandbox.faults([{**POLL, "delay": 5}])  # the cancel comes before the poll that would show the end
    parts.thaw("triggerer")
    ended.until(lambda: CANCELLED in ended.log_files(), "the trigger of the ended job is cancelled")
    rendering.until(lambda: cancel_count(rendering) >= CAPACITY - 1, "the others are cancelled")
    parts.wait_until_healthy()
    counts, cancelled = rendering.counts(), cancel_count(rendering)

    marked = parts_starter.start(ONE, "marked-as-failed")
    marked.until_counts(deferred=1)
    marked.until_polled()
    marked.mark("failed")
    marked.until(lambda: KILLED in marked.log(), "the job of the killed task is reported")
    marked.until(lambda: not marked.triggerers(), "the trigger is gone")
    # A triggerer that gets a trigger back overwrites its log: nothing may end before this.
    rendering.finish()
    return Return(rendering, ended, marked, counts, cancelled)


def freeze_until_taken_over(parts, *runs):
    """Let two triggerers share the jobs, and freeze the first until the second has all."""

    def shares():
        each = [run.triggerers() for run in runs]
        return {key: sum(counts.get(key, 0) for counts in each) for key in {k for c in each for k in c}}

    many = runs[0]
    many.until_counts(deferred=COUNT)
    first = parts.triggerer_id("triggerer")
    many.until(lambda: shares() == {first: CAPACITY}, "the first triggerer is full")
    parts.start("triggerer-2")
    second = parts.triggerer_id("triggerer-2")
    rest = COUNT + 1 - CAPACITY
    many.until(lambda: shares() == {first: CAPACITY, second: rest}, "both triggerers have jobs")
    many.until_polled()

    parts.freeze("triggerer")
    many.until(lambda: shares() == {second: COUNT + 1}, "the other triggerer has all jobs")
    many.until_polled()


def test_returning_triggerer_keeps_waiting_tasks(after_return, report):
    run = after_return.rendering
    assert after_return.counts_then == {"deferred": COUNT}
    assert after_return.cancelled == cancel_count(run) == CAPACITY - 1
    assert KILLED not in run.log_files()
    assert_own_jobs(run)
    what = f"one of two triggerers is frozen while {COUNT} jobs render, and comes back while they still do"
    row = run.row(what, MAPPED)
    assert row.ends == "success, attempt 1"
    assert row.requested == row.paid == row.rendered == COUNT
    report.add(PARTS, row)


def test_returning_triggerer_keeps_finished_task(after_return, report):
    run = after_return.ended
    assert CANCELLED in run.log_files()
    assert KILLED not in run.log_files()
    assert_own_jobs(run)
    row = run.row("one of two triggerers is frozen, and comes back when the job has ended", DEFERRABLE)
    assert row.ends == "success, attempt 1"
    report.add(PARTS, row)


def test_deferred_task_marked_failed_reports_its_job_once(after_return, report):
    run = after_return.marked
    job = run.only_job()
    assert job["status"] in ("queued", "rendering")
    run.complete()

    (line,) = [line for line in run.log().splitlines() if KILLED in line]
    for part in (job["id"], f"https://magichour.ai/my-library?videoId={job['id']}", "72 credits"):
        assert part in line
    row = run.row("a user marks the deferred task as failed", DEFERRABLE)
    assert (row.ends, row.job, row.paid, row.rendered) == ("failed, attempt 1", "job-reported", 1, 1)
    report.add(PARTS, row)


def test_triggerers_log_no_kill(parts, after_return):
    for name in ("triggerer", "triggerer-2"):
        assert KILLED not in (parts.parts_logs_dir / f"{name}.log").read_text(encoding="utf-8")


def cancel_count(run):
    return run.log_files().count(CANCELLED)
