"""Extra links on task instances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink

from magichour_provider.client import library_url

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey


class VideoProjectLink(BaseOperatorLink):
    """The job's page in Magic Hour's library.

    Computed in the task's process at the end of every worker run, also of one that ends in a deferral,
    so the link is there while the task is deferred.
    """

    name = "Magic Hour library"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return the page's address, or "" while no job is known."""
        project_id = getattr(operator, "linked_project_id", None)
        return library_url(project_id) if project_id else ""
