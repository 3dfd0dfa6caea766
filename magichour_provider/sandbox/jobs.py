"""A job: what was ordered, what it cost, and where it stands at a given time."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from magichour_provider.sandbox.clock import iso


class RenderError(Exception):
    """A job that ends as `error`, with the API's `error.code` and message."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{code}: {message}")


@dataclass(frozen=True)
class Clip:
    """A rendered file and its true size in pixels; `more` are the files of further downloads."""

    path: Path
    width: int
    height: int
    more: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All files, in the order of the downloads."""
        return (self.path, *self.more)


@dataclass(frozen=True)
class Order:
    """An admitted request: what will be rendered, and its price in credits."""

    name: str
    requested_model: str
    model: str
    resolution: str
    end_seconds: float
    audio: bool
    fps: int
    credits: int
    image_file_path: str
    end_image_file_path: str | None
    prompt: str | None


@dataclass(frozen=True)
class Charge:
    """Credits taken (positive) or given back (negative)."""

    at: datetime
    credits: int
    reason: str


@dataclass(frozen=True)
class Verdict:
    """A state set from outside: it holds, whatever the clock and the renderer say."""

    status: str
    code: str = ""
    message: str = ""


@dataclass
class Job:
    """One job. `rendered` holds its clip or its RenderError; `verdict` overrules everything."""

    id: str
    order: Order
    created_at: datetime
    render_seconds: float
    rendered: Future[Clip]
    charges: list[Charge] = field(default_factory=list)
    verdict: Verdict | None = None
    enabled: bool = True
    polls: int = 0
    downloads: int = 0
    link_expires_at: datetime | None = None

    @property
    def credits_charged(self) -> int:
        """What the job costs as things stand."""
        return sum(charge.credits for charge in self.charges)

    def status(self, now: datetime) -> str:
        """The state at `now`: `queued` for a quarter of the time, `rendering`, then the outcome."""
        if self.verdict:
            return self.verdict.status
        if now < self.created_at + timedelta(seconds=self.render_seconds / 4):
            return "queued"
        if now < self.created_at + timedelta(seconds=self.render_seconds) or not self.rendered.done():
            return "rendering"
        return "error" if self._render_error() else "complete"

    def clip(self, now: datetime) -> Clip | None:
        """The clip, where the job is complete and was not deleted."""
        if self.status(now) != "complete" or not self.enabled:
            return None
        return self.rendered.result()

    def body(self, status: str, links: list[dict[str, str]], *, milliseconds: bool) -> dict[str, Any]:
        """The answer of `GET /v1/video-projects/{id}`, hidden and deprecated fields included.

        `status` is taken once by the caller, so that it and `links` belong together.
        """
        clip = self.rendered.result() if status == "complete" else None
        return {
            "id": self.id,
            "name": self.order.name,
            "status": status,
            "type": "IMAGE_TO_VIDEO",
            "created_at": iso(self.created_at, milliseconds=milliseconds),
            "width": clip.width if clip else -1,
            "height": clip.height if clip else -1,
            "enabled": self.enabled,
            "start_seconds": 0,
            "end_seconds": self.order.end_seconds,
            "total_frame_cost": self.credits_charged,
            "credits_charged": self.credits_charged,
            "fps": self.order.fps,
            "error": self._error() if status == "error" else None,
            "downloads": links,
            "download": links[0] if links else None,
        }

    def state_entry(self, status: str) -> dict[str, Any]:
        """The job as the ledger shows it, in the state `status`."""
        order = self.order
        return {
            "id": self.id,
            "name": order.name,
            "status": status,
            "model": order.model,
            "requested_model": order.requested_model,
            "resolution": order.resolution,
            "end_seconds": order.end_seconds,
            "audio": order.audio,
            "image_file_path": _without_query(order.image_file_path),
            "enabled": self.enabled,
            "credits_charged": self.credits_charged,
            "charges": [
                {"at": iso(charge.at, milliseconds=True), "credits": charge.credits, "reason": charge.reason}
                for charge in self.charges
            ],
            "polls": self.polls,
            "downloads": self.downloads,
            "created_at": iso(self.created_at, milliseconds=True),
        }

    def _error(self) -> dict[str, str]:
        if self.verdict:
            return {"code": self.verdict.code, "message": self.verdict.message}
        error = self._render_error()
        return {"code": error.code, "message": error.message} if error else {"code": "", "message": ""}

    def _render_error(self) -> RenderError | None:
        error = self.rendered.exception()
        if error is None or isinstance(error, RenderError):
            return error
        return RenderError("unknown_error", f"The sandbox could not render this: {type(error).__name__}")


def _without_query(image_file_path: str) -> str:
    return image_file_path.partition("?")[0]
