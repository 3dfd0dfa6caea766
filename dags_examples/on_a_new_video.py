"""One Dag makes a video. Another Dag starts when the video is published, and reads the asset event."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, task

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator

PHOTOGRAPH = Path(__file__).parent / "images" / "grace_hopper.jpg"

# [START howto_asset_events]
VIDEOS = Asset("magichour_videos")

with DAG(
    dag_id="magichour_new_video",
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
        task_id="download", project_id=render.output, path="{{ params.folder }}/", outlets=[VIDEOS]
    )

with DAG(dag_id="magichour_on_a_new_video", schedule=[VIDEOS], catchup=False, tags=["magichour", "example"]):

    @task
    def catalogue(triggering_asset_events: Any = None) -> list[str]:
        """Print one line for each video that is new since the last run of this Dag."""
        videos = [event.extra for event in triggering_asset_events[VIDEOS]]
        lines = [
            f"{video['uri']}: {video['duration']:.1f} s, {video['width']} x {video['height']}, "
            f"{video['bytes']} bytes, {video['credits']} credits ({video['model']})"
            for video in videos
        ]
        print(*lines, sep="\n")
        return lines

    catalogue()
# [END howto_asset_events]
