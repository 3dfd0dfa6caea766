"""What the end-to-end tests share: one live Airflow over the example Dags, and one sandbox for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_airflow import LiveAirflow
from sandbox_process import sandbox

DAGS = Path(__file__).parents[2] / "dags_examples"


@pytest.fixture(scope="session")
def sandbox_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A sandbox process that makes tiny clips, each rendering for 3 seconds."""
    log = tmp_path_factory.mktemp("sandbox") / "sandbox.log"
    with sandbox(log, "--quick", "--render-seconds", "3") as url:
        yield url


@pytest.fixture(scope="session")
def live_airflow(sandbox_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveAirflow]:
    """A live Airflow over `dags_examples`, whose connection `magichour_default` leads to the sandbox."""
    connection = {"conn_type": "magichour", "host": sandbox_url, "password": "sandbox-e2e-key"}
    env = {"AIRFLOW_CONN_MAGICHOUR_DEFAULT": json.dumps(connection)}
    with LiveAirflow(tmp_path_factory.mktemp("airflow"), DAGS, env=env) as airflow:
        yield airflow
