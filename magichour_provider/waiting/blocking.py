"""Waiting in a worker: the plain loop of the synchronous mode."""

from __future__ import annotations

import time
from typing import Protocol

from magichour_provider.api.errors import MagicHourError
from magichour_provider.api.models import VideoProject
from magichour_provider.waiting.outcome import Outcome
from magichour_provider.waiting.watch import Watch


class Looker(Protocol):
    """Something that can look at a job: a `MagicHourClient`, or anything with its `get_video`."""

    def get_video(self, project_id: str) -> VideoProject:
        """Look at a job."""


def wait(looker: Looker, watch: Watch) -> Outcome:
    """Block until the job has ended or the watch's deadline has passed."""
    while True:
        time.sleep(watch.pause(time.time()))
        ended = look(looker, watch) or watch.overdue(time.time())
        if ended is not None:
            return ended


def look(looker: Looker, watch: Watch) -> Outcome | None:
    """Look once; None while the job goes on, or where the look failed in a way that may pass."""
    try:
        project = looker.get_video(watch.project_id)
    except MagicHourError as error:
        return watch.missed(error, time.time())
    return watch.saw(project)
