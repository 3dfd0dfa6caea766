"""A local S3 as a process of its own, for tests: moto's, which keeps its objects until it ends.

with s3_server(folder / "s3.log") as s3:
    s3.client().create_bucket(Bucket="clips")
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import processes

_LISTENING = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")
_STARTUP_SECONDS = 60.0
_REGION = "us-east-1"
_KEY_ID, _SECRET = "a-local-key", "a-local-secret"


class S3ServerError(RuntimeError):
    """The server did not start; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class S3Server:
    """A running S3 at `url`; any key will do."""

    url: str

    @property
    def connection(self) -> dict[str, Any]:
        """The Airflow connection to it, as JSON."""
        extra = {"endpoint_url": self.url, "region_name": _REGION}
        return {"conn_type": "aws", "login": _KEY_ID, "password": _SECRET, "extra": extra}

    def client(self) -> Any:
        """Boto3's client of it."""
        import boto3  # type: ignore[import-untyped]

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=_REGION,
            aws_access_key_id=_KEY_ID,
            aws_secret_access_key=_SECRET,
        )


@contextmanager
def s3_server(log: Path) -> Iterator[S3Server]:
    """Run moto's server on a port that the system picks; what it prints goes to the file `log`.

    Raises S3ServerError.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
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
                raise S3ServerError(f"The S3 server did not start. The end of {log}:\n{processes.tail(log)}")
            yield S3Server(url)
        finally:
            with processes.signals_held():
                processes.stop(children)


def _url_in(log: Path) -> str | None:
    match = _LISTENING.search(log.read_text(encoding="utf-8", errors="replace"))
    return match.group(1) if match else None
