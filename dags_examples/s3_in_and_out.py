"""S3 in and out: the image comes from one bucket, the video goes to another.

Setup: `pip install 'airflow-provider-magichour[amazon]'`, and the connection `aws_default`, which may read
the one bucket and write to the other. Airflow's other object storages work the same way (`gs://`, `abfs://`).
"""

from __future__ import annotations

from airflow.sdk import DAG

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator

with DAG(
    dag_id="magichour_s3_in_and_out",
    schedule=None,
    params={"image": "s3://stills/grace_hopper.jpg", "folder": "s3://videos/magichour"},
    tags=["magichour", "example"],
):
    # [START howto_object_storage]
    render = ImageToVideoOperator(
        task_id="render",
        image="{{ params.image }}",
        image_conn_id="aws_default",
        model="ltx-2.3",
        resolution="480p",
        end_seconds=3,
        deferrable=True,
    )
    DownloadVideoOperator(
        task_id="download",
        project_id=render.output,
        path="{{ params.folder }}/",
        path_conn_id="aws_default",
    )
    # [END howto_object_storage]
