"""A mapped task whose image another run has uploaded."""

from __future__ import annotations

from airflow.sdk import DAG

from magichour_provider.operators.image_to_video import ImageToVideoOperator

with DAG(dag_id="gone", schedule=None, params={"image": "", "end_image": ""}) as dag:
    ImageToVideoOperator.partial(
        task_id="shared",
        image="{{ params.image }}",
        model="ltx-2.3",
        resolution="480p",
        end_seconds=3,
        poll_interval=0.2,
        deferrable=False,
    ).expand(prompt=["closer", "away"])
