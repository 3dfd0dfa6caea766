"""The retry policy of the operators and the sensor; needs Airflow 3.3."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryDecision, RetryRule

from magichour_provider.exceptions import APIError, MagicHourError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

LONGEST_DELAY = timedelta(days=1)


class MagicHourRetryPolicy(ExceptionRetryPolicy):
    """No retry if none can help. If Magic Hour gave a `Retry-After`, a retry after that time.

    Anything else follows the task's `retries` and `retry_delay`. A policy can only shorten: it never grants
    more than the task's `retries` (Airflow's AIP-105).

    :param rules: rules of your own; the first that matches wins, before ours.
    :param default: what to do if neither your rules nor ours say anything.
    """

    def __init__(self, rules: Sequence[RetryRule] = (), default: RetryAction = RetryAction.DEFAULT) -> None:
        super().__init__(list(rules), default)

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,
        max_tries: int,
        context: Context | None = None,
    ) -> RetryDecision:
        """Decide by your rules, then by what the error says of itself."""
        if any(rule.matches(exception) for rule in self.rules) or not isinstance(exception, MagicHourError):
            return super().evaluate(exception, try_number, max_tries, context)
        if not exception.retryable:
            return RetryDecision.fail(f"{type(exception).__name__}: no retry can help.")
        pause = exception.retry_after if isinstance(exception, APIError) else None
        if pause is None:
            return super().evaluate(exception, try_number, max_tries, context)
        delay = min(timedelta(seconds=pause), LONGEST_DELAY)
        return RetryDecision.retry(delay, f"Magic Hour asked for {delay.total_seconds():g} seconds.")
