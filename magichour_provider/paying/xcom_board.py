"""The board of a run's budget in Airflow: an XCom of each task, and the states of the tasks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from magichour_provider.compat import all_xcoms, task_states
from magichour_provider.paying.run_budget import RunBudget

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.durable import JobRecords
    from magichour_provider.paying.run_budget import Name
    from magichour_provider.waiting.outcome import Outcome

KEY = "magichour_credits"


class XComBoard:
    """The entries of the tasks of one run that have `max_credits_per_run`."""

    def __init__(self, context: Context, task: Any) -> None:
        self._ti = context["ti"]
        self._task_ids = sorted(
            {task.task_id, *(each.task_id for each in task.dag.tasks if _takes_part(each))}
        )

    def write(self, entry: dict[str, Any]) -> None:
        """Write this task's entry over its last one."""
        self._ti.xcom_push(KEY, entry)

    def read(self) -> Iterator[dict[str, Any]]:
        """Every task's entry, this one's included."""
        for task_id in self._task_ids:
            yield from all_xcoms(KEY, self._ti.dag_id, self._ti.run_id, task_id)

    def running(self) -> set[Name]:
        """The tasks that run at this moment."""
        return {name for task_id in self._task_ids for name in self._running(task_id)}

    def _running(self, task_id: str) -> Iterator[Name]:
        # One task at a time: `render_1` is both a task's id and the name of `render`'s second one.
        for name, state in task_states(self._ti.dag_id, self._ti.run_id, [task_id]).items():
            if state == "running":
                yield task_id, -1 if name == task_id else int(name[len(task_id) + 1 :])


def run_budget_of(task: Any, context: Context, limit: int | None, deadline: float) -> RunBudget | None:
    """The task's part in the budget of its run; None where it was given none.

    One that was given a template, which came to nothing, writes down what it spends, as the others wait for
    its entry.
    """
    if not task.has_run_budget:
        return None
    name = (task.task_id, _map_index(context))
    return RunBudget(math.inf if limit is None else limit, XComBoard(context, task), name, deadline)


def settle(task: Any, context: Context, records: JobRecords, outcome: Outcome) -> None:
    """Write down what a job has cost in the end: nothing, if it was refunded."""
    budget = run_budget_of(task, context, None, 0.0)
    if budget is not None and records.read() is not None:
        records.refunded(outcome.credits_charged)
        budget.spent(records.spent)


def _map_index(context: Context) -> int:
    index = context["ti"].map_index
    return -1 if index is None else index


def _takes_part(task: Any) -> bool:
    """Whether a task of the Dag, mapped or not, has a budget for the run."""
    partial_kwargs = getattr(task, "partial_kwargs", {})
    return getattr(task, "has_run_budget", False) or partial_kwargs.get("max_credits_per_run") is not None
