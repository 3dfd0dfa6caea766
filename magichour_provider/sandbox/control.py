"""The control API of a sandbox, on the API origin below `/__sandbox__`, and its client `SandboxControl`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
from anyio.to_thread import run_sync
from pydantic import BaseModel, Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from magichour_provider.client.pricing import Tier
from magichour_provider.sandbox.faults import FaultRule
from magichour_provider.sandbox.schemas import PREFIX, ForcedStatus, SandboxError, iso

if TYPE_CHECKING:
    from magichour_provider.sandbox.jobs import Job, Sandbox


class SandboxControl:
    """Controls a running sandbox over HTTP. Every method raises ValueError if the sandbox refuses.

    :param url: base URL of its API, such as `http://127.0.0.1:8808`.
    """

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=f"{url.rstrip('/')}{PREFIX}", timeout=30, trust_env=False)

    def __enter__(self) -> SandboxControl:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def state(self) -> dict[str, Any]:
        """Account, jobs with their charges, uploads, request counts, remaining fault rules, held requests."""
        return self._send("GET", "/state")

    def faults(self, rules: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Replace the fault rules; `[]` clears them."""
        return list(self._send("POST", "/faults", [dict(rule) for rule in rules])["faults"])

    def release(self) -> list[dict[str, Any]]:
        """Let all requests continue that a `hold` rule holds; returns them."""
        return list(self._send("POST", "/release")["released"])

    def set_job(self, project_id: str, status: str, **error: str) -> dict[str, Any]:
        """Set a job's status: `canceled`, `error` with `code` and `message`, `complete`, or any other."""
        return self._send("POST", f"/jobs/{project_id}", {"status": status, **error})

    def replace_video(self, project_id: str, content: bytes) -> None:
        """Replace the bytes of a job's first video; its URLs stay."""
        self._send("POST", f"/jobs/{project_id}/video", content=content)

    def account(self, *, tier: str | None = None, credits: int | None = None) -> dict[str, Any]:
        """Set tier, credits or both; returns the account."""
        return self._send("POST", "/account", {"tier": tier, "credits": credits})

    def advance_clock(self, seconds: float) -> None:
        """Move the sandbox's time forward, so that URLs expire and jobs end."""
        self._send("POST", "/clock", {"advance": seconds})

    def behaviour(self, **switches: Any) -> dict[str, Any]:
        """Set switches of `Behaviour`; returns all of them."""
        return self._send("POST", "/behaviour", switches)

    def reset(self) -> None:
        """Restore the state at the start; ports and URLs stay."""
        self._send("POST", "/reset")

    def _send(self, method: str, path: str, body: Any = None, content: bytes | None = None) -> dict[str, Any]:
        response = self._client.request(method, path, json=body, content=content)
        if response.is_error:
            raise ValueError(f"The sandbox refused this: {response.json()['message']}")
        return dict(response.json())


class AccountChange(BaseModel, extra="forbid"):
    """Body of `POST /__sandbox__/account`; a field that is left out does not change."""

    tier: Tier | None = None
    credits: int | None = Field(default=None, ge=0)


class ClockChange(BaseModel, extra="forbid"):
    """Body of `POST /__sandbox__/clock`: seconds by which the time moves forward."""

    advance: float = Field(ge=0, allow_inf_nan=False, le=10**10)


async def handle(request: Request) -> JSONResponse:
    """Answer one control request. Raises pydantic's ValidationError or SandboxError."""
    sandbox: Sandbox = request.app.state.sandbox
    body = await request.body()
    action = request.path_params["action"]
    if action == "faults":
        sandbox.faults.rules = TypeAdapter(list[FaultRule]).validate_json(body)
        return JSONResponse({"faults": sandbox.state()["faults"]})
    if action == "release":
        return JSONResponse({"released": sandbox.faults.release()})
    if action == "account":
        change = AccountChange.model_validate_json(body)
        sandbox.settle()
        sandbox.tier = change.tier or sandbox.tier
        sandbox.credits = sandbox.credits if change.credits is None else change.credits
        return JSONResponse(sandbox.account_body())
    if action == "clock":
        sandbox.offset += timedelta(seconds=ClockChange.model_validate_json(body).advance)
        return JSONResponse({"now": iso(sandbox.now())})
    if action == "behaviour":
        sandbox.behaviour = sandbox.behaviour.changed(TypeAdapter(dict[str, Any]).validate_json(body))
        return JSONResponse(sandbox.behaviour.model_dump())
    if action == "reset":
        sandbox.reset()
        return JSONResponse(sandbox.state())
    raise SandboxError(404, f"there is no control page {action}")


async def get_state(request: Request) -> JSONResponse:
    """Everything that happened since the start or the last reset."""
    return JSONResponse(request.app.state.sandbox.state())


async def set_job(request: Request) -> JSONResponse:
    """Set the status of a job."""
    sandbox: Sandbox = request.app.state.sandbox
    job = _job(request)
    forced = ForcedStatus.model_validate_json(await request.body())
    if forced.status == "complete" and (error := await run_sync(job.rendered.exception)):
        raise SandboxError(422, f"this job cannot complete: {error}")
    job.forced = forced
    return JSONResponse(sandbox.job_state(job))


async def set_video(request: Request) -> JSONResponse:
    """Replace a job's first video by the body; a running download still gets the old bytes to their end."""
    sandbox: Sandbox = request.app.state.sandbox
    job = _job(request)
    if not job.has_video(sandbox.now()):
        raise SandboxError(404, "this job has no video")
    content, path = await request.body(), job.files[0]
    unfinished = path.with_suffix(".part")
    await run_sync(unfinished.write_bytes, content)
    unfinished.replace(path)
    return JSONResponse({"bytes": len(content)})


routes = [
    Route(f"{PREFIX}/state", get_state),
    Route(f"{PREFIX}/jobs/{{id}}", set_job, methods=["POST"]),
    Route(f"{PREFIX}/jobs/{{id}}/video", set_video, methods=["POST"]),
    Route(f"{PREFIX}/{{action}}", handle, methods=["POST"]),
]


def _job(request: Request) -> Job:
    job_id = request.path_params["id"]
    sandbox: Sandbox = request.app.state.sandbox
    if job_id not in sandbox.jobs:
        raise SandboxError(404, f"there is no job {job_id}")
    return sandbox.jobs[job_id]
