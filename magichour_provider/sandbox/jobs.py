"""The state of a sandbox: one account, its jobs and their charges. It belongs to one event loop: no locks."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

from magichour_provider.client.pricing import Tier
from magichour_provider.sandbox.faults import Faults
from magichour_provider.sandbox.render import Renderer, RenderError, Video
from magichour_provider.sandbox.schemas import ForcedStatus, JobRequest, SandboxError, Settings
from magichour_provider.sandbox.storage import (
    DOWNLOAD_URL_LIFE,
    UPLOAD_RETENTION,
    Signer,
    Upload,
    download_path,
    new_id,
)

_BILLING_PERIOD = timedelta(days=30)
_NOT_UPLOADED = ("http://", "https://", "saved-items/")
_REFUNDED = ("error", "canceled")
_INVALID_KEY_WORDS = ("invalid", "wrong", "bad", "revoked")


@dataclass
class Account:
    """Tier and credits."""

    tier: Tier
    credits: int


@dataclass
class Job:
    """One job. `rendered` gives its video or raises its RenderError."""

    id: str
    request: JobRequest
    created_at: datetime
    render_seconds: float
    rendered: Future[Video]
    charges: list[dict[str, Any]] = field(default_factory=list)
    forced: ForcedStatus | None = None
    enabled: bool = True
    polls: int = 0
    downloads: int = 0
    link_expires_at: datetime | None = None

    @property
    def credits_charged(self) -> int:
        """Charges minus refunds."""
        return sum(charge["credits"] for charge in self.charges)

    def status(self, now: datetime) -> str:
        """The status at `now`: `queued` for a quarter of the time, `rendering`, then the outcome."""
        if self.forced:
            return self.forced.status
        age_seconds = (now - self.created_at).total_seconds()
        if age_seconds < self.render_seconds / 4:
            return "queued"
        if age_seconds < self.render_seconds or not self.rendered.done():
            return "rendering"
        return "error" if self.rendered.exception() else "complete"

    def video(self, now: datetime) -> Video | None:
        """The video, if the job is complete and was not deleted."""
        return self.rendered.result() if self.enabled and self.status(now) == "complete" else None

    def error(self) -> dict[str, str]:
        """`error` of a job that failed."""
        if self.forced:
            return {"code": self.forced.code, "message": self.forced.message}
        error = self.rendered.exception()
        if isinstance(error, RenderError):
            return {"code": error.code, "message": error.message}
        return {"code": "unknown_error", "message": f"The sandbox could not render this: {error!r}"}


class Sandbox:
    """An offline Magic Hour: one account, its jobs and files, and the faults that tests ask for."""

    def __init__(self, settings: Settings, utc_now: Callable[[], datetime] | None = None) -> None:
        self.settings = settings
        self.renderer = Renderer(quick=settings.quick)
        self.faults = Faults()
        self._utc_now = utc_now or partial(datetime.now, timezone.utc)
        self._temporary = tempfile.TemporaryDirectory(prefix="magichour-sandbox-")
        self.directory = Path(self._temporary.name)
        self.uploads: dict[str, Upload] = {}
        self._start()

    def _start(self) -> None:
        self._offset = timedelta()
        self.behaviour = self.settings.behaviour
        self.account = Account(self.settings.tier, self.settings.credits)
        self.signer = Signer()
        self.requests: Counter[tuple[str, str, str, int]] = Counter()
        """Number of requests by origin, method, route and status; status 0 is a dropped connection."""
        self.jobs: dict[str, Job] = {}

    def now(self) -> datetime:
        """The time in UTC, plus the seconds by which it was advanced so that URLs expire and jobs end."""
        return self._utc_now() + self._offset

    def iso(self, moment: datetime) -> str:
        """`moment` in Magic Hour's form: ISO 8601 with milliseconds and `Z`."""
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def advance(self, seconds: float) -> None:
        """Move the time forward."""
        self._offset += timedelta(seconds=seconds)

    def reset(self) -> None:
        """Restore the settings; remove all jobs, files, faults and counts."""
        self._abandon_jobs()
        self.faults.replace(b"[]")
        self.faults.held.release()
        for path in self.directory.iterdir():
            path.unlink(missing_ok=True)
        self.uploads.clear()
        self._start()

    def close(self) -> None:
        """Stop rendering and remove the temporary directory."""
        self._abandon_jobs()
        self.renderer.close()
        self._temporary.cleanup()

    def _abandon_jobs(self) -> None:
        for job in self.jobs.values():
            job.rendered.cancel()
        self.renderer.abandon()

    def accepts_key(self, authorization: str) -> bool:
        """Whether the value of an Authorization header has a valid key."""
        scheme, _, key = authorization.partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            return False
        if self.settings.api_keys:
            return key in self.settings.api_keys
        return not any(word in key.lower() for word in _INVALID_KEY_WORDS)

    def submit(self, request: JobRequest) -> Job:
        """Charge the account and start to render. Raises SandboxError: a missing upload, too few credits."""
        paths = [path for path in (request.image_file_path, request.end_image_file_path) if path]
        uploaded = [path for path in paths if not path.startswith(_NOT_UPLOADED)]
        missing = [path for path in uploaded if self.upload(path) is None]
        if missing:
            advice = "Check that the PUT to its upload_url worked"
            raise SandboxError(422, f"The file path {missing[0]} does not exist. {advice}")
        self.settle()
        if request.credits > self.account.credits:
            message = f"The job costs {request.credits} credits; you have {self.account.credits}"
            raise SandboxError(402, message)
        now, job_id = self.now(), new_id()
        rendered: Future[Video] = Future()
        if "nsfw" in f"{request.name} {request.prompt}".lower():
            rendered.set_exception(RenderError("nsfw", "The content may violate our guidelines."))
        else:
            images = tuple(self.upload(path) for path in paths)
            numbers = range(1, self.behaviour.downloads_per_job + 1)
            targets = [self.directory / f"{job_id}-{number}.mp4" for number in numbers]
            rendered = self.renderer.submit(request, images, targets, self.behaviour)
        job = Job(job_id, request, now, self.behaviour.render_seconds, rendered)
        self.jobs[job_id] = job
        self._charge(job, now, request.credits, "create")
        return job

    def job(self, job_id: str) -> Job:
        """The job. Raises SandboxError 404."""
        job = self.jobs.get(job_id)
        if job is None or (not job.enabled and self.behaviour.deleted == "not_found"):
            raise SandboxError(404, "Not Found")
        return job

    def settle(self) -> None:
        """Refund all jobs that have ended without a video."""
        for job in self.jobs.values():
            self.settled_status(job)

    def settled_status(self, job: Job) -> str:
        """The status now, after the refund that belongs to it: both come from one reading of the clock."""
        now = self.now()
        status = job.status(now)
        refund = job.credits_charged
        if refund and status in _REFUNDED:
            self._charge(job, now, -refund, f"refund: {status}")
        return status

    def _charge(self, job: Job, at: datetime, credits: int, reason: str) -> None:
        """Charge credits, or refund negative ones."""
        self.account.credits -= credits
        job.charges.append({"at": self.iso(at), "credits": credits, "reason": reason})

    def account_body(self) -> dict[str, Any]:
        """The answer of `GET /v1/account`."""
        self.settle()
        subscription = {
            "name": self.account.tier.value.capitalize(),
            "status": "active",
            "price": {"amount": 1900, "currency": "usd"},
            "discount": None,
            "billing_interval": "month",
            "current_period_end": self.iso(self.now() + _BILLING_PERIOD),
            "cancel_at_period_end": False,
        }
        return {
            "id": "sandbox-account",
            "email": "sandbox@example.com",
            "tier": self.account.tier.value,
            "credits": self.account.credits,
            "subscription": None if self.account.tier is Tier.FREE else subscription,
        }

    def project(self, job: Job, storage_url: str) -> dict[str, Any]:
        """The answer of `GET /v1/video-projects/{id}`, with its hidden and deprecated fields."""
        status = self.settled_status(job)
        video = job.rendered.result() if status == "complete" else None
        links = []
        if video and job.enabled:
            if job.link_expires_at is None or job.link_expires_at <= self.now():  # the same link until then
                job.link_expires_at = (self.now() + DOWNLOAD_URL_LIFE).replace(microsecond=0)
            expires_at = self.iso(job.link_expires_at)
            for number in range(1, len(video.files) + 1):
                path = download_path(job.id, number)
                query = self.signer.query("GET", path, job.link_expires_at)
                links.append({"url": f"{storage_url}{path}?{query}", "expires_at": expires_at})
        return {
            "id": job.id,
            "name": job.request.name,
            "status": status,
            "type": "IMAGE_TO_VIDEO",
            "created_at": self.iso(job.created_at),
            "width": video.width if video else -1,
            "height": video.height if video else -1,
            "enabled": job.enabled,
            "start_seconds": 0,
            "end_seconds": job.request.end_seconds,
            "total_frame_cost": job.credits_charged,
            "credits_charged": job.credits_charged,
            "fps": job.request.fps,
            "error": job.error() if status == "error" else None,
            "downloads": links,
            "download": links[0] if links else None,
        }

    def state(self) -> dict[str, Any]:
        """Everything that happened, without keys and signatures."""
        requests = [
            {"origin": origin, "method": method, "path": path, "status": status, "count": count}
            for (origin, method, path, status), count in self.requests.items()
        ]
        return {
            "account": self.account_body(),
            "jobs": [self.job_state(job) for job in self.jobs.values()],
            "uploads": [
                {
                    "file_path": upload.file_path,
                    "bytes": upload.size,
                    "sha256": upload.sha256,
                    "put_count": upload.put_count,
                }
                for upload in self.uploads.values()
            ],
            "requests": requests,
            "faults": self.faults.remaining(),
            "held": self.faults.held.entries(),
        }

    def job_state(self, job: Job) -> dict[str, Any]:
        """The job in the state, without the query of an image URL, which may be secret."""
        status, request = self.settled_status(job), asdict(job.request)
        for name in ("credits", "prompt", "end_image_file_path"):
            del request[name]
        return {
            **request,
            "image_file_path": job.request.image_file_path.partition("?")[0],
            "id": job.id,
            "status": status,
            "enabled": job.enabled,
            "credits_charged": job.credits_charged,
            "charges": job.charges,
            "polls": job.polls,
            "downloads": job.downloads,
            "created_at": self.iso(job.created_at),
        }

    def upload(self, file_path: str) -> Path | None:
        """The file of an upload; None if its bytes never arrived or were deleted."""
        upload = self.uploads.get(file_path)
        if upload is None or upload.put_at is None or self.now() >= upload.put_at + UPLOAD_RETENTION:
            return None
        return upload.disk_path
