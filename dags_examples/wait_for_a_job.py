"""Wait for a job that was submitted elsewhere, in the library or by a script, and download its video.

Trigger it with the job's id: `airflow dags trigger magichour_wait_for_a_job --conf '{"project_id": "..."}'`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow.sdk import DAG, Param

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.sensors.video_job import VideoJobSensor

with DAG(
    dag_id="magichour_wait_for_a_job",
    schedule=None,
    params={
        "project_id": Param("", type="string", title="Project id"),
        "folder": str(Path(tempfile.gettempdir()) / "magichour"),
    },
    tags=["magichour", "example"],
):
    # [START howto_sensor_video_job_reschedule]
    wait = VideoJobSensor(
        task_id="wait",
        project_id="{{ params.project_id }}",
        mode="reschedule",
        poke_interval=30,
        timeout=2 * 3600,
    )
    # [END howto_sensor_video_job_reschedule]
    DownloadVideoOperator(task_id="download", project_id=wait.output, path="{{ params.folder }}/")
