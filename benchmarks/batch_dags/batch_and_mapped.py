"""The same videos twice: in one task, and in mapped tasks."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, task

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator
from magichour_provider.operators.image_to_video_batch import ImageToVideoBatchOperator

VIDEO = {"model": "ltx-2.3", "resolution": "480p", "end_seconds": 3}
PARAMS = {"catalogue": "", "folder": ""}
RETRIES = {"retries": 3, "retry_delay": timedelta(seconds=1)}

with DAG(dag_id="batch", schedule=None, params=PARAMS, default_args=RETRIES):
    ImageToVideoBatchOperator(
        task_id="render", items="{{ params.catalogue }}", path="{{ params.folder }}", **VIDEO
    )

with DAG(dag_id="mapped", schedule=None, params=PARAMS, default_args=RETRIES):

    @task
    def read_items(params: dict[str, str]) -> list[dict[str, str]]:
        """Read image and prompt of each video."""
        items = map(json.loads, Path(params["catalogue"]).read_text().splitlines())
        return [{"image": item["image"], "prompt": item["prompt"]} for item in items]

    render = ImageToVideoOperator.partial(task_id="render", deferrable=True, **VIDEO).expand_kwargs(
        read_items()
    )
    DownloadVideoOperator.partial(task_id="download", path="{{ params.folder }}/").expand(
        project_id=render.output
    )
