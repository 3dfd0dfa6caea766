"""Airflow's own parts are killed while clips render, and while one is being submitted."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace

import pytest
from clips import MANY, ONE, SECTION, Clips
from live_airflow import LiveAirflow
from report import Report, Row

pytestmark = [pytest.mark.live, pytest.mark.timeout(400)]

CLIPS = 20
UNKNOWN = "was cut off at"
Begin = Callable[..., Clips]


def test_clips_outlive_the_triggerer(airflow: LiveAirflow, begin: Begin, report: Report) -> None:
    clips = rendering(begin, "triggerer-killed")
    killed = airflow.triggerer_id()

    airflow.kill("triggerer")
    clips.complete(slice(CLIPS // 2))
    airflow.restart("triggerer")
    clips.until_watched()

    assert airflow.triggerer_id() != killed
    row = finished(clips, "the triggerer is killed while 20 clips render; half of them end before it is back")
    assert row.ends == "success, try 1"
    report.add(SECTION, row)


def test_clips_outlive_the_scheduler_and_the_workers(
    airflow: LiveAirflow, begin: Begin, report: Report
) -> None:
    clips = rendering(begin, "scheduler-killed")

    airflow.kill("scheduler")
    clips.complete(slice(CLIPS // 2))
    clips.until(
        lambda: clips.states() == {"deferred": 10, "scheduled": 10}, "half of the triggers have fired"
    )
    airflow.restart("scheduler")
    clips.until(lambda: clips.states() == {"deferred": 10, "success": 10}, "half of the tasks are done")
    assert clips.row("").ends == "deferred, try 1 / success, try 1"

    clips.complete()
    clips.until(lambda: "running" in clips.states(), "other tasks go on in a worker")
    airflow.kill("scheduler")
    airflow.restart("scheduler")

    row = finished(
        clips,
        "the scheduler is killed while 20 clips render, and again, with its workers, while they are finished",
        workers_killed=True,
    )
    report.add(SECTION, replace(row, ends="success"))


def test_a_scheduler_that_comes_back_orders_no_second_clip_while_a_worker_still_submits_the_first(
    airflow: LiveAirflow, begin: Begin, report: Report
) -> None:
    clips = begin(ONE, "scheduler-alone-killed", hold_create="after")
    clips.until_held()

    airflow.kill("scheduler", with_children=False)
    airflow.restart("scheduler")
    clips.until(lambda: clips.tasks()[0]["try_number"] == 2, "the scheduler has begun a second try")
    clips.until_all("failed", 1)
    clips.sandbox.control.release()

    assert clips.finish() == "failed"
    row = clips.row("the scheduler alone is killed while a worker submits", message=clips.error(try_number=2))
    assert (row.ends, row.paid, row.rendered) == ("failed, try 2", 1, 1)
    assert UNKNOWN in row.message
    report.add(SECTION, row)


def test_clips_and_a_create_outlive_the_api_server(
    airflow: LiveAirflow, begin: Begin, report: Report
) -> None:
    many = rendering(begin, "api-server-killed")
    one = begin(ONE, "submitted-without-api-server", hold_create="after")
    lost = begin(ONE, "killed-without-api-server", hold_create="after")
    one.until_held()
    lost.until_held()
    doomed = lost.tasks()[0]["pid"]

    airflow.kill("api-server")
    os.kill(doomed, signal.SIGKILL)
    many.complete(slice(CLIPS // 2))
    one.sandbox.control.release()
    airflow.restart("api-server")

    row = finished(many, "the api-server is killed while 20 clips render; half of them end before it is back")
    report.add(SECTION, replace(row, ends="success"))

    row = finished(one, "the api-server is killed while a task submits, and is soon back")
    assert "could not be recorded" not in one.written()
    assert row.ends == "success, try 1"
    report.add(SECTION, row)

    assert lost.finish() == "failed"
    what = "the api-server is killed while a task submits, and then the task itself"
    row = lost.row(what, message=lost.error(try_number=2))
    assert (row.ends, row.paid, row.rendered) == ("failed, try 2", 1, 1)
    assert UNKNOWN in row.message
    report.add(SECTION, row)


def rendering(begin: Begin, run_id: str) -> Clips:
    """Twenty clips that render, looked at by the triggerer."""
    clips = begin(MANY, run_id)
    clips.until_rendering(CLIPS)
    return clips


def finished(clips: Clips, what: str, *, workers_killed: bool = False) -> Row:
    """What became of clips that all came to a good end, each paid for once."""
    assert clips.finish() == "success"
    clips.assert_each_has_its_own_job(workers_killed=workers_killed)
    row = clips.row(what)
    assert row.clips == row.paid == row.rendered == len(clips.jobs())
    return row
