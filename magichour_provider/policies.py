"""What a failure means for Airflow's own retries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from magichour_provider.api.errors import MagicHourError
from magichour_provider.compat import AirflowFailException


@contextmanager
def no_useless_retry() -> Iterator[None]:
    """Fail the task at once on an error that no retry can mend; let the others through as they are."""
    try:
        yield
    except MagicHourError as error:
        if error.retryable:
            raise
        raise AirflowFailException(str(error)) from error
