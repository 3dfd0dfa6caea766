"""Airflow in a folder of its own, for every test: set before anything imports it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

os.environ.update(
    {
        "AIRFLOW_HOME": tempfile.mkdtemp(prefix="magichour-tests-"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags_examples"),
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    }
)
