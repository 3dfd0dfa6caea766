"""What the browser tests share: one chromium, one live Airflow with users, and runs to look at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser import Window, chromium
from browser_stage import ADMIN, Scene, stage
from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "dags_examples"
PATIENCE = 30_000
"""How long a page may take to show what is waited for, in milliseconds, on a busy machine."""
HELD = 3600.0
"""Render time in seconds of a job that ends only when a test says so."""
QUICK = 2.0

OpenWindow = Callable[..., Window]


@dataclass(frozen=True)
class Run:
    """One Dag run, and where its pages are."""

    scene: Scene
    dag_id: str
    run_id: str

    @property
    def path(self) -> str:
        """Its page in Airflow's UI."""
        return f"/dags/{self.dag_id}/runs/{self.run_id}"

    def task(self, task_id: str) -> str:
        """The page of one of its tasks."""
        return f"{self.path}/tasks/{task_id}"

    def tab(self, task_id: str) -> str:
        """The same with our tab open."""
        return f"{self.task(task_id)}/plugin/magichour_clip"

    def query(self, task_id: str) -> str:
        """How our own addresses name one of its tasks."""
        return f"dag_id={self.dag_id}&run_id={self.run_id}&task_id={task_id}"

    def release(self) -> None:
        """Let its job complete."""
        for job in self.scene.sandbox.state()["jobs"]:
            if job["name"].endswith(f" {self.run_id}") and job["status"] in ("queued", "rendering"):
                self.scene.sandbox.set_job(job["id"], "complete")

    def wait_for(self, task_id: str, state: str) -> None:
        """Wait for a task's state."""
        self.scene.airflow.wait_for_task_state(self.dag_id, self.run_id, task_id, state, timeout=120)

    def finish(self) -> str:
        """Wait for its end; its state."""
        return self.scene.airflow.wait_for_run(self.dag_id, self.run_id, timeout=180)

    def link(self, task_id: str) -> str | None:
        """The address of a task's link to the library, once there is one."""
        links = self.scene.airflow.extra_links(self.dag_id, self.run_id, task_id)
        return links.get("Magic Hour library")

    def xcom(self, task_id: str) -> Any:
        """What a task returned."""
        return self.scene.airflow.xcom(self.dag_id, self.run_id, task_id)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium. Where there is none the tests fail, and say how to get it."""
    expect.set_options(timeout=PATIENCE)
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def scene(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """An Airflow whose reader sees `open_clips` alone and no connection, and whose stranger sees no Dag."""
    rights = {"reader": ["open_clips"], "stranger": []}
    folder = tmp_path_factory.mktemp("browser")
    with stage(folder, [EXAMPLES, HERE / "dags"], readable=rights) as started:
        yield started


@pytest.fixture(scope="session")
def begin(scene: Scene) -> Callable[..., Run]:
    """Start a run, with the conf given; its clip lands where the pages may show it."""

    def begin(dag_id: str, run_id: str, **conf: Any) -> Run:
        folder = scene.clips / dag_id
        conf = {"folder": str(folder), **conf}
        scene.airflow.trigger(dag_id, conf, run_id=run_id)
        return Run(scene, dag_id, run_id)

    return begin


@pytest.fixture
def open_window(browser: Browser, scene: Scene) -> Iterator[OpenWindow]:
    """Open windows of logged-in users; nothing may have gone wrong in them unnoticed in the end."""
    windows: list[Window] = []

    def open_window(user: str | None = ADMIN, **looks: Any) -> Window:
        token = scene.token(user) if user else None
        windows.append(Window.open(browser, scene.airflow.base_url, token, **looks))
        return windows[-1]

    yield open_window
    problems = [problem for window in windows for problem in window.take_problems()]
    for window in windows:
        window.close()
    assert problems == []


@pytest.fixture(scope="session")
def runs(scene: Scene, begin: Callable[..., Run]) -> dict[str, Run]:
    """Runs to look at, begun at once to save time; the job of the first one is held."""
    scene.sandbox.behaviour(render_seconds=HELD)
    held = begin("open_clips", "held")
    held.wait_for("submit", "success")
    scene.sandbox.behaviour(render_seconds=QUICK)
    begun = [
        held,
        begin("open_clips", "landed"),
        begin("open_clips", "elsewhere", folder=str(scene.clips.parent / "elsewhere")),
        begin("open_clips", "refused", prompt="something nsfw"),
        begin("closed_clips", "closed"),
    ]
    return {run.run_id: run for run in begun}


@pytest.fixture
def run_of(scene: Scene) -> Callable[[str, str], Run]:
    """A run that a test has started itself."""
    return lambda dag_id, run_id: Run(scene, dag_id, run_id)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of the pages are left for a person to look at; BROWSER_PICTURES names another folder."""
    named = os.environ.get("BROWSER_PICTURES")
    if named is None:
        return tmp_path_factory.mktemp("pictures")
    folder = Path(named)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
