"""A video that is downloaded with its poster, one that moderation refuses, and other tasks."""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG, task

from magichour_provider.operators.contact_sheet import ContactSheetOperator
from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator

REQUEST = {
    "image": str(Path(__file__).resolve().parents[4] / "dags_examples" / "images" / "grace_hopper.jpg"),
    "model": "ltx-2.3",
    "resolution": "480p",
    "end_seconds": 5,
    "poll_interval": 0.2,
}

with DAG("pages", schedule=None, params={"folder": "/nowhere"}):
    render = ImageToVideoOperator(task_id="render", prompt="She <b>smiles</b>", **REQUEST)
    download = DownloadVideoOperator(
        task_id="download", project_id=render.output, path="{{ params.folder }}/", poster=True
    )
    ContactSheetOperator(task_id="sheet", videos=download.output, path="{{ params.folder }}/sheets/")
    ImageToVideoOperator(task_id="refused", prompt="nsfw", **REQUEST)

    @task
    def something_else() -> None:
        """A task of another kind."""

    something_else()
