"""Clips that render until a test says that they are done, waited for in the triggerer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from magichour_provider.operators.image_to_video import ImageToVideoOperator

CLIPS = 20

ORDER: dict[str, Any] = {
    "task_id": "render",
    "image": "{{ params.image }}",
    "magichour_conn_id": "{{ params.conn_id }}",
    "model": "ltx-2.3",
    "resolution": "480p",
    "end_seconds": 3,
    "poll_interval": 1,
    "deferrable": True,
}
DAG_OPTIONS: dict[str, Any] = {
    "params": {"conn_id": "", "image": ""},
    "default_args": {"retries": 2, "retry_delay": timedelta(seconds=1)},
}

with DAG(dag_id="moving_many", schedule=None, **DAG_OPTIONS):
    ImageToVideoOperator.partial(**ORDER).expand(prompt=[f"Clip {number}" for number in range(CLIPS)])

with DAG(dag_id="moving_one", schedule=None, **DAG_OPTIONS):
    ImageToVideoOperator(**ORDER)
