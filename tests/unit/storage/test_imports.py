from __future__ import annotations

import subprocess
import sys

HEAVY = ("airflow", "fsspec", "upath", "httpx", "urllib.request")


def test_importing_storage_loads_no_airflow_no_driver_and_no_http_client() -> None:
    code = (
        "import sys, magichour_provider.storage.images, magichour_provider.storage.download\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
