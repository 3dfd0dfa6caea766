"""The API origin: the endpoints that an image-to-video pipeline uses, and the validation of a create."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from magichour_provider.client import pricing
from magichour_provider.client.pricing import (
    AUDIO_ALIASES,
    IMAGE_EXTENSIONS,
    MODELS,
    Audio,
    ModelRequest,
    Tier,
)
from magichour_provider.exceptions import CatalogError
from magichour_provider.sandbox.jobs import Sandbox
from magichour_provider.sandbox.schemas import (
    CreateBody,
    JobRequest,
    SandboxError,
    UploadUrlsBody,
    parse_body,
)
from magichour_provider.sandbox.storage import UPLOAD_URL_LIFE, Upload, new_id

EXTENSIONS: Mapping[str, frozenset[str]] = {
    "image": IMAGE_EXTENSIONS,
    "video": frozenset({"mp4", "m4v", "mov", "webm"}),
    "audio": frozenset(
        {"mp3", "wav", "aac", "flac", "webm", "weba", "m4a", "opus", "ogg", "oga", "aiff", "amr"}
    ),
}
"""Extensions by type of file (docs: api-reference, upload-urls)."""

FALLBACK_CREDITS_PER_SECOND = 48
"""Price of a model without a published rate: that of most models at 720p."""

RENAMED_MODELS: Mapping[str, str] = {"kling-2.5": "kling-2.6", "seedance": "seedance-1.5"}
"""Old names and the models that render for them (docs: changelog, 10 August and 15 June 2026)."""

_FREE_FAMILY = "ltx"
_FREE_RESOLUTIONS = ("360p", "480p")
_FREE_MODEL = "ltx-2.5"
_PAID_MODEL = "kling-3.0"
_LOW_RESOLUTION_MODEL = "seedance-1.5"
_LONG_SECONDS = 15


async def create_upload_urls(request: Request) -> JSONResponse:
    """Upload URLs, in the order of the request."""
    sandbox: Sandbox = request.app.state.sandbox
    body = parse_body(UploadUrlsBody, await request.body())
    for index, item in enumerate(body.items):
        if item.extension not in EXTENSIONS[item.type]:
            allowed = ", ".join(sorted(EXTENSIONS[item.type]))
            field = f"items.{index}.extension"
            raise SandboxError(
                422, f"Invalid value for field: {field}: {item.extension!r} is not one of {allowed}"
            )
    expires_at = (sandbox.now() + UPLOAD_URL_LIFE).replace(microsecond=0)
    targets = []
    for item in body.items:
        upload_id = new_id()
        file_path = f"api-assets/{upload_id}/{item.type}.{item.extension}"
        sandbox.uploads[file_path] = Upload(file_path, sandbox.directory / f"{upload_id}.{item.extension}")
        query = sandbox.signer.query("PUT", f"/{file_path}", expires_at)
        url = f"{_storage_url(request)}/{file_path}?{query}"
        targets.append({"upload_url": url, "expires_at": sandbox.iso(expires_at), "file_path": file_path})
    return JSONResponse({"items": targets})


async def create_image_to_video(request: Request) -> JSONResponse:
    """Charge and queue a job. The same body twice is two jobs, as the API has no idempotency."""
    sandbox: Sandbox = request.app.state.sandbox
    body = parse_body(CreateBody, await request.body())
    job = sandbox.submit(validate(body, sandbox))
    credits = job.credits_charged
    return JSONResponse({"id": job.id, "estimated_frame_cost": credits, "credits_charged": credits})


async def get_video_project(request: Request) -> JSONResponse:
    """The status of a job."""
    sandbox: Sandbox = request.app.state.sandbox
    job = sandbox.job(request.path_params["id"])
    job.polls += 1
    return JSONResponse(sandbox.project(job, _storage_url(request)))


async def delete_video_project(request: Request) -> Response:
    """Delete a job's video. Nothing is refunded, and a job that is rendering is not canceled."""
    sandbox: Sandbox = request.app.state.sandbox
    sandbox.job(request.path_params["id"]).enabled = False
    return Response(status_code=204)


async def get_account(request: Request) -> JSONResponse:
    """Tier and credits."""
    sandbox: Sandbox = request.app.state.sandbox
    if not sandbox.behaviour.account_endpoint:
        raise SandboxError(404, "Not Found")
    return JSONResponse(sandbox.account_body())


routes = [
    Route("/v1/files/upload-urls", create_upload_urls, methods=["POST"]),
    Route("/v1/image-to-video", create_image_to_video, methods=["POST"]),
    Route("/v1/video-projects/{id}", get_video_project, methods=["GET"]),
    Route("/v1/video-projects/{id}", delete_video_project, methods=["DELETE"]),
    Route("/v1/account", get_account, methods=["GET"]),
]


def validate(body: CreateBody, sandbox: Sandbox) -> JobRequest:
    """What a create will render, and its cost.

    Raises SandboxError: 400 unknown model, 402 not in the plan, 422 not supported by the model.
    """
    if sandbox.behaviour.unknown_model == "refuse" and not pricing.is_known(body.model):
        raise SandboxError(
            400, f"Invalid value for field: model (expected enum): unknown model {body.model!r}"
        )
    tier = sandbox.account.tier
    asked = ModelRequest(
        model=body.model,
        end_seconds=body.end_seconds,
        resolution=body.resolution or pricing.default_resolution(tier),
        audio=body.audio,
        end_image=body.assets.end_image_file_path is not None,
    )
    if tier is Tier.FREE:  # it has the ltx models at 480p (docs: billing/subscription-pricing)
        if asked.model != pricing.DEFAULT_MODEL and not asked.model.startswith(_FREE_FAMILY):
            raise SandboxError(402, f"Model {asked.model} needs a subscription", "subscription_required")
        if asked.resolution not in _FREE_RESOLUTIONS:
            message = f"Resolution {asked.resolution} is not in the free plan"
            raise SandboxError(402, message, "plan_upgrade_required")
    choice = _resolve_default(asked, tier) if asked.model == pricing.DEFAULT_MODEL else asked
    try:
        pricing.validate(choice)
    except CatalogError as error:
        raise SandboxError(422, error.what) from None
    base = AUDIO_ALIASES.get(choice.model, choice.model)
    model = RENAMED_MODELS.get(base, base)
    vintages = MODELS.get(choice.model, ())
    has_audio = base != choice.model or any(vintage.audio is Audio.ALWAYS for vintage in vintages)
    estimate = pricing.estimate_credits(choice)
    if estimate is None:
        estimate = round(FALLBACK_CREDITS_PER_SECOND * choice.end_seconds)
    return JobRequest(
        name=f"Image To Video - {sandbox.iso(sandbox.now())}" if body.name is None else body.name,
        requested_model=body.model,
        model=model,
        resolution=choice.resolution or "720p",
        end_seconds=choice.end_seconds,
        audio=choice.audio or has_audio,
        fps=30 if model == "sora-2" else 24,
        credits=estimate,
        image_file_path=body.assets.image_file_path,
        end_image_file_path=body.assets.end_image_file_path,
        prompt=body.style.prompt,
    )


def _resolve_default(request: ModelRequest, tier: Tier) -> ModelRequest:
    """What `default` stands for, by tier, resolution and length (docs: api-reference/models)."""
    free = replace(request, model=_FREE_MODEL)
    if tier is Tier.FREE:
        return free
    if request.resolution == "480p":
        preferred = _LOW_RESOLUTION_MODEL
    else:
        preferred = _FREE_MODEL if request.end_seconds > _LONG_SECONDS else _PAID_MODEL
    choice = replace(request, model=preferred)
    try:
        pricing.validate(choice)
    except CatalogError:
        return free
    return choice


def _storage_url(request: Request) -> str:
    """Base URL of the storage origin, with the host name by which the client reached the API."""
    host = request.url.hostname or "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{request.app.state.storage_port}"
