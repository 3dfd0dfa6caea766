"""The storage origin: signed PUT of uploads, signed GET of clips. No key is wanted, and none is taken.

A signature is looked at once, when the request comes: a transfer under way goes on when its URL expires, and
the next range of it is refused, as S3 does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import anyio
from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from magichour_provider.sandbox.api import Running
from magichour_provider.sandbox.clip_answer import RangeError, clip_answer
from magichour_provider.sandbox.state import Sandbox
from magichour_provider.sandbox.storage import new_id

router = APIRouter()


class Refusal(Exception):
    """An error answer of the object store: XML, like the ones that such stores give."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = f"<?xml version='1.0'?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        super().__init__(message)

    def response(self) -> Response:
        """The answer."""
        return Response(self.body, self.status, self.headers, media_type="application/xml")


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
    upload.sha256 = await _receive(request, upload.disk_path)
    upload.size = length
    upload.put_count += 1
    upload.put_at = sandbox.clock.now()
    return Response(status_code=200)


@router.api_route("/{project_id}/output.mp4", methods=["GET", "HEAD"])
async def get_clip(project_id: str, request: Request, sandbox: Running) -> Response:
    """The clip of a job, or the range of it that was asked for. HEAD is refused: no URL is signed for it."""
    return await _clip(project_id, "1", request, sandbox)


@router.api_route("/{project_id}/{number}/output.mp4", methods=["GET", "HEAD"])
async def get_further_clip(project_id: str, number: str, request: Request, sandbox: Running) -> Response:
    """The same for the second clip of a job, the third, and so on."""
    return await _clip(project_id, number, request, sandbox)


async def _clip(project_id: str, number: str, request: Request, sandbox: Sandbox) -> Response:
    _check_signature(request, sandbox)
    job = sandbox.jobs.get(project_id)
    clip = job.clip(sandbox.clock.now()) if job else None
    if job is None or clip is None:
        raise _no_such_key()
    path = clip.files[int(number) - 1]
    try:
        answer = await clip_answer(path, request.headers, sandbox.behaviour, sandbox.store.checksums)
    except RangeError as error:
        raise Refusal(
            416, "InvalidRange", "The range is not satisfiable", {"Content-Range": f"bytes */{error.size}"}
        ) from None
    job.downloads += 1
    return answer


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


async def _receive(request: Request, target: Path) -> str:
    """Keep the body at `target`; its SHA-256 in hex."""
    digest = hashlib.sha256()
    unfinished = target.with_name(f"{new_id()}.part")
    try:
        async with await anyio.open_file(unfinished, "wb") as file:
            async for chunk in request.stream():
                digest.update(chunk)
                await file.write(chunk)
        await anyio.Path(unfinished).replace(target)
        return digest.hexdigest()
    except ClientDisconnect:
        raise Refusal(400, "IncompleteBody", "The connection closed before the whole body arrived") from None
    finally:
        await anyio.Path(unfinished).unlink(missing_ok=True)


def _no_such_key() -> Refusal:
    return Refusal(404, "NoSuchKey", "The specified key does not exist")
