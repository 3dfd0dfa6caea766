"""Our pages in Airflow's UI: what they show, to whom, in which theme, and by keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from browser import LARGE, SMALL
from browser_stage import API_KEY, Scene
from playwright.sync_api import Locator, expect
from processes import wait_until

from magichour_provider.client import library_url

if TYPE_CHECKING:
    from browser import Window

pytestmark = pytest.mark.live

Runs = dict[str, Any]
OpenWindow = Callable[..., "Window"]
GALLERY = "/plugin/magichour"
FOCUSED = """() => {
    const element = document.activeElement;
    const marked = [element, element.closest('.card') ?? element];
    return [element.id || element.closest('[data-testid]')?.dataset.testid,
            marked.some(each => getComputedStyle(each).outlineStyle != 'none')];
}"""


def plays(video: Locator) -> bool:
    """Whether the time of the video advances when it is played."""
    video.evaluate("video => { video.muted = true; return video.play(); }")
    return wait_until(lambda: video.evaluate("video => video.currentTime") > 0.2, timeout=30)


def test_tab_plays_the_downloaded_video(runs: Runs, open_window: OpenWindow) -> None:
    run = runs["downloaded"]
    assert run.finish() == "success"
    window = open_window()
    window.goto(f"{run.path}/tasks/download")
    with window.page.expect_response("**/magichour/video?*") as response:
        window.page.locator("a[href$='/plugin/magichour_video']").click()

    assert response.value.status == 206, "a player reads ranges"
    expect(window.frame.get_by_test_id("status")).to_contain_text("Success")
    facts = window.frame.get_by_test_id("facts")
    for value in ("72 credits", "ltx-2.3", "480p", "3 s"):
        expect(facts).to_contain_text(value)
    expect(window.frame.get_by_test_id("prompt")).to_have_text("She smiles; the camera moves slowly closer")
    path = run.xcom("download")["path"]
    expect(window.frame.locator("figcaption")).to_contain_text(f"from the downloaded file: {path}")
    assert plays(window.frame.get_by_test_id("player"))


def test_video_outside_the_roots_is_played_from_magic_hour(
    scene: Scene, runs: Runs, open_window: OpenWindow
) -> None:
    run = runs["elsewhere"]
    assert run.finish() == "success"
    window = open_window()
    window.goto(run.tab("download"))

    expect(window.frame.locator("figcaption")).to_contain_text("Played from Magic Hour")
    assert plays(window.frame.get_by_test_id("player"))
    page = window.frame.locator("html").inner_html()
    hosts = set(re.findall(r"https?://[^/\"' ]+", page)) - {scene.airflow.base_url}
    assert hosts == {"https://magichour.ai"}
    assert API_KEY not in page


def test_tab_shows_the_video_when_it_is_rendered(runs: Runs, open_window: OpenWindow) -> None:
    run = runs["held"]
    run.wait_for("wait", "deferred")
    assert wait_until(lambda: run.link("wait"), timeout=60)
    window = open_window()
    window.goto(f"{run.path}/tasks/wait/details")
    link = window.page.get_by_role("link", name="Magic Hour library")
    expect(link).to_have_attribute("href", library_url(run.xcom("submit")["project_id"]))
    window.goto(run.tab("wait"))
    expect(window.frame.get_by_test_id("status")).to_contain_text("Deferred")
    expect(window.frame.get_by_test_id("no-player")).to_be_visible()

    run.release()

    expect(window.frame.get_by_test_id("player")).to_be_visible(timeout=60_000)
    assert plays(window.frame.get_by_test_id("player"))
    assert run.finish() == "success"


def test_gallery_is_in_the_menu_and_leads_to_a_task(
    scene: Scene, runs: Runs, open_window: OpenWindow
) -> None:
    for run_id in ("downloaded", "elsewhere", "refused", "closed"):
        runs[run_id].finish()
    window = open_window()
    window.goto("/")
    window.page.get_by_role("button", name="Browse").click()
    window.page.get_by_role("menuitem", name="Magic Hour").click()
    cards = window.frame.get_by_test_id("card")

    balance = scene.sandbox.state()["account"]["credits"]
    expect(window.frame.get_by_test_id("balance").first).to_contain_text(f"{balance:,} credits")
    expect(window.frame.get_by_test_id("chart")).to_be_visible()
    assert window.frame.get_by_test_id("chart").locator("rect").count() >= 2, "a bar for each Dag"

    window.frame.get_by_test_id("filter-dag").select_option("closed_videos")
    expect(cards).to_have_count(1)
    expect(cards).to_contain_text("closed_videos")
    window.frame.get_by_test_id("filter-dag").select_option("")
    window.frame.get_by_test_id("filter-state").select_option("failed")
    expect(cards.first).to_contain_text("Failed")
    expect(cards).to_have_count(1)

    cards.get_by_role("link").click()
    window.page.wait_for_url(f"**{runs['refused'].path}/tasks/**")


def test_reader_sees_readable_dags_only(runs: Runs, open_window: OpenWindow) -> None:
    runs["downloaded"].finish()
    window = open_window("reader")
    window.goto(GALLERY)

    expect(window.frame.get_by_test_id("balances")).to_contain_text("There is no connection")
    expect(window.frame.get_by_test_id("card").first).to_contain_text("open_videos")
    options = window.frame.get_by_test_id("filter-dag").locator("option")
    assert options.all_inner_texts() == ["All Dags", "open_videos"]
    assert "closed_videos" not in window.frame.locator("html").inner_html()

    window.goto(f"/magichour/task?{runs['downloaded'].query('download')}")
    assert plays(window.page.get_by_test_id("player"))


@pytest.mark.parametrize(("user", "run_id"), [("reader", "closed"), ("stranger", "downloaded")])
def test_tab_of_a_hidden_dag_is_a_404(user: str, run_id: str, runs: Runs, open_window: OpenWindow) -> None:
    run = runs[run_id]
    run.finish()
    window = open_window(user)
    window.goto(run.tab("download"))
    refused = window.frame.get_by_test_id("refused")
    expect(refused).to_contain_text("404")
    text = refused.inner_text()

    for address in ("task", "video", "poster"):
        response = window.page.request.get(f"{window.base_url}/magichour/{address}?{run.query('download')}")
        assert response.status == 404, address
        assert "mp4" not in response.text()
    window.goto(f"/magichour/task?{run.query('download').replace(run.run_id, 'never-run')}")
    assert window.page.get_by_test_id("refused").inner_text() == text
    problems = window.take_problems()
    assert problems
    assert all("status of 403" in problem or "status of 404" in problem for problem in problems)


def test_keyboard_reaches_filters_cards_and_player(runs: Runs, open_window: OpenWindow) -> None:
    runs["downloaded"].finish()
    window = open_window()
    page = window.page
    window.goto("/magichour/")
    reached: list[str] = []
    while "card" not in reached and len(reached) < 20:
        page.keyboard.press("Tab")
        name, is_marked = page.evaluate(FOCUSED)
        reached.append(name)
        assert is_marked, name
    assert reached[:2] == ["filter-dag", "filter-state"]
    assert reached[-1] == "card"

    window.goto(f"/magichour/task?{runs['downloaded'].query('download')}")
    while page.evaluate(FOCUSED)[0] != "video" and len(reached) < 40:
        page.keyboard.press("Tab")
        reached.append("")
    page.get_by_test_id("player").evaluate("video => { video.muted = true; }")
    page.keyboard.press("Space")
    assert wait_until(lambda: page.evaluate("document.activeElement.currentTime") > 0.2, timeout=30)


def test_change_of_theme_is_followed(runs: Runs, open_window: OpenWindow) -> None:
    window = open_window(theme="light")
    window.goto(GALLERY)
    root = window.frame.locator("html")
    expect(root).to_have_attribute("data-theme", "light")
    expect(window.frame.get_by_test_id("gallery")).to_be_visible()

    window.page.get_by_role("button", name="User").click()
    window.page.get_by_role("menuitem", name="Appearance").hover()
    window.page.get_by_role("menuitemradio", name="Dark Mode").click()

    expect(root).to_have_attribute("data-theme", "dark")


@pytest.mark.parametrize(("theme", "size"), [("light", SMALL), ("dark", LARGE)], ids=["light", "dark"])
def test_pages_have_airflows_colours_and_fit_the_window(
    theme: str, size: tuple[int, int], runs: Runs, open_window: OpenWindow, pictures: Any
) -> None:
    runs["downloaded"].finish()
    window = open_window(theme=theme, size=size)
    for name, path in (("gallery", GALLERY), ("task", runs["downloaded"].tab("download"))):
        window.goto(path)
        expect(window.frame.locator("main")).to_be_visible()
        html = window.frame.locator("html")
        assert html.evaluate("html => html.scrollWidth <= html.clientWidth"), f"{name}: something is cut off"
        ours = html.evaluate("html => getComputedStyle(html.ownerDocument.body).backgroundColor")
        airflows = window.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ours in (airflows, "rgba(0, 0, 0, 0)")
        window.page.screenshot(path=pictures / f"{name}-{theme}-{size[0]}.png")
