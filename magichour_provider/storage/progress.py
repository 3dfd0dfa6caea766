"""Tell how a long transfer gets on: one line every few seconds, and none for a short one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

EVERY_SECONDS = 5.0


class Progress:
    """Counts the bytes of one transfer.

    :param what: how its line begins, such as `Landing s3://clips/a.mp4`.
    :param total: length of the whole in bytes; None where nobody knows it.
    """

    def __init__(
        self, what: str, total: int | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what, self.total, self._clock = what, total, clock
        self._told_at = clock()
        self._told_bytes = 0

    def reached(self, done: int) -> None:
        """Take in that `done` bytes are there by now; fewer than before where a transfer began anew."""
        now = self._clock()
        seconds = now - self._told_at
        if seconds < EVERY_SECONDS or done == self.total:
            return
        rate = max(done - self._told_bytes, 0) / seconds
        self._told_at, self._told_bytes = now, done
        log.info("%s: %s, %s/s%s.", self._what, self._share(done), _readable(rate), self._left(done, rate))

    def _share(self, done: int) -> str:
        if not self.total:
            return _readable(done)
        return f"{_readable(done)} of {_readable(self.total)} ({100 * done // self.total} %)"

    def _left(self, done: int, rate: float) -> str:
        if not self.total or not rate:
            return ""
        return f", {_duration((self.total - done) / rate)} left"


def _readable(size: float) -> str:
    """Decimal units, as disks and networks count."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def _duration(seconds: float) -> str:
    seconds = round(max(seconds, 0))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
