"""Why a task failed, where the next tasks can read it: the XCom `failure`.

    {"error": "ModerationError", "code": "nsfw", "message": "...", "project_id": "...",
     "credits_charged": 0, "retryable": false}

Airflow removes a task's XComs before each of its tries, so what stands there is of the last one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
)

from magichour_provider.airflow_internals import is_terminal
from magichour_provider.exceptions import MagicHourError, TaskKilledError

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)

KEY = "failure"
"""The XCom's key."""
_TRY_KEY = "magichour_failure"
_MESSAGE_LIMIT = 1000
_SPEAKING_FOR_OURS = (AirflowFailException, AirflowSensorTimeout, AirflowSkipException)


class Telling(Protocol):
    """An operator that knows which job it is about, and what that costs in credits."""

    do_xcom_push: bool
    linked_project_id: str | None
    credits_charged: int | None


MethodT = TypeVar("MethodT", bound=Callable[..., Any])


def reports_failure(method: MethodT) -> MethodT:
    """Let `execute` or `execute_complete` push the XCom `failure` before an error of the tree leaves it."""

    @wraps(method)
    def telling(self: Telling, context: Context, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, context, *args, **kwargs)
        except Exception as error:
            _tell(self, context, error)
            raise

    return cast("MethodT", telling)


def describe(
    error: MagicHourError, *, project_id: str | None = None, credits_charged: int | None = None
) -> dict[str, Any]:
    """What is pushed: small, plain JSON, as free of secrets as the errors' own messages.

    :param project_id: the job, where the error names none.
    :param credits_charged: what the job costs by now, in credits: 0 once it is refunded.
    :return: `error` (the class's name), `code` (Magic Hour's, or `insufficient_credits` where the balance was
        found too small beforehand), `message`, `project_id`, `credits_charged` (None where nobody knows) and
        `retryable`.
    """
    message = str(error)
    return {
        "error": type(error).__name__,
        "code": getattr(error, "code", None),
        "message": message if len(message) <= _MESSAGE_LIMIT else f"{message[: _MESSAGE_LIMIT - 1]}…",
        "project_id": getattr(error, "project_id", None) or project_id,
        "credits_charged": credits_charged,
        "retryable": error.retryable,
    }


def _tell(task: Telling, context: Context, raised: Exception) -> None:
    error = _ours(raised)
    if error is None or not task.do_xcom_push:
        return
    if isinstance(error, TaskKilledError) and is_terminal(context):
        return  # a person has decided, and knows why
    failure = describe(error, project_id=task.linked_project_id, credits_charged=task.credits_charged)
    try:
        store = context.get("task_state_store")
        if store is not None:
            # It refuses a try that Airflow has given up, or a person has cleared, meanwhile; an XCom would be
            # taken from it, over what the new try has written.
            store.set(_TRY_KEY, failure)
        context["ti"].xcom_push(KEY, failure)
    except (Exception, AirflowTaskTimeout):
        log.exception("The XCom %r could not be written.", KEY)


def _ours(raised: BaseException) -> MagicHourError | None:
    """The error of the tree that is raised, or for which one of Airflow's own is raised."""
    if isinstance(raised, MagicHourError):
        return raised
    origin = raised.__cause__ or raised.__context__
    return _ours(origin) if isinstance(raised, _SPEAKING_FOR_OURS) and origin is not None else None
