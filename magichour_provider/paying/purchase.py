"""One task's way from an order to a job in hand. Credits are spent here and nowhere else.

The order of things must not be relaxed: the record of an earlier try is read before anything else; every
check and every upload comes before the record of the intent; and that before the one create.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magichour_provider.api.errors import InvalidRequestError, NotFoundError, TaskStoppedError
from magichour_provider.api.models import CreatedJob
from magichour_provider.api.projects import LIBRARY_PAGE
from magichour_provider.durable import JobRecords, Record
from magichour_provider.paying.submission import (
    Checked,
    Images,
    Order,
    balance_now,
    check,
    compare_balances,
    fingerprint,
    open_images,
    submit,
    upload_images,
)
from magichour_provider.paying.taking_up import job_to_take_up
from magichour_provider.waiting import outcome

if TYPE_CHECKING:
    from magichour_provider.api.models import ImageToVideoRequest, VideoProject
    from magichour_provider.hooks.magichour import MagicHourHook
    from magichour_provider.paying.alarm import HeldAlarm
    from magichour_provider.paying.run_budget import RunBudget
    from magichour_provider.waiting.outcome import Outcome


@dataclass
class Purchase:
    """The job of one task: that of an earlier try, or a new one.

    :param run_budget: this task's part in the budget of its run, if there is one.
    :param alarm: held while the create is in flight.
    :param check_deferral: raises where waiting could not begin; called before anything is paid.
    :param taken_up: what an earlier try's job, which is gone on with, looked like.
    :param is_stopped: whether the task was told to stop: then no create is sent any more.
    :param deadline: epoch seconds after which nobody would wait for the job.
    """

    order: Order
    records: JobRecords
    hook: MagicHourHook
    alarm: HeldAlarm
    check_deferral: Callable[[], None]
    is_stopped: Callable[[], bool]
    deadline: float
    run_budget: RunBudget | None = None
    taken_up: VideoProject | None = None
    _sending: bool = False
    _sent: bool = False

    def get_job(self) -> CreatedJob:
        """Take up the job of an earlier try, or buy one."""
        record = self.records.read()
        if self.run_budget is not None:
            self.run_budget.begin(self.records.spent, self.records.perhaps_spent)
        earlier = job_to_take_up(
            self.records, record, identify=self._identify, look=self._look, balances=self._balances_since
        )
        if earlier is not None and earlier.project_id is not None:
            return CreatedJob(id=earlier.project_id, credits_charged=earlier.credits_charged)
        self.taken_up = None
        return self._buy()

    def killed(self) -> str:
        """What a kill means at this point, at which no job is in hand."""
        if not self._sending:
            return "This task was killed before its job was submitted: nothing was paid."
        return (
            f"This task was killed while it submitted the job named {self.order.name!r}. If the answer still "
            f"comes, the next run takes the job up; if not, look for that name in the Magic Hour library "
            f"({LIBRARY_PAGE})."
        )

    def _buy(self) -> CreatedJob:
        self.check_deferral()
        images = open_images(self.order)
        identity = fingerprint(self.order, images) if self.records.available else ""
        checked = check(self.hook.get_client(), self.order, images)
        request = self._upload(images, checked)
        with self._within_run_budget(checked):
            self.records.intend(
                identity, name=self.order.name, balance=checked.balance, cost=self._price(checked)
            )
            self.alarm.hold()
            with self.records.around_create():
                job = self._send(request, checked)
            self.records.submitted(job.id, job.credits_charged)
        if self.run_budget is not None:
            self.run_budget.spent(self.records.spent)
        return job

    def _upload(self, images: Images, checked: Checked) -> ImageToVideoRequest:
        if self.run_budget is not None:
            self.run_budget.check(self._price(checked))
        return upload_images(self.hook.get_client(), self.order, images)

    @contextmanager
    def _within_run_budget(self, checked: Checked) -> Iterator[None]:
        if self.run_budget is None:
            yield
            return
        with self.run_budget.reserved(self._price(checked)):
            yield

    def _send(self, request: ImageToVideoRequest, checked: Checked) -> CreatedJob:
        self._sending = True
        try:
            return submit(
                self.hook.get_client(),
                request,
                balances=lambda: self._balances(checked.balance, checked.cost),
                before_each=self._make_sure,
            )
        finally:
            self._sending = False

    def _make_sure(self) -> None:
        """Raise TaskStoppedError where the create must not be sent, or not again."""
        if self.is_stopped():
            raise TaskStoppedError("This task was told to stop before its job was submitted.")
        if time.time() >= self.deadline:
            raise TaskStoppedError("The deadline passed before the job was submitted.")
        if self._sent:
            self._renew_intent()
        self._sent = True

    def _renew_intent(self) -> None:
        """Airflow refuses to store what comes from a task that it has given up, or cleared, meanwhile."""
        try:
            self.records.renew()
        except Exception as error:
            raise TaskStoppedError(
                f"The intent to submit a job cannot be recorded ({type(error).__name__}: {error})."
            ) from error

    def _price(self, checked: Checked) -> int:
        """What the clip counts for until it is submitted."""
        return checked.cost if checked.cost is not None else self.order.limits.max_credits or 0

    def _identify(self) -> str:
        return fingerprint(self.order, open_images(self.order))

    def _look(self, project_id: str) -> Outcome | None:
        try:
            self.taken_up = self.hook.get_video(project_id)
            return outcome.of_project(self.taken_up)
        except NotFoundError as error:
            return outcome.of_error(project_id, error)

    def _balances_since(self, record: Record) -> str:
        return self._balances(record.balance, record.cost)

    def _balances(self, before: int | None, cost: int | None) -> str:
        now = balance_now(self.hook.get_client(max_attempts=1)) if before is not None else None
        return compare_balances(before, now, cost)


def check_run_budget(order: Order, records: JobRecords) -> None:
    """Refuse a budget for the run where nothing can be counted. Raises InvalidRequestError."""
    if order.limits.max_credits_per_run is not None and not records.available:
        raise InvalidRequestError(
            "max_credits_per_run counts what the tasks of the run have recorded: it needs durable=True, and "
            "the task state store of Airflow 3.3."
        )
