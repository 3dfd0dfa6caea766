"""The loops of worker and triggerer against the sandbox."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from magichour_provider.client.models import ImageToVideoRequest
from magichour_provider.client.settings import ClientSettings
from magichour_provider.client.sync import MagicHourClient
from magichour_provider.polling import blocking
from magichour_provider.polling.outcome import TerminalStatus
from magichour_provider.polling.poller import Poller
from magichour_provider.polling.schedulers import scheduler_for

LOOKS = {"method": "GET", "path": "/v1/video-projects/*"}


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


def watch(project_id, *, timeout=60.0):
    now = time.time()
    return Poller(project_id, deadline=now + timeout, started=now, poll_interval=0.1)


def wait_in_worker(settings, *watches):
    with MagicHourClient.from_settings(settings) as client:
        return [blocking.wait(client, each) for each in watches]


def reader_of(settings):
    async def read_settings():
        return settings

    return read_settings


def wait_in_triggerer(settings, *watches):
    async def wait():
        hub = scheduler_for("mh", reader_of(settings))
        return await asyncio.gather(*(hub.wait(each) for each in watches))

    return asyncio.run(wait())


both = pytest.mark.parametrize("wait", [wait_in_worker, wait_in_triggerer])


def looks(sandbox):
    rows = sandbox.control.state()["requests"]
    return sum(row["count"] for row in rows if row["path"] == "/v1/video-projects/{id}")


@both
def test_the_wait_ends_when_the_clip_is_there(wait, settings, submit):
    (outcome,) = wait(settings, watch(submit()))
    assert (outcome.ending, outcome.credits_charged, outcome.end_seconds) == (TerminalStatus.COMPLETE, 72, 3)


@both
def test_the_wait_tells_how_long_the_job_was_in_the_queue_and_rendered(
    wait, settings, submit, magichour_sandbox, wait_until
):
    control, began = magichour_sandbox.control, time.time()
    control.behaviour(render_seconds=3600)
    project_id = submit()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(wait, settings, watch(project_id))
        for status in ("rendering", "complete"):
            seen = looks(magichour_sandbox)
            # The look that is counted first may have begun before the state was set; the next one has not.
            wait_until(lambda seen=seen: looks(magichour_sandbox) - seen, lambda more: more >= 2)
            control.set_job(project_id, status)
        (outcome,) = waiting.result()
    assert outcome.queued_seconds > 0
    assert outcome.rendering_seconds > 0
    assert outcome.queued_seconds + outcome.rendering_seconds <= time.time() - began + 0.1


@both
@pytest.mark.parametrize(
    ("status", "ending"), [("error", TerminalStatus.FAILED), ("canceled", TerminalStatus.CANCELED)]
)
def test_the_wait_ends_when_the_job_comes_to_nothing(
    wait, settings, submit, magichour_sandbox, status, ending
):
    magichour_sandbox.control.behaviour(render_seconds=3600)
    project_id = submit()
    magichour_sandbox.control.set_job(project_id, status)
    (outcome,) = wait(settings, watch(project_id))
    assert (outcome.ending, outcome.credits_charged) == (ending, 0)


@both
@pytest.mark.parametrize("deleted", ["disabled", "not_found"])
def test_a_deleted_job_ends_the_wait(wait, settings, submit, magichour_sandbox, deleted):
    magichour_sandbox.control.behaviour(deleted=deleted)
    project_id = submit()
    with MagicHourClient.from_settings(settings) as client:
        client.delete_video(project_id)
    assert wait(settings, watch(project_id))[0].ending is TerminalStatus.DELETED


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
def test_trouble_that_passes_is_ridden_out(wait, settings, submit, magichour_sandbox, fault):
    magichour_sandbox.control.faults([{**LOOKS, **fault, "times": 3}])
    assert wait(settings, watch(submit()))[0].ending is TerminalStatus.COMPLETE


@both
def test_trouble_that_does_not_pass_ends_at_the_deadline(wait, settings, submit, magichour_sandbox):
    magichour_sandbox.control.faults([{**LOOKS, "status": 500}])
    assert wait(settings, watch(submit(), timeout=0.5))[0].ending is TerminalStatus.TIMEOUT


@both
def test_an_unknown_status_waits_until_the_deadline(wait, settings, submit, magichour_sandbox):
    project_id = submit()
    magichour_sandbox.control.set_job(project_id, "paused")
    (outcome,) = wait(settings, watch(project_id, timeout=0.5))
    assert (outcome.ending, outcome.status) == (TerminalStatus.TIMEOUT, "paused")


@both
@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_ends_the_wait_at_once(wait, settings, submit, magichour_sandbox, status):
    magichour_sandbox.control.behaviour(render_seconds=3600)
    project_id = submit()
    magichour_sandbox.control.faults([{**LOOKS, "status": status, "body": {"message": "no"}}])
    (outcome,) = wait(settings, watch(project_id))
    assert (outcome.ending, outcome.error_status) == (TerminalStatus.REFUSED, status)
    assert looks(magichour_sandbox) == 1
