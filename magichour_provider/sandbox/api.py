"""The API origin: the endpoints that an image-to-video pipeline uses, and the validation of a create."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from magichour_provider.client import pricing
from magichour_provider.client.pricing import IMAGE_EXTENSIONS, ModelRequest, Tier
from magichour_provider.exceptions import InvalidRequestError
from magichour_provider.sandbox.jobs import Sandbox
from magichour_provider.sandbox.schemas import CreateBody, JobRequest, SandboxError, UploadUrlsBody, iso
from magichour_provider.sandbox.storage import UPLOAD_URL_LIFE, Upload, new_id, sign

EXTENSIONS: Mapping[str, Collection[str]] = {
    "image": IMAGE_EXTENSIONS,
    "video": {"mp4", "m4v", "mov", "webm"},
    "audio": {"mp3", "wav", "aac", "flac", "webm", "weba", "m4a", "opus", "ogg", "oga", "aiff", "amr"},
}
"""Extensions by type of file (docs: api-reference, upload-urls)."""

RENAMED_MODELS: Mapping[str, str] = {"kling-2.5": "kling-2.6", "seedance": "seedance-1.5"}
"""Old names and the models that render for them (docs: changelog, 10 August and 15 June 2026)."""


async def create_upload_urls(request: Request) -> JSONResponse:
    """Upload URLs, in the order of the request."""
    sandbox = _check_key(request)
    body = UploadUrlsBody.model_validate_json(await request.body())
    for index, item in enumerate(body.items):
        if item.extension not in EXTENSIONS[item.type]:
            wrong = f"items.{index}.extension: {item.extension!r}"
            allowed = ", ".join(sorted(EXTENSIONS[item.type]))
            raise SandboxError(422, f"Invalid value for field: {wrong} is not one of {allowed}")
    expires_at = (sandbox.now() + UPLOAD_URL_LIFE).replace(microsecond=0)
    targets = []
    for item in body.items:
        upload_id = new_id()
        file_path = f"api-assets/{upload_id}/{item.type}.{item.extension}"
        sandbox.uploads[file_path] = Upload(sandbox.directory / f"{upload_id}.{item.extension}")
        query = sign(sandbox.secret, "PUT", f"/{file_path}", int(expires_at.timestamp()))
        url = f"{_storage_url(request)}/{file_path}?{query}"
        targets.append({"upload_url": url, "expires_at": iso(expires_at), "file_path": file_path})
    return JSONResponse({"items": targets})


async def create_image_to_video(request: Request) -> JSONResponse:
    """Charge and queue a job. The same body twice is two jobs, as the API has no idempotency."""
    sandbox = _check_key(request)
    body = CreateBody.model_validate_json(await request.body())
    job = sandbox.submit(validate(body, sandbox))
    credits = job.credits_charged
    return JSONResponse({"id": job.id, "estimated_frame_cost": credits, "credits_charged": credits})


async def get_video_project(request: Request) -> JSONResponse:
    """The status of a job."""
    sandbox = _check_key(request)
    job = sandbox.job(request.path_params["id"])
    job.polls += 1
    return JSONResponse(sandbox.project(job, _storage_url(request)))


async def delete_video_project(request: Request) -> Response:
    """Delete a job's video. Nothing is refunded, and a job that is rendering is not canceled."""
    sandbox = _check_key(request)
    sandbox.job(request.path_params["id"]).enabled = False
    return Response(status_code=204)


async def get_account(request: Request) -> JSONResponse:
    """Tier and credits."""
    sandbox = _check_key(request)
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
        wrong = f"model (expected enum): unknown model {body.model!r}"
        raise SandboxError(400, f"Invalid value for field: {wrong}")
    tier = sandbox.tier
    asked = ModelRequest(
        model=body.model,
        end_seconds=body.end_seconds,
        resolution=body.resolution or pricing.default_resolution(tier),
        audio=body.audio,
        end_image=body.assets.end_image_file_path is not None,
    )
    if tier is Tier.FREE:  # it has the ltx models at 480p (docs: billing/subscription-pricing)
        if asked.model != pricing.DEFAULT_MODEL and not asked.model.startswith("ltx"):
            raise SandboxError(402, f"Model {asked.model} needs a subscription", "subscription_required")
        if asked.resolution not in ("360p", "480p"):
            message = f"Resolution {asked.resolution} is not in the free plan"
            raise SandboxError(402, message, "plan_upgrade_required")
    choice = asked
    if asked.model == pricing.DEFAULT_MODEL:  # by tier, resolution and length (docs: api-reference/models)
        choice = replace(asked, model="ltx-2.5")
        if tier is not Tier.FREE and (asked.resolution == "480p" or asked.end_seconds <= 15):
            preferred = replace(asked, model="seedance-1.5" if asked.resolution == "480p" else "kling-3.0")
            with suppress(InvalidRequestError):
                pricing.validate(preferred)
                choice = preferred
    try:
        pricing.validate(choice)
    except InvalidRequestError as error:
        raise SandboxError(422, error.what) from None
    base = pricing.AUDIO_ALIASES.get(choice.model, choice.model)
    model = RENAMED_MODELS.get(base, base)
    vintages = pricing.MODELS.get(choice.model, ())
    has_audio = base != choice.model or any(vintage.audio is pricing.Audio.ALWAYS for vintage in vintages)
    estimate = pricing.estimate_credits(choice)
    if estimate is None:  # no published rate: that of most models at 720p
        estimate = round(48 * choice.end_seconds)
    return JobRequest(
        name=f"Image To Video - {iso(sandbox.now())}" if body.name is None else body.name,
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


def _check_key(request: Request) -> Sandbox:
    """Refuse a wrong key before anything else is checked."""
    sandbox: Sandbox = request.app.state.sandbox
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    key, valid = key.strip(), sandbox.settings.api_keys
    is_valid = key in valid if valid else not re.search("invalid|wrong|bad|revoked", key.lower())
    if scheme.lower() != "bearer" or not key or not is_valid:
        raise SandboxError(401, "Unauthorized")
    return sandbox


def _storage_url(request: Request) -> str:
    """Base URL of the storage origin, with the host name by which the client reached the API."""
    host = request.url.hostname or "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{request.app.state.sandbox.storage_port}"
