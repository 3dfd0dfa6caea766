"""Waiting in a worker: the plain loop of the synchronous mode."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from magichour_provider.client.models import VideoProject
from magichour_provider.exceptions import MagicHourError, NotFoundError
from magichour_provider.polling.outcome import Outcome
from magichour_provider.polling.poller import NOT_FOUND_PAUSES, Poller


class Looker(Protocol):
    """Something that can look at a job: a `MagicHourClient`, or anything with its `get_video`."""

    def get_video(self, project_id: str) -> VideoProject:
        """Look at a job."""


def wait(looker: Looker, watch: Poller, make_sure: Callable[[], None] = lambda: None) -> Outcome:
    """Block until the job has ended or the watch's deadline has passed.

    :param make_sure: called every second; what it raises ends the wait.
    """
    while True:
        _sleep(watch.pause(time.time()), make_sure)
        ended = look(looker, watch) or watch.overdue(time.time())
        if ended is not None:
            return ended


def look(looker: Looker, watch: Poller) -> Outcome | None:
    """Look once; None while the job goes on, or where the look failed in a way that may pass."""
    try:
        project = get_video(looker, watch.project_id)
    except MagicHourError as error:
        return watch.missed(error, time.time())
    return watch.saw(project, time.time())


def get_video(looker: Looker, project_id: str) -> VideoProject:
    """Look at a job; one that is not found is looked for again, before that is believed."""
    for pause in NOT_FOUND_PAUSES:
        try:
            return looker.get_video(project_id)
        except NotFoundError:
            time.sleep(pause)
    return looker.get_video(project_id)


def _sleep(seconds: float, make_sure: Callable[[], None]) -> None:
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        make_sure()
        time.sleep(min(left, 1.0))
