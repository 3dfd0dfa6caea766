"""A batch whose items and options come from the run's conf."""

from __future__ import annotations

from airflow.sdk import DAG

from magichour_provider.operators.image_to_video_batch import ImageToVideoBatchOperator

with DAG(
    dag_id="batch",
    schedule=None,
    params={"catalogue": "", "folder": "", "credits": None, "dry": False},
    render_template_as_native_obj=True,
) as dag:
    ImageToVideoBatchOperator(
        task_id="render",
        items="{{ params.catalogue }}",
        path="{{ params.folder }}",
        model="ltx-2.3",
        resolution="480p",
        end_seconds=3,
        max_credits="{{ params.credits }}",
        on_budget_reached="stop",
        poll_interval=0.5,
    )
