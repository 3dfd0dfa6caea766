"""The board of a run's budget in Airflow: an XCom of each task, and the states of the tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from magichour_provider.airflow_internals import NEVER_EXPIRE, all_xcoms, task_states
from magichour_provider.exceptions import InvalidRequestError
from magichour_provider.jobs.run_budget import RunBudget

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.jobs.run_budget import Name
    from magichour_provider.jobs.state import JobStateStore
    from magichour_provider.polling.outcome import Outcome

KEY = "magichour_credits"
_ARGUMENT = "max_credits_per_run"


class XComBudgetStore:
    """The entries of the tasks of one run that have `max_credits_per_run`."""

    def __init__(self, context: Context, task: Any) -> None:
        self._ti = context["ti"]
        self._store = context.get("task_state_store")
        others = {each.task_id for each in task.dag.tasks if _takes_part(each)}
        self._task_ids = sorted({task.task_id} | others)

    def write(self, entry: dict[str, Any]) -> None:
        """Write this task's entry over its last one.

        The task state store refuses a try that Airflow has given up, or a person has cleared, meanwhile; an
        XCom would be taken from it, over what the new try has written.
        """
        if self._store is not None:
            self._store.set(KEY, entry, retention=NEVER_EXPIRE)
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


def run_budget_of(
    task: Any, context: Context, limit: int | None, make_sure: Callable[[], None]
) -> RunBudget | None:
    """The task's part in the budget of its run; None where it was given none.

    One that was given a template, which came to nothing, writes down what it spends, as the others wait for
    its entry. Raises InvalidRequestError where the others cannot know that it takes part.
    """
    if not task.has_run_budget:
        return None
    if not _takes_part(task.dag.get_task(task.task_id)):
        raise InvalidRequestError(
            f"max_credits_per_run of the mapped task {task.task_id!r} cannot be seen by the other tasks of "
            "the run: give it by partial(), or by default_args, not by expand_kwargs()."
        )
    index = context["ti"].map_index
    name = (task.task_id, -1 if index is None else index)
    return RunBudget(math.inf if limit is None else limit, XComBudgetStore(context, task), name, make_sure)


def settle(task: Any, context: Context, records: JobStateStore, outcome: Outcome) -> None:
    """Write down what a job has cost in the end: nothing, if it was refunded."""
    budget = run_budget_of(task, context, None, lambda: None)
    if budget is not None and records.current() is not None:
        records.charged(outcome.credits_charged)
        budget.spent(records.spent)


def _takes_part(task: Any) -> bool:
    """Whether a task of the Dag, mapped or not, has a budget for the run.

    Airflow applies default_args to the arguments of a mapped operator's own only when it is unmapped.
    """
    if getattr(task, "has_run_budget", False):
        return True
    if not hasattr(task, "partial_kwargs") or _ARGUMENT not in task.template_fields:
        return False
    return any(given.get(_ARGUMENT) is not None for given in _given_to(task))


def _given_to(task: Any) -> Iterator[Mapping[str, Any]]:
    yield task.partial_kwargs
    expanded = getattr(task.expand_input, "value", None)
    if isinstance(expanded, Mapping):
        yield expanded
    if task.dag is not None:
        yield task.dag.default_args
    group = task.task_group
    while group is not None:
        yield group.default_args
        group = group.parent_group
