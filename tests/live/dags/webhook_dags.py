"""Waits that a webhook ends."""

from __future__ import annotations

from airflow.sdk import DAG

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator
from magichour_provider.sensors.video_job import VideoJobSensor

OPTIONS = {"image": "{{ params.image }}", "model": "ltx-2.3", "resolution": "480p", "end_seconds": 3}
CONN = {"magichour_conn_id": "hooked"}
PARAMS = {"image": "", "folder": "", "count": 1}

with DAG("webhook_operator", schedule=None, params=PARAMS, is_paused_upon_creation=False):
    render = ImageToVideoOperator(task_id="render", deferrable=True, **OPTIONS, **CONN)
    DownloadVideoOperator(task_id="download", project_id=render.output, path="{{ params.folder }}/", **CONN)

with DAG("webhook_sensor", schedule=None, params=PARAMS, is_paused_upon_creation=False):
    submit = ImageToVideoOperator(task_id="submit", wait_for_completion=False, **OPTIONS, **CONN)
    wait = VideoJobSensor(task_id="wait", project_id=submit.output, deferrable=True, **CONN)
    DownloadVideoOperator(task_id="download", project_id=wait.output, path="{{ params.folder }}/", **CONN)

with DAG("webhook_many", schedule=None, params=PARAMS, is_paused_upon_creation=False, max_active_tasks=64):
    ImageToVideoOperator.partial(task_id="render", deferrable=True, **OPTIONS, **CONN).expand(
        name=[f"many {number} {{{{ run_id }}}}" for number in range(100)]
    )
