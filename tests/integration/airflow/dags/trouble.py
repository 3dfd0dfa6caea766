"""What goes wrong, with retries to be had for the asking."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG

from magichour_provider.operators.image_to_video import ImageToVideoOperator

IMAGE = str(Path(__file__).resolve().parents[4] / "dags_examples" / "images" / "grace_hopper.jpg")

with DAG(dag_id="trouble", schedule=None, default_args={"retries": 2, "retry_delay": timedelta(seconds=0.1)}):
    for name, deferrable in (("sync", False), ("deferred", True)):
        task = ImageToVideoOperator(
            task_id=name,
            image=IMAGE,
            model="ltx-2.3",
            resolution="480p",
            end_seconds=3,
            prompt="nsfw",
            deferrable=deferrable,
            poll_interval=0.2,
        )
