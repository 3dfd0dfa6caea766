"""The route of the webhooks in Airflow's own application, with its database."""

from __future__ import annotations

import asyncio
import json
import os
import time
from datetime import datetime, timezone

import httpx
import pytest
from starlette.requests import Request

from magichour_provider.client.webhooks import sign
from magichour_provider.polling.webhooks import Mailbox, mailbox_key
from magichour_provider.version_compat import AIRFLOW_V_3_1_PLUS

pytestmark = pytest.mark.skipif(not AIRFLOW_V_3_1_PLUS, reason="the pages need Airflow 3.1")

SECRET = "whsec_of_the_test"
CONN_ID = "hooked"


@pytest.fixture
def hooks(ui, monkeypatch):
    """Post to the route, and read what it has written."""
    connection = {"conn_type": "magichour", "password": "a-key", "extra": {"webhook_secret": f"old {SECRET}"}}
    monkeypatch.setenv("AIRFLOW_CONN_HOOKED", json.dumps(connection))
    monkeypatch.setenv("AIRFLOW_CONN_BARE", json.dumps({"conn_type": "magichour", "password": "a-key"}))
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps({"conn_type": "http", "password": SECRET}))
    hooks = Hooks(ui)
    hooks.clear()
    yield hooks
    hooks.clear()


class Hooks:
    def __init__(self, ui):
        from fastapi.testclient import TestClient

        self.ui = ui
        self.client = TestClient(ui.app, raise_server_exceptions=False)

    def post(self, *args, **delivery):
        url, request = self.delivery(*args, **delivery)
        return self.client.post(url, **request)

    def delivery(
        self,
        event="video.completed",
        project_id="cmUnknown1",
        *,
        conn_id=CONN_ID,
        secret=SECRET,
        at=None,
        body=None,
        **more,
    ):
        """The URL and the arguments of a POST, with a true signature if `secret` is the connection's."""
        payload = {"id": project_id, "status": "complete", "name": "cat", "credits_charged": 150, **more}
        content = json.dumps({"type": event, "payload": payload}).encode() if body is None else body
        at = int(time.time()) if at is None else at
        signature = sign(content, secret, at)
        headers = {"magic-hour-event-signature": signature, "magic-hour-event-timestamp": str(at)}
        return f"/magichour/webhooks/{conn_id}", {"content": content, "headers": headers}

    def mailbox(self, conn_id=CONN_ID):
        from airflow.models.variable import Variable
        from airflow.utils.session import create_session
        from sqlalchemy import select

        with create_session() as session:
            row = session.scalar(select(Variable).where(Variable.key == mailbox_key(conn_id)))
            return None if row is None else Mailbox.from_text(row.get_val())

    def clear(self):
        from airflow.models.asset import AssetEvent, AssetModel
        from airflow.models.variable import Variable
        from airflow.utils.session import create_session
        from sqlalchemy import delete

        statements = [
            delete(Variable).where(Variable.key.startswith("magichour_webhooks_")),
            delete(AssetEvent),
            delete(AssetModel).where(AssetModel.uri.startswith("magichour://videos")),
        ]
        with create_session() as session:
            for statement in statements:
                session.execute(statement.execution_options(synchronize_session=False))

    def add_asset(self, uri):
        from airflow.models.asset import AssetModel
        from airflow.utils.session import create_session

        with create_session() as session:
            session.add(AssetModel(name=uri, uri=uri, group="asset"))

    def asset_events(self):
        from airflow.models.asset import AssetEvent, AssetModel
        from airflow.utils.session import create_session
        from sqlalchemy import select

        with create_session() as session:
            joined = select(AssetModel.uri, AssetEvent.extra).join(
                AssetModel, AssetModel.id == AssetEvent.asset_id
            )
            return [(uri, extra) for uri, extra in session.execute(joined)]


def test_genuine_event_reaches_the_mailbox_once(hooks):
    assert hooks.post(project_id="cm1").status_code == 200
    first = hooks.mailbox()
    assert set(first.ended) == {"cm1"}
    assert hooks.post(project_id="cm1").status_code == 200
    assert hooks.post("video.errored", "cm2", status="error").status_code == 200
    assert hooks.post("video.started", "cm2", status="rendering").status_code == 200, "out of order"
    later = hooks.mailbox()
    assert set(later.ended) == {"cm1", "cm2"}
    assert later.ended["cm1"] == first.ended["cm1"]
    assert later.received_at >= first.received_at


def test_started_event_tells_that_webhooks_come_and_ends_nothing(hooks):
    assert hooks.post("video.started", status="rendering").status_code == 200
    assert hooks.mailbox().ended == {}
    assert hooks.mailbox().received_at is not None


def test_event_of_another_kind_has_no_effect(hooks):
    assert hooks.post("image.completed").status_code == 200
    assert hooks.mailbox() is None


@pytest.mark.parametrize(
    "forged",
    [
        {"secret": "whsec_another"},
        {"secret": ""},
        {"at": 1},
        {"at": 10**11},
        {"conn_id": "bare"},
        {"conn_id": "bare", "secret": ""},
        {"conn_id": "other"},
        {"conn_id": "undefined"},
        {"conn_id": "x" * 5000},
        {"conn_id": "%00"},
    ],
)
def test_forged_delivery_has_no_effect_and_every_answer_is_the_same(hooks, forged):
    answer, plain = hooks.post(**forged), hooks.post(secret="whsec_another")
    assert (answer.status_code, answer.content) == (401, b"")
    ours = {name: value for name, value in answer.headers.items() if name not in ("date", "x-process-time")}
    assert ours == {name: plain.headers[name] for name in ours}
    assert hooks.mailbox(forged.get("conn_id", CONN_ID)) is None
    assert hooks.asset_events() == []


@pytest.mark.parametrize("body", [b"", b"x" * (1 << 20), b"{" * 60_000])
def test_odd_body_is_refused(hooks, body):
    for secret in (SECRET, "whsec_another"):
        assert hooks.post(body=body, secret=secret).status_code == 401
    assert hooks.mailbox() is None


def test_slow_bodies_hold_no_delivery_back_for_long(hooks, monkeypatch):
    monkeypatch.setattr("magichour_provider.ui.webhooks._MAX_BODIES", 1)
    monkeypatch.setattr("magichour_provider.ui.webhooks._BODY_TIMEOUT_SECONDS", 0.2)

    from magichour_provider.ui.webhooks import WebhookReceiver  # imports Airflow's models

    async def post_all():
        receiver = WebhookReceiver()

        async def never():
            await asyncio.Event().wait()

        requests = [Request({"type": "http", "headers": []}, never) for _ in range(40)]
        answers = asyncio.gather(*(receiver.receive(request, CONN_ID) for request in requests))
        assert {answer.status_code for answer in await asyncio.wait_for(answers, 4)} == {401}

    asyncio.run(post_all())


def test_route_takes_no_other_method(hooks):
    assert hooks.client.get(f"/magichour/webhooks/{CONN_ID}").status_code in (404, 405)


def test_completed_job_of_a_task_is_an_asset_event_once(hooks):
    hooks.add_asset("magichour://videos")
    hooks.add_asset("magichour://videos/pages")
    hooks.add_asset("magichour://videos/another")
    job = hooks.ui.project_id
    url = "https://videos.example.com/secret?signature=abc"
    for _ in range(3):
        assert hooks.post(project_id=job, downloads=[{"url": url}]).status_code == 200
    hooks_events = hooks.asset_events()
    assert [uri for uri, _ in hooks_events] == ["magichour://videos", "magichour://videos/pages"]
    extra = hooks_events[0][1]
    assert (extra["project_id"], extra["credits"], extra["name"]) == (job, 150, "cat")
    assert (extra["dag_id"], extra["run_id"], extra["task_id"]) == ("pages", hooks.ui.run_id, "render")
    assert "signature" not in json.dumps(extra)


def test_replay_after_the_mailbox_has_forgotten_the_job_is_no_second_asset_event(hooks):
    hooks.add_asset("magichour://videos")
    hooks.post(project_id=hooks.ui.project_id)
    from airflow.models.variable import Variable
    from airflow.utils.session import create_session
    from sqlalchemy import delete

    with create_session() as session:
        session.execute(delete(Variable).where(Variable.key == mailbox_key(CONN_ID)))
    assert hooks.post(project_id=hooks.ui.project_id).status_code == 200
    assert len(hooks.asset_events()) == 1


def test_event_that_comes_before_the_xcom_of_its_task_is_asked_for_again(hooks):
    from airflow.models import xcom
    from airflow.utils.session import create_session
    from sqlalchemy import update

    table = getattr(xcom, "XComModelV2", None) or xcom.XComModel  # the table of Airflow 3.4

    def rename(old, new):
        with create_session() as session:
            session.execute(update(table).where(table.key == old).values(key=new))

    hooks.add_asset("magichour://videos")
    young = datetime.now(timezone.utc).isoformat()
    rename("project_id", "not_yet")
    try:
        assert hooks.post(project_id=hooks.ui.project_id, created_at=young).status_code == 503
        assert set(hooks.mailbox().ended) == {hooks.ui.project_id}, "a wait ends all the same"
        old = "2026-01-01T00:00:00Z"
        assert hooks.post(project_id="cmOfTheWebApp", created_at=old).status_code == 200
    finally:
        rename("not_yet", "project_id")
    assert hooks.post(project_id=hooks.ui.project_id, created_at=young).status_code == 200
    assert len(hooks.asset_events()) == 1


def test_failures_do_not_fill_the_log(hooks, monkeypatch, caplog):
    from fastapi import FastAPI

    from magichour_provider.ui.webhooks import WebhookReceiver

    async def post_all():
        app = FastAPI()
        app.add_api_route("/magichour/webhooks/{conn_id}", WebhookReceiver().receive, methods=["POST"])
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
            for _ in range(5):
                url, request = hooks.delivery()
                assert (await client.post(url, **request)).status_code == 503

    monkeypatch.setattr("magichour_provider.ui.webhooks.store_events", lambda *_: 1 / 0)
    with caplog.at_level("WARNING", logger="magichour_provider.ui.webhooks"):
        asyncio.run(post_all())
    assert len([each for each in caplog.records if "could not be stored" in each.message]) == 1


@pytest.mark.parametrize("event", ["video.errored", "video.started"])
def test_other_events_and_unknown_jobs_are_no_asset_events(hooks, event):
    hooks.add_asset("magichour://videos")
    hooks.post(event, hooks.ui.project_id)
    hooks.post(project_id="cmOfTheWebApp")
    assert hooks.asset_events() == []


def test_events_at_the_same_moment_are_all_stored(hooks):
    async def post_all():
        transport = httpx.ASGITransport(app=hooks.ui.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
            requests = [hooks.delivery(project_id=f"cm{number}") for number in range(60)]
            answers = await asyncio.gather(*(client.post(url, **request) for url, request in requests))
            assert {answer.status_code for answer in answers} <= {200, 202}
            while len(hooks.mailbox().ended) < 60:
                await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(post_all(), 120))


def test_test_button_says_whether_a_webhook_was_received(hooks, monkeypatch):
    from magichour_provider.hooks.magichour import MagicHourHook

    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")  # as in an API server
    connection = json.loads(os.environ["AIRFLOW_CONN_MAGICHOUR_DEFAULT"])
    monkeypatch.setenv("AIRFLOW_CONN_HOOKED", json.dumps({**connection, "extra": {"webhook_secret": SECRET}}))
    assert "No webhook was received yet." in MagicHourHook(CONN_ID).test_connection()[1]
    hooks.post()
    assert "The last webhook was received at 20" in MagicHourHook(CONN_ID).test_connection()[1]
    assert "webhook" not in MagicHourHook("magichour_default").test_connection()[1]
