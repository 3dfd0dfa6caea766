"""A sheet of the videos of a run, one of which was refused."""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG, task, task_group

from magichour_provider.operators.contact_sheet import ContactSheetOperator
from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator

IMAGE = str(Path(__file__).resolve().parents[4] / "dags_examples" / "images" / "grace_hopper.jpg")

with DAG(dag_id="contact_sheet", schedule=None, params={"prompts": [], "folder": ""}) as dag:

    @task
    def list_prompts(params):
        return params["prompts"]

    @task_group
    def video(prompt):
        render = ImageToVideoOperator(
            task_id="render",
            image=IMAGE,
            prompt=prompt,
            model="ltx-2.3",
            resolution="480p",
            end_seconds=3,
            poll_interval=0.2,
        )
        DownloadVideoOperator(task_id="download", project_id=render.output, path="{{ params.folder }}/")

    video.expand(prompt=list_prompts())
    jobs, videos = (dag.get_task(f"video.{name}").output for name in ("render", "download"))

    ContactSheetOperator(
        task_id="sheet",
        videos=videos,
        jobs=jobs,
        path="{{ params.folder }}/sheets/{{ dag.dag_id }}.jpg",
        title="Videos of {{ run_id }}",
        trigger_rule="all_done",
    )
    of_a_template = ContactSheetOperator(
        task_id="sheet_of_a_template",
        videos="{{ ti.xcom_pull(task_ids='video.download', map_indexes=[0, 1, 2]) | list }}",
        path="{{ params.folder }}/templates/",
        frames=1,
        trigger_rule="all_done",
    )
    of_a_template.set_upstream(dag.get_task("video.download"))
