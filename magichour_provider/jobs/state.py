"""The record of a paid job, by which a new try takes the job up instead of paying for another.

It lives in Airflow's task state store (3.3), per Dag run, task and map index; it survives retries, a killed
worker and a Clear. The order must not be relaxed: `intent` before the create, `submitted` as soon as its
answer is there, `done` once Airflow knows that the task has succeeded. A record without an id means that
nobody can tell whether the create was taken: the task then fails, and goes on only when a person, once
told, clears it.

A file may hold it besides (`keep_in`), for the tasks of other runs. The store is written first: it refuses a
try that Airflow has given up, or a person has cleared, meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from magichour_provider.airflow_internals import NEVER_EXPIRE, current_task_state
from magichour_provider.client import library_url
from magichour_provider.exceptions import (
    LIBRARY_URL,
    InvalidRequestError,
    MagicHourError,
    SubmissionUnknownError,
)
from magichour_provider.jobs.job_state import Copy, JobState, Stage, prefers_file_record

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)

KEY = "magichour_job"
FOUND_KEY = "magichour_recovered_job_id"
"""Where a person may put the id of a job that a task has paid for without knowing its id."""

_PAUSES = (1.0, 2.0)

REMEDY = (
    f"Give it a minute, then look for that name in the Magic Hour library ({LIBRARY_URL}), or for a job in "
    "the log of the try that was cut off. If there is one, put its project id into this task's state store "
    f"under {FOUND_KEY!r} and clear the task, which then takes it up; if not, just clear the task, which "
    "submits anew. It is not retried by itself: that may pay a second time."
)
"""What to do about a create of unknown outcome."""


class JobStateStore:
    """The record of the running task; without a store (below Airflow 3.3) it remembers nothing."""

    def __init__(self, context: Context, *, durable: bool) -> None:
        self._store = context.get("task_state_store") if durable else None
        self._max_tries = int(getattr(context["ti"], "max_tries", 0) or 0)
        self._try_number = int(getattr(context["ti"], "try_number", 1) or 1)
        self._record: JobState | None = None
        self._earlier: JobState | None = None
        self._spent = 0
        self._unsaved = False
        self._copy: Copy | None = None
        if self._store is None:
            log.info(
                "%s: a new try cannot take up the job of an earlier one; use retries=0 where that matters.",
                "This Airflow has no task state store" if durable else "durable is False",
            )

    @property
    def available(self) -> bool:
        """Whether a new try will find what this one writes."""
        return self._store is not None

    def keep_in(self, copy: Copy) -> None:
        """Keep the record there, too, and go by what another run has left there.

        Raises InvalidRequestError where there is no store: only that keeps a dead try from writing.
        """
        if not self.available:
            raise InvalidRequestError(
                "state_path needs durable=True, and the task state store of Airflow 3.3."
            )
        self._copy = copy

    def read(self, identify: Callable[[], str] | None = None) -> JobState | None:
        """Return what an earlier try has left; SubmissionUnknownError where it cannot be read.

        :param identify: the fingerprint of what is asked for now, by which one of two records is chosen.
        """
        own, other = self._read(self._stored()), self._read(self._copy.read() if self._copy else None)
        if self._copy is not None and (own is None or other is None or own.project_id != other.project_id):
            self._unsaved = True
        if other is not None and (own is None or prefers_file_record(other, own, identify)):
            spent = 0 if own is None else own.spent_in_all
            own = replace(other, max_tries=self._max_tries, elsewhere=True, spent=spent)
        if own is not None:
            self._record = self._earlier = own
            self._spent = own.spent_in_all
        return own

    @staticmethod
    def _read(stored: Any) -> JobState | None:
        try:
            return None if stored is None else JobState.of(stored)
        except ValueError as error:
            raise SubmissionUnknownError(
                f"The record of an earlier try cannot be read ({error}).",
                remedy=(
                    f"Look for this task's job in the Magic Hour library ({LIBRARY_URL}); if there is none, "
                    "remove the file of state_path, or run the task once with durable=False."
                ),
            ) from None

    def _stored(self) -> Any:
        """What is stored. Airflow's client takes any 404 for "nothing": a later try asks again."""
        if self._store is None:
            return None
        for pause in _PAUSES if self._try_number > 1 else ():
            stored = self._store.get(KEY)
            if stored is not None:
                return stored
            time.sleep(pause)
        return self._store.get(KEY)

    def current(self) -> JobState | None:
        """The record as this process knows it, else as it is stored."""
        return self._record or self.read()

    @property
    def spent(self) -> int:
        """Credits of all jobs of this task in this run that are known and not refunded."""
        return self._spent

    @property
    def perhaps_spent(self) -> int:
        """Credits of a create of unknown outcome."""
        record = self._record
        if record is None or record.project_id is not None or record.elsewhere:
            return 0
        return record.cost or 0

    def charged(self, credits_charged: int | None) -> None:
        """Take in what the job costs by now, in credits: 0 once it is refunded."""
        if self._record is not None and credits_charged is not None:
            self._spent = replace(self._record, credits_charged=credits_charged).spent_in_all

    def count_as_spent(self) -> None:
        """Count a create of unknown outcome as spent, as the task goes on to another."""
        self._spent += self.perhaps_spent

    def cleared_since(self, record: JobState) -> bool:
        """Whether a person has cleared the task since the record was written.

        Airflow's Clear sets `max_tries` to the try's number plus the task's retries, and nothing else changes
        it; where that happens to be the same number, a Clear is taken for a retry, and pays nothing.
        """
        return self._max_tries != record.max_tries

    def prepare(
        self, fingerprint: str, *, name: str | None, balance: int | None = None, cost: int | None = None
    ) -> None:
        """Take in what is about to be bought."""
        self._record = JobState(
            Stage.INTENT, fingerprint, "", self._max_tries, name, balance, cost, self._spent
        )
        if self._earlier is not None and self._store is not None:
            self._store.delete(FOUND_KEY)

    def intend(self) -> None:
        """Write that the create is about to be sent; raises where this try may not write any more."""
        if self._record is not None:
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            self._write(replace(self._record, stage=Stage.INTENT, at=now))

    @contextmanager
    def guard_create(self, balances: Callable[[], str]) -> Iterator[None]:
        """Remove the intent of a create that was not taken; let nothing else out but an unknown outcome.

        :param balances: what the account's balance says about that, for the person who is told.
        """
        try:
            yield
        except SubmissionUnknownError as error:
            raise self._unknown(error.what, balances) from None
        except MagicHourError:
            self.forget()
            raise
        except (Exception, AirflowTaskTimeout) as error:
            cut_off = f"The create was cut off ({type(error).__name__}) after it may have been sent."
            raise self._unknown(cut_off, balances) from error

    def _unknown(self, what: str, balances: Callable[[], str]) -> SubmissionUnknownError:
        named = f" The job is named {self._record.name!r}." if self._record is not None else ""
        remedy = REMEDY if self.available else None
        error = SubmissionUnknownError(f"{what}{named}{balances()}", remedy=remedy)
        self.told(error)
        return error

    def told(self, error: SubmissionUnknownError) -> None:
        """Tell of the unknown outcome, and write that a person was told: a Clear from now on is their answer.

        In this order: a kill in between tells them again. So does a store that fails.
        """
        log.error("%s", error)
        if self._record is None:
            return
        try:
            self._write(replace(self._record, stage=Stage.UNKNOWN, max_tries=self._max_tries))
        except Exception:
            log.exception("That the outcome of the create is unknown could not be recorded.")

    def found_by_a_person(self) -> str | None:
        """The id that a person has left for a create of unknown outcome."""
        found: Any = self._store.get(FOUND_KEY) if self._store is not None else None
        return None if found is None else str(found).strip()

    def adopt(self, record: JobState, project_id: str, credits_charged: int | None) -> JobState:
        """Make the job that a person has found the record's own."""
        adopted = replace(
            record, stage=Stage.SUBMITTED, project_id=project_id, credits_charged=credits_charged
        )
        self._write(adopted)
        self._earlier = adopted
        self.charged(credits_charged or 0)
        if self._store is not None:
            self._store.delete(FOUND_KEY)
        return adopted

    def forget(self) -> None:
        """Put back what was there before a create that was not taken."""
        try:
            if self._store is None:
                return
            if self._earlier is not None:
                self._put(self._earlier)
                return
            self._store.delete(KEY)
            if self._copy is not None:
                self._copy.delete()
        except Exception:
            log.exception("That the create was not taken could not be recorded.")

    def submitted(self, project_id: str, credits_charged: int | None) -> None:
        """Write the paid job's id. A store that fails is no reason to let go of a job that is in hand."""
        if self._record is None:
            return
        record = replace(
            self._record, stage=Stage.SUBMITTED, project_id=project_id, credits_charged=credits_charged
        )
        self._spent = record.spent_in_all
        try:
            self._write(record)
            self._unsaved = False
        except Exception:
            self._unsaved = True
            log.exception(
                "Job %s (%s credits, %s) is submitted and could not be recorded; going on with it.",
                project_id,
                credits_charged,
                library_url(project_id),
            )

    def know(self, project_id: str, credits_charged: int | None) -> None:
        """Write what is known of a job by now, where the record does not say so yet."""
        record = self.current()
        if record is None:
            return
        price = record.credits_charged if credits_charged is None else credits_charged
        if self._unsaved or (record.project_id, record.credits_charged) != (project_id, price):
            self.submitted(project_id, price)

    def done(self) -> None:
        """Write that the task has succeeded with its job: from now on a Clear means a new clip."""
        record = self.current()
        if record is not None and record.project_id is not None:
            self._write(replace(record, stage=Stage.DONE, max_tries=self._max_tries))

    def _write(self, record: JobState) -> None:
        self._record = record
        self._put(record)

    def _put(self, record: JobState) -> None:
        if self._store is not None:
            self._store.set(KEY, record.stored(), retention=NEVER_EXPIRE)
        if self._copy is not None:
            self._copy.write(record.stored())


def confirm_success(context: Context) -> None:
    """Write `done` once Airflow knows of the success: the operator's `on_success_callback`.

    A task whose result could not be stored, or that was killed or marked failed on its last line, has a
    job that nobody was given: a Clear takes that one up.
    """
    if current_task_state(context) == "success":
        JobStateStore(context, durable=True).done()
