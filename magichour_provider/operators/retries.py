"""What a failure means for Airflow's own retries.

From Airflow 3.3 on the operators carry a retry policy, and raise their errors as they are: callbacks and
logs see `BudgetError` or `ModerationError`. Below, one that no retry can mend is an `AirflowFailException`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowFailException

from magichour_provider.exceptions import MagicHourError, SubmissionUnknownError
from magichour_provider.version_compat import AIRFLOW_V_3_3_PLUS

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

log = logging.getLogger(__name__)


def set_default_retry_policy(task: BaseOperator) -> None:
    """Give a task our retry policy, unless the user has given it one, by argument or by default_args."""
    if AIRFLOW_V_3_3_PLUS and task.retry_policy is None:
        from magichour_provider.retry_policy import MagicHourRetryPolicy

        task.retry_policy = MagicHourRetryPolicy()


@contextmanager
def map_non_retryable(task: object) -> Iterator[None]:
    """Fail the task at once on an error that no retry can mend; let the others through as they are."""
    try:
        yield
    except MagicHourError as error:
        if error.retryable:
            raise
        raise as_fail_exception(task, error) from None


def as_fail_exception(task: object, error: MagicHourError) -> Exception:
    """What to raise so that Airflow does not retry: the error itself, where a retry policy decides.

    A create of unknown outcome is left to no policy, as the user's own may say otherwise. The message says
    it all, so the log shows it once, without the errors that it came from.
    """
    has_policy = getattr(task, "retry_policy", None) is not None
    if has_policy and not isinstance(error, SubmissionUnknownError):
        return error
    log.debug("Where it came from:", exc_info=error)
    return AirflowFailException(str(error))
