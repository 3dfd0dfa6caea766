"""The API origin: the paths of Magic Hour that an image-to-video pipeline uses."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from magichour_provider.client.pricing import IMAGE_EXTENSIONS
from magichour_provider.sandbox.admission import Admission
from magichour_provider.sandbox.bodies import CreateBody, UploadItem, UploadUrlsBody, parse
from magichour_provider.sandbox.clock import iso
from magichour_provider.sandbox.images import image_size
from magichour_provider.sandbox.problems import Problem, not_found
from magichour_provider.sandbox.state import Sandbox
from magichour_provider.sandbox.storage import UPLOAD_URL_LIFE

EXTENSIONS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "image": IMAGE_EXTENSIONS,
        "video": frozenset({"mp4", "m4v", "mov", "webm"}),
        "audio": frozenset(
            {"mp3", "wav", "aac", "flac", "webm", "weba", "m4a", "opus", "ogg", "oga", "aiff", "amr"}
        ),
    }
)
"""Extensions by type of file (docs: api-reference, upload-urls)."""

router = APIRouter()


async def sandbox_of(request: Request) -> Sandbox:
    """The sandbox that a request reached."""
    sandbox: Sandbox = request.app.state.sandbox
    return sandbox


Running = Annotated[Sandbox, Depends(sandbox_of)]


@router.post("/v1/files/upload-urls")
async def create_upload_urls(request: Request, sandbox: Running) -> JSONResponse:
    """Hand out upload URLs, in the order of the request."""
    body = parse(UploadUrlsBody, await request.body())
    for index, item in enumerate(body.items):
        _check_extension(index, item, sandbox)
    return JSONResponse({"items": [_upload_target(item, request, sandbox) for item in body.items]})


@router.post("/v1/image-to-video")
async def create_image_to_video(request: Request, sandbox: Running) -> JSONResponse:
    """Charge and queue a job. The same body twice is two jobs: there is no idempotency."""
    body = parse(CreateBody, await request.body())
    upload = sandbox.upload(body.assets.image_file_path)
    size = await run_sync(image_size, upload.disk_path) if upload else None
    now = iso(sandbox.clock.now(), milliseconds=sandbox.behaviour.milliseconds)
    admission = Admission(sandbox.account.tier, sandbox.behaviour)
    job = sandbox.submit(admission.order(body, f"Image To Video - {now}", size))
    credits = job.credits_charged
    return JSONResponse({"id": job.id, "estimated_frame_cost": credits, "credits_charged": credits})


@router.get("/v1/video-projects/{id}")
async def get_video_project(id: str, request: Request, sandbox: Running) -> JSONResponse:
    """Where a job stands."""
    job = sandbox.job(id)
    job.polls += 1
    return JSONResponse(sandbox.describe(job, storage_url(request)))


@router.delete("/v1/video-projects/{id}")
async def delete_video_project(id: str, sandbox: Running) -> Response:
    """Remove a job's clip for good; nothing is refunded, and a render that runs is not cancelled."""
    sandbox.job(id).enabled = False
    return Response(status_code=204)


@router.get("/v1/account")
async def get_account(sandbox: Running) -> JSONResponse:
    """Tier and credits."""
    if not sandbox.behaviour.account_endpoint:
        raise not_found()
    sandbox.settle()
    return JSONResponse(sandbox.account.body(milliseconds=sandbox.behaviour.milliseconds))


def storage_url(request: Request) -> str:
    """Base URL of the storage origin, under the host name by which the client reached the API."""
    host = request.url.hostname or "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{request.app.state.storage_port}"


def _check_extension(index: int, item: UploadItem, sandbox: Sandbox) -> None:
    allowed = EXTENSIONS[item.type]
    if item.extension not in allowed:
        text = f"Invalid value for field: items.{index}.extension: {item.extension!r} is not one of "
        raise Problem(sandbox.behaviour.validation_status, text + ", ".join(sorted(allowed)))


def _upload_target(item: UploadItem, request: Request, sandbox: Sandbox) -> dict[str, str]:
    upload = sandbox.store.new_upload(item.type, item.extension)
    path = f"/{upload.file_path}"
    expires_at = (sandbox.clock.now() + UPLOAD_URL_LIFE).replace(microsecond=0)
    return {
        "upload_url": f"{storage_url(request)}{path}?{sandbox.signer.query('PUT', path, expires_at)}",
        "expires_at": iso(expires_at, milliseconds=sandbox.behaviour.milliseconds),
        "file_path": upload.file_path,
    }
