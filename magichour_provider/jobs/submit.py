"""One task's way from a request to a paid job. Credits are spent here and nowhere else.

The order of `submit` must not be relaxed: the job state of an earlier attempt is read before anything else;
every check and every upload comes before the intent; the intent comes before the create.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import count
from types import FrameType
from typing import TYPE_CHECKING, Any

from magichour_provider.airflow_internals import is_terminal
from magichour_provider.client import library_url
from magichour_provider.client.models import CreatedJob, JobStatus, VideoProject
from magichour_provider.exceptions import (
    LIBRARY_URL,
    ImageError,
    MagicHourError,
    SubmissionUnknownError,
    TaskKilledError,
)
from magichour_provider.jobs.preflight import Preflight, check, get_balance, upload_images
from magichour_provider.jobs.reattach import Action, attach_recovered, decide, needs_poll, poll, read_settled
from magichour_provider.jobs.request import Images, VideoRequest, fingerprint, open_images
from magichour_provider.jobs.state import JobState, JobStateStore
from magichour_provider.jobs.state_backends import RECOVERED_KEY, StateConflictError
from magichour_provider.version_compat import AirflowTaskTimeout

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.client.models import ImageToVideoRequest
    from magichour_provider.client.sync import MagicHourClient
    from magichour_provider.jobs.run_budget import RunBudget

log = logging.getLogger(__name__)

CREATE_GRACE_SECONDS = 65.0
"""How late `execution_timeout` may come because of a create, which is answered within 60 seconds."""

_CONFLICT_POLL_SECONDS = 1.0


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

    def describe_kill(self) -> str:
        """What a kill means as long as the job's id is not known."""
        if self.in_flight is None:
            return "Task killed before it submitted a job. This attempt has paid nothing."
        return (
            f"Task killed while it submitted the job named {self.in_flight!r}. If the answer still comes, "
            "the next attempt re-attaches to the job. "
            f"If not, search the Magic Hour library ({LIBRARY_URL}) for that name."
        )

    def raise_if_cancelled(self) -> None:
        """Raise TaskKilledError if no create must be sent any more."""
        if self.cancelled or is_terminal(self.context):
            raise TaskKilledError("This task was killed before its job was submitted.")
        if time.time() >= self.deadline:
            raise TaskKilledError("The deadline passed before the job was submitted.")


class DeferredTimeout:
    """Hold Airflow's alarm for `execution_timeout` back while a create is in flight.

    Airflow raises wherever the task is. Inside a create that loses the id of a paid job. So the alarm is
    held for at most `grace_seconds` beyond its time, and raises on `release`. A context manager; it gives
    the alarm back at its end, and lets an error that is under way go first. It does nothing outside the main
    thread, where Airflow sets no alarm.
    """

    def __init__(self, grace_seconds: float = CREATE_GRACE_SECONDS) -> None:
        self._grace_seconds = grace_seconds
        self._handler: Any = None
        self._is_due = False

    def hold(self) -> None:
        """Hold the alarm from now on."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        if self._handler is None and in_main_thread and callable(signal.getsignal(signal.SIGALRM)):
            self._handler = signal.signal(signal.SIGALRM, self._on_alarm)

    def release(self) -> None:
        """Let the alarm raise again; at once if it was due."""
        self._give_back()
        if self._is_due:
            self._is_due = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.raise_signal(signal.SIGALRM)

    def __enter__(self) -> DeferredTimeout:
        return self

    def __exit__(self, *_error: object) -> None:
        self._give_back()

    def _on_alarm(self, _signum: int, _frame: FrameType | None) -> None:
        self._is_due = True
        self._give_back()
        signal.setitimer(signal.ITIMER_REAL, self._grace_seconds)

    def _give_back(self) -> None:
        handler, self._handler = self._handler, None
        if handler is not None:
            signal.signal(signal.SIGALRM, handler)


def submit(
    request: VideoRequest,
    store: JobStateStore,
    client: MagicHourClient,
    cancellation: Cancellation,
    timeout: DeferredTimeout,
    budget: RunBudget | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> VideoProject:
    """Re-attach to the job of an earlier attempt, or submit one. At most one create is charged.

    Raises what `check` raises, SubmissionUnknownError, TaskKilledError, and APIError or NetworkError if
    Magic Hour refuses the create.
    """
    prepared: tuple[Preflight, ImageToVideoRequest] | None = None
    images, identity, image_error = _identify(request) if store.available else (None, None, None)
    while True:
        # 1. Read the job state, and decide.
        state = read_settled(store, identity, cancellation, sleep)
        if budget is not None:
            store.spent = budget.begin(store.spent if store.has_own else None, store.unknown_credits)
        state = attach_recovered(state, store, client)
        cleared = state is not None and store.cleared_since(state)
        changed, project, ended = False, None, None
        if state is not None and needs_poll(state, cleared=cleared):
            cancellation.job = CreatedJob(id=str(state.project_id), credits_charged=state.credits_charged)
            changed = identity is not None and state.fingerprint != identity
            if not changed:
                project, ended = poll(client, str(state.project_id))
                store.set_credits(project.credits_charged if project is not None else None)
        decision = decide(state, cleared=cleared, changed=changed, ended=ended)
        if state is not None and project is not None and decision.action is Action.REATTACH:
            return _reattach(state, project, store, budget, warn=cleared and ended is not None)
        cancellation.job = None
        if state is not None and decision.action is Action.FAIL:
            interrupted = (
                f"A previous attempt was interrupted at {state.at} while it submitted a job; the job's id "
                "was not recorded."
            )
            raise _unknown(interrupted, state.name, state.balance, state.cost, store, client)
        if decision.reason:
            log.warning("%s Submitting again.", decision.reason)
            store.spent += store.unknown_credits
        if budget is not None:
            budget.set_spent(store.spent)

        # 2. Check everything, and upload: at no cost.
        if prepared is None:
            if image_error is not None:
                raise image_error
            images = images or open_images(request)
            preflight = check(client, request, images)
            if budget is not None:
                budget.check(preflight.reserved)
            prepared = preflight, upload_images(client, request, images)
        preflight, body = prepared

        # 3. Reserve, write the intent, send the create, write the job's id.
        try:
            with budget.reserved(preflight.reserved) if budget is not None else nullcontext():
                if budget is not None:  # it may have waited since the preflight
                    preflight = replace(preflight, balance=get_balance(client))
                timeout.hold()
                job = _create(body, request, preflight, identity or "", store, client, cancellation, sleep)
        except StateConflictError as conflict:
            timeout.release()
            log.info("%s Reading it again.", conflict.what)
            continue
        if budget is not None:
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
        store.write_intent(identity, name=request.name, balance=preflight.balance, cost=preflight.cost)
        cancellation.in_flight = request.name
        try:
            job = client.create_image_to_video(body)
        except SubmissionUnknownError as error:
            raise _unknown(
                error.what, request.name, preflight.balance, preflight.cost, store, client
            ) from None
        except MagicHourError as error:
            cancellation.in_flight = None
            store.retract_intent()
            delay_seconds = client.retry_policy.delay_seconds(error, attempt, is_create=True)
            if delay_seconds is None:
                raise
            sleep(delay_seconds)
        except (Exception, AirflowTaskTimeout) as error:
            cut_off = f"The create was interrupted ({type(error).__name__}) after it may have been sent."
            raise _unknown(cut_off, request.name, preflight.balance, preflight.cost, store, client) from error
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


def _identify(request: VideoRequest) -> tuple[Images | None, str | None, ImageError | None]:
    """The images and the fingerprint. An image that is gone does not lose the job that was paid with it."""
    try:
        images = open_images(request)
        return images, fingerprint(request, images), None
    except ImageError as error:
        return None, None, error


def _reattach(
    state: JobState, project: VideoProject, store: JobStateStore, budget: RunBudget | None, *, warn: bool
) -> VideoProject:
    log.info("Re-attaching to job %s of an earlier attempt (%s).", project.id, library_url(project.id))
    if warn:
        log.warning("It is complete. Once this task has succeeded with it, a Clear renders another video.")
    if budget is not None:
        budget.set_spent(store.spent)
    if project.credits_charged is None:
        project = project.model_copy(update={"credits_charged": state.credits_charged})
    store.update(project.id, project.credits_charged)
    return project


def _unknown(
    what: str,
    name: str | None,
    balance: int | None,
    cost: int | None,
    store: JobStateStore,
    client: MagicHourClient,
) -> SubmissionUnknownError:
    """The error of a create that may have been received, recorded.

    :param balance: the account's credits before the create. A change proves nothing: others spend, too.
    """
    what = f"{what} The job is named {name!r}."
    if balance is not None:
        now = get_balance(client)
        if now is None:
            what += f" The account had {balance} credits before; it cannot be read now."
        else:
            fewer_or_more = "fewer" if now < balance else "more"
            change = f"{abs(balance - now)} {fewer_or_more}" if now != balance else "as many"
            price = f"; the video costs {cost}" if cost is not None else ""
            what += f" The account had {balance} credits before, and has {now} now, {change}{price}."
    remedy = (
        "This task is not retried, because a second create could be charged again. Wait a minute and search "
        f"the Magic Hour library ({LIBRARY_URL}) for this name. If the job exists, store its id in "
        f"{store.where} under {RECOVERED_KEY!r} and clear the task: it re-attaches. If it does not exist, "
        "clear the task: it submits again."
    )
    error = SubmissionUnknownError(what, remedy=remedy if store.available else None)
    store.mark_unknown(error)
    return error
