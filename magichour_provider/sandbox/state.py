"""The whole state of a sandbox, and what can be done to it. Lives on one event loop: no locks."""

from __future__ import annotations

import tempfile
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from magichour_provider.client.pricing import Tier
from magichour_provider.sandbox.account import Account
from magichour_provider.sandbox.behaviour import Behaviour
from magichour_provider.sandbox.clock import SandboxClock, iso
from magichour_provider.sandbox.faults import Faults
from magichour_provider.sandbox.jobs import Charge, Clip, Job, Order, RenderError, Verdict
from magichour_provider.sandbox.ledger import RequestLedger
from magichour_provider.sandbox.problems import Problem, not_found
from magichour_provider.sandbox.render import Renderer, Source
from magichour_provider.sandbox.signing import Signer
from magichour_provider.sandbox.storage import DOWNLOAD_URL_LIFE, ObjectStore, Upload, download_path, new_id

_ELSEWHERE = ("http://", "https://", "saved-items/")
_REFUNDED = ("error", "canceled")
_FORBIDDEN_WORDS = ("invalid", "wrong", "bad", "revoked")


@dataclass(frozen=True)
class Settings:
    """How a sandbox starts, and what a reset brings back.

    `api_keys` empty: any key is good that does not contain invalid, wrong, bad or revoked. `quick` makes
    tiny clips. `data_dir` None: a temporary directory, removed at the end.
    """

    api_keys: tuple[str, ...] = field(default=(), repr=False)
    tier: Tier = Tier.CREATOR
    credits: int = 12_000
    quick: bool = False
    behaviour: Behaviour = field(default_factory=Behaviour)
    data_dir: Path | None = None


class Sandbox:
    """An offline Magic Hour: one account, its jobs, its files, and the faults in its way."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.renderer = Renderer(quick=settings.quick)
        self._temporary = (
            None if settings.data_dir else tempfile.TemporaryDirectory(prefix="magichour-sandbox-")
        )
        self.store = ObjectStore(settings.data_dir or Path(self._temporary.name if self._temporary else "."))
        self._start()

    def _start(self) -> None:
        self.clock = SandboxClock()
        self.behaviour = self.settings.behaviour
        self.account = Account(self.settings.tier, self.settings.credits, self.clock.now())
        self.signer = Signer()
        self.faults = Faults()
        self.requests = RequestLedger()
        self.jobs: dict[str, Job] = {}

    def reset(self) -> None:
        """Back to the start: account, behaviour, clock; no jobs, files, faults or counts."""
        self._abandon()
        self.faults.held.release()
        self.store.clear()
        self._start()

    def close(self) -> None:
        """Stop rendering and remove the temporary directory."""
        self._abandon()
        self.renderer.close()
        if self._temporary:
            self._temporary.cleanup()

    def _abandon(self) -> None:
        for job in self.jobs.values():
            job.rendered.cancel()
        self.renderer.abandon()

    def accepts_key(self, authorization: str) -> bool:
        """Whether the value of an Authorization header opens the account."""
        scheme, _, key = authorization.partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            return False
        if self.settings.api_keys:
            return key in self.settings.api_keys
        return not any(word in key.lower() for word in _FORBIDDEN_WORDS)

    @property
    def max_upload_bytes(self) -> int:
        """Largest upload, in bytes: the switch, or the tier's limit."""
        switch = self.behaviour.max_upload_bytes
        return self.account.max_upload_bytes if switch is None else switch

    def submit(self, order: Order) -> Job:
        """Charge the account and begin to render. Raises Problem: no such upload, or too few credits."""
        paths = (order.image_file_path, order.end_image_file_path)
        sources = [self._source(path) for path in paths if path is not None]
        self.settle()
        if order.credits > self.account.credits:
            status = self.behaviour.no_credits_status
            code = "insufficient_credits" if status == 402 else None
            raise Problem(
                status, f"The job costs {order.credits} credits; you have {self.account.credits}", code
            )
        now = self.clock.now()
        job_id = new_id()
        rendered = self._rendered(job_id, order, sources)
        job = Job(job_id, order, now, self.behaviour.render_seconds, rendered)
        self.jobs[job_id] = job
        self.account.credits -= order.credits
        job.charges.append(Charge(now, order.credits, "create"))
        return job

    def job(self, job_id: str) -> Job:
        """The job. Raises Problem 404."""
        job = self.jobs.get(job_id)
        if job is None or (not job.enabled and self.behaviour.deleted == "not_found"):
            raise not_found()
        return job

    def settle(self) -> None:
        """Book the refunds of all jobs that have ended without a clip since the last look."""
        now = self.clock.now()
        for job in self.jobs.values():
            self._settle(job, now)

    def _settle(self, job: Job, now: datetime) -> str:
        """The state, taken once with the refund that belongs to it: a render may end between two looks."""
        status = job.status(now)
        refund = job.credits_charged
        if refund and status in _REFUNDED:
            self.account.credits += refund
            job.charges.append(Charge(now, -refund, f"refund: {status}"))
        return status

    def judge(self, job: Job, verdict: Verdict) -> str:
        """Set a job's state from outside, a refund booked where it is due; returns the state."""
        job.verdict = verdict
        return self._settle(job, self.clock.now())

    def describe(self, job: Job, storage_url: str) -> dict[str, Any]:
        """The job as the API shows it, with a download link for each of its clips."""
        now = self.clock.now()
        status = self._settle(job, now)
        links = self._links(job, storage_url, now) if status == "complete" and job.enabled else []
        return job.body(status, links, milliseconds=self.behaviour.milliseconds)

    def _links(self, job: Job, storage_url: str, now: datetime) -> list[dict[str, str]]:
        """The download links: the same as last time while those are valid."""
        if job.link_expires_at is None or job.link_expires_at <= now:
            job.link_expires_at = (now + DOWNLOAD_URL_LIFE).replace(microsecond=0)
        expires_at = iso(job.link_expires_at, milliseconds=self.behaviour.milliseconds)
        paths = [download_path(job.id, number) for number in range(1, len(job.rendered.result().files) + 1)]
        queries = [self.signer.query("GET", path, job.link_expires_at) for path in paths]
        return [
            {"url": f"{storage_url}{path}?{query}", "expires_at": expires_at}
            for path, query in zip(paths, queries, strict=True)
        ]

    def state(self) -> dict[str, Any]:
        """Everything that happened, without keys and signatures."""
        now = self.clock.now()
        jobs = [job.state_entry(self._settle(job, now)) for job in self.jobs.values()]
        return {
            "account": self.account.body(milliseconds=True),
            "jobs": jobs,
            "uploads": [
                {
                    "file_path": upload.file_path,
                    "bytes": upload.size,
                    "sha256": upload.sha256,
                    "put_count": upload.put_count,
                }
                for upload in self.store.all()
            ],
            "requests": self.requests.entries(),
            "faults": self.faults.remaining(),
            "held": self.faults.held.entries(),
        }

    def _source(self, reference: str) -> Source:
        """Where an image of a request comes from. Raises Problem where its upload is not there."""
        upload = self.upload(reference)
        if upload is not None:
            return Source(reference, upload.disk_path)
        if not reference.startswith(_ELSEWHERE) and self.behaviour.missing_upload == "create":
            raise Problem(
                422, f"The file path {reference} does not exist. Check that the PUT to its upload_url worked"
            )
        return Source(reference, None)

    def upload(self, reference: str) -> Upload | None:
        """The upload behind `reference`, where its bytes have arrived and are kept still."""
        upload = self.store.find(reference)
        return upload if upload and upload.is_there(self.clock.now()) else None

    def _rendered(self, job_id: str, order: Order, sources: list[Source]) -> Future[Clip]:
        doom = self._doom(order, sources)
        if doom is None:
            end = sources[1] if len(sources) > 1 else None
            targets = self.store.clip_paths(job_id, self.behaviour.downloads_per_job)
            return self.renderer.submit(order, sources[0], end, targets, self.behaviour.video_padding_bytes)
        failed: Future[Clip] = Future()
        failed.set_exception(doom)
        return failed

    def _doom(self, order: Order, sources: list[Source]) -> RenderError | None:
        """Why an order cannot come to a clip, where that is plain from the start."""
        if "nsfw" in f"{order.name} {order.prompt}".lower():
            return RenderError("nsfw", "The content may violate our guidelines.")
        for source in sources:
            upload = self.upload(source.reference)
            if source.upload is None and not source.reference.startswith(_ELSEWHERE):
                return RenderError("invalid_image_path", "The image file does not exist.")
            if upload and upload.size > self.max_upload_bytes:
                return RenderError("file_too_large", "The image file is too large.")
        return None
