"""Azure Blob Storage and Google Cloud Storage as processes of their own, for tests: Azurite, and an emulator.

`make test-stores` installs both into .venv-stores.

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
_AZURE_ACCOUNT = "devstoreaccount1"
_AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account that Microsoft documents for its emulator."""
_AZURE_LISTENING = re.compile(r"listens on (http://127\.0\.0\.1:\d+)")
_GCS_LISTENING = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")


class StoreServerError(RuntimeError):
    """The server did not start; the message ends with the last lines of its log."""


def missing(scheme: str) -> str | None:
    """What a test of `abfs` or `gs` lacks on this machine; None if nothing."""
    modules = {
        "abfs": ["adlfs", "airflow.providers.microsoft.azure.fs.adls"],
        "gs": ["gcsfs", "airflow.providers.google.cloud.fs.gcs", "gcp_storage_emulator"],
    }
    absent = [name for name in modules[scheme] if not _is_installed(name)]
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


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
