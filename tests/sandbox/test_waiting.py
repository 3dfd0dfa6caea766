"""The loops of worker and triggerer against the sandbox."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import pytest

from magichour_provider.api.async_client import AsyncMagicHourClient
from magichour_provider.api.client import MagicHourClient
from magichour_provider.api.errors import ConfigurationError
from magichour_provider.api.models import ImageToVideoRequest
from magichour_provider.api.settings import ClientSettings
from magichour_provider.waiting import blocking
from magichour_provider.waiting.hub import hub_for
from magichour_provider.waiting.outcome import Ending
from magichour_provider.waiting.watch import Watch

LOOKS = {"method": "GET", "path": "/v1/video-projects/*"}


@pytest.fixture
def settings(magichour_sandbox):
    return ClientSettings(magichour_sandbox.api_key, magichour_sandbox.url, max_attempts=1)


@pytest.fixture
def submit(settings):
    with MagicHourClient(settings) as client:
        request = ImageToVideoRequest(
            image_file_path="saved-items/a/b.png", end_seconds=3, model="ltx-2.3", resolution="480p"
        )
        yield lambda **fields: client.create_image_to_video(request.model_copy(update=fields)).id


def watch(project_id, *, timeout=60.0):
    now = time.time()
    return Watch(project_id, deadline=now + timeout, started=now, poll_interval=0.1)


def wait_in_worker(settings, *watches):
    with MagicHourClient(settings) as client:
        return [blocking.wait(client, each) for each in watches]


def wait_in_triggerer(settings, *watches):
    async def wait():
        async def make_client():
            return AsyncMagicHourClient(settings)

        return await asyncio.gather(*(hub_for("mh").wait(each, make_client) for each in watches))

    return asyncio.run(wait())


both = pytest.mark.parametrize("wait", [wait_in_worker, wait_in_triggerer])


def looks(sandbox):
    rows = sandbox.control.ledger()["requests"]
    return sum(row["count"] for row in rows if row["path"] == "/v1/video-projects/{id}")


@both
def test_the_wait_ends_when_the_clip_is_there(wait, settings, submit):
    (outcome,) = wait(settings, watch(submit()))
    assert (outcome.ending, outcome.credits_charged, outcome.end_seconds) == (Ending.COMPLETE, 72, 3)


@both
@pytest.mark.parametrize(("status", "ending"), [("error", Ending.FAILED), ("canceled", Ending.CANCELED)])
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
    with MagicHourClient(settings) as client:
        client.delete_video(project_id)
    assert wait(settings, watch(project_id))[0].ending is Ending.DELETED


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
    assert wait(settings, watch(submit()))[0].ending is Ending.COMPLETE


@both
def test_trouble_that_does_not_pass_ends_at_the_deadline(wait, settings, submit, magichour_sandbox):
    magichour_sandbox.control.faults([{**LOOKS, "status": 500}])
    assert wait(settings, watch(submit(), timeout=0.5))[0].ending is Ending.TIMEOUT


@both
def test_an_unknown_status_waits_until_the_deadline(wait, settings, submit, magichour_sandbox):
    project_id = submit()
    magichour_sandbox.control.set_job(project_id, "paused")
    (outcome,) = wait(settings, watch(project_id, timeout=0.5))
    assert (outcome.ending, outcome.status) == (Ending.TIMEOUT, "paused")


@both
@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_ends_the_wait_at_once(wait, settings, submit, magichour_sandbox, status):
    magichour_sandbox.control.behaviour(render_seconds=3600)
    project_id = submit()
    magichour_sandbox.control.faults([{**LOOKS, "status": status, "body": {"message": "no"}}])
    (outcome,) = wait(settings, watch(project_id))
    assert (outcome.ending, outcome.error_status) == (Ending.REFUSED, status)
    assert looks(magichour_sandbox) == 1


def test_waiters_of_one_account_share_one_client(settings, submit):
    made = []

    async def make_client():
        made.append(AsyncMagicHourClient(settings))
        return made[-1]

    async def wait(*project_ids):
        hub = hub_for("mh")
        await asyncio.gather(*(hub.wait(watch(project_id), make_client) for project_id in project_ids))

    asyncio.run(wait(*(submit() for _ in range(20))))
    assert len(made) == 1
    assert made[0]._session.closed


def test_a_cancelled_waiter_leaves_the_others_waiting(settings, submit, magichour_sandbox):
    magichour_sandbox.control.behaviour(render_seconds=2)

    async def make_client():
        await asyncio.sleep(0.1)
        return AsyncMagicHourClient(settings)

    async def wait():
        hub = hub_for("mh")
        first = asyncio.create_task(hub.wait(watch(submit()), make_client))
        second = asyncio.create_task(hub.wait(watch(submit()), make_client))
        await asyncio.sleep(0)
        first.cancel()
        return await second, first.cancelled()

    outcome, cancelled = asyncio.run(wait())
    assert outcome.ending is Ending.COMPLETE
    assert cancelled


def test_a_connection_that_cannot_be_used_ends_the_wait_and_not_the_next_ones(settings, submit):
    async def no_client():
        raise ConfigurationError("The connection has no password.")

    async def make_client():
        return AsyncMagicHourClient(settings)

    async def wait():
        hub = hub_for("mh")
        return await hub.wait(watch(submit()), no_client), await hub.wait(watch(submit()), make_client)

    refused, complete = asyncio.run(wait())
    assert refused.ending is Ending.REFUSED
    assert "no password" in str(refused.error())
    assert complete.ending is Ending.COMPLETE


def test_a_look_up_that_fails_for_a_while_is_ridden_out_by_every_waiter(settings, submit):
    tries = []

    async def make_client():
        tries.append(1)
        await asyncio.sleep(0.05)
        if len(tries) < 3:
            raise OSError("the API server restarts")
        return AsyncMagicHourClient(settings)

    async def wait():
        hub = hub_for("mh")
        return await asyncio.gather(*(hub.wait(watch(submit()), make_client) for _ in range(5)))

    assert {outcome.ending for outcome in asyncio.run(wait())} == {Ending.COMPLETE}


def test_an_answer_without_end_is_cut_and_ridden_out(settings, submit, magichour_sandbox):
    project_id = submit()
    endless = '{"id": "' + "a" * (8 << 20)
    magichour_sandbox.control.faults([{**LOOKS, "status": 200, "body": endless, "times": 2}])
    for wait in (wait_in_worker, wait_in_triggerer):
        assert wait(settings, watch(project_id))[0].ending is Ending.COMPLETE


def test_a_key_that_was_changed_reaches_those_who_wait_already(
    settings, submit, magichour_sandbox, monkeypatch
):
    monkeypatch.setattr("magichour_provider.waiting.hub._FRESH_SECONDS", 0.0)
    keys = iter(["revoked", "revoked", settings.api_key])

    async def make_client():
        return AsyncMagicHourClient(dataclasses.replace(settings, api_key=next(keys)))

    async def wait():
        return await hub_for("mh").wait(watch(submit()), make_client)

    assert asyncio.run(wait()).ending is Ending.REFUSED
    keys = iter(["revoked", settings.api_key])
    assert asyncio.run(wait()).ending is Ending.COMPLETE


def test_a_refusal_of_the_old_key_that_comes_late_does_not_end_the_wait(settings, submit, monkeypatch):
    """Three look by the old client; the first refusal renews it, the others come after that."""
    monkeypatch.setattr("magichour_provider.waiting.hub._FRESH_SECONDS", 0.2)
    made = []

    class Outdated(AsyncMagicHourClient):
        looks = 0

        async def get_video(self, project_id):
            self.looks += 1
            late = 0.3 + 0.1 * self.looks
            try:
                return await super().get_video(project_id)
            finally:
                await asyncio.sleep(late)

    async def make_client():
        kind, key = (AsyncMagicHourClient, settings.api_key) if made else (Outdated, "revoked")
        made.append(kind(dataclasses.replace(settings, api_key=key)))
        return made[-1]

    async def wait():
        hub = hub_for("mh")
        return await asyncio.gather(*(hub.wait(watch(submit()), make_client) for _ in range(3)))

    assert {outcome.ending for outcome in asyncio.run(wait())} == {Ending.COMPLETE}
    assert [client._session.closed for client in made] == [True, True]
