"""Two triggerers, one of which is frozen until the other has taken its triggers over, and then comes back.

The one that comes back is told to cancel its triggers as though a person had acted on their tasks
(apache/airflow#73454).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from clips import LOOK, MANY, ONE, SECTION, Clips
from live_airflow import LiveAirflow
from report import Report
from scene import anonymous

from magichour_provider.jobs.reference import library_url

pytestmark = [pytest.mark.live, pytest.mark.timeout(400)]

CLIPS = 20
CAPACITY = 10
"""How many triggers the first triggerer takes; one of them is that of the clip that ends meanwhile."""
CANCELLED = "Trigger cancelled by user action, invoking on_kill"
KILLED = "was killed"
Begin = Callable[..., Clips]


@dataclass(frozen=True)
class Return:
    """What the frozen triggerer came back to.

    :param rendering: clips that were still rendering, and have ended since then.
    :param ended: a clip that had ended, and whose task had succeeded.
    :param marked: a clip whose task a person then marked as failed.
    """

    rendering: Clips
    ended: Clips
    marked: Clips
    states_then: dict[str, int]
    cancelled: int


@pytest.fixture(scope="module")
def after_return(airflow: LiveAirflow, begin: Begin) -> Return:
    """The whole story, played once; it leaves Airflow with the first triggerer, of small capacity."""
    airflow.kill("triggerer")
    airflow.start("triggerer", "--capacity", str(CAPACITY))
    ended = begin(ONE, "ended-meanwhile")
    ended.until_rendering(1)
    rendering = begin(MANY, "rendered-meanwhile")
    freeze_until_taken_over(airflow, rendering, ended)
    assert ended.finish() == "success"

    ended.sandbox.control.faults(
        [{**LOOK, "delay": 5}]
    )  # the cancel comes before the look that would show it
    airflow.thaw("triggerer")
    ended.until(lambda: CANCELLED in ended.written(), "the trigger of the ended clip is cancelled")
    rendering.until(lambda: rendering.written().count(CANCELLED) >= CAPACITY - 1, "the others are cancelled")
    airflow.wait_until_healthy()
    states, cancelled = rendering.states(), rendering.written().count(CANCELLED)

    marked = begin(ONE, "marked-as-failed")
    marked.until_rendering(1)
    airflow.set_state(marked.dag_id, marked.run_id, "render", "failed")
    marked.until(lambda: KILLED in marked.log(), "the task's log says that it was killed")
    marked.until(lambda: not marked.watchers(), "the trigger is gone")
    # A triggerer that takes a trigger up again begins its log anew: nothing may be killed before this.
    rendering.finish()
    return Return(rendering, ended, marked, states, cancelled)


def freeze_until_taken_over(airflow: LiveAirflow, *runs: Clips) -> None:
    """Let two triggerers share the clips, and freeze the first until the second has all."""

    def watchers() -> dict[int, int]:
        each = [run.watchers() for run in runs]
        return {one: sum(counts.get(one, 0) for counts in each) for one in {key for c in each for key in c}}

    runs[0].until_all("deferred", CLIPS)
    first = airflow.triggerer_id("triggerer")
    runs[0].until(lambda: watchers() == {first: CAPACITY}, "the first triggerer is full")
    airflow.start("triggerer-2")
    second = airflow.triggerer_id("triggerer-2")
    rest = CLIPS + 1 - CAPACITY
    runs[0].until(lambda: watchers() == {first: CAPACITY, second: rest}, "both triggerers have clips")
    runs[0].until_watched()

    airflow.freeze("triggerer")
    runs[0].until(lambda: watchers() == {second: CLIPS + 1}, "the other triggerer has all clips")
    runs[0].until_watched()


def test_a_triggerer_that_comes_back_takes_no_waiting_task_for_killed(
    after_return: Return, report: Report
) -> None:
    clips = after_return.rendering
    assert after_return.states_then == {"deferred": CLIPS}
    assert after_return.cancelled == CAPACITY - 1

    assert clips.written().count(CANCELLED) == CAPACITY - 1
    assert KILLED not in clips.written()
    clips.assert_each_has_its_own_job()
    row = clips.row(
        "one of two triggerers is frozen while 20 clips render, and comes back while they still do"
    )
    assert row.ends == "success, try 1"
    assert row.clips == row.paid == row.rendered == CLIPS
    report.add(SECTION, row)


def test_a_triggerer_that_comes_back_takes_no_finished_task_for_killed(
    after_return: Return, report: Report
) -> None:
    clips = after_return.ended
    assert CANCELLED in clips.written()
    assert KILLED not in clips.written()

    clips.assert_each_has_its_own_job()
    row = clips.row("one of two triggerers is frozen, and comes back when the clip is done")
    assert row.ends == "success, try 1"
    report.add(SECTION, row)


def test_a_deferred_task_that_a_person_fails_says_once_what_goes_on(
    after_return: Return, report: Report
) -> None:
    clips = after_return.marked
    (job,) = clips.jobs()
    assert job["status"] in ("queued", "rendering")
    clips.complete()

    (line,) = [line for line in clips.log().splitlines() if KILLED in line]
    for part in (job["id"], library_url(job["id"]), f"{job['credits_charged']} credits"):
        assert part in line
    message = anonymous(line[line.index("This task") :], clips.run_id)
    row = clips.row("a person marks the deferred task as failed", message=message)
    assert (row.ends, row.paid, row.rendered) == ("failed, try 1", 1, 1)
    report.add(SECTION, row)


def test_the_triggerers_themselves_say_nothing_of_a_kill(airflow: LiveAirflow, after_return: Return) -> None:
    for name in ("triggerer", "triggerer-2"):
        assert KILLED not in (airflow.parts_logs_dir / f"{name}.log").read_text(encoding="utf-8")
