"""A run from its trigger to its end, as a person follows it in Airflow's own pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect
from processes import wait_until

from magichour_provider.jobs.reference import library_url

if TYPE_CHECKING:
    from browser import Window
    from browser_stage import Scene

pytestmark = pytest.mark.live

DAG_ID = "open_clips"
RUN_ID = "by-hand"


def test_a_run_is_triggered_seen_deferred_and_led_to_the_library_from(
    scene: Scene, runs: dict[str, Any], open_window: Callable[..., Window], run_of: Callable[..., Any]
) -> None:
    scene.sandbox.behaviour(render_seconds=3600)
    window = open_window(view="graph")
    page = window.page
    window.goto(f"/dags/{DAG_ID}")
    page.get_by_role("button", name="Trigger").click()
    form = page.get_by_role("dialog")
    form.locator("input[name=element_folder]").fill(str(scene.clips / DAG_ID))
    form.get_by_role("button", name="Advanced Options").click()
    form.locator("input[name=dagRunId]").fill(RUN_ID)
    form.get_by_role("button", name="Trigger", exact=True).click()
    expect(form).to_be_hidden()
    run = run_of(DAG_ID, RUN_ID)

    run.wait_for("wait", "deferred")
    # The triggerer writes the link a moment later, and Airflow's page asks for it once.
    assert wait_until(lambda: run.link("wait"), timeout=60)
    scene.sandbox.behaviour(render_seconds=2)
    window.goto(run.task("wait"))
    expect(page.get_by_text("Deferred", exact=True).first).to_be_visible()
    window.goto(f"{run.task('wait')}/details")
    link = page.get_by_role("link", name="Magic Hour library")
    expect(link).to_have_attribute("href", library_url(run.xcom("submit")["project_id"]))

    run.release()
    window.goto(run.path)
    expect(page.get_by_text("Success", exact=True).first).to_be_visible(timeout=120_000)
    assert run.finish() == "success"
    assert wait_until(lambda: run.xcom("download")["path"].endswith(".mp4"), timeout=10)
