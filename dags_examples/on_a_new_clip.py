"""One Dag makes a clip, another begins when it has landed, and reads all about it from the asset's event."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, task

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator

PHOTOGRAPH = Path(__file__).parent / "images" / "grace_hopper.jpg"

# [START on_a_new_clip]
CLIPS = Asset("magichour_clips")

with DAG(
    dag_id="magichour_new_clip",
    schedule=None,
    params={"image": str(PHOTOGRAPH), "folder": str(Path(tempfile.gettempdir()) / "magichour")},
    tags=["magichour", "example"],
):
    render = ImageToVideoOperator(
        task_id="render",
        image="{{ params.image }}",
        prompt="She smiles; the camera moves slowly closer",
        model="ltx-2.3",
        resolution="480p",
        end_seconds=3,
        deferrable=True,
    )
    DownloadVideoOperator(
        task_id="land", project_id=render.output, path="{{ params.folder }}/", outlets=[CLIPS]
    )

with DAG(dag_id="magichour_on_a_new_clip", schedule=[CLIPS], catchup=False, tags=["magichour", "example"]):

    @task
    def catalogue(triggering_asset_events: Any = None) -> list[str]:
        """Write a line for each clip that has landed since this Dag's last run."""
        clips = [event.extra for event in triggering_asset_events[CLIPS]]
        lines = [
            f"{clip['uri']}: {clip['duration']:.1f} s, {clip['width']} x {clip['height']}, "
            f"{clip['bytes']} bytes, {clip['credits']} credits ({clip['model']})"
            for clip in clips
        ]
        print(*lines, sep="\n")
        return lines

    catalogue()
# [END on_a_new_clip]
