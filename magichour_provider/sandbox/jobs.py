"""The state of a sandbox: one account, its jobs and their charges. It belongs to one event loop: no locks."""

from __future__ import annotations

import secrets
import tempfile
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

from magichour_provider.client.pricing import Tier
from magichour_provider.sandbox.faults import Faults
from magichour_provider.sandbox.render import RenderError, render
from magichour_provider.sandbox.schemas import ForcedStatus, JobRequest, SandboxError, Settings, iso
from magichour_provider.sandbox.storage import DOWNLOAD_URL_LIFE, UPLOAD_RETENTION, Upload, new_id, sign


@dataclass
class Job:
    """One job. `rendered` gives the size of its videos, which are in `files`, or raises its RenderError."""

    id: str
    request: JobRequest
    created_at: datetime
    render_seconds: float
    rendered: Future[tuple[int, int]]
    files: list[Path]
    charges: list[dict[str, Any]] = field(default_factory=list)
    forced: ForcedStatus | None = None
    enabled: bool = True
    polls: int = 0
    downloads: int = 0
    link_expires_at: datetime | None = None
    events: list[str] = field(default_factory=list)
    """Types of the webhooks that were sent, or are being sent."""

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

    def has_video(self, now: datetime) -> bool:
        """Whether the job is complete and was not deleted."""
        return self.enabled and self.status(now) == "complete"


class Sandbox:
    """An offline Magic Hour: one account, its jobs and files, and the faults that tests ask for."""

    def __init__(self, settings: Settings, *, storage_port: int = 0) -> None:
        self.settings = settings
        self.storage_port = storage_port
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="sandbox-render")
        self._temporary = tempfile.TemporaryDirectory(prefix="magichour-sandbox-")
        self.directory = Path(self._temporary.name)
        self._start()

    def _start(self) -> None:
        self.offset = timedelta()
        self.behaviour = self.settings.behaviour
        self.tier, self.credits = self.settings.tier, self.settings.credits
        self.faults = Faults()
        self.secret = secrets.token_bytes(32)
        self.uploads: dict[str, Upload] = {}
        self.requests: Counter[tuple[str, str, str, int]] = Counter()
        """Number of requests by origin, method, route and status; status 0 is a dropped connection."""
        self.jobs: dict[str, Job] = {}
        self.most_running_jobs = 0
        self.deliveries: list[dict[str, Any]] = []
        """Webhooks that were posted: type, project id, and the status of the answer; 0 is none."""
        self._abandoned = threading.Event()

    def now(self) -> datetime:
        """The time in UTC, plus the seconds by which it was advanced so that URLs expire and jobs end."""
        return datetime.now(timezone.utc) + self.offset

    def reset(self) -> None:
        """Restore the settings; remove all jobs, files, faults and counts."""
        self._abandoned.set()
        self.faults.release()
        for path in self.directory.iterdir():
            path.unlink(missing_ok=True)
        self._start()

    def close(self) -> None:
        """Stop rendering and remove the temporary directory."""
        self._abandoned.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._temporary.cleanup()

    def submit(self, request: JobRequest) -> Job:
        """Charge the account and start to render. Raises SandboxError: a missing upload, too few credits."""
        paths = [path for path in (request.image_file_path, request.end_image_file_path) if path]
        uploaded = [path for path in paths if not path.startswith(("http://", "https://", "saved-items/"))]
        missing = [path for path in uploaded if self.upload(path) is None]
        if missing:
            advice = "Check that the PUT to its upload_url worked"
            raise SandboxError(422, f"The file path {missing[0]} does not exist. {advice}")
        self.settle()
        if request.credits > self.credits:
            message = f"The job costs {request.credits} credits; you have {self.credits}"
            raise SandboxError(402, message)
        now, job_id = self.now(), new_id()
        running, limit = self._count_running(now), self.behaviour.max_running_jobs
        if limit is not None and running >= limit:
            raise SandboxError(429, f"{running} jobs are running, as many as your plan allows")
        self.most_running_jobs = max(self.most_running_jobs, running + 1)
        numbers = range(1, self.behaviour.downloads_per_job + 1)
        files = [self.directory / f"{job_id}-{number}.mp4" for number in numbers]
        rendered: Future[tuple[int, int]] = Future()
        behaviour, is_quick = self.behaviour, self.settings.quick
        if "nsfw" in f"{request.name} {request.prompt}".lower():
            rendered.set_exception(RenderError("nsfw", "The content may violate our guidelines."))
        else:
            images = [self.upload(path) for path in paths]
            work = partial(render, quick=is_quick, abandoned=self._abandoned)
            rendered = self._pool.submit(work, request, images, files, behaviour)
        job = Job(job_id, request, now, behaviour.render_seconds, rendered, files)
        self.jobs[job_id] = job
        self._charge(job, now, request.credits, "create")
        return job

    def _count_running(self, now: datetime) -> int:
        return sum(job.status(now) in ("queued", "rendering") for job in self.jobs.values())

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
        if refund and status in ("error", "canceled"):
            self._charge(job, now, -refund, f"refund: {status}")
        return status

    def _charge(self, job: Job, at: datetime, credits: int, reason: str) -> None:
        """Charge credits, or refund negative ones."""
        self.credits -= credits
        job.charges.append({"at": iso(at), "credits": credits, "reason": reason})

    def account_body(self) -> dict[str, Any]:
        """The answer of `GET /v1/account`."""
        self.settle()
        subscription = {
            "name": self.tier.value.capitalize(),
            "status": "active",
            "price": {"amount": 1900, "currency": "usd"},
            "discount": None,
            "billing_interval": "month",
            "current_period_end": iso(self.now() + timedelta(days=30)),
            "cancel_at_period_end": False,
        }
        return {
            "id": "sandbox-account",
            "email": "sandbox@example.com",
            "tier": self.tier.value,
            "credits": self.credits,
            "subscription": None if self.tier is Tier.FREE else subscription,
        }

    def project(self, job: Job, storage_url: str) -> dict[str, Any]:
        """The answer of `GET /v1/video-projects/{id}`, with its hidden and deprecated fields."""
        status = self.settled_status(job)
        width, height = job.rendered.result() if status == "complete" else (-1, -1)
        error = None
        if status == "error":
            cause = job.forced or job.rendered.exception()
            message = getattr(cause, "message", f"The sandbox could not render this: {cause!r}")
            error = {"code": getattr(cause, "code", "unknown_error"), "message": message}
        links = []
        if status == "complete" and job.enabled:
            if job.link_expires_at is None or job.link_expires_at <= self.now():  # the same link until then
                job.link_expires_at = (self.now() + DOWNLOAD_URL_LIFE).replace(microsecond=0)
            expires_at = iso(job.link_expires_at)
            for number in range(1, len(job.files) + 1):
                path = f"/{job.id}/output.mp4" if number == 1 else f"/{job.id}/{number}/output.mp4"
                query = sign(self.secret, "GET", path, int(job.link_expires_at.timestamp()))
                links.append({"url": f"{storage_url}{path}?{query}", "expires_at": expires_at})
        return {
            "id": job.id,
            "name": job.request.name,
            "status": status,
            "type": "IMAGE_TO_VIDEO",
            "created_at": iso(job.created_at),
            "width": width,
            "height": height,
            "enabled": job.enabled,
            "start_seconds": 0,
            "end_seconds": job.request.end_seconds,
            "total_frame_cost": job.credits_charged,
            "credits_charged": job.credits_charged,
            "fps": job.request.fps,
            "error": error,
            "downloads": links,
            "download": links[0] if links else None,
        }

    def state(self) -> dict[str, Any]:
        """Everything that happened, without keys and signatures."""
        return {
            "account": self.account_body(),
            "jobs": [self.job_state(job) for job in self.jobs.values()],
            "uploads": [
                {"file_path": path, "bytes": each.size, "sha256": each.sha256, "put_count": each.put_count}
                for path, each in self.uploads.items()
            ],
            "requests": [
                {"origin": origin, "method": method, "path": path, "status": status, "count": count}
                for (origin, method, path, status), count in self.requests.items()
            ],
            "faults": [rule.model_dump(exclude_defaults=True) for rule in self.faults.rules],
            "held": list(self.faults.held.values()),
            "webhooks": self.deliveries,
            "most_running_jobs": self.most_running_jobs,
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
            "created_at": iso(job.created_at),
        }

    def upload(self, file_path: str) -> Path | None:
        """The file of an upload; None if its bytes never arrived or were deleted."""
        upload = self.uploads.get(file_path)
        if upload is None or upload.put_at is None or self.now() >= upload.put_at + UPLOAD_RETENTION:
            return None
        return upload.disk_path
