"""Landing a finished clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from magichour_provider.choices import IfExists, check_choice
from magichour_provider.compat import BaseOperator
from magichour_provider.links import VideoProjectLink
from magichour_provider.policies import give_retry_policy, no_useless_retry
from magichour_provider.references import DEFAULT_CONN_ID, JobReference

if TYPE_CHECKING:
    from airflow.sdk import Context, XComArg

    from magichour_provider.hooks.magichour import MagicHourHook


class DownloadVideoOperator(BaseOperator):
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
        give_retry_policy(self)
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

    @cached_property
    def hook(self) -> MagicHourHook:
        """The connection's hook."""
        from magichour_provider.hooks.magichour import MagicHourHook

        return MagicHourHook(self.magichour_conn_id)

    def execute(self, context: Context) -> dict[str, Any]:
        """Land the clip and describe it."""
        with no_useless_retry(self):
            job = JobReference.of(self.project_id)
            self.linked_project_id = job.project_id
            return self._deliver(job.project_id, context)

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
        from magichour_provider.api.errors import JobDeletedError, NotFoundError
        from magichour_provider.delivered import DeliveryRecord

        record = DeliveryRecord(context, {"project_id": project_id, **where})
        try:
            result = self.hook.download(project_id, **where)
        except (NotFoundError, JobDeletedError):
            earlier = record.read()
            if earlier is None:
                raise
            result = earlier
        else:
            record.write(result)
        self.hook.delete_delivered(result, self.path_conn_id)
        return result
