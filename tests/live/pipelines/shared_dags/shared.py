"""Many mapped tasks that have one image and run at the same time."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from magichour_provider.operators.image_to_video import ImageToVideoOperator

ORDER = {"model": "ltx-2.3", "resolution": "480p", "end_seconds": 3, "wait_for_completion": False}

for name, count in (("many", 32), ("few", 6)):
    with DAG(dag_id=name, schedule=None, params={"image": ""}, max_active_tasks=32):
        ImageToVideoOperator.partial(
            task_id="render",
            image="{{ params.image }}",
            retries=1,
            retry_delay=timedelta(seconds=1),
            **ORDER,
        ).expand(prompt=[f"in way {number}" for number in range(count)])
