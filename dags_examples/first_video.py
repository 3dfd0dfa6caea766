"""A first video: the Dag of the README."""

from __future__ import annotations

# [START first_video]
from airflow.sdk import DAG

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator

with DAG(dag_id="first_video", schedule=None):
    render = ImageToVideoOperator(
        task_id="render",
        image="https://upload.wikimedia.org/wikipedia/commons/a/ad/Commodore_Grace_M._Hopper%2C_USN_%28covered%29.jpg",
        prompt="She smiles; the camera moves slowly closer",
        model="ltx-2.3",
        resolution="480p",
        end_seconds=5,
        max_credits=150,
        deferrable=True,
    )
    download = DownloadVideoOperator(
        task_id="download",
        project_id=render.output,
        path="/tmp/videos/",
    )
# [END first_video]
