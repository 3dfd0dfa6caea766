"""Every task of the provider with outlets of every kind, in every mode that ends in a worker."""

from __future__ import annotations

from airflow.sdk import DAG, Asset, AssetAlias
from airflow.sdk.definitions.asset import AssetRef

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator
from magichour_provider.sensors.video_job import VideoJobSensor

IMAGE = "{{ params.image }}"
VIDEO = {"model": "ltx-2.3", "resolution": "480p", "end_seconds": 3, "poll_interval": 0.1}


def note(context):
    """What a user may have put into the event before."""
    context["outlet_events"][Asset("outlets_saved")].extra = {"campaign": "spring", "model": "mine"}


def by_name(name: str) -> AssetRef:
    return Asset.ref(name=name)


with DAG(dag_id="outlets", schedule=None, params={"folder": "/nowhere", "image": "/nowhere.jpg"}):
    submit = ImageToVideoOperator(
        task_id="submit",
        image=IMAGE,
        wait_for_completion=False,
        outlets=[Asset("outlets_submitted")],
        **VIDEO,
    )
    render = ImageToVideoOperator(
        task_id="render",
        image=IMAGE,
        deferrable=False,
        outlets=[Asset("outlets_rendered"), AssetAlias("outlets_projects")],
        **VIDEO,
    )
    resumed = ImageToVideoOperator(
        task_id="resumed", image=IMAGE, deferrable=True, outlets=[Asset("outlets_resumed")], **VIDEO
    )
    wait = VideoJobSensor(
        task_id="wait",
        project_id=submit.output,
        deferrable=True,
        poke_interval=0.1,
        outlets=[Asset("outlets_waited")],
    )
    poke = VideoJobSensor(
        task_id="poke",
        project_id=submit.output,
        deferrable=False,
        poke_interval=0.1,
        outlets=[Asset(name="outlets_poked", uri="x-outlets://poked")],
    )
    save = DownloadVideoOperator(
        task_id="save",
        project_id=render.output,
        path="{{ params.folder }}/",
        pre_execute=note,
        outlets=[
            Asset("outlets_saved"),
            AssetAlias("outlets_videos"),
            by_name("outlets_rendered"),
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
    resumed >> by_id
    [wait, poke] >> save
