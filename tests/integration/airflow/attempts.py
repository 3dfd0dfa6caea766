"""What the tests of several attempts of a task share."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from functools import partial

import pytest

from magichour_provider.version_compat import AirflowTaskTimeout

IMAGE = "dags_examples/images/grace_hopper.jpg"
CREATES = {"method": "POST", "path": "/v1/image-to-video"}
MODEL = {"end_seconds": 3, "model": "ltx-2.3", "resolution": "480p", "poll_interval": 0.1}


class Killed(BaseException):
    """The process is gone: nothing after this runs."""


def jobs(sandbox):
    return sandbox.control.state()["jobs"]


def raising(error):
    def stop(*args, **kwargs):
        raise error

    return stop


def killed_in(target, attempt, monkeypatch, **options):
    """Kill an attempt when it calls a function of the package."""
    with monkeypatch.context() as patch:
        patch.setattr(f"magichour_provider.{target}", raising(Killed()))
        with pytest.raises(Killed):
            attempt(**options)


killed_while_waiting = partial(killed_in, "polling.poller.wait_in_worker")
killed_after_the_create = partial(killed_in, "jobs.state.JobStateStore.write_job")


@contextmanager
def airflow_alarm(seconds):
    """Airflow's own way to enforce `execution_timeout` in a worker; with 0 seconds nothing is timed yet."""
    before = signal.signal(signal.SIGALRM, raising(AirflowTaskTimeout("Timeout")))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
