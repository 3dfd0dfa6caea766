"""Each way to wait for a video, in a Dag whose connection is no template, and a download that is held."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator
from magichour_provider.sensors.video_job import VideoJobSensor

WAYS, DOWNLOAD = "pods_ways", "pods_download"
IMAGE = str(Path(__file__).parent / "images" / "grace_hopper.jpg")
OPTIONS: dict[str, Any] = {
    "params": {"folder": "", "image": "", "conn_id": ""},
    "default_args": {"retries": 2, "retry_delay": timedelta(seconds=1)},
}

for name in (WAYS, DOWNLOAD):
    VIDEO: dict[str, Any] = {"image": IMAGE, "model": "ltx-2.3", "resolution": "480p", "end_seconds": 3}
    VIDEO["magichour_conn_id"] = name.replace("_", "-")
    JOB = {"magichour_conn_id": VIDEO["magichour_conn_id"]}
    with DAG(dag_id=name, schedule=None, **OPTIONS):
        submitted = ImageToVideoOperator(task_id="submit", wait_for_completion=False, **VIDEO).output
        if name == WAYS:
            ImageToVideoOperator(task_id="render_deferred", deferrable=True, poll_interval=1, **VIDEO)
            ImageToVideoOperator(task_id="render_in_worker", deferrable=False, poll_interval=1, **VIDEO)
            sensor: dict[str, Any] = {"project_id": submitted, "poke_interval": 1, **JOB}
            VideoJobSensor(task_id="sensor_deferred", deferrable=True, **sensor)
            from_worker = VideoJobSensor(task_id="sensor_from_worker", deferrable=True, **sensor)
            from_worker.start_from_trigger = False
            VideoJobSensor(task_id="sensor_in_worker", mode="poke", deferrable=False, **sensor)
        else:
            DownloadVideoOperator(
                task_id="render", project_id=submitted, path="{{ params.folder }}/video.mp4", **JOB
            )
