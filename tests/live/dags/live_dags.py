"""Pipelines with a connection of their own, and lineage of each kind."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.openlineage.utils.selective_enable import enable_lineage
from airflow.sdk import DAG, task

from magichour_provider.hooks.magichour import MagicHourHook
from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator
from magichour_provider.sensors.video_job import VideoJobSensor

PROMPT = "A prompt that no event may hold"
SIGNATURE = "c2lnbmF0dXJlLW9mLXRoZS1zdG9yZQ"
SIGNED_URL = f"https://cdn.example.com/images/a.jpg?Expires=2000000000&Signature={SIGNATURE}"
PHOTOGRAPH = str(Path(__file__).parent / "images" / "grace_hopper.jpg")

VIDEO: dict[str, Any] = {"model": "ltx-2.3", "resolution": "480p", "end_seconds": 3}
CONNECTED: dict[str, Any] = {"magichour_conn_id": "{{ params.conn_id }}"}
RENDER: dict[str, Any] = {**VIDEO, **CONNECTED, "image": "{{ params.image }}"}
SUBMIT: dict[str, Any] = {**RENDER, "task_id": "submit", "wait_for_completion": False}
DOWNLOAD: dict[str, Any] = {**CONNECTED, "task_id": "download", "path": "{{ params.folder }}/"}
OPTIONS: dict[str, Any] = {
    "params": {"image": "", "folder": "", "conn_id": ""},
    "default_args": {"retries": 2, "retry_delay": timedelta(seconds=1)},
}

with DAG(dag_id="live_pipeline", schedule=None, **OPTIONS):
    submitted = ImageToVideoOperator(**SUBMIT).output
    waited = VideoJobSensor(task_id="wait", project_id=submitted, deferrable=True, **CONNECTED).output
    DownloadVideoOperator(project_id=waited, **DOWNLOAD)

with DAG(dag_id="live_render", schedule=None, **OPTIONS):
    rendered = ImageToVideoOperator(task_id="render", deferrable=True, **RENDER).output
    DownloadVideoOperator(project_id=rendered, **DOWNLOAD)

with DAG(dag_id="live_worker_waits", schedule=None, **OPTIONS):
    job = ImageToVideoOperator(**SUBMIT).output
    for mode in ("poke", "reschedule"):
        VideoJobSensor(
            task_id=mode, project_id=job, mode=mode, poke_interval=1, deferrable=False, **CONNECTED
        )
    rendered = ImageToVideoOperator(task_id="render", poll_interval=1, deferrable=False, **RENDER).output
    DownloadVideoOperator(project_id=rendered, **DOWNLOAD)

with DAG(dag_id="live_timeout", schedule=None):
    submitted = ImageToVideoOperator(
        task_id="submit", image=PHOTOGRAPH, wait_for_completion=False, **VIDEO
    ).output
    VideoJobSensor(task_id="wait", project_id=submitted, timeout=5, deferrable=True)

with DAG(dag_id="live_lineage", schedule=None, params={"folder": ""}) as lineage:
    signed = ImageToVideoOperator(
        task_id="signed", image=SIGNED_URL, prompt=PROMPT, deferrable=True, **VIDEO
    ).output
    ImageToVideoOperator(task_id="fails", image=PHOTOGRAPH, prompt="nsfw", deferrable=True, **VIDEO)
    DownloadVideoOperator(task_id="download", project_id=signed, path="{{ params.folder }}/")

    @task
    def by_hook(job: dict[str, Any], params: dict[str, Any]) -> str:
        """Do with the hook what the operators do; the video is the one of the other job."""
        hook = MagicHourHook()
        created = hook.create_image_to_video(hook.upload(PHOTOGRAPH), **VIDEO)
        hook.download(job["project_id"], f"{params['folder']}/by hook.mp4")
        return created.id

    by_hook(signed)

enable_lineage(lineage)
