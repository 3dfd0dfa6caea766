"""Dags whose mapped tasks all submit at once, with credits for some of them only."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from magichour_provider.operators.image_to_video import ImageToVideoOperator

COST = 72
ORDER: dict[str, Any] = {
    "task_id": "render",
    "image": "{{ params.image }}",
    "magichour_conn_id": "{{ params.conn_id }}",
    "model": "ltx-2.3",
    "resolution": "480p",
    "end_seconds": 3,
    "wait_for_completion": False,
}

for name, clips, affordable in (("many", 50, 40), ("few", 12, 8)):
    with DAG(
        dag_id=f"breaking_budget_{name}",
        schedule=None,
        params={"conn_id": "", "image": "", "signs": "", "stop_at": ""},
        default_args={"retries": 2, "retry_delay": timedelta(seconds=1)},
    ):
        ImageToVideoOperator.partial(**ORDER, max_credits_per_run=affordable * COST).expand(
            prompt=[f"clip {number}" for number in range(clips)]
        )
