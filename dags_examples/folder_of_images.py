"""A video for each image of a folder: one mapped task for each image. All of them wait in the triggerer."""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow.sdk import DAG, task

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator

with DAG(
    dag_id="magichour_folder_of_images",
    schedule=None,
    params={
        "images": str(Path(__file__).parent / "images"),
        "folder": str(Path(tempfile.gettempdir()) / "magichour"),
    },
    tags=["magichour", "example"],
):

    @task
    def list_images(params: dict[str, str]) -> list[str]:
        """List every image of the folder."""
        files = Path(params["images"]).iterdir()
        return sorted(
            str(file) for file in files if file.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"}
        )

    # [START howto_operator_image_to_video_mapped]
    render = ImageToVideoOperator.partial(
        task_id="render",
        model="ltx-2.3",
        resolution="480p",
        end_seconds=3,
        deferrable=True,
        map_index_template="{{ task.image.rpartition('/')[2] }}",
    ).expand(image=list_images())

    DownloadVideoOperator.partial(task_id="download", path="{{ params.folder }}/").expand(
        project_id=render.output
    )
    # [END howto_operator_image_to_video_mapped]
