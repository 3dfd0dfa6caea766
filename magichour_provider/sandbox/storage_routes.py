"""The storage origin: signed PUT of uploads, signed GET of clips. No key is wanted, and none is taken."""

from __future__ import annotations

from pathlib import Path

import anyio
from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from starlette.requests import ClientDisconnect

from magichour_provider.sandbox.api import Running
from magichour_provider.sandbox.state import Sandbox
from magichour_provider.sandbox.storage import new_id

router = APIRouter()


class Refusal(Exception):
    """An error answer of the object store: XML, like the ones that such stores give."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status = status
        self.body = f"<?xml version='1.0'?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        super().__init__(message)

    def response(self) -> Response:
        """The answer."""
        return Response(self.body, self.status, media_type="application/xml")


@router.put("/api-assets/{upload_id}/{name}")
async def put_upload(upload_id: str, name: str, request: Request, sandbox: Running) -> Response:
    """Take the bytes of an upload, streamed to disk; whole or not at all."""
    _check_signature(request, sandbox)
    upload = sandbox.store.find(f"api-assets/{upload_id}/{name}")
    if upload is None:
        raise _no_such_key()
    length = _content_length(request)
    if length > sandbox.max_upload_bytes and sandbox.behaviour.oversize == "put":
        raise Refusal(413, "EntityTooLarge", "The upload is larger than your plan allows")
    await _receive(request, upload.disk_path)
    upload.size = length
    upload.put_count += 1
    upload.put_at = sandbox.clock.now()
    return Response(status_code=200)


@router.get("/{project_id}/output.mp4")
async def get_clip(project_id: str, request: Request, sandbox: Running) -> Response:
    """The clip of a job, or the range of it that was asked for."""
    _check_signature(request, sandbox)
    job = sandbox.jobs.get(project_id)
    clip = job.clip(sandbox.clock.now()) if job else None
    if job is None or clip is None:
        raise _no_such_key()
    job.downloads += 1
    return FileResponse(clip.path, media_type="video/mp4")


def _check_signature(request: Request, sandbox: Sandbox) -> None:
    if sandbox.behaviour.storage_authorization == "refuse" and "authorization" in request.headers:
        raise Refusal(400, "InvalidArgument", "A signed URL takes no Authorization header")
    if not sandbox.signer.allows(request.method, request.url.path, request.query_params, sandbox.clock.now()):
        status = sandbox.behaviour.expired_status
        if status == 404:
            raise _no_such_key()
        raise Refusal(status, "AccessDenied", "The signature is missing, wrong or expired")


def _content_length(request: Request) -> int:
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise Refusal(411, "MissingContentLength", "You must provide the Content-Length HTTP header")
    return int(length)


async def _receive(request: Request, target: Path) -> None:
    unfinished = target.with_name(f"{new_id()}.part")
    try:
        async with await anyio.open_file(unfinished, "wb") as file:
            async for chunk in request.stream():
                await file.write(chunk)
        await anyio.Path(unfinished).replace(target)
    except ClientDisconnect:
        raise Refusal(400, "IncompleteBody", "The connection closed before the whole body arrived") from None
    finally:
        await anyio.Path(unfinished).unlink(missing_ok=True)


def _no_such_key() -> Refusal:
    return Refusal(404, "NoSuchKey", "The specified key does not exist")
