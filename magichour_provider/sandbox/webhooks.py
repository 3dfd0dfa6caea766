"""Webhooks of the sandbox: signed as Magic Hour signs them, delivered at least once, in no certain order.

A delivery that is not answered by a 2xx within ten seconds is repeated after 1, 2, 4 and 8 seconds. A fault
rule of the origin `webhook`, whose `path` is an event type such as `video.completed`, makes one late
(`delay`), or changes it (`webhook`). A canceled job sends nothing.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx

from magichour_provider.client.webhooks import (
    COMPLETED,
    ERRORED,
    SIGNATURE_HEADER,
    STARTED,
    TIMESTAMP_HEADER,
    sign,
)

if TYPE_CHECKING:
    from magichour_provider.sandbox.faults import FaultRule
    from magichour_provider.sandbox.jobs import Job, Sandbox

_CHECK_SECONDS = 0.05
_RETRY_SECONDS = (1, 2, 4, 8)
_TIMEOUT_SECONDS = 10.0
_EVENTS = {"rendering": STARTED, "complete": COMPLETED, "error": ERRORED}
_AT_START: dict[str, Any] = {"status": "rendering", "downloads": [], "download": None, "error": None}
"""What the payload of the first event says, although the job may have ended."""
_OLD_SECONDS = 3600


async def send_webhooks(sandbox: Sandbox, storage_url: str) -> None:
    """Deliver the events of all jobs to the URL of the sandbox's behaviour, if it has one; never returns."""
    deliveries: set[asyncio.Task[None]] = set()
    async with httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, trust_env=False) as client:
        while True:
            jobs = sandbox.jobs.values() if sandbox.behaviour.webhook_url else ()
            for job in [job for job in jobs if len(job.events) < 2]:
                event = _EVENTS.get(sandbox.settled_status(job))
                # A job that is queued has sent nothing, and one that has ended sent that it started.
                for due in (STARTED, event) if event else ():
                    if due not in job.events:
                        job.events.append(due)
                        payload = sandbox.project(job, storage_url)
                        payload |= _AT_START if due == STARTED else {}
                        body = {"type": due, "payload": payload}
                        delivery = asyncio.create_task(_deliver(sandbox, client, job, body))
                        deliveries.add(delivery)
                        delivery.add_done_callback(deliveries.discard)
            await asyncio.sleep(_CHECK_SECONDS)


async def _deliver(sandbox: Sandbox, client: httpx.AsyncClient, job: Job, body: dict[str, Any]) -> None:
    scope = {"method": "POST", "path": body["type"], "query_string": b""}
    rule: FaultRule | None = sandbox.faults.take("webhook", scope)
    change = None if rule is None else rule.webhook
    if rule is not None and rule.delay is not None:
        await asyncio.sleep(rule.delay)
    if change == "never":
        return
    for _ in range(2 if change == "twice" else 1):
        for pause in (0, *_RETRY_SECONDS):
            await asyncio.sleep(pause)
            url, secret = sandbox.behaviour.webhook_url, sandbox.behaviour.webhook_secret or ""
            if url is None:
                return
            content = json.dumps(body).encode()
            timestamp = int(sandbox.now().timestamp()) - (_OLD_SECONDS if change == "old_timestamp" else 0)
            signature = sign(content, f"not {secret}" if change == "wrong_signature" else secret, timestamp)
            headers = {
                "content-type": "application/json",
                SIGNATURE_HEADER: signature,
                TIMESTAMP_HEADER: str(timestamp),
            }
            status = 0
            with suppress(httpx.HTTPError):
                status = (await client.post(url, content=content, headers=headers)).status_code
            sandbox.deliveries.append({"type": body["type"], "project_id": job.id, "status": status})
            if 200 <= status < 300:
                break
