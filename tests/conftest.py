"""Airflow in a folder of its own, for every test: set before anything imports it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HOME = Path(tempfile.mkdtemp(prefix="magichour-tests-"))

os.environ.update(
    {
        "AIRFLOW_HOME": str(HOME),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "1",
        "AIRFLOW__CORE__DAGS_FOLDER": str(HOME / "dags"),
        "AIRFLOW__API_AUTH__JWT_SECRET": "a-secret-of-the-tests-with-enough-characters",  # needed by 3.2
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    }
)


@pytest.fixture
def memory_store() -> Iterator[Any]:
    """Airflow's object storage with `memory://` in it, which no provider of Airflow registers."""
    import fsspec
    from airflow.sdk.io import attach

    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    attach("memory", fs=filesystem)
    attach("memory", "some_store", fs=filesystem)
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
