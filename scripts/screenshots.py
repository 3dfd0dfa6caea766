"""Take the pictures of the documentation: runs, the connection's form, and our pages in Airflow's UI.

Needs chromium, as `browser.py` says, the sandbox's extra and Playwright; everything goes into docs/images:

    make screenshots
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from browser import SMALL, Theme, View, Window, chromium
from browser_stage import ADMIN, API_KEY, Scene, stage
from PIL import Image, ImageOps
from playwright.sync_api import Browser, Page, ViewportSize, expect
from processes import wait_until

REPOSITORY = Path(__file__).resolve().parent.parent
PICTURES = REPOSITORY / "docs" / "images"
DAGS = REPOSITORY / "dags_examples"
PHOTOGRAPH = DAGS / "images" / "grace_hopper.jpg"

PIPELINE = "magichour_image_to_video"
SHORT = "magichour_render_and_download"
FOLDER = "magichour_folder_of_images"
HELD, QUICK = 3600.0, 2.0
"""Seconds that a render takes: one for the pictures of a waiting run, and the others."""

USUAL: ViewportSize = {"width": SMALL[0], "height": SMALL[1]}
TALL: ViewportSize = {"width": SMALL[0], "height": 1280}
"""For a form that is longer than a window."""
RUN_SECONDS = 300.0
PAGE_MILLISECONDS = 60_000
SETTLE_MILLISECONDS = 2500
"""For what ends without a sign on the page: the graph's layout, animations, a video's first frame."""


def main() -> int:
    """Run the example Dags and take every picture; the exit status."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=PAGE_MILLISECONDS)
    with (
        tempfile.TemporaryDirectory(prefix="magichour-") as folder,
        chromium() as browser,
        stage(Path(folder), [DAGS]) as scene,
    ):
        _take_all(scene, browser)
    for picture in sorted(PICTURES.iterdir()):
        print(f"{picture.relative_to(REPOSITORY)}: {picture.stat().st_size:,} bytes")
    return 0


def _take_all(scene: Scene, browser: Browser) -> None:
    scene.sandbox.behaviour(render_seconds=HELD)
    run_id = _trigger(scene, PIPELINE)
    scene.airflow.wait_for_task_state(PIPELINE, run_id, "wait", "deferred", timeout=RUN_SECONDS)
    # The triggerer writes the link after the deferral, and Airflow's page reads it once.
    wait_until(lambda: any(scene.airflow.extra_links(PIPELINE, run_id, "wait").values()), timeout=RUN_SECONDS)
    scene.sandbox.behaviour(render_seconds=QUICK)
    ended = _run_the_others(scene)
    run_page = f"/dags/{PIPELINE}/runs/{run_id}"
    _take_run(_open(scene, browser, view="graph"), run_page)
    _take_connection(_open(scene, browser), scene)
    for job in scene.sandbox.state()["jobs"]:
        if job["status"] in ("queued", "rendering"):
            scene.sandbox.set_job(job["id"], "complete")
    _finish(scene, PIPELINE, run_id)
    _take_pages(scene, browser, f"{run_page}/tasks/download", ended)


def _run_the_others(scene: Scene) -> str:
    """More videos for the gallery, and a run that is refused; the page of its failed task."""
    runs = [
        (FOLDER, _trigger(scene, FOLDER, images=str(_variants(scene.videos.parent / "stills")))),
        (SHORT, _trigger(scene, SHORT)),
    ]
    refused = _trigger(scene, PIPELINE, prompt="Something nsfw")
    for dag_id, run_id in [*runs, (PIPELINE, refused)]:
        _finish(scene, dag_id, run_id, "failed" if run_id == refused else "success")
    return f"/dags/{PIPELINE}/runs/{refused}/tasks/wait"


def _trigger(scene: Scene, dag_id: str, **conf: str) -> str:
    return scene.airflow.trigger(dag_id, {"folder": str(scene.videos / dag_id), **conf})


def _finish(scene: Scene, dag_id: str, run_id: str, expected: str = "success") -> None:
    state = scene.airflow.wait_for_run(dag_id, run_id, RUN_SECONDS)
    if state != expected:
        raise RuntimeError(f"The run of {dag_id} ended as {state}.")


def _variants(folder: Path) -> Path:
    """The photograph in other shades, so that the videos differ visibly."""
    folder.mkdir()
    with Image.open(PHOTOGRAPH) as photograph:
        picture = photograph.convert("RGB")
    shades = {
        "sepia": ("#2b1a0c", "#f5e3c8"),
        "blue": ("#05142e", "#d6e6ff"),
        "green": ("#04210f", "#dcf5df"),
    }
    for name, (black, white) in shades.items():
        ImageOps.colorize(ImageOps.grayscale(picture), black, white).save(folder / f"hopper-{name}.jpg")
    return folder


def _open(scene: Scene, browser: Browser, *, theme: Theme = "light", view: View = "grid") -> Window:
    return Window.open(browser, scene.airflow.base_url, scene.token(ADMIN), theme=theme, view=view)


def _take_run(window: Window, run_page: str) -> None:
    """The graph with `wait` deferred; and that task's own page with its link to the library."""
    window.goto(run_page)
    expect(window.page.get_by_text("Deferred").first).to_be_visible()
    _save(window.page, "run.png")
    window.goto(f"{run_page}/tasks/wait/details")
    link = window.page.get_by_role("link", name="Magic Hour library")
    expect(link).to_be_visible()
    link.scroll_into_view_if_needed()
    _save(window.page, "link.png")
    window.close()


def _take_connection(window: Window, scene: Scene) -> None:
    """The connection's form, its extras, and what Test says of a wrong key."""
    page = window.page
    form = page.get_by_role("dialog")
    window.goto("/connections")
    page.get_by_role("button", name="Add Connection").click()
    form.locator("input[name=connection_id]").fill("magichour_default")
    form.get_by_role("combobox").click()
    page.get_by_role("option", name="Magic Hour", exact=True).click()
    form.locator("input[name=password]").fill(API_KEY)
    _save(page, "connection-form.png")
    form.get_by_role("button", name="Extra Fields", exact=True).click()
    page.set_viewport_size(TALL)
    _save(page, "connection-extras.png")
    page.set_viewport_size(USUAL)
    form.get_by_role("button", name="Extra Fields", exact=True).click()
    form.get_by_role("button", name="Standard Fields", exact=True).click()
    form.locator("input[name=connection_id]").fill("magichour_studio")
    form.locator("input[name=host]").fill(scene.sandbox_url)
    form.locator("input[name=port]").fill(scene.sandbox_url.rpartition(":")[2])
    form.locator("input[name=password]").fill("mhk_live_mistyped")
    form.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="Test Connection").click()
    expect(page.get_by_text("valid API key").first).to_be_visible()
    _save(page, "connection-test.png")
    window.close()
    scene.airflow.request("DELETE", "/connections/magichour_studio")


def _take_pages(scene: Scene, browser: Browser, download: str, failed: str) -> None:
    """Our own pages: the gallery in both themes, the tab of a video, and a failed task's."""
    for theme in ("light", "dark"):
        window = _open(scene, browser, theme=theme)
        window.goto("/plugin/magichour")
        expect(window.frame.get_by_test_id("balance").first).to_be_visible()
        _save(window.page, f"gallery-{theme}.png")
        window.goto(f"{download}/plugin/magichour_video")
        expect(window.frame.get_by_test_id("player")).to_be_visible()
        _save(window.page, f"task-{theme}.png")
        window.close()
    window = _open(scene, browser)
    window.goto(f"{failed}/plugin/magichour_video")
    expect(window.frame.get_by_test_id("failure")).to_be_visible()
    _save(window.page, "failed-task.png")
    window.close()


def _save(page: Page, name: str) -> None:
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    path = PICTURES / name
    page.screenshot(path=path)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
