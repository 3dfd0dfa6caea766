"""The waits of worker and triggerer against the sandbox, over HTTP."""

from __future__ import annotations

import asyncio
import time

import pytest

from magichour_provider.client.models import ImageToVideoRequest
from magichour_provider.client.settings import ClientSettings
from magichour_provider.client.sync import MagicHourClient
from magichour_provider.polling import poller as polling
from magichour_provider.polling.outcome import TerminalStatus
from magichour_provider.polling.poller import Poller
from magichour_provider.polling.scheduler import get_scheduler

POLLS = {"method": "GET", "path": "/v1/video-projects/*"}


@pytest.fixture
def settings(magichour_sandbox):
    return ClientSettings(magichour_sandbox.api_key, magichour_sandbox.url, max_attempts=1)


@pytest.fixture
def submit(settings):
    with MagicHourClient.from_settings(settings) as client:
        request = ImageToVideoRequest(
            image_file_path="saved-items/a/b.png", end_seconds=3, model="ltx-2.3", resolution="480p"
        )
        yield lambda **fields: client.create_image_to_video(request.model_copy(update=fields)).id


def poller(project_id, *, timeout=60.0):
    now = time.time()
    return Poller(project_id, deadline=now + timeout, started=now, poll_interval=0.1)


def in_worker(settings, *pollers):
    with MagicHourClient.from_settings(settings) as client:
        return [polling.wait_in_worker(client, each) for each in pollers]


def in_triggerer(settings, *pollers):
    async def read_settings():
        return settings

    async def wait():
        scheduler = get_scheduler("mh", read_settings)
        return await asyncio.gather(*(scheduler.wait(each) for each in pollers))

    return asyncio.run(wait())


both = pytest.mark.parametrize("wait", [in_worker, in_triggerer])


def polls(sandbox):
    rows = sandbox.control.state()["requests"]
    return sum(row["count"] for row in rows if row["path"] == "/v1/video-projects/{id}")


@both
@pytest.mark.parametrize(
    ("status", "ending", "credits"),
    [
        ("complete", TerminalStatus.COMPLETE, 72),
        ("error", TerminalStatus.FAILED, 0),
        ("canceled", TerminalStatus.CANCELED, 0),
    ],
)
def test_wait_ends_when_the_job_has_ended(wait, settings, submit, magichour_sandbox, status, ending, credits):
    magichour_sandbox.control.behaviour(render_seconds=3600)
    project_id = submit()
    magichour_sandbox.control.set_job(project_id, status)
    (outcome,) = wait(settings, poller(project_id))
    assert (outcome.ending, outcome.credits_charged, outcome.end_seconds) == (ending, credits, 3)


@both
@pytest.mark.parametrize("deleted", ["disabled", "not_found"])
def test_wait_ends_when_the_job_is_deleted(wait, settings, submit, magichour_sandbox, deleted):
    magichour_sandbox.control.behaviour(deleted=deleted)
    project_id = submit()
    with MagicHourClient.from_settings(settings) as client:
        client.delete_video(project_id)
    assert wait(settings, poller(project_id))[0].ending is TerminalStatus.DELETED


@both
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 502, "body": "<html>"},
        {"status": 429},
        {"drop": "before"},
        {"truncate": 3},
    ],
)
def test_poll_error_that_may_pass_does_not_end_the_wait(wait, settings, submit, magichour_sandbox, fault):
    magichour_sandbox.control.faults([{**POLLS, **fault, "times": 3}])
    assert wait(settings, poller(submit()))[0].ending is TerminalStatus.COMPLETE


@both
def test_poll_errors_end_the_wait_at_the_deadline(wait, settings, submit, magichour_sandbox):
    magichour_sandbox.control.faults([{**POLLS, "status": 500}])
    assert wait(settings, poller(submit(), timeout=0.5))[0].ending is TerminalStatus.TIMEOUT


@both
@pytest.mark.parametrize("status", [401, 403])
def test_poll_with_refused_key_ends_the_wait(wait, settings, submit, magichour_sandbox, status):
    magichour_sandbox.control.behaviour(render_seconds=3600)
    project_id = submit()
    magichour_sandbox.control.faults([{**POLLS, "status": status, "body": {"message": "no"}}])
    (outcome,) = wait(settings, poller(project_id))
    assert (outcome.ending, outcome.error_status) == (TerminalStatus.REFUSED, status)
    assert polls(magichour_sandbox) == 1
