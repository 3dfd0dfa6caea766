"""Upload one image once, and use it in many mapped tasks: one video for each prompt."""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow.sdk import DAG, task

from magichour_provider.hooks.magichour import MagicHourHook
from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator

PHOTOGRAPH = Path(__file__).parent / "images" / "grace_hopper.jpg"

with DAG(
    dag_id="magichour_upload_once",
    schedule=None,
    params={"image": str(PHOTOGRAPH), "folder": str(Path(tempfile.gettempdir()) / "magichour")},
    tags=["magichour", "example"],
):
    # [START howto_upload_once]
    @task
    def upload(params: dict[str, str]) -> str:
        """Return the `file_path` of the upload. Magic Hour keeps the image for seven days."""
        return MagicHourHook().upload(params["image"])

    render = ImageToVideoOperator.partial(
        task_id="render",
        image=upload(),
        model="ltx-2.3",
        resolution="480p",
        end_seconds=3,
        deferrable=True,
    ).expand(prompt=["She smiles", "She nods", "The camera moves slowly closer"])
    # [END howto_upload_once]

    DownloadVideoOperator.partial(task_id="download", path="{{ params.folder }}/").expand(
        project_id=render.output
    )
