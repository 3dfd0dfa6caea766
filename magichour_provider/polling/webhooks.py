"""What webhooks do for waits: the mailbox by which API servers tell triggerers, and the pace of the polls.

An API server that received a webhook writes the job's id into the mailbox of its connection, a Variable of
Airflow. Each triggerer with waits on the connection reads it every second, and polls the jobs that it finds
there at once. So a wait ends by Magic Hour's own answer, as without webhooks, and a forged entry only costs
a poll. docs/design.md compares the other ways.

While webhooks come, polling is their net: a poll that is due is put off once, by `NET_SECONDS`. A poll of
the net that finds an end without a webhook ends that for all jobs, until the next webhook comes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from types import MappingProxyType

CHECK_SECONDS = 1.0
"""Between two reads of the mailbox."""
NET_SECONDS = 60.0
"""By so much a poll comes later while webhooks come."""
RETENTION_SECONDS = 60.0
"""An entry stays so long: a triggerer that reads late, or a wait that starts late, still finds it."""
_MAX_ENTRIES = 1000

ReadMailbox = Callable[[], Awaitable[str | None]]


def mailbox_key(conn_id: str) -> str:
    """The key of a connection's Variable.

    A hash, because Airflow masks the value of a key that contains a word such as `token`.
    """
    return f"magichour_webhooks_{hashlib.sha256(conn_id.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Mailbox:
    """The latest webhooks of a connection.

    :param received_at: epoch seconds of the last genuine webhook; None if none was ever received.
    :param ended: when the end of a job was reported, in epoch seconds, by its project id.
    """

    received_at: float | None = None
    ended: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def from_text(cls, text: str | None) -> Mailbox:
        """Read a Variable's value. One that cannot be read is an empty mailbox."""
        try:
            stored = json.loads(text or "{}")
            ended = {str(project_id): float(at) for project_id, at in stored.get("ended", {}).items()}
            received_at = stored.get("received_at")
            if received_at is not None:
                received_at = datetime.fromtimestamp(received_at, timezone.utc).timestamp()  # no infinity
            return cls(received_at, ended)
        except (ValueError, TypeError, AttributeError, OverflowError, OSError, RecursionError):
            return cls()

    def as_text(self) -> str:
        """The Variable's value."""
        return json.dumps({"received_at": self.received_at, "ended": dict(self.ended)})

    def add(self, now: float, project_ids: list[str]) -> Mailbox:
        """The mailbox after webhooks have reported the end of these jobs."""
        kept = {key: at for key, at in self.ended.items() if abs(now - at) < RETENTION_SECONDS}
        ended = kept | {project_id: now for project_id in project_ids if project_id not in kept}
        newest = sorted(ended.items(), key=lambda entry: entry[1])[-_MAX_ENTRIES:]
        return Mailbox(now, dict(newest))


class WebhookWatch:
    """What a triggerer knows of the webhooks of one connection.

    `is_failing`: a job ended without a webhook, and none has come since.
    """

    def __init__(self) -> None:
        self.mailbox = Mailbox()
        self.is_failing = False

    def update(self, mailbox: Mailbox) -> list[str]:
        """Take in what was read; return the ids of the jobs that have newly ended."""
        new = [project_id for project_id in mailbox.ended if project_id not in self.mailbox.ended]
        if mailbox.received_at != self.mailbox.received_at:
            self.is_failing = False
        self.mailbox = mailbox
        return new
