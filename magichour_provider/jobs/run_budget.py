"""A budget for all clips of a Dag run, counted from what its own tasks have written down.

Airflow gives its tasks no atomic counter, so each writes an entry of its own, an XCom, and only then reads
the others': of two tasks that submit at the same time, at least one sees the other. What must not be
relaxed: a task submits only while its reservation stands and everything that it has read, its reservation
included, fits; so no order of events admits more than the limit. A task that does not fit takes its
reservation back, and waits for those before it, by task id and map index, only as long as what they have
reserved may still come free.

What does not hold: Airflow removes a task's XComs when a new try of it begins, and the new try writes them
again from its record as the first thing it does. Others wait for an entry of every task that runs. But a try
that dies in between leaves no entry until the next one, and what its task has spent is not counted meanwhile.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from itertools import count
from typing import Any, Protocol

from magichour_provider.exceptions import BudgetError, MagicHourError, SubmissionUnknownError

log = logging.getLogger(__name__)

Name = tuple[str, int]
"""Task id and map index; -1 for a task that is not mapped."""

_SHORTEST, _LONGEST = 0.3, 5.0


@dataclass(frozen=True)
class Entry:
    """What one task of the run has written down, in credits.

    :param spent: charged and not refunded.
    :param reserved: about to be spent; or perhaps spent, where a create has an unknown outcome.
    :param waiting: whether it does not fit, as things stand, and waits for the others.
    """

    task_id: str
    map_index: int
    spent: int = 0
    reserved: int = 0
    waiting: bool = False

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Entry:
        """Read what this version or a later one has written."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in stored.items() if key in known})

    @property
    def name(self) -> Name:
        """Whose entry this is."""
        return self.task_id, self.map_index


class Board(Protocol):
    """Where the tasks of a run write and read their entries."""

    def write(self, entry: dict[str, Any]) -> None:
        """Write this task's entry over its last one."""

    def read(self) -> Iterable[dict[str, Any]]:
        """Every task's entry, this one's included."""

    def running(self) -> set[Name]:
        """The tasks that run at this moment."""


class RunBudget:
    """One task's part in the budget of its run.

    :param limit: credits that all tasks together may spend; infinity: this one only writes down what it does.
    :param name: this task.
    :param make_sure: called while it waits for the others; what it raises ends the wait.
    """

    def __init__(
        self,
        limit: float,
        board: Board,
        name: Name,
        make_sure: Callable[[], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limit = limit
        self._board = board
        self._entry = Entry(*name)
        self._written: Entry | None = None
        self._make_sure = make_sure
        self._sleep = sleep

    def begin(self, spent: int, reserved: int = 0) -> None:
        """Write down, first thing in a try, what the earlier ones have spent, or may have spent."""
        self._write(spent=spent, reserved=reserved)

    def spent(self, credits: int) -> None:
        """Write down what this task has spent in all."""
        self._write(spent=credits, reserved=0)

    def check(self, cost: int) -> None:
        """Refuse at once, before anything is uploaded, what cannot fit any more. Raises BudgetError."""
        self._refuse_beyond(self._settled(self._others()), cost)

    @contextmanager
    def reserved(self, cost: int) -> Iterator[None]:
        """Hold `cost` credits; they are given back where the create was not taken. Raises BudgetError."""
        self._reserve(cost)
        try:
            yield
        except SubmissionUnknownError:
            raise
        except MagicHourError:
            self._write(reserved=0)
            raise

    def _reserve(self, cost: int) -> None:
        for attempt in count():
            self._write(reserved=cost)
            others = self._others()
            if sum(other.spent + other.reserved for other, _ in others) + self._mine(cost) <= self._limit:
                if self._entry.waiting:
                    self._write(waiting=False)
                return
            self._write(reserved=0, waiting=True)
            self._refuse_beyond(self._settled(others), cost)
            self._wait_for_turn(cost, attempt)

    def _wait_for_turn(self, cost: int, attempt: int) -> None:
        """Wait until no task before this one waits, too; and a moment, as reservations come and go."""
        if attempt == 0:
            log.info("The budget of the run is taken up by clips that are being submitted: waiting for them.")
        for look in count():
            self._pause(attempt + look)
            others = self._others()
            self._refuse_beyond(self._settled(others), cost)
            if not any(other.waiting and runs and other.name < self._entry.name for other, runs in others):
                return

    def _refuse_beyond(self, settled: int, cost: int) -> None:
        if settled + self._mine(cost) <= self._limit:
            return
        self._write(reserved=0, waiting=False)
        raise BudgetError(
            f"The clip costs {cost} credits; this run has spent {settled + self._entry.spent} of its "
            f"max_credits_per_run, {self._limit:g}.",
            remedy="Raise the limit, or clear this task in a run that has credits left.",
        )

    def _mine(self, cost: int) -> int:
        return self._entry.spent + cost

    @staticmethod
    def _settled(others: Iterable[tuple[Entry, bool]]) -> int:
        """Credits that will not come free: spent, or reserved by a task that does not run any more."""
        return sum(other.spent + (0 if runs else other.reserved) for other, runs in others)

    def _others(self) -> list[tuple[Entry, bool]]:
        """The other tasks' entries, and whether each runs; waits for an entry of every task that does.

        The states are read before and after: a task that ran before is one whose reservation may still
        come free; one that runs after and has no entry has not got as far as to write it.
        """
        if math.isinf(self._limit):
            return []
        for look in count():
            before = self._board.running()
            entries = [Entry.of(stored) for stored in self._board.read()]
            silent = (before | self._board.running()) - {entry.name for entry in entries}
            if not silent - {self._entry.name}:
                break
            self._pause(look)
        return [(entry, entry.name in before) for entry in entries if entry.name != self._entry.name]

    def _pause(self, look: int) -> None:
        try:
            self._make_sure()
        except MagicHourError:
            self._write(reserved=0, waiting=False)
            raise
        self._sleep(min(_LONGEST, _SHORTEST * 1.3**look) * random.uniform(0.7, 1.3))  # noqa: S311

    def _write(self, **changes: Any) -> None:
        changed = replace(self._entry, **changes)
        if changed != self._written:
            self._board.write(asdict(changed))
        self._entry = self._written = changed
