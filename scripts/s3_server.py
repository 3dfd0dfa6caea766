"""A local S3 as a process of its own, for tests: moto's, which keeps its objects until it ends.

Moto reads an object and then writes it, so of two conditional writes at the same moment both may win. Here
they come one after the other, as at Amazon.

with s3_server(folder / "s3.log") as s3:
    s3.client().create_bucket(Bucket="videos")
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import processes

_LISTENING = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")
_IGNORE_CONDITIONS = "--ignore-conditions"
_CONDITIONS = {"HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"}
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
def s3_server(log: Path, *, has_conditions: bool = True) -> Iterator[S3Server]:
    """Run moto's server on a port that the system picks; what it prints goes to the file `log`.

    :param has_conditions: whether it heeds `If-Match` and `If-None-Match`. Some stores ignore them.

    Raises S3ServerError.
    """
    command = [sys.executable, __file__, *([] if has_conditions else [_IGNORE_CONDITIONS])]
    with processes.announced(command, _LISTENING, log, S3ServerError) as url:
        yield S3Server(url)


def main() -> None:
    """Serve, until a signal ends the process."""
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import run_simple

    app = DomainDispatcherApplication(create_backend_app)
    writing, ignores_conditions = threading.Lock(), _IGNORE_CONDITIONS in sys.argv

    def one_condition_at_a_time(environ: Any, start_response: Any) -> Any:
        is_conditional = environ.keys() & _CONDITIONS
        if ignores_conditions:
            for name in is_conditional:
                del environ[name]
        with writing if is_conditional else nullcontext():
            return app(environ, start_response)

    run_simple("127.0.0.1", 0, one_condition_at_a_time, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main()
