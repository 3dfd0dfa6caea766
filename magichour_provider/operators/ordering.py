"""How `ImageToVideoOperator` orders: from its rendered arguments to the purchase of one job."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from magichour_provider.airflow_internals import is_terminal
from magichour_provider.jobs.reference import job_name
from magichour_provider.operators.following import trigger_for

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.jobs.deferred_timeout import DeferredTimeout
    from magichour_provider.jobs.state import JobStateStore
    from magichour_provider.jobs.submit import Submission
    from magichour_provider.operators.image_to_video import ImageToVideoOperator


def build_submission(
    task: ImageToVideoOperator,
    context: Context,
    records: JobStateStore,
    alarm: DeferredTimeout,
    *,
    deadline: float,
    is_killed: Callable[[], bool],
) -> Submission:
    """The purchase that the task's arguments ask for; InvalidRequestError where they ask for none.

    :param alarm: held while the create is in flight.
    :param deadline: epoch seconds after which nobody would wait for the job.
    :param is_killed: whether the task was told to stop.
    """
    from magichour_provider.jobs.request import VideoRequest
    from magichour_provider.jobs.run_budget_xcom import run_budget_of
    from magichour_provider.jobs.state_file import RecordFile
    from magichour_provider.jobs.submit import Submission, check_run_budget

    order = VideoRequest.of(**{field: getattr(task, field) for field in VideoRequest.arguments()})
    order = replace(order, name=order.name or job_name(context))
    check_run_budget(order, records)
    record_file = RecordFile.of(task.state_path, task.state_conn_id)
    if record_file is not None:
        records.keep_in(record_file)
    purchase = Submission(
        order,
        records,
        task.hook,
        alarm,
        check_deferral=lambda: _must_be_json(trigger_for(task, "not-submitted", deadline).serialize()),
        is_stopped=lambda: is_killed() or is_terminal(context),
        deadline=deadline,
    )
    purchase.run_budget = run_budget_of(task, context, order.limits.max_credits_per_run, purchase.make_sure)
    return purchase


def _must_be_json(arguments: object) -> None:
    json.dumps(arguments)
