"""The board of shared uploads in Airflow: XComs of the map indexes of one task, of earlier runs, too."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from magichour_provider.airflow_internals import all_xcoms, task_states
from magichour_provider.jobs.request import VideoRequest, disown_uploads, open_images
from magichour_provider.jobs.shared_uploads import UploadCache

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.polling.outcome import Outcome

log = logging.getLogger(__name__)

UPLOAD_KEY = "magichour_upload_"
CLAIM_KEY = "magichour_claim_"
"""How the keys begin; one for each image, so that only what concerns it is read."""


class XComUploadCache:
    """What the map indexes of a task have written of their uploads.

    Claims have keys of their own: many tasks claim and one uploads, and earlier runs are asked for uploads
    only.
    """

    def __init__(self, ti: Any) -> None:
        self._ti = ti

    def claim(self, image: str, claim: dict[str, Any]) -> None:
        """Write this task's claim over its last one."""
        self._ti.xcom_push(CLAIM_KEY + image, claim)

    def claims(self, image: str) -> list[Any]:
        """The claims of this run, this task's included."""
        return self._read(CLAIM_KEY + image, earlier_runs=False)

    def publish(self, image: str, uploaded: dict[str, Any]) -> None:
        """Write where the image is."""
        self._ti.xcom_push(UPLOAD_KEY + image, uploaded)

    def uploads(self, image: str, *, earlier_runs: bool) -> list[Any]:
        """What was published in this run, and before it."""
        return self._read(UPLOAD_KEY + image, earlier_runs=earlier_runs)

    def running(self) -> set[int]:
        """The map indexes that run at this moment."""
        ti, start = self._ti, f"{self._ti.task_id}_"
        states = task_states(ti.dag_id, ti.run_id, [ti.task_id])
        return {int(name.removeprefix(start)) for name, state in states.items() if state == "running"}

    def _read(self, key: str, *, earlier_runs: bool) -> list[Any]:
        ti = self._ti
        return all_xcoms(key, ti.dag_id, ti.run_id, ti.task_id, earlier_runs=earlier_runs)


def shared_uploads_of(
    task: Any,
    context: Context,
    make_sure: Callable[[], None] = lambda: None,
    *,
    is_killed: Callable[[], bool] = lambda: False,
    recorded: bool = True,
) -> UploadCache | None:
    """The task's part in sharing uploads; None where it is not mapped, or is to push no XComs.

    :param recorded: whether the task remembers its last job. Where it does not, a later try cannot know
        whether that one failed for its image, and uploads anew.
    """
    ti = context["ti"]
    index = -1 if ti.map_index is None else ti.map_index
    if index < 0 or not (task.share_uploads and task.do_xcom_push):
        return None
    is_later = int(getattr(ti, "try_number", 1) or 1) > 1
    trusted_from = time.time() if is_later and not recorded else 0.0
    return UploadCache(XComUploadCache(ti), index, make_sure, is_killed=is_killed, trusted_from=trusted_from)


def disown_images_of(task: Any, context: Context, outcome: Outcome) -> None:
    """Let nobody use the uploads of a job that failed for its images."""
    if not (outcome.error_code or "").startswith("invalid_image"):
        return
    try:
        uploads = shared_uploads_of(task, context)
        if uploads is not None:
            order = VideoRequest.of(**{name: getattr(task, name) for name in VideoRequest.arguments()})
            disown_uploads(task.hook.get_client(), open_images(order), uploads)
    except Exception as error:
        log.info("Other tasks cannot be told of the image (%s: %s).", type(error).__name__, error)
