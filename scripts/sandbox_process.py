"""The sandbox as a separate process, for the demo and the end-to-end tests."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import processes

_LISTENING = re.compile(r"^magichour-sandbox listening on (http://127\.0\.0\.1:\d+)\s*$", re.MULTILINE)


class SandboxError(RuntimeError):
    """The sandbox did not start; the message ends with the last lines of its log."""


@contextmanager
def sandbox(log: Path, *arguments: str) -> Iterator[str]:
    """Run `magichour-sandbox --port 0` with further `arguments`; gives its URL.

    Its output goes to the file `log`, which is overwritten. Raises SandboxError.
    """
    command = [sys.executable, "-m", "magichour_provider.sandbox.cli", "--port", "0", *arguments]
    with processes.announced(command, _LISTENING, log, SandboxError) as url:
        yield url
