"""Every way of waiting, in one Dag."""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG

from magichour_provider.operators.image_to_video import ImageToVideoOperator
from magichour_provider.sensors.video_job import VideoJobSensor

IMAGE = str(Path(__file__).resolve().parents[4] / "dags_examples" / "images" / "grace_hopper.jpg")

with DAG(dag_id="modes", schedule=None, params={"seconds": "3", "audio": "true"}):
    render = ImageToVideoOperator(
        task_id="render",
        image=IMAGE,
        model="ltx-2.3",
        resolution="480p",
        end_seconds="{{ params.seconds }}",
        audio="{{ params.audio }}",
        prompt="{{ run_id }}",
        deferrable=False,
        poll_interval=0.2,
    )
    poke = VideoJobSensor(task_id="poke", project_id=render.output["project_id"], poke_interval=0.2)
    reschedule = VideoJobSensor(
        task_id="reschedule",
        project_id="{{ ti.xcom_pull(task_ids='render', key='project_id') }}",
        mode="reschedule",
        poke_interval=1,
    )
    deferred = VideoJobSensor(task_id="deferred", project_id=render.output, deferrable=True)
    render >> [poke, reschedule, deferred]
