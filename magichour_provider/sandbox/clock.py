"""The sandbox's own time: real time, plus what it was moved on by."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone


class SandboxClock:
    """Tells the time; can be moved on, so that links expire and jobs end at once."""

    def __init__(self) -> None:
        self._offset = timedelta()

    def now(self) -> datetime:
        """The time, in UTC."""
        return datetime.fromtimestamp(time.time(), timezone.utc) + self._offset

    def advance(self, seconds: float) -> None:
        """Move the time on by `seconds`, zero or more."""
        self._offset += timedelta(seconds=seconds)


def iso(moment: datetime, *, milliseconds: bool) -> str:
    """`moment` as Magic Hour writes it: ISO 8601 with `Z`, with or without milliseconds."""
    text = moment.astimezone(timezone.utc).isoformat(timespec="milliseconds" if milliseconds else "seconds")
    return text.replace("+00:00", "Z")
