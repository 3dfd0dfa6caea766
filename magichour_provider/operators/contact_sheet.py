"""A picture of what a run has made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException, BaseOperator

from magichour_provider.airflow_internals import drop_notset
from magichour_provider.operators._base import map_non_retryable, reports_failure, set_default_retry_policy

if TYPE_CHECKING:
    from airflow.sdk import Context, XComArg

    from magichour_provider.storage.listing import ListedClip

    Given = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any] | None] | XComArg


class ContactSheetOperator(BaseOperator):
    """Make a contact sheet of clips: some frames of each, with its name, seconds and credits below.

    Needs the extra `pictures`. Without any clip the task is skipped. A clip that cannot be read gets a cell
    that says so, and a warning in the log; where none can be read, the task fails.

    :param clips: the output of `DownloadVideoOperator`, mapped or not; or paths, or a list of either. None,
        from a task that was skipped, is left out.
    :param path: a file that ends in .jpg, .jpeg or .png, or a folder, which gets a `contact-sheet.jpg`;
        local, `file://`, or an object storage URL. What stands there is replaced, at once.
    :param path_conn_id: the connection for the object storage of the sheet.
    :param clips_conn_id: the one for the object storage of the clips.
    :param jobs: the output of `ImageToVideoOperator` or `VideoJobSensor` for these clips, which knows names,
        models and credits.
    :param columns: clips in a row; None: as many as suit. The sheet has at most 1600 x 4000 pixels: where
        clips are many, there are fewer frames of each, and a line says how many had no room.
    :param frames: frames of each clip, from the first to the last; one is from the middle.
    :param title: the headline; None: the Dag's id.
    :return: `path`, `size` in bytes, `width` and `height` in pixels, `clips` (how many there are), and
        `unreadable` (how many of them could not be shown).
    """

    template_fields: Sequence[str] = ("clips", "path", "path_conn_id", "clips_conn_id", "jobs", "title")
    ui_color = "#d2f4e4"

    def __init__(
        self,
        *,
        clips: Given,
        path: str,
        path_conn_id: str | None = None,
        clips_conn_id: str | None = None,
        jobs: Given | None = None,
        columns: int | None = None,
        frames: int = 3,
        title: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        set_default_retry_policy(self)
        _check_count("columns", 1 if columns is None else columns)
        _check_count("frames", frames)
        self.clips = clips
        self.path = path
        self.path_conn_id = path_conn_id
        self.clips_conn_id = clips_conn_id
        self.jobs = jobs
        self.columns = columns
        self.frames = frames
        self.title = title
        # A sheet is of many jobs: its failure is none of theirs.
        self.linked_project_id: str | None = None
        self.credits_charged: int | None = None

    @reports_failure
    def execute(self, context: Context) -> dict[str, Any]:
        """Make the sheet and describe it."""
        from magichour_provider.storage.listing import listed_clips
        from magichour_provider.storage.pictures_extra import require_pictures

        ti = context["ti"]
        with map_non_retryable(self):
            require_pictures()
            clips = listed_clips(drop_notset(self.clips), drop_notset(self.jobs))
            if not clips:
                raise AirflowSkipException("There is no clip to show, so there is no contact sheet.")
            from magichour_provider.storage.contact_sheets import make_contact_sheet

            sheet = make_contact_sheet(
                [_without_made_up_name(clip, ti.dag_id) for clip in clips],
                str(self.path),
                path_conn_id=self.path_conn_id,
                clips_conn_id=self.clips_conn_id,
                columns=self.columns,
                frames=self.frames,
                title=self.title or ti.dag_id,
                subtitle=ti.run_id,
            )
        self.log.info("Made a contact sheet of %d clips: %s", sheet["clips"], sheet["path"])
        return sheet


def _without_made_up_name(clip: ListedClip, dag_id: str) -> ListedClip:
    """Without the name that `references.job_name` gives: it starts with what the headline says already."""
    made_up = clip.name is not None and clip.name.startswith(f"{dag_id} ")
    return replace(clip, name=None) if made_up else clip


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number from 1 on, not {value!r}.")
