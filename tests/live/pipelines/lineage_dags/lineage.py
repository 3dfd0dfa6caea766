"""Lineage of each kind: from a signed address, of a failed job, and of the hook inside a user's own task.

`given.json` beside it names the images and the prompt.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from magichour_provider.hooks.magichour import MagicHourHook
from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator

GIVEN: dict[str, str] = json.loads(Path(__file__).with_name("given.json").read_text())
CLIP = {"model": "ltx-2.3", "resolution": "480p", "end_seconds": 3}

with DAG(dag_id="lineage", schedule=None, params={"folder": ""}):
    signed = ImageToVideoOperator(
        task_id="signed", image=GIVEN["signed"], prompt=GIVEN["prompt"], deferrable=True, **CLIP
    )
    fails = ImageToVideoOperator(
        task_id="fails", image=GIVEN["image"], prompt="something nsfw", deferrable=True, **CLIP
    )
    land = DownloadVideoOperator(task_id="land", project_id=signed.output, path="{{ params.folder }}/landed/")

    @task
    def by_hand(job: dict[str, Any], params: dict[str, Any]) -> str:
        """Do with the hook what the operators do; the clip is the one of the other job."""
        hook = MagicHourHook()
        file_path = hook.upload(GIVEN["image"])
        created = hook.create_image_to_video(file_path, model="ltx-2.3", resolution="480p", end_seconds=3)
        hook.download(job["project_id"], f"{params['folder']}/by hand.mp4")
        return created.id

    by_hand(signed.output)
