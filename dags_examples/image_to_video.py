"""Three tasks: submit a job, wait for it without a worker, download the video. A fourth task opens it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator
from magichour_provider.sensors.video_job import VideoJobSensor

PHOTOGRAPH = Path(__file__).parent / "images" / "grace_hopper.jpg"

with DAG(
    dag_id="magichour_image_to_video",
    schedule=None,
    params={
        "image": str(PHOTOGRAPH),
        "folder": str(Path(tempfile.gettempdir()) / "magichour"),
        "prompt": "She smiles; the camera moves slowly closer",
    },
    tags=["magichour", "example"],
):
    # [START howto_sensor_video_job]
    submit = ImageToVideoOperator(
        task_id="submit",
        image="{{ params.image }}",
        prompt="{{ params.prompt }}",
        model="ltx-2.3",
        resolution="480p",
        end_seconds=5,
        max_credits=200,
        wait_for_completion=False,
    )
    wait = VideoJobSensor(task_id="wait", project_id=submit.output, deferrable=True)
    # [END howto_sensor_video_job]
    download = DownloadVideoOperator(task_id="download", project_id=wait.output, path="{{ params.folder }}/")

    @task
    def inspect(video: dict[str, Any]) -> str:
        """Open the video, as any task downstream of the download can."""
        content = Path(video["path"]).read_bytes()
        print(f"{video['path']}: {len(content)} bytes, {video['duration']} s")
        return content[4:8].decode()

    submit >> wait >> download >> inspect(download.output)
