"""One chromium and one live Airflow with users for all browser tests, and the runs that they show."""

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
PAGE_MILLISECONDS = 30_000
HELD_SECONDS, QUICK_SECONDS = 3600.0, 2.0
"""Render times: of a job that ends when a test says so, and of the others."""

OpenWindow = Callable[..., Window]


@dataclass(frozen=True)
class Run:
    """One Dag run and its pages."""

    scene: Scene
    dag_id: str
    run_id: str

    @property
    def path(self) -> str:
        """Its page in Airflow's UI."""
        return f"/dags/{self.dag_id}/runs/{self.run_id}"

    def tab(self, task_id: str) -> str:
        """The page of a task with our tab open."""
        return f"{self.path}/tasks/{task_id}/plugin/magichour_video"

    def query(self, task_id: str) -> str:
        """The query of our own addresses for a task."""
        return f"dag_id={self.dag_id}&run_id={self.run_id}&task_id={task_id}"

    def release(self) -> None:
        """Let its job complete."""
        for job in self.scene.sandbox.state()["jobs"]:
            if job["name"].endswith(f" {self.run_id}") and job["status"] in ("queued", "rendering"):
                self.scene.sandbox.set_job(job["id"], "complete")

    def wait_for(self, task_id: str, state: str) -> None:
        self.scene.airflow.wait_for_task_state(self.dag_id, self.run_id, task_id, state, timeout=120)

    def finish(self) -> str:
        """Wait for its end and return its state."""
        return self.scene.airflow.wait_for_run(self.dag_id, self.run_id, timeout=180)

    def link(self, task_id: str) -> str | None:
        """The address of a task's link to the library, once there is one."""
        return self.scene.airflow.extra_links(self.dag_id, self.run_id, task_id).get("Magic Hour library")

    def xcom(self, task_id: str) -> Any:
        """The value that a task returned."""
        return self.scene.airflow.xcom(self.dag_id, self.run_id, task_id)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium. Without one, the tests fail and say how to install it."""
    expect.set_options(timeout=PAGE_MILLISECONDS)
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def scene(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """An Airflow. Its reader may read `open_videos` and no connection; its stranger may read nothing."""
    rights = {"reader": ["open_videos"], "stranger": []}
    dags = [HERE.parents[1] / "dags_examples", HERE / "dags"]
    with stage(tmp_path_factory.mktemp("browser"), dags, readable=rights) as started:
        yield started


@pytest.fixture(scope="session")
def begin(scene: Scene) -> Callable[..., Run]:
    """Start a run, which downloads its video to where the pages may show it."""

    def begin(dag_id: str, run_id: str, **conf: Any) -> Run:
        scene.airflow.trigger(dag_id, {"folder": str(scene.videos / dag_id), **conf}, run_id=run_id)
        return Run(scene, dag_id, run_id)

    return begin


@pytest.fixture
def open_window(browser: Browser, scene: Scene) -> Iterator[OpenWindow]:
    """Open windows of logged-in users. At the end, no window may have had a hidden error."""
    windows: list[Window] = []

    def open_window(user: str | None = ADMIN, **options: Any) -> Window:
        token = scene.token(user) if user else None
        windows.append(Window.open(browser, scene.airflow.base_url, token, **options))
        return windows[-1]

    yield open_window
    problems = [problem for window in windows for problem in window.take_problems()]
    for window in windows:
        window.close()
    assert problems == []


@pytest.fixture(scope="session")
def runs(scene: Scene, begin: Callable[..., Run]) -> dict[str, Run]:
    """Runs that start together, to save time. The job of `held` does not end by itself."""
    scene.sandbox.behaviour(render_seconds=HELD_SECONDS)
    held = begin("open_videos", "held")
    held.wait_for("submit", "success")
    scene.sandbox.behaviour(render_seconds=QUICK_SECONDS)
    started = [
        held,
        begin("open_videos", "downloaded"),
        begin("open_videos", "elsewhere", folder=str(scene.videos.parent / "elsewhere")),
        begin("open_videos", "refused", prompt="something nsfw"),
        begin("closed_videos", "closed"),
    ]
    return {run.run_id: run for run in started}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for pictures of the pages; BROWSER_PICTURES names another."""
    folder = Path(os.environ.get("BROWSER_PICTURES") or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
