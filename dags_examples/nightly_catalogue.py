"""Every night, turn a catalogue into videos: one task for thousands of them, each paid for once.

The manifest has a line for each product: `{"key": "shoe-1", "image": "shoe-1.jpg", "prompt": "..."}`. An
image is a path beside the manifest, or a whole address. A night with 40 changed pictures costs 40 videos:
what did not change is neither uploaded nor requested again. Videos, state and result manifest are in one
folder.

Setup: `catalogue` and `videos`, local or in object storage (`s3://aws_default@bucket/catalogue.jsonl`).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from airflow.sdk import DAG, ObjectStoragePath, task

from magichour_provider.operators.image_to_video_batch import ImageToVideoBatchOperator

with DAG(
    dag_id="magichour_nightly_catalogue",
    schedule="0 1 * * *",
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3},
    params={
        "catalogue": str(Path(__file__).parent / "images" / "catalogue.jsonl"),
        "videos": str(Path(tempfile.gettempdir()) / "magichour" / "catalogue"),
        "credits": 5000,
    },
    tags=["magichour", "example"],
):
    # [START howto_operator_image_to_video_batch]
    render = ImageToVideoBatchOperator(
        task_id="render",
        items="{{ params.catalogue }}",
        path="{{ params.videos }}",
        model="ltx-2.3",
        resolution="480p",
        end_seconds=3,
        max_credits="{{ params.credits }}",
        on_budget_reached="stop",
        max_failures=0.05,
    )
    # [END howto_operator_image_to_video_batch]

    # [START howto_batch_manifest]
    @task
    def publish(batch: dict[str, str]) -> list[str]:
        """Take each finished video from the result manifest."""
        lines = ObjectStoragePath(batch["manifest"]).read_text().splitlines()
        return [entry["path"] for entry in map(json.loads, lines) if entry["status"] == "complete"]

    publish(render.output)
    # [END howto_batch_manifest]
