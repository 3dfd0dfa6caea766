"""A clip for every image of a folder that has none yet, every night; what is paid for is not paid for again.

An image's name is its file's and a hash of its content, so that one that has changed is a new one. Its clip gets that
name, and so does the record of the job that is paid for. Where a clip did not land, the next night finds the
record, pays nothing, and brings it home.

What a person can still do: an image that is replaced while a run is at it is paid for twice, and so is one whose
`render` is cleared after it had succeeded: clear `download`, or wait for the next night. Do not run it as a backfill.

To set up: the two folders, local or in object storage by a connection of Airflow's (`s3://aws_default@bucket/folder`).
Needs Airflow 3.3.
"""

from __future__ import annotations

import tempfile
from hashlib import sha256
from pathlib import Path

from airflow.sdk import DAG, ObjectStoragePath, task, task_group

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator

AT_MOST = 1000
"""Images a night: Airflow maps 1024 tasks at most, unless `[core] max_map_length` says otherwise."""

with DAG(
    dag_id="magichour_nightly_folder",
    schedule="0 2 * * *",
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2},
    params={
        "images": str(Path(__file__).parent / "images"),
        "clips": str(Path(tempfile.gettempdir()) / "magichour" / "nightly"),
        "credits": 2000,
    },
    tags=["magichour", "example"],
) as dag:

    @task
    def find_images(params: dict[str, str]) -> list[dict[str, str]]:
        """Find the images that have no clip, and name what is to become of each.

        One of each name, as two tasks with one record would pay twice; the next night finds what is over `AT_MOST`.
        """
        clips = ObjectStoragePath(params["clips"])
        found = {}
        for image in sorted(ObjectStoragePath(params["images"]).iterdir()):
            if image.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"} and image.is_file():
                name = f"{image.stem}-{sha256(image.read_bytes()).hexdigest()[:8]}"
                clip, record = clips / f"{name}.mp4", clips / "records" / f"{name}.json"
                if name not in found and not clip.exists():
                    found[name] = {"image": image, "name": name, "clip": clip, "record": record}
            if len(found) == AT_MOST:
                break
        return [{key: str(value) for key, value in each.items()} for each in found.values()]

    # [START howto_record_path]
    @task_group
    def make_clip(image: str, name: str, clip: str, record: str) -> None:
        """Render one image and bring its clip home; one that fails holds up no other."""
        render = ImageToVideoOperator(
            task_id="render",
            image=image,
            name=name,
            model="ltx-2.3",
            resolution="480p",
            end_seconds=3,
            deferrable=True,
            state_path=record,
            max_credits_per_run="{{ params.credits }}",
            max_active_tis_per_dag=4,
        )
        DownloadVideoOperator(task_id="download", project_id=render.output, path=clip)

    make_clip.expand_kwargs(find_images())
    # [END howto_record_path]
