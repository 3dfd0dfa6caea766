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

from magichour_provider.client.pricing import MAX_UPLOAD_BYTES, Tier
from magichour_provider.sandbox.faults import Faults
from magichour_provider.sandbox.render import Renderer, RenderError, RenderRequest, Video
from magichour_provider.sandbox.schemas import ApiProblem, ForcedStatus, Settings
from magichour_provider.sandbox.storage import DOWNLOAD_URL_LIFE, ObjectStore, Signer, download_path, new_id

MONTHLY_PRICES_CENTS = {Tier.CREATOR: 1900, Tier.PRO: 3900, Tier.BUSINESS: 9900}
"""US cents a month (docs: billing/subscription-pricing)."""

_BILLING_PERIOD = timedelta(days=30)
_NOT_UPLOADED = ("http://", "https://", "saved-items/")
_REFUNDED = ("error", "canceled")
_INVALID_KEY_WORDS = ("invalid", "wrong", "bad", "revoked")


def iso(moment: datetime, *, milliseconds: bool) -> str:
    """`moment` in Magic Hour's form: ISO 8601 with `Z`, with or without milliseconds."""
    text = moment.astimezone(timezone.utc).isoformat(timespec="milliseconds" if milliseconds else "seconds")
    return text.replace("+00:00", "Z")


@dataclass
class Account:
    """Tier and credits; `opened` is the start of the billing period."""

    tier: Tier
    credits: int
    opened: datetime

    @property
    def max_upload_bytes(self) -> int:
        """Largest upload of the tier, in bytes."""
        return MAX_UPLOAD_BYTES[self.tier.value]

    def body(self, *, milliseconds: bool) -> dict[str, Any]:
        """The answer of `GET /v1/account`."""
        subscription = {
            "name": self.tier.value.capitalize(),
            "status": "active",
            "price": {"amount": MONTHLY_PRICES_CENTS.get(self.tier, 0), "currency": "usd"},
            "discount": None,
            "billing_interval": "month",
            "current_period_end": iso(self.opened + _BILLING_PERIOD, milliseconds=milliseconds),
            "cancel_at_period_end": False,
        }
        return {
            "id": "sandbox-account",
            "email": "sandbox@example.com",
            "tier": self.tier.value,
            "credits": self.credits,
            "subscription": None if self.tier is Tier.FREE else subscription,
        }


@dataclass(frozen=True)
class JobRequest:
    """A validated create, and its cost in credits."""

    name: str
    requested_model: str
    model: str
    resolution: str
    end_seconds: float
    audio: bool
    fps: int
    credits: int
    image_file_path: str
    end_image_file_path: str | None = None
    prompt: str | None = None


@dataclass(frozen=True)
class Charge:
    """Credits that were charged (positive) or refunded (negative)."""

    at: datetime
    credits: int
    reason: str


@dataclass
class Job:
    """One job. `rendered` gives its video or raises its RenderError."""

    id: str
    request: JobRequest
    created_at: datetime
    render_seconds: float
    rendered: Future[Video]
    charges: list[Charge] = field(default_factory=list)
    forced: ForcedStatus | None = None
    enabled: bool = True
    polls: int = 0
    downloads: int = 0
    link_expires_at: datetime | None = None

    @property
    def credits_charged(self) -> int:
        """Charges minus refunds."""
        return sum(charge.credits for charge in self.charges)

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

    def body(self, status: str, links: list[dict[str, str]], *, milliseconds: bool) -> dict[str, Any]:
        """The answer of `GET /v1/video-projects/{id}`, with its hidden and deprecated fields."""
        video = self.rendered.result() if status == "complete" else None
        return {
            "id": self.id,
            "name": self.request.name,
            "status": status,
            "type": "IMAGE_TO_VIDEO",
            "created_at": iso(self.created_at, milliseconds=milliseconds),
            "width": video.width if video else -1,
            "height": video.height if video else -1,
            "enabled": self.enabled,
            "start_seconds": 0,
            "end_seconds": self.request.end_seconds,
            "total_frame_cost": self.credits_charged,
            "credits_charged": self.credits_charged,
            "fps": self.request.fps,
            "error": self._error() if status == "error" else None,
            "downloads": links,
            "download": links[0] if links else None,
        }

    def state(self, status: str) -> dict[str, Any]:
        """The job in the sandbox's state, without the query of an image URL, which may be secret."""
        charges = [
            {"at": iso(charge.at, milliseconds=True), "credits": charge.credits, "reason": charge.reason}
            for charge in self.charges
        ]
        request = {**asdict(self.request), "image_file_path": self.request.image_file_path.partition("?")[0]}
        for name in ("credits", "prompt", "end_image_file_path"):
            del request[name]
        return {
            **request,
            "id": self.id,
            "status": status,
            "enabled": self.enabled,
            "credits_charged": self.credits_charged,
            "charges": charges,
            "polls": self.polls,
            "downloads": self.downloads,
            "created_at": iso(self.created_at, milliseconds=True),
        }

    def _error(self) -> dict[str, str]:
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
        self.store = ObjectStore(settings.data_dir or Path(self._temporary.name))
        self._start()

    def _start(self) -> None:
        self._offset = timedelta()
        self.behaviour = self.settings.behaviour
        self.account = Account(self.settings.tier, self.settings.credits, self.now())
        self.signer = Signer()
        self.requests: Counter[tuple[str, str, str, int]] = Counter()
        """Number of requests by origin, method, route and status; status 0 is a dropped connection."""
        self.jobs: dict[str, Job] = {}

    def now(self) -> datetime:
        """The time in UTC, plus the seconds by which it was advanced so that URLs expire and jobs end."""
        return self._utc_now() + self._offset

    def advance(self, seconds: float) -> None:
        """Move the time forward."""
        self._offset += timedelta(seconds=seconds)

    def reset(self) -> None:
        """Restore the settings; remove all jobs, files, faults and counts."""
        self._abandon_jobs()
        self.faults.replace(b"[]")
        self.faults.held.release()
        self.store.clear()
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
        """Charge the account and start to render. Raises ApiProblem: a missing upload, too few credits."""
        paths = [request.image_file_path, request.end_image_file_path]
        missing = [path for path in paths if path and self._is_missing(path)]
        if missing and self.behaviour.missing_upload == "create":
            message = (
                f"The file path {missing[0]} does not exist. Check that the PUT to its upload_url worked"
            )
            raise ApiProblem(422, message)
        self.settle()
        if request.credits > self.account.credits:
            raise ApiProblem(402, f"The job costs {request.credits} credits; you have {self.account.credits}")
        now, job_id = self.now(), new_id()
        rendered = self._start_rendering(job_id, request)
        job = Job(job_id, request, now, self.behaviour.render_seconds, rendered)
        self.jobs[job_id] = job
        self.account.credits -= request.credits
        job.charges.append(Charge(now, request.credits, "create"))
        return job

    def job(self, job_id: str) -> Job:
        """The job. Raises ApiProblem 404."""
        job = self.jobs.get(job_id)
        if job is None or (not job.enabled and self.behaviour.deleted == "not_found"):
            raise ApiProblem(404, "Not Found")
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
            self.account.credits += refund
            job.charges.append(Charge(now, -refund, f"refund: {status}"))
        return status

    def project(self, job: Job, storage_url: str) -> dict[str, Any]:
        """The job as the API shows it, with a download URL for each of its videos."""
        status = self.settled_status(job)
        links = self._links(job, storage_url) if status == "complete" and job.enabled else []
        return job.body(status, links, milliseconds=self.behaviour.milliseconds)

    def _links(self, job: Job, storage_url: str) -> list[dict[str, str]]:
        """The download URLs: the same ones until they expire."""
        now = self.now()
        if job.link_expires_at is None or job.link_expires_at <= now:
            job.link_expires_at = (now + DOWNLOAD_URL_LIFE).replace(microsecond=0)
        expires_at = iso(job.link_expires_at, milliseconds=self.behaviour.milliseconds)
        links = []
        for number in range(1, len(job.rendered.result().files) + 1):
            path = download_path(job.id, number)
            query = self.signer.query("GET", path, job.link_expires_at)
            links.append({"url": f"{storage_url}{path}?{query}", "expires_at": expires_at})
        return links

    def state(self) -> dict[str, Any]:
        """Everything that happened, without keys and signatures."""
        jobs = [job.state(self.settled_status(job)) for job in self.jobs.values()]
        uploads = [
            {
                "file_path": each.file_path,
                "bytes": each.size,
                "sha256": each.sha256,
                "put_count": each.put_count,
            }
            for each in self.store.uploads.values()
        ]
        names = ("origin", "method", "path", "status", "count")
        return {
            "account": self.account.body(milliseconds=True),
            "jobs": jobs,
            "uploads": uploads,
            "requests": [
                dict(zip(names, (*key, count), strict=True)) for key, count in self.requests.items()
            ],
            "faults": self.faults.remaining(),
            "held": self.faults.held.entries(),
        }

    def upload(self, file_path: str) -> Path | None:
        """The file of an upload; None if its bytes never arrived or were deleted."""
        upload = self.store.uploads.get(file_path)
        return upload.disk_path if upload and upload.exists(self.now()) else None

    def _is_missing(self, file_path: str) -> bool:
        return not file_path.startswith(_NOT_UPLOADED) and self.upload(file_path) is None

    def _start_rendering(self, job_id: str, request: JobRequest) -> Future[Video]:
        paths = [path for path in (request.image_file_path, request.end_image_file_path) if path]
        failure = self._certain_failure(request, paths)
        if failure:
            failed: Future[Video] = Future()
            failed.set_exception(failure)
            return failed
        images = tuple(self.upload(path) for path in paths)
        spec = RenderRequest(images, request.resolution, request.end_seconds, request.fps, request.audio)
        targets = self.store.video_paths(job_id, self.behaviour.downloads_per_job)
        return self.renderer.submit(spec, targets, self.behaviour.video_padding_bytes)

    def _certain_failure(self, request: JobRequest, paths: list[str]) -> RenderError | None:
        """The error of a job that cannot end with a video."""
        if "nsfw" in f"{request.name} {request.prompt}".lower():
            return RenderError("nsfw", "The content may violate our guidelines.")
        if any(map(self._is_missing, paths)):
            return RenderError("invalid_image_path", "The image file does not exist.")
        return None
