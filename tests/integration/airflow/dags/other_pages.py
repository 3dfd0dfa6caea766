"""A second Dag with a video, for users who may read only one."""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG

from magichour_provider.operators.image_to_video import ImageToVideoOperator

with DAG("other_pages", schedule=None):
    render = ImageToVideoOperator(
        task_id="render",
        image=str(Path(__file__).resolve().parents[4] / "dags_examples" / "images" / "grace_hopper.jpg"),
        model="ltx-2.3",
        resolution="480p",
        end_seconds=5,
        poll_interval=0.2,
    )
