"""Waiting for a job in the triggerer."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from magichour_provider.airflow_internals import is_deferred, min_deferral_seconds, triggerer_stats
from magichour_provider.jobs.reference import DEFAULT_CONN_ID
from magichour_provider.operators._base import kill_message
from magichour_provider.polling.deadlines import FRAMEWORK_GRACE

if TYPE_CHECKING:
    from magichour_provider.polling.outcome import Outcome
    from magichour_provider.polling.scheduler import PollScheduler

log = logging.getLogger(__name__)
_HEAVY = ("magichour_provider.polling.schedulers", "magichour_provider.hooks.magichour")
_loading = threading.Lock()
_farewells: set[asyncio.Task[None]] = set()


class VideoJobTrigger(BaseTrigger):
    """Fires one event when the job has ended, or when the deadline has passed.

    The event is `waiting.outcome.Outcome.as_event()`: ending, ids, credits, error code and message. What
    the trigger is given is stored in Airflow's database, so it is ids and numbers only.

    :param project_id: the job.
    :param magichour_conn_id: the connection.
    :param deadline: epoch seconds; absolute, so that a restarted triggerer grants no new time.
    :param poll_interval: seconds between looks; None: adaptive.
    :param credits_charged: what the job has cost, in credits, for the line that a killed task leaves.
    :param submitted: epoch seconds at which the job was submitted; None: Magic Hour is asked.
    :param model: with `resolution` and `end_seconds`, what the job renders: the schedule learns by that.
    :param queued_at: epoch seconds of a look that saw the job in the queue, just before the deferral.
    :param rendering_since: epoch seconds of the first look that saw the job render; None: not known.
    :param later: what a worker of a later version says besides, while a deployment is upgraded: ignored.
    """

    def __init__(
        self,
        project_id: str,
        magichour_conn_id: str = DEFAULT_CONN_ID,
        *,
        deadline: float,
        poll_interval: float | None = None,
        credits_charged: int | None = None,
        submitted: float | None = None,
        model: str | None = None,
        resolution: str | None = None,
        end_seconds: float | None = None,
        queued_at: float | None = None,
        rendering_since: float | None = None,
        **later: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.project_id = project_id
        self.magichour_conn_id = magichour_conn_id
        self.deadline = deadline
        self.poll_interval = poll_interval
        self.credits_charged = credits_charged
        self.submitted = submitted
        self.model = model
        self.resolution = resolution
        self.end_seconds = end_seconds
        self.queued_at = queued_at
        self.rendering_since = rendering_since

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Name the class and the arguments that make this trigger anew."""
        return (
            "magichour_provider.triggers.video_job.VideoJobTrigger",
            {
                "project_id": self.project_id,
                "magichour_conn_id": self.magichour_conn_id,
                "deadline": self.deadline,
                "poll_interval": self.poll_interval,
                "credits_charged": self.credits_charged,
                "submitted": self.submitted,
                "model": self.model,
                "resolution": self.resolution,
                "end_seconds": self.end_seconds,
                "queued_at": self.queued_at,
                "rendering_since": self.rendering_since,
            },
        )

    def as_deferral(self) -> dict[str, Any]:
        """Arguments for `BaseOperator.defer`. Airflow's own timeout is a net: it skips `execute_complete`."""
        remaining = max(0.0, self.deadline - time.time())
        return {
            "trigger": self,
            "method_name": "execute_complete",
            "timeout": timedelta(seconds=remaining + FRAMEWORK_GRACE),
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the one event."""
        outcome = await self.wait_for(self.project_id, self.deadline, quiet=min_deferral_seconds())
        yield TriggerEvent(outcome.as_event())  # type: ignore[no-untyped-call]

    async def wait_for(
        self, project_id: str, deadline: float, *, quiet: float, at_once: bool = False
    ) -> Outcome:
        """Wait until the job has ended or the deadline has passed.

        :param quiet: seconds in which the wait neither looks nor ends.
        :param at_once: whether the first look is made without a pause.
        """
        await _loaded()
        from magichour_provider.polling.durations import RenderKind
        from magichour_provider.polling.poller import Poller

        now = time.time()
        watch = Poller(
            project_id,
            deadline=deadline,
            started=now,
            poll_interval=self.poll_interval,
            submitted=self.submitted,
            kind=RenderKind(self.model, self.resolution, self.end_seconds),
            quiet_until=now + quiet,
            at_once=at_once,
            queued_at=self.queued_at,
            rendering_since=self.rendering_since,
        )
        return await self._hub().wait(watch)

    async def on_kill(self) -> None:
        """Say what goes on, if a person has ended the task: a render cannot be cancelled from here.

        Airflow cuts this off after about a second, so it goes on by itself and is waited for behind a shield;
        the set keeps it from being collected. Airflow also calls this when another triggerer has taken the
        trigger over and nobody has killed anything (airflow#73454): the task waits on then, or has ended with
        its job.
        """
        farewell = asyncio.create_task(self._say_what_goes_on())
        _farewells.add(farewell)
        farewell.add_done_callback(_farewells.discard)
        await asyncio.shield(farewell)

    async def _say_what_goes_on(self) -> None:
        try:
            still_waits = await is_deferred(self.task_instance)
        except Exception as error:
            log.warning(
                "Job %s: whether its task was killed cannot be found out (%s).", self.project_id, error
            )
            return
        if still_waits:
            return
        if await self._goes_on():
            log.warning("%s", kill_message(self.project_id, self.credits_charged))
        else:
            log.info("This task waits no longer for job %s, which has ended.", self.project_id)

    async def _goes_on(self) -> bool:
        """Whether the job has not ended, as far as is known."""
        await _loaded()
        from magichour_provider.polling.outcome import of_project

        try:
            project = await self._hub().look(self.project_id)
        except Exception:
            return True
        if self.credits_charged is None:
            self.credits_charged = project.credits_charged
        return of_project(project) is None

    def _hub(self) -> PollScheduler:
        from magichour_provider.hooks.magichour import MagicHourHook
        from magichour_provider.polling.schedulers import scheduler_for

        hook = MagicHourHook(self.magichour_conn_id)
        return scheduler_for(self.magichour_conn_id, hook.read_settings, triggerer_stats())


_is_loaded = False


async def _loaded() -> None:
    """Import what waits, in a thread: that takes half a second, which the event loop has not."""
    global _is_loaded
    if not _is_loaded:
        await asyncio.to_thread(_load)
        _is_loaded = True


def _load() -> None:
    """Import what waits, and leave garbage alone meanwhile.

    In a process as large as a triggerer a collection holds everybody up for a tenth of a second.
    """
    with _loading:
        is_collected = gc.isenabled()
        gc.disable()
        try:
            for module in _HEAVY:
                import_module(module)
        finally:
            if is_collected:
                gc.enable()
