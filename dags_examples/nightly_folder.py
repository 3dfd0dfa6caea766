"""Every night, make a video for each image of a folder that has none. A paid video is not paid for again.

The name of an image is its file name and a hash of its content, so a changed image counts as a new one. The
video and the job's state file get the same name. If a download fails, the next night finds the state file,
re-attaches to the paid job at no cost, and downloads the video.

Two actions still pay a second time: replacing an image while a run is active, and clearing a `render` task
that succeeded. Clear `download` instead, or wait for the next night. Do not run this Dag as a backfill.

Setup: the two folders, local or in object storage with an Airflow connection
(`s3://aws_default@bucket/folder`). The budget `max_credits_per_run` needs Airflow 3.3.
"""

from __future__ import annotations

import tempfile
from hashlib import sha256
from pathlib import Path

from airflow.sdk import DAG, ObjectStoragePath, task, task_group

from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator

MAX_IMAGES = 1000
"""Images of one night. Airflow maps at most 1024 tasks, unless `[core] max_map_length` allows more."""

with DAG(
    dag_id="magichour_nightly_folder",
    schedule="0 2 * * *",
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2},
    params={
        "images": str(Path(__file__).parent / "images"),
        "videos": str(Path(tempfile.gettempdir()) / "magichour" / "nightly"),
        "credits": 2000,
    },
    tags=["magichour", "example"],
) as dag:

    @task
    def find_images(params: dict[str, str]) -> list[dict[str, str]]:
        """Find the images without a video, and name the files of each.

        Two images of the same name and content give one entry. The next night finds those beyond `MAX_IMAGES`.
        """
        videos = ObjectStoragePath(params["videos"])
        found = {}
        for image in sorted(ObjectStoragePath(params["images"]).iterdir()):
            if image.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"} and image.is_file():
                name = f"{image.stem}-{sha256(image.read_bytes()).hexdigest()[:8]}"
                video, state = videos / f"{name}.mp4", videos / "states" / f"{name}.json"
                if name not in found and not video.exists():
                    found[name] = {"image": image, "name": name, "video": video, "state": state}
            if len(found) == MAX_IMAGES:
                break
        return [{key: str(value) for key, value in each.items()} for each in found.values()]

    # [START howto_state_path]
    @task_group
    def make_video(image: str, name: str, video: str, state: str) -> None:
        """Render one image and download its video. A failure does not stop the other images."""
        render = ImageToVideoOperator(
            task_id="render",
            image=image,
            name=name,
            model="ltx-2.3",
            resolution="480p",
            end_seconds=3,
            deferrable=True,
            state_path=state,
            max_credits_per_run="{{ params.credits }}",
            max_active_tis_per_dag=4,
        )
        DownloadVideoOperator(task_id="download", project_id=render.output, path=video)

    make_video.expand_kwargs(find_images())
    # [END howto_state_path]
