"""Mapped tasks that have one image, in every way in which they may share its upload or not."""

from __future__ import annotations

from airflow.sdk import DAG

from magichour_provider.operators.image_to_video import ImageToVideoOperator

PROMPTS = ["closer", "away"]
ORDER = {"model": "ltx-2.3", "resolution": "480p", "end_seconds": 3, "poll_interval": 0.2}
IMAGE = {"image": "{{ params.image }}"}

with DAG(dag_id="shared", schedule=None, params={"image": "", "end_image": ""}) as dag:

    def mapped(task_id: str, **options: object) -> None:
        ImageToVideoOperator.partial(task_id=task_id, **{**ORDER, **IMAGE, **options}).expand(prompt=PROMPTS)

    mapped("shared", end_image="{{ params.end_image }}", deferrable=False)
    mapped("deferred", deferrable=True)
    mapped("not_durable", durable=False, wait_for_completion=False)
    mapped("not_shared", share_uploads=False, wait_for_completion=False)
    mapped("without_xcoms", do_xcom_push=False, wait_for_completion=False)
    ImageToVideoOperator(task_id="alone", wait_for_completion=False, **ORDER, **IMAGE)
