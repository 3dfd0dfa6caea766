"""Saving the videos of a finished job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from magichour_provider.airflow_internals import NEVER_EXPIRE
from magichour_provider.exceptions import (
    DestinationError,
    JobDeletedError,
    MagicHourError,
    NotFoundError,
    TaskKilledError,
    TransferError,
)
from magichour_provider.jobs.arguments import check_choice, parse_id, parse_path, parse_text, require_flag
from magichour_provider.jobs.reference import DEFAULT_CONN_ID, JobReference
from magichour_provider.lineage import download_lineage, emit_video_events
from magichour_provider.links import VideoProjectLink
from magichour_provider.operators._base import (
    MagicHourHookMixin,
    OpenLineageMixin,
    map_non_retryable,
    push_keys,
    reports_failure,
    set_default_retry_policy,
)
from magichour_provider.storage.locations import connection_id
from magichour_provider.storage.targets import IfExists, require_shared_target

if TYPE_CHECKING:
    from airflow.sdk import Context, XComArg

    from magichour_provider.storage.locations import PathArgument

DEFAULT_FILE_NAME = "{project_id}.mp4"
STATE_KEY = "magichour_download"
"""Of what this task has saved for its arguments, in the task state store (Airflow 3.3)."""


class DownloadVideoOperator(MagicHourHookMixin, OpenLineageMixin, BaseOperator):
    """Download the video of a finished job, check that it is whole, and publish it atomically.

    A broken connection is resumed; a retry removes the temporary files of a killed attempt.

    :param project_id: a project id, the output of `ImageToVideoOperator` or `VideoJobSensor`, or a template
        of either.
    :param path: a file, or a folder (an existing one, or with a trailing slash) in which `file_name` names
        the video; a path (also a `Path` or an `ObjectStoragePath`), `file://`, or an object storage URL.
    :param file_name: template of the video's name in a folder: `{project_id}`, which is required, `{name}`,
        the project's name in the library, and `{index}`, which of the job's videos it is.
    :param path_conn_id: the connection for object storage.
    :param if_exists: if the target exists: `skip` (keep it if it is this video, by size and checksum, and
        refuse anything else), `overwrite` or `fail`.
    :param poster: also make a poster, a JPEG of one frame beside the video (extra `pictures`).
    :param delete_remote: delete the project at Magic Hour after every video was read back and checked. It
        cannot be restored. A local `path` must then be shared by all workers (`[magichour] shared_folders`).
    :param magichour_conn_id: the connection for Magic Hour.
    :return: `path`, `size` in bytes, `sha256`, `content_type`, `project_id`, `duration` in seconds, `width`
        and `height` in pixels, `fps`, `poster` (its path, or None), `hostname` (the worker with the local
        file, or None), and `videos`: the same of each video of the job.
    """

    template_fields: Sequence[str] = ("project_id", "path", "file_name", "path_conn_id", "magichour_conn_id")
    operator_extra_links = (VideoProjectLink(),)
    ui_color = "#d2f4e4"

    def __init__(
        self,
        *,
        project_id: str | Mapping[str, Any] | XComArg,
        path: PathArgument,
        file_name: str = DEFAULT_FILE_NAME,
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
        self.poster = require_flag("poster", poster)
        self.delete_remote = require_flag("delete_remote", delete_remote)
        self.magichour_conn_id = magichour_conn_id
        self.linked_project_id: str | None = None
        self.credits_charged: int | None = None
        self._job: JobReference | None = None
        self._result: dict[str, Any] | None = None
        self._is_downloading = False

    @reports_failure
    def execute(self, context: Context) -> dict[str, Any]:
        """Save the videos of the job and describe them."""
        with map_non_retryable(self):
            job = self._job = JobReference.from_value(self.project_id)
            self.linked_project_id, self.credits_charged = job.project_id, job.credits_charged
            if self.outlets and job.credits_charged is None:
                try:  # the task before has not given them, and the request is free
                    credits = self.hook.get_video(job.project_id).credits_charged
                    job = self._job = replace(job, credits_charged=credits)
                except MagicHourError as error:
                    self.log.warning("The asset event will not contain the credits of the job. %s", error)
            path = parse_path("path", self.path)
            if path is None:
                raise DestinationError("No target was given: the path is empty.")
            path_conn_id = parse_id("path_conn_id", self.path_conn_id)
            if self.delete_remote:
                require_shared_target(path, path_conn_id)
            arguments: dict[str, Any] = {
                "path": path,
                "path_conn_id": path_conn_id,
                "if_exists": self.if_exists,
                "file_name": parse_text("file_name", self.file_name) or DEFAULT_FILE_NAME,
                "poster": self.poster,
            }
            self._is_downloading = True
            try:
                if self.delete_remote:
                    self._result = self._download_once(context, job.project_id, arguments)
                    self.hook.delete_after_verify(self._result, connection_id(path, path_conn_id))
                else:
                    self._result = self.hook.download(job.project_id, **arguments)
            finally:
                self._is_downloading = False
        emit_video_events(context, self.outlets, self._result, job)
        push_keys(self, context, self._result, "project_id", "path")
        return self._result

    def on_kill(self) -> None:
        """Stop at once: Airflow calls this in the task's thread, so the error aborts the download.

        A task that is marked failed has no retry that would remove what it leaves, and the parts of an
        aborted S3 upload cost money.
        """
        if self._is_downloading:
            self._is_downloading = False
            raise TaskKilledError("The download was stopped.", consequence=TransferError.default_consequence)

    def _download_once(self, context: Context, project_id: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Download, or read what an attempt saved that died after it had deleted the project."""
        store: Any = context.get("task_state_store")
        stored_arguments = {"project_id": project_id, **arguments, "path": str(arguments["path"])}
        try:
            result = self.hook.download(project_id, **arguments)
        except (NotFoundError, JobDeletedError):
            stored = store.get(STATE_KEY) if store is not None else None
            if stored is None or stored["arguments"] != stored_arguments:
                raise
            earlier: dict[str, Any] = stored["result"]
            self.log.info(
                "Job %s does not exist at Magic Hour any more; an earlier attempt saved %s.",
                project_id,
                earlier["path"],
            )
            return earlier
        if store is not None:
            stored = {"arguments": stored_arguments, "result": result}
            store.set(STATE_KEY, stored, retention=NEVER_EXPIRE)
        return result

    def _lineage(self) -> Any:
        """From the project to the video, with its checksum, size and format."""
        return download_lineage(self._job or JobReference.from_value(self.project_id), self._result)
