"""One Dag submits jobs and ends. Magic Hour's webhook starts another Dag for each video that is ready.

No task waits, not even in the triggerer. This needs webhooks: see "Webhooks" in the documentation.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, task

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator

PHOTOGRAPH = Path(__file__).parent / "images" / "grace_hopper.jpg"

# [START howto_submit_and_forget]
VIDEOS = Asset("magichour://videos/magichour_submit_and_forget")

with DAG(
    dag_id="magichour_submit_and_forget",
    schedule=None,
    params={"image": str(PHOTOGRAPH)},
    tags=["magichour", "example"],
):
    ImageToVideoOperator(
        task_id="submit",
        image="{{ params.image }}",
        prompt="She smiles; the camera moves slowly closer",
        model="ltx-2.3",
        resolution="480p",
        end_seconds=3,
        wait_for_completion=False,
    )

with DAG(
    dag_id="magichour_when_a_video_is_ready",
    schedule=[VIDEOS],
    catchup=False,
    params={"folder": str(Path(tempfile.gettempdir()) / "magichour")},
    tags=["magichour", "example"],
):

    @task
    def ready(triggering_asset_events: Any = None) -> list[str]:
        """The jobs that have ended since the last run of this Dag."""
        return [event.extra["project_id"] for event in triggering_asset_events[VIDEOS]]

    DownloadVideoOperator.partial(task_id="download", path="{{ params.folder }}/").expand(project_id=ready())
# [END howto_submit_and_forget]
