"""Airflow's own parts are killed while jobs render, and while one is being submitted."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import replace

from breaking_dags import SENSOR_CONN_ID
from report import PARTS
from runs import CREATE, DEFERRABLE, MAPPED

MANY, ONE, SENSOR = "breaking_many", "breaking_deferrable", "breaking_sensor"
COUNT = 20
HELD_CREATE = {**CREATE, "hold": "after"}


def test_jobs_survive_triggerer_kill(parts, parts_starter, report):
    sensor = parts_starter.start(SENSOR, SENSOR_CONN_ID)
    run = rendering(parts_starter, "triggerer-killed")
    sensor.until(lambda: len(deadlines(sensor)) == 1, "the sensor waits in the triggerer")
    killed = parts.triggerer_id()

    parts.kill("triggerer")
    run.complete_half()
    assert sensor.task()["state"] == "deferred"
    parts.restart("triggerer")
    run.until_polled()

    assert parts.triggerer_id() != killed
    sensor.until(lambda: len(deadlines(sensor)) == 2, "the sensor waits in the new triggerer")
    first, second = deadlines(sensor)
    assert first == second, "a new triggerer grants no more time"
    assert sensor.finish() == "success"
    assert sensor.workers("render") == 0
    what = f"the triggerer is killed while {COUNT} jobs render; half of them end before it is back"
    row = finished(run, what)
    assert row.ends == "success, attempt 1"
    report.add(PARTS, row)


def test_jobs_survive_scheduler_and_worker_kill(parts, parts_starter, report):
    run = rendering(parts_starter, "scheduler-killed")

    parts.kill("scheduler")
    run.complete_half()
    run.until_counts(deferred=10, scheduled=10)
    parts.restart("scheduler")
    run.until_counts(deferred=10, success=10)
    assert {task["try_number"] for task in run.tasks()} == {1}

    run.complete()
    run.until(lambda: "running" in run.counts(), "other tasks resume in a worker")
    parts.kill("scheduler")
    parts.restart("scheduler")

    what = f"the scheduler is killed while {COUNT} jobs render, and again, with its workers, while they end"
    row = finished(run, what, workers_killed=True)
    report.add(PARTS, replace(row, ends="success"))


def test_scheduler_restart_submits_no_second_job(parts, parts_starter, report):
    run = parts_starter.start(ONE, "scheduler-alone-killed", hold=HELD_CREATE)
    run.until_held()

    parts.kill("scheduler", with_children=False)
    parts.restart("scheduler")
    run.until(lambda: run.task()["try_number"] == 2, "the scheduler has begun a second attempt")
    run.until_counts(failed=1)
    run.sandbox.release()

    assert run.finish() == "failed"
    row = run.row("the scheduler alone is killed while a worker submits", DEFERRABLE)
    assert (row.ends, row.paid, row.rendered) == ("failed, attempt 2", 1, 1)
    assert row.job == "unknown-reported"
    report.add(PARTS, row)


def test_jobs_and_creates_survive_api_server_kill(parts, parts_starter, report):
    many = rendering(parts_starter, "api-server-killed")
    one = parts_starter.start(ONE, "submitted-without-api-server", hold=HELD_CREATE)
    lost = parts_starter.start(ONE, "killed-without-api-server", hold=HELD_CREATE)
    one.until_held()
    lost.until_held()
    process_id = lost.task()["pid"]

    parts.kill("api-server")
    os.kill(process_id, signal.SIGKILL)
    many.complete_half()
    one.sandbox.release()
    parts.restart("api-server")

    what = f"the api-server is killed while {COUNT} jobs render; half of them end before it is back"
    report.add(PARTS, replace(finished(many, what), ends="success"))

    row = finished(one, "the api-server is killed while a task submits, and is soon back")
    assert row.ends == "success, attempt 1"
    report.add(PARTS, row)

    assert lost.finish() == "failed"
    what = "the api-server is killed while a task submits, and then the task itself"
    row = lost.row(what, DEFERRABLE)
    assert (row.ends, row.paid, row.rendered) == ("failed, attempt 2", 1, 1)
    assert row.job == "unknown-reported"
    report.add(PARTS, row)


def rendering(starter, run_id):
    """Twenty jobs that render and are polled by the triggerer."""
    run = starter.start(MANY, run_id)
    run.until_counts(deferred=COUNT)
    run.until_polled()
    return run


def finished(run, what, *, workers_killed=False):
    """The row of a run whose every task ends with its own job, paid for once."""
    assert run.finish() == "success"
    assert_own_jobs(run, workers_killed=workers_killed)
    row = run.row(what, DEFERRABLE if run.dag_id == ONE else MAPPED)
    assert row.requested == row.paid == row.rendered == len(run.jobs())
    return replace(row, job="submitted") if workers_killed else row


def assert_own_jobs(run, *, workers_killed=False):
    """Every task has returned and recorded a job of this run, and no two the same.

    A worker that is killed after its task's success may not have recorded that the task is done.
    """
    indexes = [task["map_index"] for task in run.tasks()]
    results = [run.xcom(map_index=index)["project_id"] for index in indexes]
    stages = ("done",) if not workers_killed else ("done", "submitted")
    recorded = [run.until_recorded(*stages, map_index=index)["project_id"] for index in indexes]
    assert sorted(results) == sorted(job["id"] for job in run.jobs())
    assert recorded == results


def deadlines(run):
    """The times until which a sensor has logged that it waits, one for each triggerer."""
    return re.findall(r"until (\d{4}-\d\d-\d\dT\S+?)\.?(?:\s|$)", run.log())
