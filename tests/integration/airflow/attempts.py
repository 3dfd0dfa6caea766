"""What the tests of several attempts of a task share."""

from __future__ import annotations

import pytest

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


def killed_while_waiting(attempt, monkeypatch, **options):
    with monkeypatch.context() as patch:
        patch.setattr("magichour_provider.polling.poller.wait_in_worker", raising(Killed()))
        with pytest.raises(Killed):
            attempt(**options)
