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

    :param project_id: a project id, the output of `ImageToVideoOperator` or `VideoJobSensor`, or a
        template of either.
    :param path: a file, or a folder (an existing one, or with a trailing slash) that then gets
        `<project_id>.mp4`; local, `file://`, or an object storage URL.
    :param path_conn_id: the connection for object storage.
    :param if_exists: what to do where the target exists: `skip` (take the whole clip that is there),
        `overwrite` or `fail`.
    :param magichour_conn_id: the connection for Magic Hour.
    :return: `path`, `size` in bytes, `sha256`, `content_type`, `project_id`, `duration` in seconds,
        `width` and `height` in pixels, and `fps`.
    """

    template_fields: Sequence[str] = ("project_id", "path", "path_conn_id", "magichour_conn_id")
    operator_extra_links = (VideoProjectLink(),)
    ui_color = "#d2f4e4"

    def __init__(
        self,
        *,
        project_id: str | Mapping[str, Any] | XComArg,
        path: str,
        path_conn_id: str | None = None,
        if_exists: IfExists = "skip",
        magichour_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        give_retry_policy(self)
        check_choice("if_exists", if_exists, IfExists)
        self.project_id = project_id
        self.path = path
        self.path_conn_id = path_conn_id
        self.if_exists = if_exists
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
            return self.hook.download(
                job.project_id, str(self.path), path_conn_id=self.path_conn_id, if_exists=self.if_exists
            )
