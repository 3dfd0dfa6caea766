"""Landing a finished clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from magichour_provider.asset_events import announce_clips
from magichour_provider.exceptions import MagicHourError, TaskKilledError, TransferError
from magichour_provider.jobs.reference import DEFAULT_CONN_ID, JobReference
from magichour_provider.jobs.request import IfExists, check_choice
from magichour_provider.links import VideoProjectLink
from magichour_provider.operators._base import (
    MagicHourHookMixin,
    OpenLineageMixin,
    map_non_retryable,
    reports_failure,
    set_default_retry_policy,
)

if TYPE_CHECKING:
    from airflow.sdk import Context, XComArg


class DownloadVideoOperator(MagicHourHookMixin, OpenLineageMixin, BaseOperator):
    """Land the clip of a finished job: stream it, check that it is a whole video, publish it at once.

    A connection that breaks is taken up where it broke; what a killed try has left beside the target, the
    next one removes.

    :param project_id: a project id, the output of `ImageToVideoOperator` or `VideoJobSensor`, or a
        template of either.
    :param path: a file, or a folder (an existing one, or with a trailing slash) in which `file_name` names
        the clip; local, `file://`, or an object storage URL.
    :param file_name: template of the clip's name in a folder: `{project_id}`, which must be in it, `{name}`,
        the project's name in the library, and `{index}`, which of the project's clips it is.
    :param path_conn_id: the connection for object storage.
    :param if_exists: what to do where the target exists: `skip` (take it if it is this clip, by size and
        checksum, and refuse anything else), `overwrite` or `fail`.
    :param poster: also make a poster, a JPEG of one frame beside the clip (extra `pictures`).
    :param delete_remote: remove the project at Magic Hour once every clip of it was read back from the target
        and checked. For good: there is no way back.
    :param magichour_conn_id: the connection for Magic Hour.
    :return: `path`, `size` in bytes, `sha256`, `content_type`, `project_id`, `duration` in seconds,
        `width` and `height` in pixels, `fps`, `poster` (its path, or None), and `clips`: the same of each
        clip, for a project that has several.
    """

    template_fields: Sequence[str] = ("project_id", "path", "file_name", "path_conn_id", "magichour_conn_id")
    operator_extra_links = (VideoProjectLink(),)
    ui_color = "#d2f4e4"

    def __init__(
        self,
        *,
        project_id: str | Mapping[str, Any] | XComArg,
        path: str,
        file_name: str = "{project_id}.mp4",
        path_conn_id: str | None = None,
        if_exists: IfExists = "skip",
        poster: bool = False,
        delete_remote: bool = False,
        magichour_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        set_default_retry_policy(self)
        check_choice("if_exists", if_exists, IfExists)
        self.project_id = project_id
        self.path = path
        self.file_name = file_name
        self.path_conn_id = path_conn_id
        self.if_exists = if_exists
        self.poster = poster
        self.delete_remote = delete_remote
        self.magichour_conn_id = magichour_conn_id
        self.linked_project_id: str | None = None
        self.credits_charged: int | None = None
        self._job: JobReference | None = None
        self._landed: dict[str, Any] | None = None
        self._is_landing = False

    @reports_failure
    def execute(self, context: Context) -> dict[str, Any]:
        """Land the clip and describe it."""
        with map_non_retryable(self):
            job = self._job = JobReference.of(self.project_id)
            self.linked_project_id, self.credits_charged = job.project_id, job.credits_charged
            if self.outlets:
                job = self._job = self._with_credits(job)
            self._is_landing = True
            try:
                self._landed = self._deliver(job.project_id, context)
            finally:
                self._is_landing = False
        announce_clips(context, self.outlets, self._landed, job)
        return self._landed

    def on_kill(self) -> None:
        """Stop at once: Airflow calls this where the task is, so what was begun is given up on the way out.

        A task that is marked failed has no next try that would remove what it leaves, and an upload that was
        begun in S3 costs money.
        """
        if self._is_landing:
            self._is_landing = False
            raise TaskKilledError("The landing was stopped.", consequence=TransferError.default_consequence)

    def _deliver(self, project_id: str, context: Context) -> dict[str, Any]:
        where: dict[str, Any] = {
            "path": str(self.path),
            "path_conn_id": self.path_conn_id,
            "if_exists": self.if_exists,
            "file_name": self.file_name,
            "poster": self.poster,
        }
        if not self.delete_remote:
            return self.hook.download(project_id, **where)
        return self._deliver_and_delete(project_id, context, where)

    def _deliver_and_delete(self, project_id: str, context: Context, where: dict[str, Any]) -> dict[str, Any]:
        """A try that dies after the removal has left a record of what it landed."""
        from magichour_provider.exceptions import JobDeletedError, NotFoundError
        from magichour_provider.storage.download_state import DeliveryRecord
        from magichour_provider.storage.locations import conn_id_of

        record = DeliveryRecord(context, {"project_id": project_id, **where})
        try:
            result = self.hook.download(project_id, **where)
        except (NotFoundError, JobDeletedError):
            earlier = record.read()
            if earlier is None:
                raise
            result = earlier
            self.log.info(
                "Project %s is gone at Magic Hour; an earlier try has landed %s.", project_id, result["path"]
            )
        else:
            record.write(result)
        self.hook.delete_delivered(result, conn_id_of(where["path"], self.path_conn_id))
        return result

    def _lineage(self) -> Any:
        """From the project to the clip, with its checksum, size and format, once it has landed."""
        from magichour_provider.lineage import of_landing

        return of_landing(self._job or JobReference.of(self.project_id), self._landed)

    def _with_credits(self, job: JobReference) -> JobReference:
        """The job with what it cost, asked for where the task before this one has not said so."""
        if job.credits_charged is not None:
            return job
        try:
            return replace(job, credits_charged=self.hook.get_video(job.project_id).credits_charged)
        except MagicHourError as error:
            self.log.warning("The asset event will not say what the clip cost: %s", error)
            return job
