"""Two equal Dags with different ids, so that a user may read one and not the other."""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG, task

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator
from magichour_provider.sensors.video_job import VideoJobSensor

PARAMS = {
    "image": str(Path(__file__).parent / "images" / "grace_hopper.jpg"),
    "folder": "",
    "prompt": "She smiles; the camera moves slowly closer",
    "conn_id": "magichour_default",
}
CONNECTION = "{{ params.conn_id }}"


@task
def note() -> str:
    """A task that is not Magic Hour's."""
    return "done"


for dag_id in ("open_videos", "closed_videos"):
    with DAG(dag_id=dag_id, schedule=None, params=PARAMS) as dag:
        submit = ImageToVideoOperator(
            task_id="submit",
            image="{{ params.image }}",
            prompt="{{ params.prompt }}",
            model="ltx-2.3",
            resolution="480p",
            end_seconds=3,
            magichour_conn_id=CONNECTION,
            wait_for_completion=False,
        )
        wait = VideoJobSensor(
            task_id="wait", project_id=submit.output, magichour_conn_id=CONNECTION, deferrable=True
        )
        download = DownloadVideoOperator(
            task_id="download",
            project_id=wait.output,
            path="{{ params.folder }}/",
            magichour_conn_id=CONNECTION,
        )
        submit >> wait >> download >> note()
    globals()[dag_id] = dag
