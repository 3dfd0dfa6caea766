"""Sensors that need no worker, and those that do. The variable LIVE_JOBS names their jobs."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import (
    Asset,
    ExceptionRetryPolicy,
    RetryAction,
    RetryRule,
    TaskGroup,
    TriggerRule,
    dag,
    task,
    task_group,
)

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.sensors.video_job import VideoJobSensor

JOBS: dict[str, str] = json.loads(os.environ.get("LIVE_JOBS", "{}"))
COMPLETE = JOBS.get("complete", "")
RETRIES = {"retries": 2, "retry_delay": timedelta(seconds=0)}
AT_ONCE = 24


def sensor(task_id: str, project_id: Any, **kwargs: Any) -> VideoJobSensor:
    return VideoJobSensor(task_id=task_id, project_id=project_id, **{"deferrable": True, **kwargs})


@task
def given(value: Any) -> Any:
    return value


@task(multiple_outputs=True)
def in_parts(value: dict[str, Any]) -> dict[str, Any]:
    return value


def submitted(name: str) -> dict[str, Any]:
    """What ImageToVideoOperator returns of a job."""
    return {"project_id": JOBS[name], "model": "ltx-2.3", "resolution": "480p"}


@task(multiple_outputs=False)
def downstream(job: dict[str, Any]) -> dict[str, Any]:
    return job


@dag(schedule=None, params={"folder": ""})
def sensor_waiting() -> None:
    """Sensors whose jobs end when the test says so."""
    sensor("literal", JOBS["literal"], poke_interval=2)
    sensor("literal_dict", submitted("literal"), poke_interval=2)
    sensed = sensor("reference", given.override(task_id="submit")(submitted("reference")), poke_interval=2)
    sensed_job = sensed.output
    downstream(sensed_job)
    DownloadVideoOperator(task_id="download", project_id=sensed_job, path="{{ params.folder }}/")
    sensor("slow", JOBS["slow"], poke_interval=600)
    sensor("cleared", JOBS["cleared"], poke_interval=1)
    sensor("marked", JOBS["marked"])
    sensor("fails", JOBS["fails"], poke_interval=1, retries=2, retry_delay=timedelta(seconds=0))
    sensor("soft_fail", JOBS["fails"], soft_fail=True)
    at_once = {"retry_delay": timedelta(seconds=0)}
    failed = "magichour_provider.exceptions.JobFailedError"
    rule = RetryRule(exception=failed, action=RetryAction.RETRY, **at_once)
    sensor("retried", JOBS["fails"], retries=1, retry_policy=ExceptionRetryPolicy(rules=[rule]), **at_once)


@dag(schedule=None, default_args=RETRIES)
def sensor_timeouts() -> None:
    sensor("timeout", JOBS["endless"], timeout=8)
    sensor("timeout_skips", JOBS["endless"], timeout=8, soft_fail=True)
    sensor("execution_timeout", JOBS["endless"], execution_timeout=timedelta(seconds=12))


@dag(schedule=None)
def sensor_at_once() -> None:
    for number in range(AT_ONCE):
        sensor(f"sensor_{number}", COMPLETE)


@dag(schedule=None, default_args=RETRIES)
def sensor_table() -> None:
    job = given.override(task_id="job")(submitted("complete"))
    parts = in_parts(submitted("complete"))
    sensor("key", parts["project_id"])
    sensor("template", "{{ ti.xcom_pull(task_ids='job') }}").set_upstream(job)
    sensor("text_of_output", f"{job}").set_upstream(job)
    sensor("template_of_conn", COMPLETE, magichour_conn_id="{{ 'magichour_default' }}")
    sensor("called_back", COMPLETE, on_success_callback=print)
    sensor("outlet", COMPLETE).outlets.append(Asset("magichour_video"))
    mapped = given.override(task_id="mapped").expand(value=[COMPLETE, COMPLETE])
    sensor("mapped_upstream", mapped)
    VideoJobSensor.partial(task_id="mapped_sensor", deferrable=True).expand(project_id=[COMPLETE, COMPLETE])

    @task_group
    def each(project_id: str) -> None:
        sensor("in_mapped_group", project_id)

    each.expand(project_id=[COMPLETE])

    with TaskGroup("group-1_ü"):
        odd = given.override(task_id="töst.a-b_1")(submitted("complete"))
        sensor("sënsor.a-b_1", odd)

    to_skip = EmptyOperator(task_id="to_skip")
    never = task.short_circuit(task_id="skip", ignore_downstream_trigger_rules=False)(lambda: False)()
    never >> to_skip
    sensor("skipped_upstream", to_skip.output, trigger_rule=TriggerRule.ALL_DONE)
    broken = given.override(task_id="broken", retries=0)("{{ no_such_thing() }}")
    sensor("failed_upstream", broken, trigger_rule=TriggerRule.ALL_DONE)
    sensor("none", given.override(task_id="give_none")(None))
    sensor("without_id", given.override(task_id="give_no_id")({"model": "ltx-2.3"}))
    sensor("braces", given.override(task_id="give_braces")("{{ '{{ ds }}' }}"))
    sensor("no_such_key", job["no_such_key"])


if JOBS:
    sensor_waiting()
    sensor_timeouts()
    sensor_at_once()
    sensor_table()
