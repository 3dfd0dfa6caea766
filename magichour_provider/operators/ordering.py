"""How `ImageToVideoOperator` orders: from its rendered arguments to the purchase of one job."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from magichour_provider.compat import has_been_ended
from magichour_provider.operators.following import trigger_for
from magichour_provider.references import job_name

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.durable import JobRecords
    from magichour_provider.operators.image_to_video import ImageToVideoOperator
    from magichour_provider.paying.alarm import HeldAlarm
    from magichour_provider.paying.purchase import Purchase


def make_purchase(
    task: ImageToVideoOperator,
    context: Context,
    records: JobRecords,
    alarm: HeldAlarm,
    *,
    deadline: float,
    is_killed: Callable[[], bool],
) -> Purchase:
    """The purchase that the task's arguments ask for; InvalidRequestError where they ask for none.

    :param alarm: held while the create is in flight.
    :param deadline: epoch seconds after which nobody would wait for the job.
    :param is_killed: whether the task was told to stop.
    """
    from magichour_provider.paying.purchase import Purchase, check_run_budget
    from magichour_provider.paying.record_file import RecordFile
    from magichour_provider.paying.submission import Order
    from magichour_provider.paying.upload_board import shared_uploads_of
    from magichour_provider.paying.xcom_board import run_budget_of

    order = Order.of(**{field: getattr(task, field) for field in Order.arguments()})
    order = replace(order, name=order.name or job_name(context))
    check_run_budget(order, records)
    record_file = RecordFile.of(task.record_path, task.record_conn_id)
    if record_file is not None:
        records.keep_in(record_file)
    purchase = Purchase(
        order,
        records,
        task.hook,
        alarm,
        check_deferral=lambda: _must_be_json(trigger_for(task, "not-submitted", deadline).serialize()),
        is_stopped=lambda: is_killed() or has_been_ended(context),
        deadline=deadline,
    )
    purchase.run_budget = run_budget_of(task, context, order.limits.max_credits_per_run, purchase.make_sure)
    purchase.uploads = shared_uploads_of(
        task, context, purchase.make_sure, is_killed=is_killed, recorded=records.available
    )
    return purchase


def _must_be_json(arguments: object) -> None:
    json.dumps(arguments)
