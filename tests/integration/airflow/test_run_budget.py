"""The budget of a run in the operator: what counts, and who takes part. Airflow's answers are made up."""

from __future__ import annotations

import pytest
from airflow.sdk import DAG, TaskGroup
from attempts import IMAGE, jobs, raising

from magichour_provider.jobs import run_budget
from magichour_provider.jobs.run_budget import RunBudget, XComBudgetStore
from magichour_provider.operators.image_to_video import ImageToVideoOperator

ORDER = {"image": IMAGE, "end_seconds": 3}
LIMIT = {"max_credits_per_run": 100}


@pytest.fixture
def xcoms(context, monkeypatch):
    """Entries of the run; those of other tasks may be put in."""
    entries = {}

    def push(key, value):
        if key == run_budget.KEY:
            entries[key] = value

    monkeypatch.setattr(context["ti"], "xcom_push", push)
    monkeypatch.setattr(run_budget, "all_xcoms", lambda *_: list(entries.values()))
    monkeypatch.setattr(run_budget, "task_states", lambda *_: {})
    return entries


@pytest.fixture
def try_it(connection, tries, xcoms):
    """One try of a task with a budget for its run."""

    def one(**options):
        with DAG("a_dag", schedule=None):
            return tries(**{**LIMIT, **options})

    return one


def test_budget_entry_is_written(try_it, xcoms):
    try_it()
    entry = {"task_id": "render", "map_index": -1, "spent": 72, "reserved": 0, "waiting": False}
    assert xcoms[run_budget.KEY] == entry


def test_credits_of_others_count_before_the_upload(try_it, xcoms, magichour_sandbox, fails_for_good):
    xcoms["other"] = {"task_id": "other", "map_index": -1, "spent": 50}
    with fails_for_good(match="has spent 50 of its max_credits_per_run, 100"):
        try_it()
    assert magichour_sandbox.control.state()["uploads"] == []


def test_refunded_job_does_not_count(try_it, magichour_sandbox):
    magichour_sandbox.control.behaviour(render_seconds=3600)
    try_it(wait_for_completion=False)
    magichour_sandbox.control.set_job(jobs(magichour_sandbox)[0]["id"], "error")
    magichour_sandbox.control.behaviour(render_seconds=0)
    assert try_it()["status"] == "complete"
    assert len(jobs(magichour_sandbox)) == 2


def test_job_after_a_clear_counts_beside_the_first(try_it, magichour_sandbox, fails_for_good):
    try_it()
    with fails_for_good(match="has spent 72 of its"):
        try_it(cleared=True)
    try_it(cleared=True, max_credits_per_run=150)
    assert len(jobs(magichour_sandbox)) == 2


def test_stale_attempt_writes_no_entry(try_it, tries, xcoms, monkeypatch):
    monkeypatch.setattr(type(tries.store), "set", raising(RuntimeError("Task instance not found")))
    with pytest.raises(RuntimeError):
        try_it()
    assert xcoms == {}


def test_budget_needs_durable_and_a_state_store(tries, connection, magichour_sandbox, fails_for_good):
    with DAG("a_dag", schedule=None), fails_for_good(match="needs durable=True and the task state store"):
        tries(**LIMIT, durable=False)
    with fails_for_good(match="needs durable=True and the task state store"):
        ImageToVideoOperator(task_id="render", **ORDER, **LIMIT).execute({})
    assert jobs(magichour_sandbox) == []


def test_every_task_with_a_budget_takes_part(context, monkeypatch):
    with DAG("a_dag", schedule=None, default_args=LIMIT):
        plain = ImageToVideoOperator(task_id="plain", **ORDER)
        ImageToVideoOperator.partial(task_id="mapped", **ORDER).expand(prompt=["a", "b"])
    assert taking_part(plain, context, monkeypatch) == ["mapped", "plain"]
    with DAG("b_dag", schedule=None):
        ImageToVideoOperator(task_id="without", **ORDER)
        ImageToVideoOperator.partial(task_id="partial", **ORDER, **LIMIT).expand(prompt=["a", "b"])
        ImageToVideoOperator.partial(task_id="expanded", **ORDER).expand(max_credits_per_run=[1, 2])
        with TaskGroup("group", default_args=LIMIT):
            ImageToVideoOperator.partial(task_id="grouped", **ORDER).expand(prompt=["a", "b"])
        plain = ImageToVideoOperator(task_id="plain", **ORDER, **LIMIT)
    assert taking_part(plain, context, monkeypatch) == ["expanded", "group.grouped", "partial", "plain"]


def taking_part(task, context, monkeypatch):
    """The tasks of the Dag whose states are asked for."""
    asked = []
    monkeypatch.setattr(
        run_budget, "task_states", lambda dag_id, run_id, task_ids: asked.extend(task_ids) or {}
    )
    XComBudgetStore(context, task).running()
    return asked


def test_budget_that_others_cannot_see_is_refused(context):
    with DAG("a_dag", schedule=None) as dag:
        ImageToVideoOperator.partial(task_id="mapped", **ORDER).expand_kwargs([LIMIT, LIMIT])
    task = ImageToVideoOperator(task_id="mapped", **ORDER, **LIMIT)
    task.__dict__["_dag"] = dag
    context["task_state_store"] = {}
    with pytest.raises(run_budget.InvalidRequestError, match=r"by partial\(\)"):
        RunBudget.from_task(task, context, 100, None)
