"""What operators and sensors share: hook, lineage, retries, XComs, the success, the messages of a kill.

The XCom `magichour_error` says why a task failed, for the tasks after it:

    {"error": "ModerationError", "code": "nsfw", "message": "...", "project_id": "...",
     "credits_charged": 0, "retryable": false}

Airflow deletes a task's XComs before each attempt, so it is always of the last one.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from airflow.listeners import hookimpl

from magichour_provider.airflow_internals import is_terminal
from magichour_provider.client import library_url
from magichour_provider.exceptions import MagicHourError, SubmissionUnknownError, TaskKilledError
from magichour_provider.jobs.arguments import parse_id
from magichour_provider.jobs.reference import DEFAULT_CONN_ID
from magichour_provider.version_compat import (
    AIRFLOW_V_3_3_PLUS,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
)

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

    from magichour_provider.hooks.magichour import MagicHourHook

log = logging.getLogger(__name__)

ERROR_KEY = "magichour_error"
"""Key of the XCom, and of its copy in the task state store."""
SUMMARY_KEY = "magichour_batch"
"""XCom of a batch: its counts and first failures, before each wait and at its end, also if it failed."""


NOTICED_BY_KEY = "magichour_noticed_by"
"""Key of the XCom of a task whose job's end was noticed by a webhook."""


class MagicHourHookMixin:
    """An operator with a connection to Magic Hour."""

    magichour_conn_id: str

    @cached_property
    def hook(self) -> MagicHourHook:
        """The connection's hook."""
        from magichour_provider.hooks.magichour import MagicHourHook

        return MagicHourHook(parse_id("magichour_conn_id", self.magichour_conn_id) or DEFAULT_CONN_ID)


class OpenLineageMixin:
    """The three methods that OpenLineage's listener calls; `_lineage` gives what is known by then."""

    _lineage: Callable[[], Any]

    def get_openlineage_facets_on_complete(self, task_instance: Any = None) -> Any:
        """Lineage of a task that starts, succeeds or fails."""
        return self._lineage()

    get_openlineage_facets_on_start = get_openlineage_facets_on_complete
    get_openlineage_facets_on_failure = get_openlineage_facets_on_complete


def set_default_retry_policy(task: BaseOperator) -> None:
    """Give a task `MagicHourRetryPolicy` (Airflow 3.3), unless the user has given it another."""
    if AIRFLOW_V_3_3_PLUS and task.retry_policy is None:
        from magichour_provider.retry_policy import MagicHourRetryPolicy

        task.retry_policy = MagicHourRetryPolicy()


@contextmanager
def map_non_retryable(task: object) -> Iterator[None]:
    """Turn an error that no retry can help into one that Airflow does not retry; pass the others on.

    With a retry policy (3.3) that is the error itself, so that callbacks see its class; else an
    AirflowFailException. A create of unknown outcome is always an AirflowFailException: a user's own policy
    could retry it.
    """
    try:
        yield
    except MagicHourError as error:
        has_policy = getattr(task, "retry_policy", None) is not None
        if error.retryable or (has_policy and not isinstance(error, SubmissionUnknownError)):
            raise
        log.debug("The task fails because of:", exc_info=error)
        raise AirflowFailException(str(error)) from None


def push_keys(task: Any, context: Context, result: Mapping[str, Any], *keys: str) -> None:
    """Push parts of the result as XComs of their own, so that `task.output["path"]` works."""
    for key in keys if task.do_xcom_push and "ti" in context else ():
        context["ti"].xcom_push(key, result[key])


def push_noticed_by(task: Any, context: Context, noticed_by: str) -> None:
    """Push how the job's end was noticed, for the task's tab, if it was by a webhook."""
    if noticed_by == "webhook":
        push_keys(task, context, {NOTICED_BY_KEY: noticed_by}, NOTICED_BY_KEY)


MethodT = TypeVar("MethodT", bound=Callable[..., Any])


def reports_failure(method: MethodT) -> MethodT:
    """Let `execute` or `execute_complete` push the XCom `magichour_error` before one of our errors leaves."""

    @wraps(method)
    def reporting(self: Any, context: Context, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, context, *args, **kwargs)
        except Exception as raised:
            error = _find_magichour_error(raised)
            if error is None or not self.do_xcom_push:
                raise
            if isinstance(error, TaskKilledError) and is_terminal(context):
                raise  # a user has marked the task, and knows why it ends
            described = describe_error(
                error, project_id=self.linked_project_id, credits_charged=self.credits_charged
            )
            store: Any = context.get("task_state_store")
            try:
                if store is not None:
                    # It refuses an attempt that Airflow has given up, whose XCom would replace the new one's.
                    store.set(ERROR_KEY, described)
                if "ti" in context:
                    context["ti"].xcom_push(ERROR_KEY, described)
            except (Exception, AirflowTaskTimeout):
                log.exception("The XCom %r could not be written.", ERROR_KEY)
            raise

    return cast("MethodT", reporting)


def describe_error(
    error: MagicHourError, *, project_id: str | None = None, credits_charged: int | None = None
) -> dict[str, Any]:
    """The XCom: small, plain JSON, as free of secrets as the errors' own messages.

    :param project_id: the job, if the error names none.
    :param credits_charged: what the job costs by now, in credits: 0 after a refund.
    :return: `error` (the class's name), `code` (Magic Hour's, or `insufficient_credits` if the preflight
        found too few), `message`, `project_id`, `credits_charged` (None: not known), `retryable`.
    """
    message = str(error)
    return {
        "error": type(error).__name__,
        "code": getattr(error, "code", None),
        "message": message if len(message) <= 1000 else f"{message[:999]}…",
        "project_id": getattr(error, "project_id", None) or project_id,
        "credits_charged": credits_charged,
        "retryable": error.retryable,
    }


def _find_magichour_error(raised: BaseException) -> MagicHourError | None:
    """Our error, also if one of Airflow's own is raised because of it."""
    if isinstance(raised, MagicHourError):
        return raised
    wraps_another = isinstance(raised, (AirflowFailException, AirflowSensorTimeout, AirflowSkipException))
    origin = raised.__cause__ or raised.__context__
    return _find_magichour_error(origin) if wraps_another and origin is not None else None


class SuccessListener:
    """Calls `on_success` of our operators, in the worker, once Airflow has accepted their task's success.

    A listener rather than an `on_success_callback`, which a cluster policy or the Dag's author may replace.
    The plugin lists it; for tasks that are not ours it reads `sys.modules` only.
    """

    @hookimpl(tryfirst=True)
    def on_task_instance_success(self, previous_state: Any, task_instance: Any) -> None:
        """Called by Airflow; also by its API server if a user marks a task, which then has no operator."""
        module = sys.modules.get("magichour_provider.operators.image_to_video")
        task = getattr(task_instance, "task", None)
        if module is None or not isinstance(task, module.ImageToVideoOperator):
            return
        try:
            task.on_success(task_instance.get_template_context())
        except Exception:
            log.exception("The success could not be recorded: a Clear re-attaches to the same video once.")


def kill_message(project_id: str, credits_charged: int | None) -> str:
    """What a kill means for a job: what happened, what it costs, what to do."""
    credits = "its credits remain" if credits_charged is None else f"its {credits_charged} credits remain"
    return (
        f"Task killed. Job {project_id} is still running at Magic Hour and {credits} charged: "
        f"{library_url(project_id)} Clear this task, or use VideoJobSensor and DownloadVideoOperator, to get "
        "the video at no further cost."
    )


def log_from_signal_handler(logger: logging.Logger | Any, message: str) -> None:
    """Log a warning in a thread: the code that the signal has interrupted may hold the log's lock."""
    threading.Thread(target=logger.warning, args=("%s", message), name="magichour-killed").start()
