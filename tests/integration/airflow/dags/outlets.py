"""Every task of the provider with outlets of every kind, in every mode that ends in a worker."""

from __future__ import annotations

from airflow.sdk import DAG, Asset, AssetAlias

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator
from magichour_provider.operators.image_to_video_batch import ImageToVideoBatchOperator
from magichour_provider.sensors.video_job import VideoJobSensor
from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS

VIDEO = {"model": "ltx-2.3", "resolution": "480p", "end_seconds": 3, "poll_interval": 0.1}
VIDEO["image"] = "{{ params.image }}"


def note(context):
    """What a user may have put into the event before."""
    context["outlet_events"][Asset("outlets_saved")].extra = {"campaign": "spring", "model": "mine"}


with DAG(dag_id="outlets", schedule=None, params={"folder": "/nowhere", "image": "/nowhere.jpg"}):
    submitted = [Asset("outlets_submitted")]
    submit = ImageToVideoOperator(task_id="submit", wait_for_completion=False, outlets=submitted, **VIDEO)
    rendered = [Asset("outlets_rendered"), AssetAlias("outlets_projects")]
    render = ImageToVideoOperator(task_id="render", deferrable=False, outlets=rendered, **VIDEO)
    resumed = ImageToVideoOperator(
        task_id="resumed", deferrable=True, outlets=[Asset("outlets_resumed")], **VIDEO
    )
    polled = {"project_id": submit.output, "poke_interval": 0.1}
    wait = VideoJobSensor(task_id="wait", deferrable=True, outlets=[Asset("outlets_waited")], **polled)
    poked = [Asset(name="outlets_poked", uri="x-outlets://poked")]
    poke = VideoJobSensor(task_id="poke", deferrable=False, outlets=poked, **polled)
    save = DownloadVideoOperator(
        task_id="save",
        project_id=render.output,
        path="{{ params.folder }}/",
        pre_execute=note,
        outlets=[
            Asset("outlets_saved"),
            AssetAlias("outlets_videos"),
            Asset.ref(name="outlets_rendered"),
            Asset.ref(uri="x-outlets://poked"),
        ],
    )
    by_id = DownloadVideoOperator(
        task_id="by_id",
        project_id="{{ ti.xcom_pull(task_ids='resumed')['project_id'] }}",
        path="{{ params.folder }}/by id/",
        outlets=[Asset("outlets_saved_by_id"), AssetAlias("outlets_videos")],
    )
    mapped = DownloadVideoOperator.partial(
        task_id="mapped", project_id=render.output, outlets=[Asset("outlets_mapped")]
    ).expand(path=["{{ params.folder }}/a.mp4", "{{ params.folder }}/b.mp4"])
    if AIRFLOW_V_3_1_PLUS:  # dag.test() of 3.0 gives a trigger no XComs
        batch = ImageToVideoBatchOperator(
            task_id="batch",
            items=[{"key": key, "image": "{{ params.image }}"} for key in ("one", "two")],
            path="{{ params.folder }}/batch",
            outlets=[Asset("outlets_batch"), AssetAlias("outlets_batches")],
            **{name: value for name, value in VIDEO.items() if name != "image"},
        )
    resumed >> by_id
    [wait, poke] >> save
