"""A Dag whose every task waits for a job; the benchmark marks them as deferred in the database."""

from __future__ import annotations

import os

from airflow.sdk import DAG

from magichour_provider.sensors.video_job import VideoJobSensor

with DAG(dag_id="waiting_jobs", schedule=None):
    VideoJobSensor.partial(task_id="wait", deferrable=True, timeout=86_400).expand(
        project_id=[f"cm3r{number:08d}01xk9v2t5q8z" for number in range(int(os.environ["WAITING_JOBS"]))]
    )
