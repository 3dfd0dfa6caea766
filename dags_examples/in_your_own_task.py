"""The hook in tasks of your own: read the account, choose a length, submit, and download the video.

The operators do more than such a task: it does not re-attach to the job of an earlier attempt, so a task that
submits needs `retries=0`. A task that waits occupies its worker, so a sensor waits here.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from magichour_provider.hooks.magichour import MagicHourHook
from magichour_provider.sensors.video_job import VideoJobSensor

PHOTOGRAPH = Path(__file__).parent / "images" / "grace_hopper.jpg"
MODEL, RESOLUTION = "ltx-2.3", "480p"

with DAG(
    dag_id="magichour_in_your_own_task",
    schedule=None,
    params={"image": str(PHOTOGRAPH), "folder": str(Path(tempfile.gettempdir()) / "magichour")},
    tags=["magichour", "example"],
):
    # [START howto_hook_magichour]
    @task
    def choose_length() -> float:
        """Choose the longest video of which the account can pay ten."""
        hook = MagicHourHook()
        credits = hook.get_account().credits
        costs = {seconds: hook.estimate_credits(MODEL, seconds, RESOLUTION) for seconds in (3, 5, 10)}
        payable = [seconds for seconds, cost in costs.items() if cost is not None and 10 * cost <= credits]
        if not payable:
            raise RuntimeError(f"{credits} credits do not pay for ten videos of any length.")
        return max(payable)

    @task(retries=0)
    def submit(end_seconds: float, params: dict[str, str]) -> str:
        """Upload the image and submit a job: this spends credits."""
        hook = MagicHourHook()
        job = hook.create_image_to_video(
            hook.upload(params["image"]), end_seconds, model=MODEL, resolution=RESOLUTION
        )
        return job.id

    @task
    def download(job: dict[str, Any], params: dict[str, str]) -> str:
        """Download the video, and return its path."""
        video = MagicHourHook().download(job["project_id"], f"{params['folder']}/")
        return str(video["path"])

    # [END howto_hook_magichour]

    wait = VideoJobSensor(task_id="wait", project_id=submit(choose_length()), deferrable=True)
    download(wait.output)
