"""The short pipeline: one task submits the job and waits in the triggerer, one downloads the video."""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow.sdk import DAG

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator

PHOTOGRAPH = Path(__file__).parent / "images" / "grace_hopper.jpg"

with DAG(
    dag_id="magichour_render_and_download",
    schedule=None,
    params={"image": str(PHOTOGRAPH), "folder": str(Path(tempfile.gettempdir()) / "magichour")},
    tags=["magichour", "example"],
):
    # [START howto_operator_image_to_video]
    render = ImageToVideoOperator(
        task_id="render",
        image="{{ params.image }}",
        model="ltx-2.3",
        resolution="480p",
        end_seconds=5,
        deferrable=True,
    )
    # [END howto_operator_image_to_video]
    # [START howto_operator_download]
    download = DownloadVideoOperator(
        task_id="download", project_id=render.output, path="{{ params.folder }}/"
    )
    # [END howto_operator_download]

    render >> download
