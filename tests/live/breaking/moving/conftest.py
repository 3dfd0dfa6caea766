"""One live Airflow on PostgreSQL for the tests that break its parts, and a sandbox for each run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from clips import Clips
from live_airflow import LiveAirflow
from postgres import postgres

from magichour_provider.sandbox import Behaviour, SandboxServer, Settings

DAGS = Path(__file__).parent / "dags"
HELD = Settings(quick=True, behaviour=Behaviour(render_seconds=3600))
"""Jobs that end only when a test says so."""

Begin = Callable[..., Clips]


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveAirflow]:
    """An Airflow whose triggerers are given up when they are silent for 10 seconds."""
    dags = tmp_path_factory.mktemp("dags")
    shutil.copy(DAGS / "moving.py", dags)
    env = {
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "10",
        # A task's request to an api-server that is away is sent again for 30 seconds.
        "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "7",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MIN": "5",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "5",
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
    }
    home = tmp_path_factory.mktemp("airflow")
    with postgres() as database, LiveAirflow(home, dags, database=database, env=env) as airflow:
        yield airflow


@pytest.fixture(scope="session")
def begin(airflow: LiveAirflow) -> Iterator[Begin]:
    """Start a run at a sandbox of its own: `begin(dag_id, run_id, hold_create=...)`."""
    with ExitStack() as sandboxes:

        def start(dag_id: str, run_id: str, **options: str) -> Clips:
            clips = Clips(airflow, sandboxes.enter_context(SandboxServer(HELD)), dag_id, run_id)
            clips.begin(**options)
            return clips

        yield start
