"""The storage origin: signed PUT of uploads and signed GET of videos, without an API key.

A signature is checked once, when the request arrives. A transfer that is running when its URL expires is
finished; the next range request is refused, as S3 does.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import formatdate
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import parse_qsl

from anyio.to_thread import run_sync
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from magichour_provider.client.pricing import MAX_UPLOAD_BYTES
from magichour_provider.sandbox.schemas import Behaviour, SandboxError

if TYPE_CHECKING:
    from magichour_provider.sandbox.jobs import Sandbox

UPLOAD_URL_LIFE = timedelta(hours=1)
"""Life of an upload URL. The real one is not documented."""
UPLOAD_RETENTION = timedelta(days=7)
"""Uploads are deleted after this (docs: integration/inputs-and-outputs)."""
DOWNLOAD_URL_LIFE = timedelta(hours=24)
"""Life of a download URL (docs: changelog, 27 December 2024)."""

_CHUNK_BYTES = 1 << 20
_ONE_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)", re.IGNORECASE)


def new_id() -> str:
    """An opaque id that has the form of Magic Hour's: `c` and 24 more characters."""
    return "c" + secrets.token_hex(12)


def sign(secret: bytes, method: str, path: str, expires: int) -> str:
    """The query string with which `method` reaches `path` until the Unix time `expires`."""
    signature = hmac.new(secret, f"{method}\n{path}\n{expires}".encode(), hashlib.sha256).hexdigest()
    return f"expires={expires}&signature={signature}"


@dataclass
class Upload:
    """A path for one upload. `size` in bytes, `sha256` (hex) and `put_at` are those of the last PUT."""

    disk_path: Path
    size: int = 0
    sha256: str | None = None
    put_count: int = 0
    put_at: datetime | None = None


@lru_cache(maxsize=1024)
def _digest(algorithm: str, path: Path, _inode: int, _mtime_ns: int, _size: int) -> bytes:
    """The digest of a file, cached for this state of it."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_CHUNK_BYTES):
            digest.update(block)
    return digest.digest()


async def put_upload(request: Request) -> Response:
    """Keep the body of a PUT if it is complete."""
    sandbox = _check_signature(request)
    upload = sandbox.uploads.get(request.url.path[1:])
    if upload is None:
        raise _no_such_key()
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise SandboxError(411, "You must provide the Content-Length HTTP header", "MissingContentLength")
    if int(length) > MAX_UPLOAD_BYTES[sandbox.tier.value]:
        raise SandboxError(413, "The upload is larger than your plan allows", "EntityTooLarge")
    try:
        body = await request.body()
    except ClientDisconnect:
        message = "The connection closed before the whole body arrived"
        raise SandboxError(400, message, "IncompleteBody") from None
    await run_sync(upload.disk_path.write_bytes, body)
    upload.sha256, upload.size = hashlib.sha256(body).hexdigest(), len(body)
    upload.put_count += 1
    upload.put_at = sandbox.now()
    return Response(status_code=200)


async def get_video(request: Request) -> Response:
    """Send a video, or the requested range of it. HEAD is refused, as no URL is signed for it."""
    sandbox = _check_signature(request)
    job = sandbox.jobs.get(request.path_params["project_id"])
    if job is None or not job.has_video(sandbox.now()):
        raise _no_such_key()
    path = job.files[int(request.path_params.get("number", 1)) - 1]
    answer = await run_sync(_video_answer, path, request.headers, sandbox.behaviour)
    job.downloads += 1
    return answer


routes = [
    Route("/api-assets/{upload_id}/{name}", put_upload, methods=["PUT"]),
    Route("/{project_id}/output.mp4", get_video),
    Route("/{project_id}/{number}/output.mp4", get_video),
]


def parse_range(header: str, size: int) -> range | None:
    """The bytes that a Range header requests of `size`; None if the header is ignored (RFC 9110, 14.2).

    Several ranges are ignored. Raises SandboxError 416 if none of the bytes exist. starlette's FileResponse
    is not used: it treats ranges differently in each release and sends the same headers with 200 and 206.
    """
    match = _ONE_RANGE.fullmatch(header.strip())
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        start, stop = size - min(int(match[2]), size), size
    else:
        start, stop = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
        if match[2] and int(match[2]) < start:
            return None
    if start >= size:
        headers = {"Content-Range": f"bytes */{size}"}
        raise SandboxError(416, "The requested range is not satisfiable", "InvalidRange", headers)
    return range(start, stop)


def _video_answer(path: Path, asked: Mapping[str, str], behaviour: Behaviour) -> StreamingResponse:
    """Send the file as it is now, however long that takes. `If-Range` matches the strong ETag only.

    The ETag is the MD5 with `etag-md5`, else it has the form that S3 gives to an upload in parts.
    `content-md5` (RFC 1864) and `sha-256` (S3) are sent with a 200 only, as by the stores that use them.
    `goog` (Google Cloud Storage, without its crc32c) and `digest` (RFC 9530) describe the whole file on both.
    """
    status, kind = path.stat(), behaviour.video_checksum
    state = (status.st_ino, status.st_mtime_ns, status.st_size)
    md5 = _digest("md5", path, *state)
    sha256 = _digest("sha256", path, *state) if kind in ("sha-256", "digest") else b""
    md5_text, sha256_text = b64encode(md5).decode(), b64encode(sha256).decode()
    is_md5 = kind == "etag-md5"
    etag = f'"{md5.hex()}"' if is_md5 else f'"{hashlib.md5(md5, usedforsecurity=False).hexdigest()}-1"'
    is_part = behaviour.ranges and "range" in asked and asked.get("if-range", etag) == etag
    part = parse_range(asked["range"], status.st_size) if is_part else None
    sent = part or range(status.st_size)
    headers = {"ETag": etag, "Content-Length": str(len(sent))}
    headers["Last-Modified"] = formatdate(status.st_mtime, usegmt=True)
    if behaviour.ranges:
        headers["Accept-Ranges"] = "bytes"
    if part:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{status.st_size}"
    if kind == "goog":
        headers["x-goog-hash"] = f"md5={md5_text}"
    elif kind == "digest":
        headers["Repr-Digest"] = f"sha-256=:{sha256_text}:"
    elif kind == "content-md5" and not part:
        headers["Content-MD5"] = md5_text
    elif kind == "sha-256" and not part:
        headers |= {"x-amz-checksum-sha256": sha256_text, "x-amz-checksum-type": "FULL_OBJECT"}
    content = _read(path.open("rb"), sent)
    return StreamingResponse(content, 206 if part else 200, headers, media_type="video/mp4")


async def _read(file: BinaryIO, part: range) -> AsyncIterator[bytes]:
    with file:
        file.seek(part.start)
        left = len(part)
        while left and (chunk := await run_sync(file.read, min(_CHUNK_BYTES, left))):
            left -= len(chunk)
            yield chunk


def _check_signature(request: Request) -> Sandbox:
    sandbox: Sandbox = request.app.state.sandbox
    if "authorization" in request.headers:
        raise SandboxError(400, "A signed URL takes no Authorization header", "InvalidArgument")
    asked = request.query_params.get("expires", "")
    expires = int(asked) if asked.isdecimal() else 0
    genuine = dict(parse_qsl(sign(sandbox.secret, request.method, request.url.path, expires)))
    is_genuine = genuine.items() <= dict(request.query_params).items()
    if not is_genuine or sandbox.now().timestamp() >= expires:
        if sandbox.behaviour.expired_status == 404:
            raise _no_such_key()
        raise SandboxError(403, "The signature is missing, wrong or expired", "AccessDenied")
    return sandbox


def _no_such_key() -> SandboxError:
    return SandboxError(404, "The specified key does not exist", "NoSuchKey")
