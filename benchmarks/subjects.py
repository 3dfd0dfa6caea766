"""The subjects: ours, the practical limit, three published providers, and an idle trigger.

Each subject is one coroutine for each job, which never ends as its job never does. Connections are
given as environment variables, as a user may give them.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

HOUR = 3600.0
NEVER = "nothing"

Wait = Callable[[int], Awaitable[None]]
"""Waits for the job of that number."""


@dataclass(frozen=True)
class Subject:
    """One way of waiting.

    :param title: as the page names it.
    :param distribution: the package whose version the page names, if it is a published one.
    :param connection: the Airflow connection; `{address}` is the server's host and port.
    :param make: makes `Wait` for a poll period in seconds and the server's address; runs in the event loop.
    """

    name: str
    title: str
    make: Callable[[float, str], Awaitable[Wait]]
    distribution: str | None = None
    connection: dict[str, str] | None = None

    def environment(self, address: str) -> dict[str, str]:
        """The variable that holds the subject's connection."""
        if self.connection is None:
            return {}
        fields = {key: value.format(address=address) for key, value in self.connection.items()}
        return {f"AIRFLOW_CONN_{self.connection_id.upper()}": json.dumps(fields)}

    @property
    def connection_id(self) -> str:
        """The connection's id."""
        return f"{self.name}_default"


async def _run(trigger: Any) -> None:
    """What `TriggerRunner.run_trigger` does with a trigger, as far as it costs."""
    with suppress(ImportError):  # Airflow 3.0 has none
        import greenback

        await greenback.ensure_portal()
    async for event in trigger.run():
        raise RuntimeError(f"A wait has ended: {event!r}")


def _trigger_class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


async def _magichour(period: float, address: str) -> Wait:
    kind = _trigger_class("magichour_provider.triggers.video_job.VideoJobTrigger")

    def wait(number: int) -> Awaitable[None]:
        job = f"cm3r{number:08d}01xk9v2t5q8z"
        return _run(kind(job, "magichour_default", deadline=time.time() + HOUR, poll_interval=period))

    return wait


async def _bare(period: float, address: str, *, spread: bool = False) -> Wait:
    import aiohttp

    session = aiohttp.ClientSession(headers={"Authorization": "Bearer key"})

    async def wait(number: int) -> None:
        url = f"http://{address}/v1/video-projects/cm3r{number:08d}01xk9v2t5q8z"
        await asyncio.sleep(period * random.random() if spread else period)
        while True:
            async with session.get(url) as response:
                project = await response.json()
            if project["status"] == "complete":
                raise RuntimeError("A wait has ended.")
            await asyncio.sleep(period)

    return wait


async def _dbt_cloud(period: float, address: str) -> Wait:
    from airflow.providers.dbt.cloud.hooks.dbt import DbtCloudHook

    kind = _trigger_class("airflow.providers.dbt.cloud.triggers.dbt.DbtCloudRunJobTrigger")
    build = DbtCloudHook.get_request_url_params

    def without_tls(*args: Any, **kwargs: Any) -> tuple[str, dict[str, Any]]:
        url, params = build(*args, **kwargs)
        return url.replace("https://", "http://", 1), params

    DbtCloudHook.get_request_url_params = staticmethod(without_tls)  # it knows https only

    def wait(number: int) -> Awaitable[None]:
        return _run(kind("dbt_cloud_default", 1_000_000 + number, time.time() + HOUR, period, 1))

    return wait


async def _openai(period: float, address: str) -> Wait:
    kind = _trigger_class("airflow.providers.openai.triggers.openai.OpenAIBatchTrigger")

    def wait(number: int) -> Awaitable[None]:
        return _run(kind("openai_default", f"batch_{number:024d}", period, timeout=HOUR))

    return wait


async def _airbyte(period: float, address: str) -> Wait:
    kind = _trigger_class("airflow.providers.airbyte.triggers.airbyte.AirbyteSyncTrigger")

    def wait(number: int) -> Awaitable[None]:
        return _run(kind(1_000_000 + number, "airbyte_default", time.time() + HOUR, period))

    return wait


async def _nothing(period: float, address: str) -> Wait:
    kind = _trigger_class("idle.IdleTrigger")
    return lambda number: _run(kind())


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject(
            "magichour",
            "Magic Hour (this provider)",
            _magichour,
            connection={"conn_type": "magichour", "password": "mhk_live_key", "host": "http://{address}"},
        ),
        Subject("bare", "bare aiohttp loop", _bare, distribution="aiohttp"),
        Subject("spread", "the same, spread", partial(_bare, spread=True), distribution="aiohttp"),
        Subject(
            "dbt_cloud",
            "dbt Cloud",
            _dbt_cloud,
            distribution="apache-airflow-providers-dbt-cloud",
            connection={"conn_type": "dbt_cloud", "login": "1", "password": "key", "host": "{address}"},
        ),
        Subject(
            "openai",
            "OpenAI batch",
            _openai,
            distribution="apache-airflow-providers-openai",
            connection={"conn_type": "openai", "password": "key", "host": "http://{address}/v1"},
        ),
        Subject(
            "airbyte",
            "Airbyte",
            _airbyte,
            distribution="apache-airflow-providers-airbyte",
            connection={"conn_type": "airbyte", "host": "http://{address}/v1"},
        ),
        Subject(NEVER, "idle Airflow trigger", _nothing),
    )
}
