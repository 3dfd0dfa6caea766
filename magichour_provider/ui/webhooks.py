"""`POST /webhooks/{connection id}`: receive Magic Hour's webhooks.

A genuine event goes into the connection's mailbox, by which triggerers end their waits at once
(`polling.webhooks`). A completed job of a task of this Airflow also becomes an event of the asset
`magichour://videos`, and of `magichour://videos/{dag id}`. Both are written in one transaction before the
answer: a delivery whose effect is lost is delivered again.

Invariants. Without a valid signature nothing has an effect, and the answer does not depend on the
connection. Memory is bounded: few bodies are read at a time, and each is small. A delivery that comes again
changes nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import secrets
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, TypeVar

from airflow.models.asset import AssetEvent, AssetModel
from airflow.models.variable import Variable
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from anyio import CapacityLimiter, to_thread
from fastapi import Request
from fastapi.responses import Response
from sqlalchemy import String, cast, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from starlette.requests import ClientDisconnect

from magichour_provider.airflow_internals import core_stats, map_index_column, register_asset_change
from magichour_provider.assets import videos_uri
from magichour_provider.client.models import VideoProject
from magichour_provider.client.webhooks import COMPLETED, WebhookEvent, construct_event, parse_secrets
from magichour_provider.exceptions import ConfigurationError, WebhookError
from magichour_provider.hooks.connection import settings_from_connection
from magichour_provider.hooks.magichour import MagicHourHook
from magichour_provider.jobs.reference import JobReference
from magichour_provider.lineage import job_event_extra
from magichour_provider.polling.webhooks import Mailbox, mailbox_key
from magichour_provider.ui.media import TTLCache
from magichour_provider.version_compat import AirflowNotFoundException, BaseHook

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BODY_BYTES = 64 << 10
"""An event has about 2 KiB."""
_MAX_BODIES, _BODY_TIMEOUT_SECONDS = 128, 5.0
_ANSWER_SECONDS = 0.8
"""The answer comes after so long, also if the effect takes longer."""
_SECRETS_SECONDS = 30.0
"""How long a connection's secrets, or that it has none, are used again."""
_DUPLICATE_HOURS, _SUBMITTED_HOURS = 25, 48
"""Magic Hour delivers an event for 24 hours; a job that was submitted earlier is not searched."""
_XCOM_SECONDS = 300.0
"""The XCom of a job that is younger may not be written yet: its event is asked for again."""
_WARN_AGAIN_SECONDS = 60.0
_NO_SECRET = secrets.token_hex()
"""Compared if a connection has no secret, so that the time of an answer does not tell."""


class WebhookReceiver:
    """The route, and what it shares between requests. It belongs to one event loop."""

    def __init__(self) -> None:
        self._threads = CapacityLimiter(2)  # of its own: a flood must not take those of the pages
        self._bodies = asyncio.Semaphore(_MAX_BODIES)
        self._secrets = TTLCache()
        self._pending: dict[str, list[tuple[WebhookEvent, asyncio.Future[str]]]] = {}
        self._writers: set[asyncio.Task[None]] = set()
        self._warned_at = -math.inf

    async def receive(self, request: Request, conn_id: str) -> Response:
        """Verify a delivery, let it have its effect, and answer within a second of its last byte."""
        try:
            body = await asyncio.wait_for(self._read(request), _BODY_TIMEOUT_SECONDS)
            load = partial(_load_secrets, conn_id)
            known = await self._in_thread(self._secrets.get, conn_id, _SECRETS_SECONDS, load)
            event = construct_event(body, request.headers, known or (_NO_SECRET,))
        except WebhookError as error:
            return _answer(401, f"refused_{error.code}")
        except (asyncio.TimeoutError, ClientDisconnect):
            return _answer(401, "refused_body")
        except Exception as error:
            self._warn("The secret for a webhook cannot be read (%s): it comes again.", error)
            return _answer(503, "failed")
        if event.project is None:
            return _answer(200, "ignored")
        stored = asyncio.get_running_loop().create_future()
        if conn_id in self._pending:
            self._pending[conn_id].append((event, stored))
        else:
            self._pending[conn_id] = [(event, stored)]
            writer = asyncio.create_task(self._write(conn_id))
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)
        try:
            outcome = await asyncio.wait_for(asyncio.shield(stored), _ANSWER_SECONDS)
            return _answer(503 if outcome == "early" else 200, outcome)
        except asyncio.TimeoutError:
            return _answer(202, "slow")
        except Exception as error:
            self._warn("A webhook could not be stored (%s): it comes again.", error)
            return _answer(503, "failed")

    async def _write(self, conn_id: str) -> None:
        """Store what is pending for a connection: what comes meanwhile is stored together."""
        while batch := self._pending[conn_id]:
            self._pending[conn_id] = []
            try:
                outcomes = await self._in_thread(store_events, conn_id, [event for event, _ in batch])
            except Exception as error:
                for _, stored in batch:
                    stored.set_exception(error)
                    stored.exception()  # not reported as unread if the answer was sent before
            else:
                for (_, stored), outcome in zip(batch, outcomes, strict=True):
                    stored.set_result(outcome)
        del self._pending[conn_id]

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        return await to_thread.run_sync(partial(function, *args), limiter=self._threads)

    async def _read(self, request: Request) -> bytes:
        """The body. Raises WebhookError if it is too large."""
        body = bytearray()
        async with self._bodies:
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise WebhookError("body")
        return bytes(body)

    def _warn(self, message: str, error: Exception) -> None:
        """Log a failure, but not each one: forged posts must not fill the log while a database is down."""
        if time.monotonic() > self._warned_at + _WARN_AGAIN_SECONDS:
            self._warned_at = time.monotonic()
            log.warning(message, type(error).__name__)


def _answer(status: int, outcome: str) -> Response:
    core_stats().incr("magichour.webhooks", tags={"outcome": outcome})
    return Response(status_code=status)


def _load_secrets(conn_id: str) -> tuple[str, ...]:
    """The webhook secrets of a connection; none if it cannot be used."""
    if re.fullmatch(r"[\w.-]{1,200}", conn_id) is None:
        return ()
    try:
        connection = BaseHook.get_connection(conn_id)
        if connection.conn_type != MagicHourHook.conn_type:
            return ()
        return parse_secrets(settings_from_connection(connection).webhook_secret)
    except (AirflowNotFoundException, ConfigurationError):
        return ()


def store_events(conn_id: str, events: list[WebhookEvent]) -> list[str]:
    """Write the events' effects; return whether each was `accepted`, a `duplicate`, `unknown` or `early`."""
    for is_last in (False, True):
        try:
            with create_session() as session:
                return _store(session, conn_id, events)
        except IntegrityError:  # another API server has just created the Variable
            if is_last:
                raise
    raise AssertionError


def _store(session: Session, conn_id: str, events: list[WebhookEvent]) -> list[str]:
    key, now = mailbox_key(conn_id), time.time()
    # API servers that receive the same event handle it one after the other. An update locks on SQLite, too.
    session.execute(update(Variable).where(Variable.key == key).values(key=key))
    variable = session.scalar(select(Variable).where(Variable.key == key))
    if variable is None:
        description = f"The latest webhooks for the connection {conn_id}. Written by the Magic Hour provider."
        variable = Variable(key=key, val="{}", description=description)  # type: ignore[no-untyped-call]
        session.add(variable)
        session.flush()
    mailbox = Mailbox.from_text(variable.get_val())
    outcomes: list[str] = []
    ended: list[str] = []
    for event in events:
        outcome = "accepted"
        if event.project is not None and event.is_end:
            if event.project.id in (*mailbox.ended, *ended):
                outcome = "duplicate"
            if event.type == COMPLETED:  # also again: at the first delivery it may have been too early
                outcome = _emit_asset_events(session, event.project) or outcome
            ended.append(event.project.id)
        outcomes.append(outcome)
    variable.set_val(mailbox.add(now, ended).as_text())
    return outcomes


def _emit_asset_events(session: Session, project: VideoProject) -> str | None:
    """Give the assets of videos an event with this job, once, if a task of this Airflow has submitted it."""
    everything = videos_uri()
    is_ours = AssetModel.uri.in_([everything]) | AssetModel.uri.startswith(f"{everything}/", autoescape=True)
    # Locked, because the webhooks of two connections of one account report the same job.
    found = select(AssetModel).where(is_ours).order_by(AssetModel.id).with_for_update(key_share=True)
    assets = {asset.uri: asset for asset in session.scalars(found)}
    if not assets:
        return None
    now, index = datetime.now(timezone.utc), map_index_column(XComModel)
    is_job = cast(XComModel.value, String) == json.dumps(project.id)
    submitter = session.execute(
        select(XComModel.dag_id, XComModel.run_id, XComModel.task_id, index)
        .where(XComModel.key == "project_id", is_job)
        .where(XComModel.timestamp > now - timedelta(hours=_SUBMITTED_HOURS))
        .order_by(XComModel.timestamp)
        .limit(1)
    ).first()
    if submitter is None:
        is_young = (
            project.created_at is not None and time.time() - project.created_at.timestamp() < _XCOM_SECONDS
        )
        return "early" if is_young else "unknown"
    result = JobReference(project.id).result(project)
    task = dict(zip(("dag_id", "run_id", "task_id", "map_index"), submitter, strict=True))
    extra = {**job_event_extra(result), "name": project.name, "url": result["url"], **task}
    outcome = "duplicate"
    for uri in (everything, videos_uri(submitter[0])):
        if (asset := assets.get(uri)) is None:
            continue
        is_same = cast(AssetEvent.extra, String).contains(json.dumps(project.id), autoescape=True)
        since = now - timedelta(hours=_DUPLICATE_HOURS)
        earlier = select(AssetEvent.id).where(AssetEvent.asset_id == asset.id, AssetEvent.timestamp > since)
        if session.scalar(earlier.where(is_same).limit(1)) is None:
            register_asset_change(session, asset, extra)
            outcome = "accepted"
    return outcome
