"""Take the README's pictures anew: the run in Airflow's UI, its link to the library, a frame of the clip.

Needs chromium (Debian: apt-get install chromium), `pip install playwright`, and the sandbox's extra:

    python scripts/screenshots.py
    CHROMIUM=/opt/chromium/chrome python scripts/screenshots.py
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from live_airflow import LiveAirflow
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright
from sandbox_process import sandbox

REPOSITORY = Path(__file__).resolve().parent.parent
PICTURES = REPOSITORY / "docs" / "images"
DAGS = REPOSITORY / "dags_examples"
PHOTOGRAPH = DAGS / "images" / "grace_hopper.jpg"
DAG_ID = "magichour_image_to_video"
LINK = "Magic Hour library"

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LIGHT_GRAPH = "localStorage.setItem('default_dag_view', '\"graph\"'); localStorage.setItem('theme', 'light');"
"""What Airflow's UI remembers of a person who likes the graph, and light colours."""

VIEW_WIDTH, VIEW_HEIGHT = 1280, 800
FRAME_WIDTH, FRAME_QUALITY = 480, 85
RENDER_SECONDS = "25"
RUN_SECONDS = 180.0
SETTLE_MILLISECONDS = 2500
"""For what has no end that a page shows: the graph's layout and its animations."""


def main() -> int:
    """Run the three-task Dag once and take the three pictures; the exit status."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="magichour-pictures-") as folder:
        _take_all(Path(folder))
    for picture in sorted(PICTURES.iterdir()):
        print(f"{picture.relative_to(REPOSITORY)}: {picture.stat().st_size:,} bytes")
    return 0


def _take_all(folder: Path) -> None:
    with sandbox(folder / "sandbox.log", "--render-seconds", RENDER_SECONDS) as url:
        connection = json.dumps({"conn_type": "magichour", "host": url, "password": "sandbox-key"})
        env = {"AIRFLOW_CONN_MAGICHOUR_DEFAULT": connection}
        with LiveAirflow(folder / "airflow", DAGS, env=env) as airflow, _browser(folder / "profile") as page:
            run_id = airflow.trigger(DAG_ID, {"image": str(PHOTOGRAPH), "folder": str(folder / "clips")})
            run_page = f"{airflow.base_url}/dags/{DAG_ID}/runs/{run_id}"
            airflow.wait_for_task_state(DAG_ID, run_id, "wait", "deferred")
            _take_run(page, run_page)
            _take_link(page, f"{run_page}/tasks/wait/details")
            state = airflow.wait_for_run(DAG_ID, run_id, RUN_SECONDS)
            clip = airflow.xcom(DAG_ID, run_id, "download")
    if state != "success":
        raise RuntimeError(f"The run ended as {state}.")
    _take_frame(Path(clip["path"]))


@contextmanager
def _browser(profile: Path) -> Iterator[Page]:
    """A page of a headless chromium with a profile of its own."""
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=CHROMIUM,
            args=list(FLAGS),
            color_scheme="light",
            viewport={"width": VIEW_WIDTH, "height": VIEW_HEIGHT},
        )
        try:
            context.add_init_script(LIGHT_GRAPH)
            yield context.pages[0]
        finally:
            context.close()


def _take_run(page: Page, run_page: str) -> None:
    """The graph, with `wait` deferred."""
    page.goto(run_page)
    expect(page.get_by_text("Deferred").first).to_be_visible()
    _save(page, "run.png")


def _take_link(page: Page, task_page: str) -> None:
    """The deferred task's own page, with its link to the library."""
    page.goto(task_page)
    link = page.get_by_role("link", name=LINK)
    expect(link).to_be_visible()
    link.scroll_into_view_if_needed()
    _save(page, "link.png")


def _save(page: Page, name: str) -> None:
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    path = PICTURES / name
    page.screenshot(path=path)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def _take_frame(clip: Path) -> None:
    """The frame in the middle of the clip."""
    with av.open(str(clip)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    frame = frames[len(frames) // 2]
    frame.thumbnail((FRAME_WIDTH, FRAME_WIDTH * 2))
    frame.save(PICTURES / "frame.jpg", quality=FRAME_QUALITY, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
