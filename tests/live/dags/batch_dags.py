"""A batch whose manifest and folder come from the run's conf."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from magichour_provider.operators.image_to_video_batch import ImageToVideoBatchOperator

OPTIONS = {"retries": 20, "retry_delay": timedelta(seconds=1)}

with DAG(dag_id="live_batch", schedule=None, params={"catalogue": "", "folder": ""}, default_args=OPTIONS):
    ImageToVideoBatchOperator(
        task_id="render",
        items="{{ params.catalogue }}",
        path="{{ params.folder }}",
        magichour_conn_id="batch",
        model="ltx-2.3",
        resolution="480p",
        end_seconds=3,
        download_delay=10,
    )
