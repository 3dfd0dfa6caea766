"""A contact sheet of the videos of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from magichour_provider.airflow_internals import drop_notset
from magichour_provider.jobs.arguments import parse_text
from magichour_provider.operators._base import (
    map_non_retryable,
    push_keys,
    reports_failure,
    set_default_retry_policy,
)
from magichour_provider.version_compat import AirflowSkipException

if TYPE_CHECKING:
    from airflow.sdk import Context, XComArg

    from magichour_provider.storage.locations import PathArgument

    Given = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any] | None] | XComArg


class ContactSheetOperator(BaseOperator):
    """Make a contact sheet of videos: some frames of each, with its name, seconds and credits below.

    Needs the extra `pictures`. Without any video the task is skipped. A video that cannot be read becomes a
    cell with the reason, and a warning in the log; if none can be read, the task fails.

    :param videos: the output of `DownloadVideoOperator`, mapped or not; or paths, or a list of either.
        None, from a skipped task, is left out.
    :param path: a file that ends in .jpg, .jpeg or .png, or a folder, which gets a `contact-sheet.jpg`;
        local, `file://`, or an object storage URL. An existing file is replaced atomically.
    :param path_conn_id: the connection for the object storage of the sheet.
    :param videos_conn_id: the connection for the object storage of the videos.
    :param jobs: the output of `ImageToVideoOperator` or `VideoJobSensor` for these videos, which gives names,
        models and credits.
    :param columns: videos in a row; None: as many as suit. The sheet has at most 1600 x 4000 pixels: for many
        videos there are fewer frames of each, and a line gives the number of those left out.
    :param frames: frames of each video, from the first to the last; one is from the middle.
    :param title: the headline; None: the Dag's id.
    :return: `path`, `size` in bytes, `width` and `height` in pixels, `videos` (how many there are), and
        `unreadable` (how many of them could not be read).
    """

    template_fields: Sequence[str] = ("videos", "path", "path_conn_id", "videos_conn_id", "jobs", "title")
    ui_color = "#d2f4e4"

    def __init__(
        self,
        *,
        videos: Given,
        path: PathArgument,
        path_conn_id: str | None = None,
        videos_conn_id: str | None = None,
        jobs: Given | None = None,
        columns: int | None = None,
        frames: int = 3,
        title: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        set_default_retry_policy(self)
        for name, count in (("columns", 1 if columns is None else columns), ("frames", frames)):
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise ValueError(f"{name} must be a whole number from 1 on, not {count!r}.")
        self.videos = videos
        self.path = path
        self.path_conn_id = path_conn_id
        self.videos_conn_id = videos_conn_id
        self.jobs = jobs
        self.columns = columns
        self.frames = frames
        self.title = title
        # A sheet is of many jobs: its failure is that of none.
        self.linked_project_id: str | None = None
        self.credits_charged: int | None = None

    @reports_failure
    def execute(self, context: Context) -> dict[str, Any]:
        """Make the sheet and describe it."""
        from magichour_provider.storage.posters import require_pictures

        ti = context.get("ti")
        dag_id, run_id = (ti.dag_id, ti.run_id) if ti is not None else ("Contact sheet", "")
        with map_non_retryable(self):
            require_pictures()
            from magichour_provider.storage.contact_sheets import make_contact_sheet, parse_videos

            videos = parse_videos(drop_notset(self.videos), drop_notset(self.jobs))
            if not videos:
                raise AirflowSkipException("There is no video to show, so there is no contact sheet.")
            # A name that `job_name` made starts with the Dag's id, which the headline shows.
            prefix = f"{dag_id} "
            videos = [replace(v, name=None) if (v.name or "").startswith(prefix) else v for v in videos]
            sheet = make_contact_sheet(
                videos,
                self.path,
                path_conn_id=self.path_conn_id,
                videos_conn_id=self.videos_conn_id,
                columns=self.columns,
                frames=self.frames,
                title=parse_text("title", self.title) or dag_id,
                subtitle=run_id,
            )
        push_keys(self, context, sheet, "path")
        self.log.info("Made a contact sheet of %d videos: %s", sheet["videos"], sheet["path"])
        return sheet
