"""Magic Hour's webhooks: verify a delivery, and read its event. No I/O; usable in a service of your own.

    event = construct_event(body, headers, secrets)  # raises WebhookError

Magic Hour signs `<timestamp>.<body>` by HMAC-SHA256 with the webhook's secret, and delivers at least once, in
any order, for up to 24 hours (docs: integration/webhook). It does not tell of a canceled job.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from magichour_provider.client import is_project_id
from magichour_provider.client.models import VideoProject
from magichour_provider.exceptions import WebhookError

SIGNATURE_HEADER = "magic-hour-event-signature"
TIMESTAMP_HEADER = "magic-hour-event-timestamp"

STARTED, COMPLETED, ERRORED = "video.started", "video.completed", "video.errored"
TOLERANCE_SECONDS = 300.0
"""A delivery must have been signed within this time, before or after now."""


@dataclass(frozen=True)
class WebhookEvent:
    """A genuine event.

    :param type: `video.started`, `video.completed`, `video.errored`, or one that this version does not know.
    :param signed_at: epoch seconds.
    :param project: the job, as `GET /v1/video-projects/{id}` gives it; None if the event is not of a video.
    """

    type: str
    signed_at: float
    project: VideoProject | None = None

    @property
    def is_end(self) -> bool:
        """Whether the job has ended."""
        return self.project is not None and self.type in (COMPLETED, ERRORED)


class _Body(BaseModel):
    type: str
    payload: dict[str, Any]


def construct_event(
    body: bytes,
    headers: Mapping[str, str],
    secrets: str | Sequence[str],
    *,
    tolerance: float = TOLERANCE_SECONDS,
    clock: Callable[[], float] = time.time,
) -> WebhookEvent:
    """Verify a delivery and read its event.

    :param body: the raw bytes of the request's body.
    :param headers: the request's headers; case does not count.
    :param secrets: the webhook's secret; more than one while it is rotated.
    :param tolerance: seconds by which the time of signing and `clock` may differ.

    Raises WebhookError, whose message does not tell why; `code` does: `signature`, `timestamp` or `body`.
    """
    given = {name.lower(): value for name, value in headers.items()}
    signature, timestamp = given.get(SIGNATURE_HEADER, ""), given.get(TIMESTAMP_HEADER, "")
    if re.fullmatch(r"[0-9a-fA-F]{64}", signature) is None:
        raise WebhookError("signature")
    if re.fullmatch(r"[0-9]{1,12}", timestamp) is None:
        raise WebhookError("timestamp")
    known = [secrets] if isinstance(secrets, str) else secrets
    # All secrets are compared, each in constant time.
    expected = [sign(body, secret, timestamp) for secret in known if secret]
    matches = [hmac.compare_digest(each, signature.lower()) for each in expected]
    if not any(matches):
        raise WebhookError("signature")
    if abs(clock() - int(timestamp)) > tolerance:
        raise WebhookError("timestamp")
    try:
        content = _Body.model_validate_json(body)
        is_video = content.type.startswith("video.")
        project = VideoProject.model_validate(content.payload) if is_video else None
    except ValidationError:
        raise WebhookError("body") from None
    if project is not None and not is_project_id(project.id):
        raise WebhookError("body")
    return WebhookEvent(content.type, float(timestamp), project)


def sign(body: bytes, secret: str, timestamp: str | int) -> str:
    """The signature that belongs to a body: 64 hexadecimal digits.

    :param timestamp: epoch seconds, as the header gives them.
    """
    return hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


def parse_secrets(text: str | None) -> tuple[str, ...]:
    """The secrets in a text: one, or two while it is rotated, with a blank or a comma between them."""
    return tuple(filter(None, re.split(r"[\s,]+", text or "")))
