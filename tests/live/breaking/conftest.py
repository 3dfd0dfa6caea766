"""What the breaking tests share: the report, and the scenarios, which are played side by side."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import pytest
from live_airflow import LiveAirflow
from postgres import postgres
from report import WRITE, Report
from scene import Scene, Seen, stage

HERE = Path(__file__).parent
AT_ONCE = 8
"""Scenarios that are played at the same time."""
HEARTBEAT_TIMEOUT = 30
"""Seconds after which Airflow gives up a task whose supervisor is silent."""
LAST = "test_reliability_page.py"


class Scenario(Protocol):
    """One way to break things, as data; `play` returns what was seen at each of its ends."""

    @property
    def id(self) -> str: ...

    @property
    def mode(self) -> str: ...

    def play(self, scene: Scene) -> list[Seen]: ...


Played = Callable[[Scenario], list[Seen]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Compare with the page when everything else has been seen."""
    items.sort(key=lambda item: item.path.name == LAST and item.path.parent == HERE)


@pytest.fixture(scope="session")
def report() -> Iterator[Report]:
    """What this run has seen; written into the page where that is asked for."""
    report = Report()
    yield report
    if WRITE:
        report.write()


@pytest.fixture(scope="session")
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """What was seen of a scenario. All that this session's tests ask for are played before the first test."""
    scenarios = _wanted(request.session.items)
    dags = tmp_path_factory.mktemp("dags")
    shutil.copytree(HERE / "dags", dags, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    signs = tmp_path_factory.mktemp("signs")
    env = {
        "AIRFLOW__CORE__PARALLELISM": "12",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(HEARTBEAT_TIMEOUT),
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    }
    with (
        postgres() as database,
        LiveAirflow(tmp_path_factory.mktemp("airflow"), dags, env=env, database=database) as airflow,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        plays = {name: pool.submit(_play, scenario, airflow, signs) for name, scenario in scenarios.items()}
    return lambda scenario: plays[scenario.id].result()


def _play(scenario: Scenario, airflow: LiveAirflow, signs: Path) -> list[Seen]:
    name = re.sub(r"\W+", "-", scenario.id)
    scene = stage(airflow, name, scenario.mode, signs)
    try:
        return scenario.play(scene)
    finally:
        scene.sandbox.stop()


def _wanted(items: list[pytest.Item]) -> Mapping[str, Scenario]:
    found: dict[str, Any] = {}
    for item in items:
        callspec = getattr(item, "callspec", None)
        scenario = callspec.params.get("scenario") if callspec else None
        if scenario is not None:
            found[scenario.id] = scenario
    return found
