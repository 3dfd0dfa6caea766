"""Two triggerers, one of which is frozen until the other has taken its triggers over, and then comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from clips import MANY, ONE, SECTION, Clips
from live_airflow import LiveAirflow
from report import Report

from magichour_provider.references import library_url

pytestmark = [pytest.mark.live, pytest.mark.timeout(400)]

CLIPS = 20
NAMES = ("triggerer", "triggerer-2")
CANCELLED = "Trigger cancelled by user action, invoking on_kill"
KILLED = "was killed"
Begin = Callable[..., Clips]


@pytest.fixture(scope="module", autouse=True)
def _second_triggerer(airflow: LiveAirflow) -> Iterator[None]:
    airflow.start("triggerer-2")
    yield
    airflow.kill("triggerer-2")


def test_a_triggerer_that_comes_back_takes_nothing_for_killed(
    airflow: LiveAirflow, begin: Begin, report: Report
) -> None:
    clips = begin(MANY, "adopted")
    frozen, taken = freeze_until_taken_over(airflow, clips)
    airflow.thaw(frozen)
    clips.until(lambda: clips.written().count(CANCELLED) == taken, "the frozen triggerer has cancelled")
    airflow.wait_until_healthy()
    clips.until_watched()
    assert clips.states() == {"deferred": CLIPS}

    assert clips.finish() == "success"
    assert KILLED not in clips.written()
    assert KILLED not in parts_said(airflow)
    clips.assert_each_has_its_own_job()
    row = clips.row(
        "one of two triggerers is frozen while 20 clips render, and comes back while they still do"
    )
    assert row.ends == "success, try 1"
    assert row.clips == row.paid == row.rendered == CLIPS
    report.add(SECTION, row)


def test_a_triggerer_that_comes_back_takes_no_finished_task_for_killed(
    airflow: LiveAirflow, begin: Begin, report: Report
) -> None:
    clips = begin(MANY, "adopted-and-finished")
    frozen, taken = freeze_until_taken_over(airflow, clips)
    assert clips.finish() == "success"
    airflow.thaw(frozen)
    clips.until(lambda: clips.written().count(CANCELLED) == taken, "the frozen triggerer has cancelled")
    airflow.wait_until_healthy()

    clips.assert_each_has_its_own_job()
    row = clips.row(
        "one of two triggerers is frozen while 20 clips render, and comes back when they are done"
    )
    assert row.ends == "success, try 1"
    assert row.clips == row.paid == row.rendered == CLIPS
    report.add(SECTION, row)
    assert KILLED not in clips.written()


def test_a_deferred_task_that_a_person_fails_says_once_what_goes_on(begin: Begin, report: Report) -> None:
    clips = begin(ONE, "marked")
    clips.until_all("deferred", 1)
    clips.until_watched()
    (job,) = clips.jobs()

    clips.airflow.set_state(clips.dag_id, clips.run_id, "render", "failed")
    clips.until(lambda: KILLED in clips.log(), "the task's log says that it was killed")
    clips.until(lambda: not clips.watchers(), "the trigger is gone")
    assert clips.finish() == "failed"

    (line,) = [line for line in clips.log().splitlines() if KILLED in line]
    for part in (job["id"], library_url(job["id"]), f"{job['credits_charged']} credits"):
        assert part in line
    row = clips.row("a deferred task is marked as failed, with two triggerers", message=KILLED)
    assert (row.ends, row.paid, row.rendered) == ("failed, try 1", 1, 1)


def freeze_until_taken_over(airflow: LiveAirflow, clips: Clips) -> tuple[str, int]:
    """Freeze the triggerer that has more of the clips until the other has all: its name, and how many it had."""
    clips.until_all("deferred", CLIPS)
    clips.until_watched()
    ids = {airflow.triggerer_id(name): name for name in NAMES}
    watchers = clips.watchers()
    assert watchers.keys() == ids.keys(), "the clips are spread over both triggerers"
    busier = max(watchers, key=lambda each: watchers[each])
    (other,) = watchers.keys() - {busier}

    airflow.freeze(ids[busier])
    clips.until(lambda: clips.watchers() == {other: CLIPS}, "the other triggerer has all clips")
    clips.until_watched()
    return ids[busier], watchers[busier]


def parts_said(airflow: LiveAirflow) -> str:
    """All that the triggerers themselves have written."""
    return "".join((airflow.parts_logs_dir / f"{name}.log").read_text(encoding="utf-8") for name in NAMES)
