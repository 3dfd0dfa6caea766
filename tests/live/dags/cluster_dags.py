"""Videos whose first worker is known: the queues are those of single workers."""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import DAG
from breaking_dags import OPTIONS, POLLED, VIDEO, BreakableOperator

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator

VIDEOS = int(os.environ.get("CLUSTER_VIDEOS", "500"))
FIRST: dict[str, Any] = {**POLLED, "queue": "worker-1"}

for deferrable, mode in ((False, "synchronous"), (True, "deferrable")):
    with DAG(dag_id=f"cluster_{mode}", schedule=None, **OPTIONS):
        BreakableOperator(**FIRST, deferrable=deferrable)

with DAG(dag_id="cluster_state_in_s3", schedule=None, **OPTIONS):
    BreakableOperator(
        **FIRST, deferrable=True, state_path="s3://states/{{ run_id }}.json", state_conn_id="aws_default"
    )

with DAG(dag_id="cluster_state_on_disk", schedule=None, **OPTIONS):
    ImageToVideoOperator(**FIRST, deferrable=True, state_path="{{ params.folder }}/state.json")

for limit in ("soft", "hard"):
    with DAG(dag_id=f"cluster_limited_{limit}", schedule=None, **OPTIONS):
        ImageToVideoOperator(**{**POLLED, "queue": f"limited-{limit}"}, deferrable=False)

with DAG(dag_id="cluster_download", schedule=None, **OPTIONS):
    rendered = ImageToVideoOperator(**POLLED, deferrable=True).output
    DownloadVideoOperator(
        task_id="download",
        project_id=rendered,
        path="{{ params.folder }}/",
        magichour_conn_id="{{ params.conn_id }}",
        queue="worker-1",
    )

with DAG(dag_id="cluster_videos", schedule=None, max_active_tasks=VIDEOS, **OPTIONS):
    prompts = [f"video {number}" for number in range(VIDEOS)]
    ImageToVideoOperator.partial(**VIDEO, deferrable=True).expand(prompt=prompts)
