"""The control pages: what happened, and what shall go wrong next. On the API origin, without a key."""

from __future__ import annotations

import asyncio
from html import escape
from pathlib import Path
from typing import Any, TypeVar

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from magichour_provider.client.pricing import Tier
from magichour_provider.sandbox.api import Running
from magichour_provider.sandbox.behaviour import readable
from magichour_provider.sandbox.jobs import RenderError, Verdict

PREFIX = "/__sandbox__"

router = APIRouter(prefix=PREFIX)


class ControlError(Exception):
    """A control request that cannot be done; says why."""

    def __init__(self, message: str, status: int = 422) -> None:
        self.status = status
        super().__init__(message)


class _Change(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AccountChange(_Change):
    """Body of `POST /__sandbox__/account`; what is left out stays."""

    tier: Tier | None = None
    credits: int | None = Field(default=None, ge=0)


class ClockChange(_Change):
    """Body of `POST /__sandbox__/clock`: seconds to move the time on by."""

    advance: float = Field(ge=0, allow_inf_nan=False, le=10**10)


class JobChange(_Change):
    """Body of `POST /__sandbox__/jobs/{id}`.

    `canceled` and `error` end the job with a refund, `complete` finishes it at once. Any other status,
    known to the API or not, holds until it is changed again. `code` and `message` go with `error`.
    """

    status: str = Field(min_length=1)
    code: str = "unknown_error"
    message: str = "The sandbox was told to fail this job."


_ChangeT = TypeVar("_ChangeT", bound=_Change)


@router.get("/state")
async def get_state(sandbox: Running) -> JSONResponse:
    """Everything that happened since the start or the last reset."""
    return JSONResponse(sandbox.state())


@router.post("/faults")
async def set_faults(request: Request, sandbox: Running) -> JSONResponse:
    """Replace the list of fault rules."""
    rules = await _json(request)
    if not isinstance(rules, list):
        raise ControlError("the body must be a JSON list of rules; [] clears them")
    try:
        sandbox.faults.replace(rules)
    except ValueError as error:
        raise ControlError(str(error)) from None
    return JSONResponse({"faults": sandbox.faults.remaining()})


@router.post("/release")
async def release(sandbox: Running) -> JSONResponse:
    """Let all requests go on that a `hold` rule keeps."""
    released = sandbox.faults.held.entries()
    sandbox.faults.held.release()
    return JSONResponse({"released": released})


@router.post("/jobs/{id}")
async def set_job(id: str, request: Request, sandbox: Running) -> JSONResponse:
    """Set the state of a job from outside, whatever it was."""
    job = sandbox.jobs.get(id)
    if job is None:
        raise ControlError(f"there is no job {id}", 404)
    change = await _read(JobChange, request)
    if change.status == "complete":
        try:
            await asyncio.wrap_future(job.rendered)
        except RenderError as error:
            raise ControlError(f"this job cannot complete: {error}", 409) from None
    status = sandbox.judge(job, Verdict(change.status, change.code, change.message))
    return JSONResponse(job.state_entry(status))


@router.post("/jobs/{id}/video")
async def set_clip(id: str, request: Request, sandbox: Running) -> JSONResponse:
    """Put the body in the place of a job's first clip; a transfer under way gives the old one to its end."""
    job = sandbox.jobs.get(id)
    clip = job.clip(sandbox.clock.now()) if job else None
    if job is None or clip is None:
        raise ControlError(f"there is no job {id} with a clip", 404)
    content = await request.body()
    await run_sync(_replace, clip.path, content)
    return JSONResponse({"bytes": len(content)})


@router.post("/account")
async def set_account(request: Request, sandbox: Running) -> JSONResponse:
    """Set tier, credits or both."""
    change = await _read(AccountChange, request)
    sandbox.settle()
    if change.tier is not None:
        sandbox.account.tier = change.tier
    if change.credits is not None:
        sandbox.account.credits = change.credits
    return JSONResponse(sandbox.account.body(milliseconds=True))


@router.post("/clock")
async def advance_clock(request: Request, sandbox: Running) -> JSONResponse:
    """Move the sandbox's time on."""
    sandbox.clock.advance((await _read(ClockChange, request)).advance)
    return JSONResponse({"now": sandbox.clock.now().isoformat()})


@router.post("/behaviour")
async def set_behaviour(request: Request, sandbox: Running) -> JSONResponse:
    """Set some switches; the others stay."""
    switches = await _json(request)
    if not isinstance(switches, dict):
        raise ControlError("the body must be a JSON object of switches")
    try:
        sandbox.behaviour = sandbox.behaviour.changed(switches)
    except ValueError as error:
        raise ControlError(str(error)) from None
    return JSONResponse(sandbox.behaviour.model_dump())


@router.get("/behaviour")
async def get_behaviour(sandbox: Running) -> JSONResponse:
    """The switches as they stand."""
    return JSONResponse(sandbox.behaviour.model_dump())


@router.post("/reset")
async def reset(sandbox: Running) -> JSONResponse:
    """Bring everything back to the start."""
    sandbox.reset()
    return JSONResponse(sandbox.state())


@router.get("/")
async def show(sandbox: Running) -> HTMLResponse:
    """A page for people: the account, the jobs, the requests."""
    state = sandbox.state()
    account = state["account"]
    return HTMLResponse(
        "<!doctype html><title>magichour-sandbox</title>"
        "<style>body{font-family:sans-serif;margin:2em}td,th{padding:.2em 1em;text-align:left}</style>"
        f"<h1>magichour-sandbox</h1><p>Tier {account['tier']}, {account['credits']} credits.</p>"
        + _table("Jobs", state["jobs"], ("id", "name", "status", "model", "end_seconds", "credits_charged"))
        + _table("Requests", state["requests"], ("origin", "method", "path", "status", "count"))
        + f'<p><a href="{PREFIX}/state">state</a> <a href="{PREFIX}/behaviour">behaviour</a></p>'
    )


async def _json(request: Request) -> Any:
    try:
        return await request.json()
    except (ValueError, RecursionError):
        raise ControlError("the body is not valid JSON") from None


async def _read(change: type[_ChangeT], request: Request) -> _ChangeT:
    try:
        return change.model_validate(await _json(request))
    except ValidationError as error:
        raise ControlError(readable(error)) from None


def _replace(path: Path, content: bytes) -> None:
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def _table(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    head = "".join(f"<th>{column}</th>" for column in columns)
    cells = ("".join(f"<td>{escape(str(row[column]))}</td>" for column in columns) for row in rows)
    return (
        f"<h2>{title}</h2><table><tr>{head}</tr>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"
    )
