"""Bring all clips of a project home, and tell of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from magichour_provider.exceptions import JobDeletedError, NotFoundError, TransferError
from magichour_provider.jobs.request import IfExists
from magichour_provider.polling.outcome import download_urls
from magichour_provider.storage.download import DownloadedFile, existing
from magichour_provider.storage.naming import DEFAULT_FILE_NAME
from magichour_provider.storage.target import Target, resolve_target
from magichour_provider.storage.transfer import describe, land

if TYPE_CHECKING:
    from magichour_provider.client.models import DownloadUrl, VideoProject
    from magichour_provider.client.sync import MagicHourClient

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivery:
    """What is to be brought where; as the arguments of `DownloadVideoOperator`."""

    project_id: str
    path: str
    path_conn_id: str | None = None
    if_exists: IfExists = "skip"
    file_name: str = DEFAULT_FILE_NAME

    def deliver(self, client: MagicHourClient) -> dict[str, Any]:
        """Land every clip of the project, and describe them, the first one foremost.

        Raises the error of a job that has no clip, and TransferError and its kinds.
        """
        from magichour_provider.client.sync import send_with_retries

        self._target()  # what is wrong with it is said before anything is asked
        try:
            project = send_with_retries(lambda: client.get_video(self.project_id), client.retry_policy)
            links = download_urls(project)
        except (NotFoundError, JobDeletedError):
            landed = self._landed_before()
            if not landed:
                raise
            return self._described(landed)
        return self._described(
            [
                land(
                    client,
                    _fresh_links(client, project, index),
                    self._target(project.name, index + 1),
                    if_exists=self.if_exists,
                )
                for index in range(len(links))
            ]
        )

    def _target(self, name: str | None = None, index: int = 1) -> Target:
        return resolve_target(
            self.path, self.project_id, self.path_conn_id, file_name=self.file_name, name=name, index=index
        )

    def _landed_before(self) -> list[DownloadedFile]:
        """The clips of a project that is gone at Magic Hour, where files with its id for a name are there."""
        found: list[DownloadedFile] = []
        target = self._target()
        while self.if_exists == "skip" and target.names_project and (landed := existing(target)):
            log.warning("Project %s is gone at Magic Hour; %s is there.", self.project_id, target.display)
            found.append(landed)
            target = self._target(index=len(found) + 1)
        return found

    def _described(self, landed: list[DownloadedFile]) -> dict[str, Any]:
        clips = [describe(file, self.project_id) for file in landed]
        return {**clips[0], "clips": clips}


def _fresh_links(client: MagicHourClient, project: VideoProject, index: int) -> Callable[[], DownloadUrl]:
    """Gives the link that is at hand first, and a new one each time after that."""
    from magichour_provider.client.sync import send_with_retries

    at_hand = [project]

    def ask() -> DownloadUrl:
        current = (
            at_hand.pop()
            if at_hand
            else send_with_retries(lambda: client.get_video(project.id), client.retry_policy)
        )
        links = download_urls(current)
        if index >= len(links):
            raise TransferError(f"Project {project.id} has fewer clips than a moment ago.")
        return links[index]

    return ask
