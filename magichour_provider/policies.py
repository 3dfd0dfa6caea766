"""What a failure means for Airflow's own retries."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from magichour_provider.api.errors import MagicHourError
from magichour_provider.compat import AirflowFailException

log = logging.getLogger(__name__)


@contextmanager
def no_useless_retry() -> Iterator[None]:
    """Fail the task at once on an error that no retry can mend; let the others through as they are.

    The message says it all, so the log shows it once, without the errors that it came from.
    """
    try:
        yield
    except MagicHourError as error:
        if error.retryable:
            raise
        log.debug("Where it came from:", exc_info=error)
        raise AirflowFailException(str(error)) from None
