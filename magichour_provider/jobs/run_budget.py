"""A budget for all videos of a Dag run, counted from XComs that its own tasks write.

Airflow gives its tasks no atomic counter. So each task writes an entry of its own, and only then reads the
others': of two tasks that submit at the same time, at least one sees the other. A task submits only while
its reservation stands and everything that it has read, its reservation included, fits. So no order of events
admits more than the limit. A task that does not fit takes its reservation back. It then waits for the tasks
before it, by task id and map index, as long as what they have reserved may still come free.

One gap is left. Airflow deletes a task's XComs when a new attempt begins, and the new attempt writes them
again first of all. Others wait for an entry of every task that runs. But if an attempt ends in between, its
task has no entry until the next attempt, and what it has spent is not counted in the meantime.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from itertools import count
from typing import TYPE_CHECKING, Any

from magichour_provider.airflow_internals import NEVER_EXPIRE, all_xcoms, task_states
from magichour_provider.exceptions import (
    BudgetError,
    InvalidRequestError,
    MagicHourError,
    SubmissionUnknownError,
)

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.jobs.submit import Cancellation

log = logging.getLogger(__name__)

KEY = "magichour_credits"
"""Key of the XCom, and of its copy in the task state store."""

_ARGUMENT = "max_credits_per_run"
TaskKey = tuple[str, int]  # task id and map index; -1 for a task that is not mapped


@dataclass(frozen=True)
class BudgetEntry:
    """What one task of the run has written, in credits.

    :param spent: charged and not refunded.
    :param reserved: about to be spent; or perhaps spent, if a create has an unknown outcome.
    :param waiting: whether the task does not fit at present, and waits for the others.
    """

    task_id: str
    map_index: int
    spent: int = 0
    reserved: int = 0
    waiting: bool = False

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> BudgetEntry:
        """Read what this version or a later one has written."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in stored.items() if key in known})

    @property
    def key(self) -> TaskKey:
        """Whose entry this is."""
        return self.task_id, self.map_index


class XComBudgetStore:
    """The entries of those tasks of one run that have `max_credits_per_run`."""

    def __init__(self, context: Context, task: Any) -> None:
        self._ti = context["ti"]
        self._state_store: Any = context.get("task_state_store")
        others = {each.task_id for each in task.dag.tasks if has_run_budget(each)}
        self._task_ids = sorted({task.task_id} | others)

    def write(self, entry: dict[str, Any]) -> None:
        """Write the entry; first to the task state store, which refuses an attempt given up by Airflow."""
        if self._state_store is not None:
            self._state_store.set(KEY, entry, retention=NEVER_EXPIRE)
        self._ti.xcom_push(KEY, entry)

    def read(self) -> Iterator[dict[str, Any]]:
        """Every task's entry."""
        for task_id in self._task_ids:
            yield from all_xcoms(KEY, self._ti.dag_id, self._ti.run_id, task_id)

    def read_own(self) -> Mapping[str, Any] | None:
        """The copy in the task state store, which outlives the attempt."""
        return self._state_store.get(KEY) if self._state_store is not None else None

    def running(self) -> set[TaskKey]:
        """The tasks that run. Asked for one at a time: `render_1` may be a task, or index 1 of `render`."""
        keys = set()
        for task_id in self._task_ids:
            for name, state in task_states(self._ti.dag_id, self._ti.run_id, [task_id]).items():
                if state == "running":
                    keys.add((task_id, -1 if name == task_id else int(name[len(task_id) + 1 :])))
        return keys


class RunBudget:
    """One task's part in the budget of its run. Without a store it counts and limits nothing.

    :param limit: credits that all tasks together may spend; infinity: this task only writes what it spends.
    :param cancellation: ends a wait for other tasks; None: there is nothing to cancel.
    """

    def __init__(
        self,
        limit: float = math.inf,
        store: XComBudgetStore | None = None,
        key: TaskKey = ("", -1),
        cancellation: Cancellation | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.limit = limit
        self._store = store
        self._entry = BudgetEntry(*key)
        self._written: BudgetEntry | None = None
        self._cancellation = cancellation
        self._sleep = sleep

    @classmethod
    def from_task(
        cls, task: Any, context: Context, limit: int | None, cancellation: Cancellation | None
    ) -> RunBudget:
        """The budget of a task. A template that renders to nothing is no limit.

        Raises InvalidRequestError if there is no state to count by, or if the others cannot see this task's
        part.
        """
        if not task.has_run_budget or (limit is None and "ti" not in context):
            return cls()
        if limit is not None and (context.get("task_state_store") is None or not task.durable):
            raise InvalidRequestError(
                f"{_ARGUMENT} needs durable=True and the task state store of Airflow 3.3, by which it counts."
            )
        if not has_run_budget(task.dag.get_task(task.task_id)):
            raise InvalidRequestError(
                f"{_ARGUMENT} of the mapped task {task.task_id!r} cannot be seen by the other tasks of the "
                "run: pass it by partial() or default_args, not by expand_kwargs()."
            )
        index = context["ti"].map_index
        key = task.task_id, -1 if index is None else index
        return cls(math.inf if limit is None else limit, XComBudgetStore(context, task), key, cancellation)

    def begin(self, spent: int, reserved: int = 0, *, is_known: bool = True) -> int:
        """Write, first of all in an attempt, what earlier ones have spent, or may have spent.

        :param is_known: False if the job state is another run's: then the earlier attempt's entry says it.
        :return: credits spent.
        """
        if not is_known and self._store is not None:
            spent = (self._store.read_own() or {}).get("spent", self._entry.spent)
        self._write(spent=spent, reserved=reserved)
        return spent

    def set_spent(self, credits: int) -> None:
        """Write what this task has spent in all."""
        self._write(spent=credits, reserved=0)

    def check(self, cost: int) -> None:
        """Refuse at once, before the upload, what cannot fit any more. Raises BudgetError."""
        self._refuse_beyond(self._read_others(), cost)

    @contextmanager
    def reserved(self, cost: int) -> Iterator[None]:
        """Hold `cost` credits, and give them back if the create was refused. Raises BudgetError.

        A task that does not fit waits until no task before it waits, too; and a moment, because reservations
        come and go.
        """
        for attempt in count():
            self._write(reserved=cost)
            others = self._read_others()
            reserved = sum(other.spent + other.reserved for other, _ in others)
            if self._entry.spent + cost + reserved <= self.limit:
                break
            self._write(reserved=0, waiting=True)
            self._refuse_beyond(others, cost)
            if attempt == 0:
                log.info(
                    "The budget of the run is reserved by jobs that are being submitted: waiting for them."
                )
            for waits in count(attempt):
                self._pause(waits)
                others = self._read_others()
                self._refuse_beyond(others, cost)
                if not any(other.waiting and runs and other.key < self._entry.key for other, runs in others):
                    break
        self._write(waiting=False)
        try:
            yield
        except SubmissionUnknownError:
            raise
        except MagicHourError:
            self._write(reserved=0)
            raise

    def _refuse_beyond(self, others: Iterable[tuple[BudgetEntry, bool]], cost: int) -> None:
        """Refuse what does not fit even if all reservations of running tasks come free."""
        spent = sum(other.spent + (0 if runs else other.reserved) for other, runs in others)
        spent += self._entry.spent
        if spent + cost > self.limit:
            self._write(reserved=0, waiting=False)
            raise BudgetError(
                f"The video costs {cost} credits; this run has spent {spent} of its {_ARGUMENT}, "
                f"{self.limit:g}.",
                remedy="Raise the limit, or clear this task in a run that has credits left.",
            )

    def _read_others(self) -> list[tuple[BudgetEntry, bool]]:
        """The other tasks' entries, and whether each runs; waits for an entry of every task that does.

        The states are read before and after. A task that ran before may still give its reservation back; a
        task that runs after and has no entry has not written it yet.
        """
        if self._store is None or math.isinf(self.limit):
            return []
        for waits in count():
            before = self._store.running()
            entries = [BudgetEntry.from_stored(stored) for stored in self._store.read()]
            silent = (before | self._store.running()) - {entry.key for entry in entries}
            if not silent - {self._entry.key}:
                break
            self._pause(waits)
        return [(entry, entry.key in before) for entry in entries if entry.key != self._entry.key]

    def _pause(self, waits: int) -> None:
        try:
            if self._cancellation is not None:
                self._cancellation.raise_if_cancelled()
        except MagicHourError:
            self._write(reserved=0, waiting=False)
            raise
        self._sleep(min(5.0, 0.3 * 1.3**waits) * random.uniform(0.7, 1.3))

    def _write(self, **changes: Any) -> None:
        changed = replace(self._entry, **changes)
        if self._store is not None and changed != self._written:
            self._store.write(asdict(changed))
        self._entry = self._written = changed


def has_run_budget(task: Any) -> bool:
    """Whether a task of the Dag, mapped or not, has a budget for the run.

    Airflow applies default_args to the arguments of a mapped operator only when it is unmapped.
    """
    if getattr(task, "has_run_budget", False):
        return True
    if not hasattr(task, "partial_kwargs") or _ARGUMENT not in task.template_fields:
        return False
    given = [task.partial_kwargs, task.dag.default_args if task.dag is not None else {}]
    expanded, group = getattr(task.expand_input, "value", None), task.task_group
    if isinstance(expanded, Mapping):
        given.append(expanded)
    while group is not None:
        given.append(group.default_args)
        group = group.parent_group
    return any(arguments.get(_ARGUMENT) is not None for arguments in given)
