"""`VideoJobSensor` by itself, against the sandbox over HTTP."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta, timezone

import pytest
from airflow.exceptions import AirflowRescheduleException
from attempts import IMAGE, MODEL, airflow_alarm

from magichour_provider import exceptions as errors
from magichour_provider.jobs.reference import DEFAULT_CONN_ID
from magichour_provider.operators.image_to_video import ImageToVideoOperator
from magichour_provider.sensors.video_job import VideoJobSensor
from magichour_provider.version_compat import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)

pytestmark = pytest.mark.usefixtures("connection")


def submit(context, **options):
    return ImageToVideoOperator(task_id="submit", image=IMAGE, **{**MODEL, **options}).execute(context)


def sensor(project_id, **options):
    return VideoJobSensor(**{"task_id": "wait", "project_id": project_id, "poke_interval": 0.1, **options})


def deferred(operator, context):
    with pytest.raises(TaskDeferred) as raised:
        operator.execute(context)
    return raised.value


@pytest.fixture
def submitted(context, magichour_sandbox):
    """The id of a job that does not end by itself."""
    magichour_sandbox.control.behaviour(render_seconds=3600)
    return submit(context, wait_for_completion=False)["project_id"]


@pytest.mark.parametrize("deferrable", [False, True])
def test_sensor_returns_finished_job_without_waiting(context, magichour_sandbox, deferrable):
    job = submit(context)
    context["ti"].pushed.clear()
    assert sensor(job, deferrable=deferrable).execute(context) == job
    assert context["ti"].pushed == {"project_id": job["project_id"]}, 'sensor.output["project_id"] works'


def test_sensor_polls_before_it_defers(context, submitted, magichour_sandbox):
    options = {"magichour_conn_id": "None", "deferrable": True, "timeout": 60}
    deferral = deferred(sensor(submitted, **options), context)
    assert (deferral.trigger.project_id, deferral.trigger.magichour_conn_id) == (submitted, DEFAULT_CONN_ID)
    assert deferral.trigger.deadline == pytest.approx(time.time() + 60, abs=5)


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("status", ["error", "canceled"])
def test_sensor_failed_job_fails_or_skips(
    context, submitted, magichour_sandbox, deferrable, status, fails_for_good
):
    magichour_sandbox.control.set_job(submitted, status)
    for options in ({}, {"silent_fail": True}):
        with fails_for_good(match="refunded"):
            sensor(submitted, deferrable=deferrable, **options).execute(context)
    for skip in ("soft_fail", "never_fail"):
        with pytest.raises(AirflowSkipException):
            sensor(submitted, deferrable=deferrable, **{skip: True}).execute(context)


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_sensor_timeout_says_that_the_job_continues(context, submitted, mode):
    context["ti"].get_first_reschedule_date = lambda _: None
    with pytest.raises(AirflowSensorTimeout, match="had not ended"):
        sensor(submitted, timeout=0.000001, mode=mode).execute(context)
    with pytest.raises(AirflowSkipException):
        sensor(submitted, timeout=0.000001, mode=mode, soft_fail=True).execute(context)


@pytest.mark.parametrize(
    ("limits", "over"),
    [
        ({"timeout": 50}, True),
        ({"timeout": 200}, False),
        ({"timeout": 200, "execution_timeout": timedelta(seconds=50)}, True),
        ({"timeout": 200, "execution_timeout": timedelta(seconds=150)}, False),
    ],
)
def test_sensor_reschedule_deadline_counts_from_first_poke(context, submitted, limits, over):
    begun = datetime.now(timezone.utc) - timedelta(seconds=100)
    context["ti"].get_first_reschedule_date = lambda _: begun
    with pytest.raises(AirflowSensorTimeout if over else AirflowRescheduleException):
        sensor(submitted, mode="reschedule", poke_interval=30, **limits).execute(context)


@pytest.mark.parametrize(
    ("ending", "error"),
    [("timeout", AirflowSensorTimeout), ("failed", (errors.JobFailedError, AirflowFailException))],
)
def test_sensor_execute_complete_raises_or_skips(context, ending, error):
    event = {"ending": ending, "project_id": "cm1"}
    with pytest.raises(error):
        sensor("cm1").execute_complete(context, event)
    with pytest.raises(AirflowSkipException):
        sensor("cm1", soft_fail=True).execute_complete(context, event)


@pytest.mark.parametrize("render", [str, json.dumps, lambda job: json.dumps(json.dumps(job))])
@pytest.mark.parametrize("nothing", [None, "", "None", "null"])
def test_sensor_reads_templates_of_any_form(context, magichour_sandbox, render, nothing):
    job = submit(context)
    assert sensor(render(job), magichour_conn_id=nothing).execute(context) == job
    assert sensor(render(job["project_id"])).execute(context)["project_id"] == job["project_id"]


def test_sensor_wait_ends_before_execution_timeout(context, submitted):
    waiting = sensor(submitted, execution_timeout=timedelta(seconds=5))
    with pytest.raises(AirflowSensorTimeout, match="had not ended"), airflow_alarm(5):
        waiting.execute(context)


@pytest.mark.parametrize("deferrable", [False, True])
def test_sensor_soft_fail_does_not_hide_wrong_key(context, connection, deferrable, fails_for_good):
    connection(password="wrong")
    for options in ({}, {"soft_fail": True}, {"never_fail": True}):
        with fails_for_good(match="API key"):
            sensor("cm1", deferrable=deferrable, **options).execute(context)
    refused = {"ending": "refused", "project_id": "cm1", "error_status": 401}
    with pytest.raises(errors.AuthenticationError):
        sensor("cm1", soft_fail=True).execute_complete(context, refused)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"project_id": "unknown"}, "belongs to another account"),
        ({"project_id": "cm1", "magichour_conn_id": "elsewhere"}, "'elsewhere' is not defined"),
        *(
            ({"project_id": each}, "must be the id of a Magic Hour project")
            for each in ("", None, "None", {"id": "cm1"}, ["cm1"])
        ),
    ],
    ids=str,
)
def test_sensor_fails_if_it_cannot_poll(context, options, message, fails_for_good):
    with fails_for_good(match=message):
        sensor(**options).execute(context)
