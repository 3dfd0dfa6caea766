"""How `ImageToVideoOperator` follows the job that it has in hand: says what is known of it, and waits for it.

`taken_up` is what the job of an earlier try looked like when this one took it up; None for a new job.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from magichour_provider.jobs.reference import JobReference, job_name, job_result

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.client.models import CreatedJob, VideoProject
    from magichour_provider.operators.image_to_video import ImageToVideoOperator
    from magichour_provider.polling.outcome import Outcome
    from magichour_provider.triggers.video_job import VideoJobTrigger


def result_of_submission(
    task: ImageToVideoOperator, context: Context, job: CreatedJob, taken_up: VideoProject | None
) -> dict[str, Any]:
    """What the task returns where it does not wait."""
    reference = JobReference(job.id, task.model, task.resolution)
    if taken_up is not None:
        return reference.describe(taken_up)
    return job_result(
        reference,
        status="queued",
        name=task.name or job_name(context),
        end_seconds=float(task.end_seconds),
        credits_charged=job.credits_charged,
    )


def submitted_at(taken_up: VideoProject | None) -> float | None:
    """When the job was submitted, in epoch seconds: just now, or by another try; None where nobody knows."""
    if taken_up is None:
        return time.time()
    return taken_up.created_at.timestamp() if taken_up.created_at else None


def trigger_for(
    task: ImageToVideoOperator,
    project_id: str,
    deadline: float,
    credits_charged: int | None = None,
    submitted: float | None = None,
) -> VideoJobTrigger:
    """The trigger that waits for the job until `deadline` (epoch seconds)."""
    from magichour_provider.triggers.video_job import VideoJobTrigger

    return VideoJobTrigger(
        project_id,
        task.magichour_conn_id,
        deadline=deadline,
        poll_interval=task.poll_interval,
        credits_charged=credits_charged,
        submitted=submitted,
        model=task.model,
        resolution=task.resolution,
        end_seconds=float(task.end_seconds),
    )


def wait_here(
    task: ImageToVideoOperator,
    project_id: str,
    deadline: float,
    submitted: float | None,
    make_sure: Callable[[], None],
) -> Outcome:
    """Wait for the job in this worker, until `deadline` (epoch seconds).

    :param make_sure: called every second; what it raises ends the wait.
    """
    from magichour_provider.polling.blocking import wait
    from magichour_provider.polling.poller import Poller

    watch = Poller(
        project_id,
        deadline=deadline,
        started=time.time(),
        poll_interval=task.poll_interval,
        submitted=submitted,
    )
    return wait(task.hook.get_conn(), watch, make_sure)
