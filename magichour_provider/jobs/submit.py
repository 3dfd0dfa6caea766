"""One task's way from a request to a paid job. Credits are spent here and nowhere else.

The order of `submit` must not be relaxed: the job state of an earlier attempt is read before anything else;
every check and every upload comes before the intent; the intent comes before the create.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import count
from types import FrameType
from typing import TYPE_CHECKING

from magichour_provider.airflow_internals import is_terminal
from magichour_provider.client import library_url
from magichour_provider.client.models import CreatedJob, JobStatus, VideoProject
from magichour_provider.exceptions import ImageError, MagicHourError, SubmissionUnknownError, TaskKilledError
from magichour_provider.jobs.preflight import Preflight, check, get_balance, read_account, upload_images
from magichour_provider.jobs.reattach import read_settled, reattach, unknown_outcome
from magichour_provider.jobs.request import VideoRequest, fingerprint, open_images
from magichour_provider.jobs.state import JobStateStore
from magichour_provider.jobs.state_backends import StateConflictError
from magichour_provider.version_compat import AirflowTaskTimeout

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.client.models import ImageToVideoRequest
    from magichour_provider.client.sync import MagicHourClient
    from magichour_provider.jobs.run_budget import RunBudget

log = logging.getLogger(__name__)

CREATE_GRACE_SECONDS = 65.0
"""How late `execution_timeout` may come because of a create, which is answered within 60 seconds."""


@dataclass
class Cancellation:
    """What `on_kill` and a submission know of each other.

    :param deadline: epoch seconds after which the task would not wait for the job.
    :param cancelled: set by `on_kill`: no create is sent any more.
    :param in_flight: the name of the job whose create is in flight.
    :param job: the paid job, as soon as it is known.
    """

    context: Context
    deadline: float
    cancelled: bool = False
    in_flight: str | None = None
    job: CreatedJob | None = None

    def raise_if_cancelled(self) -> None:
        """Raise TaskKilledError if no create must be sent any more."""
        if self.cancelled or is_terminal(self.context):
            raise TaskKilledError("This task was killed before its job was submitted.")
        if time.time() >= self.deadline:
            raise TaskKilledError("The deadline passed before the job was submitted.")


class DeferredTimeout(ExitStack):
    """Hold Airflow's alarm for `execution_timeout` back while a create is in flight.

    Airflow raises wherever the task is. Inside a create that loses the id of a paid job. So the alarm is
    held for at most `grace_seconds` beyond its time, and raises on `release`. A context manager: at its end
    it gives the alarm back, and lets an error that is under way go first. It does nothing outside the main
    thread, in which Airflow sets no alarm.
    """

    def __init__(self, grace_seconds: float = CREATE_GRACE_SECONDS) -> None:
        super().__init__()
        self._grace_seconds = grace_seconds
        self._is_due = False

    def hold(self) -> None:
        """Hold the alarm from now on."""
        airflows = signal.getsignal(signal.SIGALRM)
        if callable(airflows) and threading.current_thread() is threading.main_thread():
            self.callback(signal.signal, signal.SIGALRM, airflows)
            signal.signal(signal.SIGALRM, self._on_alarm)

    def release(self) -> None:
        """Let the alarm raise again; at once if it was due."""
        self.close()
        if self._is_due:
            self._is_due = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.raise_signal(signal.SIGALRM)

    def _on_alarm(self, _signum: int, _frame: FrameType | None) -> None:
        self._is_due = True
        self.close()
        signal.setitimer(signal.ITIMER_REAL, self._grace_seconds)


def submit(
    request: VideoRequest,
    store: JobStateStore,
    client: MagicHourClient,
    cancellation: Cancellation,
    timeout: DeferredTimeout,
    budget: RunBudget,
    sleep: Callable[[float], None] = time.sleep,
) -> VideoProject:
    """Re-attach to the job of an earlier attempt, or submit one. At most one create is charged.

    Raises what `check` raises, SubmissionUnknownError, TaskKilledError, and APIError or NetworkError if
    Magic Hour refuses the create.
    """
    images = identity = image_error = body = None
    if store.available:
        try:
            images = open_images(request)
            identity = fingerprint(request, images)
        except ImageError as error:  # the job that was paid with the image is not lost
            image_error = error
    while True:
        # 1. Read the job state, and re-attach to its job if there is one.
        state = read_settled(store, identity, cancellation, sleep)
        store.spent = budget.begin(store.spent, store.unknown_credits, is_known=store.has_own)
        project = reattach(state, identity, store, client, cancellation) if state is not None else None
        budget.set_spent(store.spent)
        if project is not None:
            store.update(project.id, project.credits_charged)
            return project

        # 2. Check everything, and upload: at no cost.
        if body is None:
            if image_error is not None:
                raise image_error
            images = images or open_images(request)
            preflight = check(read_account(client), request, images)
            cost = "an unknown number of" if preflight.cost is None else preflight.cost
            log.info("The video will cost %s credits by the catalogue.", cost)
            for warning in preflight.warnings:
                log.warning("%s", warning)
            budget.check(preflight.reserved)
            body = upload_images(client, request, images)

        # 3. Reserve, write the intent, send the create, write the job's id.
        try:
            with budget.reserved(preflight.reserved):
                if budget.limit < math.inf:  # it may have waited since the preflight
                    preflight = replace(preflight, balance=get_balance(client))
                timeout.hold()
                job = _create(body, request, preflight, identity or "", store, client, cancellation, sleep)
        except StateConflictError as conflict:
            timeout.release()
            log.info("%s Reading it again.", conflict.what)
            continue
        budget.set_spent(store.spent)
        return VideoProject(
            id=job.id,
            status=JobStatus.QUEUED,
            name=request.name,
            created_at=datetime.now(timezone.utc),
            end_seconds=request.end_seconds,
            credits_charged=job.credits_charged,
        )


def _create(
    body: ImageToVideoRequest,
    request: VideoRequest,
    preflight: Preflight,
    identity: str,
    store: JobStateStore,
    client: MagicHourClient,
    cancellation: Cancellation,
    sleep: Callable[[float], None],
) -> CreatedJob:
    """Send the create; again only if Magic Hour has refused it for now, or no connection was made.

    Raises StateConflictError if another task has written its intent first.
    """
    for attempt in count(1):
        cancellation.raise_if_cancelled()
        intent = store.write_intent(identity, request.name, preflight.balance, preflight.cost)
        cancellation.in_flight = request.name
        try:
            job = client.create_image_to_video(body)
        except SubmissionUnknownError as error:
            raise unknown_outcome(error.what, intent, store, client, cancellation) from None
        except MagicHourError as error:
            cancellation.in_flight = None
            store.retract_intent()
            delay_seconds = client.retry_policy.delay_seconds(error, attempt, is_create=True)
            if delay_seconds is None:
                raise
            sleep(delay_seconds)
        except (Exception, AirflowTaskTimeout) as error:
            cut_off = f"The create was interrupted ({type(error).__name__}) after it may have been sent."
            raise unknown_outcome(cut_off, intent, store, client, cancellation) from error
        else:
            cancellation.job = job
            log.info(
                "Job %s is submitted for %s credits: %s", job.id, job.credits_charged, library_url(job.id)
            )
            limit = request.max_credits
            if limit is not None and (job.credits_charged or 0) > limit:
                log.warning("Job %s was charged more than max_credits, which is %s.", job.id, limit)
            store.write_job(job.id, job.credits_charged)
            return job
    raise AssertionError  # pragma: no cover
