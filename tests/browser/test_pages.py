"""Our own pages in Airflow's UI: what they show, to whom, in which colours, and by keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from browser import LARGE, SMALL
from browser_stage import API_KEY, Scene
from playwright.sync_api import Locator, Page, expect
from processes import wait_until

if TYPE_CHECKING:
    from browser import Window

pytestmark = pytest.mark.live

Runs = dict[str, Any]
GALLERY = "/plugin/magichour"
DIRECT = "/magichour/"
THEMES = ("light", "dark")


def plays(video: Locator) -> bool:
    """Whether the clip moves on once it is played."""
    video.evaluate("video => { video.muted = true; return video.play(); }")
    return wait_until(lambda: video.evaluate("video => video.currentTime") > 0.2, timeout=30)


def focused(page: Page) -> str:
    """What holds the focus, in a few words."""
    found: str = page.evaluate(
        "() => { const e = document.activeElement;"
        " return e.id || e.closest('[data-testid]')?.dataset.testid + ' ' + e.tagName.toLowerCase(); }"
    )
    return found


def is_marked(page: Page) -> bool:
    """Whether a person sees where the focus is: on a card, the whole of it is marked."""
    found: bool = page.evaluate(
        "() => { const e = document.activeElement;"
        " return [e, e.closest('.card') ?? e].some(each => getComputedStyle(each).outlineStyle != 'none'); }"
    )
    return found


def test_the_tab_of_a_task_plays_its_clip_from_where_it_has_landed(
    runs: Runs, open_window: Callable[..., Window]
) -> None:
    run = runs["landed"]
    assert run.finish() == "success"
    window = open_window()
    window.goto(run.task("download"))
    with window.page.expect_response("**/magichour/clip?*") as answer:
        window.page.locator("a[href$='/plugin/magichour_clip']").click()

    assert answer.value.status == 206, "a player gets the clip in parts"
    expect(window.frame.get_by_test_id("status")).to_contain_text("Success")
    facts = window.frame.get_by_test_id("facts")
    for value in ("72 credits", "ltx-2.3", "480p", "3 s"):
        expect(facts).to_contain_text(value)
    expect(window.frame.get_by_test_id("prompt")).to_have_text("She smiles; the camera moves slowly closer")
    expect(window.frame.locator("figcaption")).to_contain_text(
        f"where it has landed: {run.xcom('download')['path']}"
    )
    assert plays(window.frame.get_by_test_id("player"))


def test_a_clip_outside_the_roots_is_played_by_a_link_that_is_in_no_page(
    scene: Scene, runs: Runs, open_window: Callable[..., Window]
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


def test_a_failed_task_says_why_and_what_to_do(runs: Runs, open_window: Callable[..., Window]) -> None:
    run = runs["refused"]
    assert run.finish() == "failed"
    window = open_window()
    window.goto(run.tab("wait"))

    failure = window.frame.get_by_test_id("failure")
    expect(failure.get_by_role("heading", name="moderation")).to_be_visible()
    expect(failure.get_by_role("heading", name="What to do")).to_be_visible()
    expect(failure.get_by_role("heading", name="Credits")).to_be_visible()
    expect(window.frame.get_by_test_id("player")).to_have_count(0)


def test_a_task_that_is_not_ours_says_so_in_one_line(runs: Runs, open_window: Callable[..., Window]) -> None:
    assert runs["landed"].finish() == "success"
    window = open_window()
    window.goto(runs["landed"].tab("note"))

    expect(window.frame.get_by_test_id("not-ours").locator("p")).to_have_count(1)
    expect(window.frame.get_by_test_id("facts")).to_have_count(0)


def test_a_waiting_task_shows_its_clip_by_itself_when_it_is_rendered(
    runs: Runs, open_window: Callable[..., Window]
) -> None:
    run = runs["held"]
    run.wait_for("wait", "deferred")
    window = open_window()
    window.goto(run.tab("wait"))
    expect(window.frame.get_by_test_id("status")).to_contain_text("Deferred")
    expect(window.frame.get_by_test_id("no-player")).to_be_visible()

    run.release()

    expect(window.frame.get_by_test_id("player")).to_be_visible(timeout=60_000)
    assert plays(window.frame.get_by_test_id("player"))
    assert run.finish() == "success"


def test_the_gallery_is_reached_by_the_menu_filtered_and_leads_to_a_task(
    scene: Scene, runs: Runs, open_window: Callable[..., Window]
) -> None:
    for run_id in ("landed", "elsewhere", "refused", "closed"):
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

    window.frame.get_by_test_id("filter-dag").select_option("closed_clips")
    expect(cards).to_have_count(1)
    expect(cards).to_contain_text("closed_clips")
    window.frame.get_by_test_id("filter-dag").select_option("")
    window.frame.get_by_test_id("filter-state").select_option("failed")
    expect(cards.first).to_contain_text("Failed")
    expect(cards).to_have_count(1)

    cards.get_by_role("link").click()
    window.page.wait_for_url(f"**{runs['refused'].path}/tasks/**")


def test_a_reader_sees_the_dags_that_airflow_shows_and_no_balance(
    runs: Runs, open_window: Callable[..., Window]
) -> None:
    runs["landed"].finish()
    window = open_window("reader")
    window.goto(GALLERY)

    expect(window.frame.get_by_test_id("balances")).to_contain_text("No connection")
    expect(window.frame.get_by_test_id("card").first).to_contain_text("open_clips")
    assert window.frame.get_by_test_id("card").filter(has_text="closed_clips").count() == 0
    assert window.frame.get_by_test_id("filter-dag").locator("option").all_inner_texts() == [
        "All Dags",
        "open_clips",
    ]
    assert "closed_clips" not in window.frame.locator("html").inner_html()

    window.goto(f"/magichour/task?{runs['landed'].query('download')}")
    assert plays(window.page.get_by_test_id("player"))


def test_a_stranger_sees_no_clip_in_the_gallery(runs: Runs, open_window: Callable[..., Window]) -> None:
    runs["landed"].finish()
    window = open_window("stranger")
    window.goto(GALLERY)

    expect(window.frame.get_by_test_id("empty")).to_be_visible()
    expect(window.frame.get_by_test_id("balances")).to_contain_text("No connection")
    assert window.frame.get_by_test_id("card").count() == 0
    assert "_clips" not in window.frame.locator("html").inner_html()


@pytest.mark.parametrize(
    ("user", "run_id"), [("reader", "closed"), ("stranger", "closed"), ("stranger", "landed")]
)
def test_the_tab_of_a_dag_that_one_may_not_read_looks_like_one_that_is_not_there(
    user: str, run_id: str, runs: Runs, open_window: Callable[..., Window]
) -> None:
    run = runs[run_id]
    run.finish()
    window = open_window(user)
    window.goto(run.tab("download"))
    refused = window.frame.get_by_test_id("refused")
    expect(refused).to_contain_text("404")
    said = refused.inner_text()

    for address in ("task", "clip", "poster"):
        answer = window.page.request.get(f"{window.base_url}{DIRECT}{address}?{run.query('download')}")
        assert answer.status == 404, address
        assert "mp4" not in answer.text()
    window.goto(f"/magichour/task?{run.query('download').replace(run.run_id, 'never-run')}")
    assert window.page.get_by_test_id("refused").inner_text() == said
    problems = window.take_problems()
    assert problems
    assert all("status of 403" in problem or "status of 404" in problem for problem in problems)


def test_nobody_sees_anything_without_logging_in(runs: Runs, open_window: Callable[..., Window]) -> None:
    runs["landed"].finish()
    window = open_window(user=None)

    for address in ("", "balances", "task", "clip", "poster"):
        query = runs["landed"].query("download")
        answer = window.page.request.get(f"{window.base_url}{DIRECT}{address}?{query}")
        assert answer.status == 401, address


def test_the_keyboard_reaches_filters_cards_and_player(
    runs: Runs, open_window: Callable[..., Window]
) -> None:
    runs["landed"].finish()
    window = open_window()
    page = window.page
    window.goto(DIRECT)
    reached = []
    while "card" not in "".join(reached) and len(reached) < 20:
        page.keyboard.press("Tab")
        reached.append(focused(page))
        assert is_marked(page), reached[-1]
    assert reached[:2] == ["filter-dag", "filter-state"]
    assert reached[-1] == "card a"

    window.goto(f"/magichour/task?{runs['landed'].query('download')}")
    while focused(page) != "clip" and len(reached) < 40:
        page.keyboard.press("Tab")
        reached.append(focused(page))
    assert reached[-1] == "clip"
    page.get_by_test_id("player").evaluate("video => { video.muted = true; }")
    page.keyboard.press("Space")
    assert wait_until(lambda: page.evaluate("document.activeElement.currentTime") > 0.2, timeout=30)


def test_a_change_of_theme_is_followed_at_once(runs: Runs, open_window: Callable[..., Window]) -> None:
    window = open_window(theme="light")
    window.goto(GALLERY)
    root = window.frame.locator("html")
    expect(root).to_have_attribute("data-theme", "light")
    expect(window.frame.get_by_test_id("gallery")).to_be_visible()

    window.page.get_by_role("button", name="User").click()
    window.page.get_by_role("menuitem", name="Appearance").hover()
    window.page.get_by_role("menuitemradio", name="Dark Mode").click()

    expect(root).to_have_attribute("data-theme", "dark")


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["1280", "1920"])
@pytest.mark.parametrize("theme", THEMES)
def test_the_pages_have_airflows_colours_and_fit_the_window(
    theme: str, size: tuple[int, int], runs: Runs, open_window: Callable[..., Window], pictures: Any
) -> None:
    runs["landed"].finish()
    window = open_window(theme=theme, size=size)
    for name, path in (("gallery", GALLERY), ("task", runs["landed"].tab("download"))):
        window.goto(path)
        expect(window.frame.locator("main")).to_be_visible()
        html = window.frame.locator("html")
        assert html.evaluate("html => html.scrollWidth <= html.clientWidth"), f"{name}: nothing is cut off"
        ours = html.evaluate("html => getComputedStyle(html.ownerDocument.body).backgroundColor")
        airflows = window.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ours in (airflows, "rgba(0, 0, 0, 0)")
        window.page.screenshot(path=pictures / f"{name}-{theme}-{size[0]}.png")
