"""Dags that only the end-to-end tests need: other connections, retries, and waiting in a worker."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator
from magichour_provider.sensors.video_job import VideoJobSensor

ORDER = {"model": "ltx-2.3", "resolution": "480p", "end_seconds": 3}
RETRIES = {"retries": 2, "retry_delay": timedelta(seconds=1)}
PARAMS = {
    "image": str(Path(__file__).parent / "images" / "grace_hopper.jpg"),
    "folder": "",
    "prompt": "The camera moves slowly closer",
    "conn_id": "magichour_default",
}

with DAG(dag_id="e2e_pipeline", schedule=None, params=PARAMS, default_args=RETRIES):
    submitted = ImageToVideoOperator(
        task_id="submit",
        image="{{ params.image }}",
        prompt="{{ params.prompt }}",
        magichour_conn_id="{{ params.conn_id }}",
        wait_for_completion=False,
        **ORDER,
    ).output
    waited = VideoJobSensor(
        task_id="wait", project_id=submitted, magichour_conn_id="{{ params.conn_id }}", deferrable=True
    ).output
    DownloadVideoOperator(
        task_id="download",
        project_id=waited,
        path="{{ params.folder }}/",
        magichour_conn_id="{{ params.conn_id }}",
    )

with DAG(dag_id="e2e_render", schedule=None, params=PARAMS, default_args=RETRIES):
    ImageToVideoOperator(
        task_id="render", image="{{ params.image }}", prompt="{{ params.prompt }}", deferrable=True, **ORDER
    )

with DAG(dag_id="e2e_worker_waits", schedule=None, params=PARAMS, default_args=RETRIES):
    job = ImageToVideoOperator(
        task_id="submit", image="{{ params.image }}", wait_for_completion=False, **ORDER
    ).output
    VideoJobSensor(task_id="poke", project_id=job, mode="poke", poke_interval=1, deferrable=False)
    VideoJobSensor(task_id="reschedule", project_id=job, mode="reschedule", poke_interval=1, deferrable=False)
    rendered = ImageToVideoOperator(
        task_id="render", image="{{ params.image }}", poll_interval=1, deferrable=False, **ORDER
    ).output
    DownloadVideoOperator(task_id="download", project_id=rendered, path="{{ params.folder }}/")

with DAG(dag_id="e2e_killed", schedule=None, params=PARAMS, default_args=RETRIES):
    ImageToVideoOperator(
        task_id="render", image="{{ params.image }}", poll_interval=1, deferrable=False, **ORDER
    )

with DAG(dag_id="e2e_impatient", schedule=None, params=PARAMS):
    VideoJobSensor(
        task_id="wait",
        project_id=ImageToVideoOperator(
            task_id="submit", image="{{ params.image }}", wait_for_completion=False, **ORDER
        ).output,
        timeout=5,
        deferrable=True,
    )
