"""A Dag whose every task waits for a clip; the benchmark writes into the database that they have deferred."""

from __future__ import annotations

import os

from airflow.sdk import DAG

from magichour_provider.sensors.video_job import VideoJobSensor

with DAG(dag_id="waiting_clips", schedule=None):
    VideoJobSensor.partial(task_id="wait", deferrable=True, timeout=86_400).expand(
        project_id=[f"cm3r{number:08d}01xk9v2t5q8z" for number in range(int(os.environ["WAITING_CLIPS"]))]
    )
