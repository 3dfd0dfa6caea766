"""One task's way from an order to a job in hand. Credits are spent here and nowhere else.

The order of things must not be relaxed: the record of an earlier try is read before anything else; every
check and every upload comes before the record of the intent; and that before the one create.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING

from magichour_provider.client import library_url
from magichour_provider.client.models import CreatedJob
from magichour_provider.exceptions import (
    LIBRARY_URL,
    InvalidRequestError,
    MagicHourError,
    NotFoundError,
    SubmissionUnknownError,
    TaskKilledError,
)
from magichour_provider.jobs.job_state import JobState, Stage
from magichour_provider.jobs.reattach import Look, find_resumable_job
from magichour_provider.jobs.request import (
    Images,
    Preflight,
    VideoRequest,
    balance_now,
    check,
    compare_balances,
    fingerprint,
    open_images,
    upload_images,
)
from magichour_provider.jobs.state import JobStateStore
from magichour_provider.operators._base import kill_message
from magichour_provider.polling import outcome
from magichour_provider.polling.blocking import get_video

if TYPE_CHECKING:
    from magichour_provider.client.models import ImageToVideoRequest, VideoProject
    from magichour_provider.hooks.magichour import MagicHourHook
    from magichour_provider.jobs.deferred_timeout import DeferredTimeout
    from magichour_provider.jobs.run_budget import RunBudget

log = logging.getLogger(__name__)


@dataclass
class Submission:
    """The job of one task: that of an earlier try, or a new one.

    :param alarm: held while the create is in flight.
    :param check_deferral: raises where waiting could not begin; called before anything is paid.
    :param is_stopped: whether the task was told to stop: then no create is sent any more.
    :param deadline: epoch seconds after which nobody would wait for the job.
    :param run_budget: this task's part in the budget of its run, if there is one.

    `job` is there from the moment that it is known; `taken_up` is what an earlier try's job looked like.
    """

    order: VideoRequest
    records: JobStateStore
    hook: MagicHourHook
    alarm: DeferredTimeout
    check_deferral: Callable[[], None]
    is_stopped: Callable[[], bool]
    deadline: float
    run_budget: RunBudget | None = None
    job: CreatedJob | None = field(default=None, init=False)
    taken_up: VideoProject | None = field(default=None, init=False)
    _in_flight: bool = field(default=False, init=False)

    def get_job(self) -> CreatedJob:
        """Take up the job of an earlier try, or buy one."""
        record = self.records.read(self._identify)
        if self.run_budget is not None:
            self.run_budget.begin(self.records.spent, self.records.perhaps_spent)
        if record is not None and record.project_id is not None and record.stage is not Stage.DONE:
            self.job = CreatedJob(id=record.project_id, credits_charged=record.credits_charged)
        earlier = find_resumable_job(
            self.records, record, identify=self._identify, look=self._look, balances=self._balances_since
        )
        if self.run_budget is not None:
            self.run_budget.spent(self.records.spent)
        if earlier is not None and earlier.project_id is not None:
            self.job = CreatedJob(id=earlier.project_id, credits_charged=earlier.credits_charged)
            self.records.know(self.job.id, self.job.credits_charged)
            return self.job
        self.job = self.taken_up = None
        return self._buy()

    def kill_message(self) -> str:
        """What a kill means at this point."""
        if self.job is not None:
            return kill_message(self.job.id, self.job.credits_charged)
        if not self._in_flight:
            return "This task was killed before it submitted a job: this try has paid nothing."
        return (
            f"This task was killed while it submitted the job named {self.order.name!r}. If the answer still "
            f"comes, the next run takes the job up; if not, look for that name in the Magic Hour library "
            f"({LIBRARY_URL})."
        )

    def _buy(self) -> CreatedJob:
        self.check_deferral()
        images = open_images(self.order)
        identity = fingerprint(self.order, images) if self.records.available else ""
        checked = check(self.hook.get_conn(), self.order, images)
        if self.run_budget is not None:
            self.run_budget.check(self._price(checked))
        return self._upload_and_submit(images, identity, checked)

    def _upload_and_submit(self, images: Images, identity: str, checked: Preflight) -> CreatedJob:
        request = upload_images(self.hook.get_conn(), self.order, images)
        if self.run_budget is None:
            return self._submit(request, identity, checked)
        with self.run_budget.reserved(self._price(checked)):
            job = self._submit(request, identity, replace(checked, balance=self._balance_now()))
        self.run_budget.spent(self.records.spent)
        return job

    def _submit(self, request: ImageToVideoRequest, identity: str, checked: Preflight) -> CreatedJob:
        self.alarm.hold()
        self.records.prepare(
            identity, name=self.order.name, balance=checked.balance, cost=self._price(checked)
        )
        with self.records.guard_create(lambda: self._balances(checked.balance, checked.cost)):
            self.job = job = self._send(request)
        log.info("Job %s is submitted for %s credits: %s", job.id, job.credits_charged, library_url(job.id))
        limit = self.order.limits.max_credits
        if limit is not None and (job.credits_charged or 0) > limit:
            log.warning("Job %s was charged more than max_credits, which is %s.", job.id, limit)
        self.records.submitted(job.id, job.credits_charged)
        return job

    def _send(self, request: ImageToVideoRequest) -> CreatedJob:
        client = self.hook.get_conn()
        for attempt in count(1):
            self.begin()
            try:
                return client.create_image_to_video(request)
            except SubmissionUnknownError:
                raise
            except MagicHourError as error:
                self._in_flight = False
                delay = client.retry_policy.delay_seconds(error, attempt, is_create=True)
                if delay is None:
                    raise
            self.records.forget()
            time.sleep(delay)
        raise AssertionError("unreachable")

    def begin(self) -> None:
        """Record that the create is about to be sent, as the last thing before it is."""
        self.make_sure()
        try:
            self.records.intend()
        except MagicHourError as error:
            if error.retryable:
                raise TaskKilledError(f"No intent to submit could be recorded: {error.what}") from error
            raise
        except Exception as error:
            # Airflow refuses to store what comes from a task that it has given up, or cleared, meanwhile.
            raise TaskKilledError(
                f"The intent to submit a job cannot be recorded ({type(error).__name__}: {error})."
            ) from error
        self._in_flight = True

    def make_sure(self) -> None:
        """Raise TaskKilledError where no create must be sent any more."""
        if self.is_stopped():
            raise TaskKilledError("This task was told to stop before its job was submitted.")
        if time.time() >= self.deadline:
            raise TaskKilledError("The deadline passed before the job was submitted.")

    def _price(self, checked: Preflight) -> int:
        """What the clip counts for until it is submitted."""
        return checked.cost if checked.cost is not None else self.order.limits.max_credits or 0

    def _identify(self) -> str:
        return fingerprint(self.order, open_images(self.order))

    def _look(self, project_id: str) -> Look:
        try:
            self.taken_up = project = get_video(self.hook, project_id)
        except NotFoundError as error:
            return Look(outcome.of_error(project_id, error), None)
        return Look(outcome.of_project(project), project.credits_charged)

    def _balances_since(self, record: JobState) -> str:
        return self._balances(record.balance, record.cost)

    def _balances(self, before: int | None, cost: int | None) -> str:
        return compare_balances(before, self._balance_now() if before is not None else None, cost)

    def _balance_now(self) -> int | None:
        return balance_now(self.hook.get_conn())


def check_run_budget(order: VideoRequest, records: JobStateStore) -> None:
    """Refuse a budget for the run where nothing can be counted. Raises InvalidRequestError."""
    if order.limits.max_credits_per_run is not None and not records.available:
        raise InvalidRequestError(
            "max_credits_per_run counts what the tasks of the run have recorded: it needs durable=True, and "
            "the task state store of Airflow 3.3."
        )
