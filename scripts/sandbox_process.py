"""The sandbox as a process of its own, for the demo and the end-to-end tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import processes

_LISTENING = re.compile(r"^magichour-sandbox listening on (http://127\.0\.0\.1:\d+)\s*$", re.MULTILINE)
_STARTUP_SECONDS = 60.0


class SandboxError(RuntimeError):
    """The sandbox did not start; the message ends with the last lines of its log."""


@contextmanager
def sandbox(log: Path, *arguments: str) -> Iterator[str]:
    """Run `magichour-sandbox --port 0` with `arguments` besides; its URL.

    What it prints goes to the file `log`, which is overwritten. Raises SandboxError.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    command = [sys.executable, "-m", "magichour_provider.sandbox.cli", "--port", "0", *arguments]
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    children: list[subprocess.Popen[bytes]] = []

    def has_started() -> bool:
        return children[0].poll() is not None or _url_in(log) is not None

    with processes.sigterm_raises():
        try:
            with processes.signals_held():
                children.append(processes.start(command, env=env, log=log, cwd=log.parent))
            processes.wait_until(has_started, timeout=_STARTUP_SECONDS)
            url = _url_in(log)
            if url is None:
                raise SandboxError(f"The sandbox did not start. The end of {log}:\n{processes.tail(log)}")
            yield url
        finally:
            with processes.signals_held():
                processes.stop(children)


def _url_in(log: Path) -> str | None:
    match = _LISTENING.search(log.read_text(encoding="utf-8", errors="replace"))
    return match.group(1) if match else None
