"""Images by an address that gives access by itself, as a plain and as a mapped task."""

from __future__ import annotations

from airflow.sdk import DAG, task

from magichour_provider.operators.image_to_video import ImageToVideoOperator

ORDER = {"model": "ltx-2.3", "resolution": "480p", "end_seconds": 3, "wait_for_completion": False}

with DAG(dag_id="signed", schedule=None, params={"signature": ""}):

    @task
    def sign(params: dict[str, str]) -> list[str]:
        """Sign an address, as a store's hook does."""
        return [f"https://example.com/still.png?expires=1&signature={params['signature']}"]

    addresses = sign()
    plain = ImageToVideoOperator(task_id="plain", image="{{ ti.xcom_pull('sign')[0] }}", **ORDER)
    addresses >> plain
    ImageToVideoOperator.partial(task_id="mapped", **ORDER).expand(image=addresses)
