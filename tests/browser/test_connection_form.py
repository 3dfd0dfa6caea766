"""The connection: made, tested and edited in Airflow's form, by a variable and on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from browser_stage import ADMIN, API_KEY, PASSWORDS, Scene
from playwright.sync_api import Locator, Response, expect

from magichour_provider.client.settings import ClientSettings

if TYPE_CHECKING:
    from browser import Window

pytestmark = pytest.mark.live

WRONG_KEY = "mhk_live_browser_UNKNOWN"
NOT_YET_LOGGED_IN = (
    "console: Failed to load resource: the server responded with a status of 401 (Unauthorized) (/ui/config)"
)
"""Airflow's own: its login page asks for a configuration that it may not have yet."""


class ConnectionsPage:
    """The page of connections and its form."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.page = window.page
        self.form = self.page.get_by_role("dialog")
        self.answers: list[str] = []
        self.page.on("response", self._keep)

    def _keep(self, answer: Response) -> None:
        if "/api/v2/" in answer.url or "/ui/" in answer.url:
            self.answers.append(answer.text())

    def add(self, conn_id: str) -> None:
        """Open the form for a new connection of our type."""
        self.page.get_by_role("button", name="Add Connection").click()
        self.form.locator("input[name=connection_id]").fill(conn_id)
        self.form.get_by_role("combobox").click()
        self.page.get_by_role("option", name="Magic Hour", exact=True).click()

    def edit(self, conn_id: str) -> None:
        """Open the form of a connection that is there."""
        self.row(conn_id).get_by_role("button", name="Edit Connection").click()

    def fill(self, **fields: str) -> None:
        for name, value in fields.items():
            self.form.locator(f"input[name={name}]").fill(value)

    def extra(self, name: str) -> Locator:
        """A typed field of the extras."""
        return self.form.locator(f"input[name=element_{name}]")

    def unfold_extras(self) -> None:
        self.form.get_by_role("button", name="Extra Fields", exact=True).click()
        expect(self.extra("timeout")).to_be_visible()

    def flip(self, name: str) -> None:
        """Flip a switch among the extras, by what a person sees of it."""
        self.form.locator("label").filter(has=self.page.locator(f"input[name=element_{name}]")).click()

    def save(self) -> None:
        self.form.get_by_role("button", name="Save").click()
        expect(self.form).to_be_hidden()

    def test(self, conn_id: str) -> dict[str, Any]:
        """Press Test; what Airflow answers to the page."""
        with self.page.expect_response("**/api/v2/connections/test") as answer:
            self.row(conn_id).get_by_role("button", name="Test Connection").click()
        found: dict[str, Any] = answer.value.json()
        return found

    def row(self, conn_id: str) -> Locator:
        return self.page.get_by_role("row").filter(has=self.page.get_by_text(conn_id, exact=True))


@pytest.fixture
def connections(open_window: Callable[..., Window]) -> ConnectionsPage:
    """The page of connections, for an admin."""
    page = ConnectionsPage(open_window())
    page.window.goto("/connections")
    return page


def port_of(scene: Scene) -> str:
    return scene.sandbox_url.rpartition(":")[2]


def stored_extra(scene: Scene, conn_id: str) -> dict[str, Any]:
    extra: dict[str, Any] = json.loads(scene.airflow.request("GET", f"/connections/{conn_id}")["extra"])
    return extra


def test_after_the_login_page_a_connection_is_made_in_the_form_and_tells_tier_and_credits(
    scene: Scene, runs: object, open_window: Callable[..., Window]
) -> None:
    connections = ConnectionsPage(open_window(user=None))
    page = connections.page
    connections.window.goto("/connections")
    page.locator("input[name=username]").fill(ADMIN)
    page.locator("input[name=password]").fill(PASSWORDS[ADMIN])
    page.keyboard.press("Enter")
    page.wait_for_url("**/connections")
    assert set(connections.window.take_problems()) == {NOT_YET_LOGGED_IN}

    connections.add("by_form")
    connections.fill(host=scene.sandbox_url, password=API_KEY, port=port_of(scene))
    connections.save()
    answer = connections.test("by_form")

    account = scene.sandbox.state()["account"]
    assert answer["status"] is True
    assert re.search(rf"tier {account['tier']}, \d+ credits", answer["message"])
    expect(connections.row("by_form").locator("svg[color=green], svg[style*=green]")).to_be_visible()

    connections.edit("by_form")
    expect(connections.form.locator("input[name=password]")).to_have_value("***")
    assert API_KEY not in page.content()
    assert [text for text in connections.answers if API_KEY in text] == []
    assert any('"by_form"' in text for text in connections.answers), "the answers were looked at"


def test_the_form_has_our_labels_and_shows_only_what_applies(connections: ConnectionsPage) -> None:
    connections.add("labels")
    form = connections.form

    password = form.get_by_label("API key")
    assert (password.get_attribute("name"), password.get_attribute("type")) == ("password", "password")
    assert form.get_by_label("Base URL").get_attribute("placeholder") == "https://api.magichour.ai"
    assert [form.locator(f"[name={name}]").count() for name in ("login", "schema")] == [0, 0]

    connections.unfold_extras()
    for name, field in ClientSettings.form_fields().items():
        expect(connections.extra(name)).to_be_attached()
        expect(form.get_by_text(field["label"], exact=True)).to_be_visible()
        expect(form.get_by_text(field["description"])).to_be_visible()
    assert connections.extra("timeout").input_value() == "60"
    assert connections.extra("max_attempts").input_value() == "4"
    assert connections.extra("verify").is_checked()


def test_a_wrong_key_is_told_from_a_good_one_in_plain_words(
    scene: Scene, connections: ConnectionsPage
) -> None:
    connections.add("wrong_key")
    connections.fill(host=scene.sandbox_url, password=WRONG_KEY, port=port_of(scene))
    connections.save()

    answer = connections.test("wrong_key")

    assert answer["status"] is False
    told = connections.page.get_by_text("Put a valid API key into the connection's password").first
    expect(told).to_be_visible()
    assert WRONG_KEY not in connections.page.content()
    assert WRONG_KEY not in json.dumps(answer)


def test_extras_keep_their_types_when_the_form_is_saved_again(
    scene: Scene, connections: ConnectionsPage
) -> None:
    connections.add("typed")
    connections.fill(host=scene.sandbox_url, password=API_KEY, port=port_of(scene))
    connections.unfold_extras()
    connections.extra("requests_per_second").fill("2.5")
    connections.extra("max_attempts").fill("3")
    connections.extra("timeout").fill("")
    connections.flip("verify")
    connections.save()
    expected = {
        "timeout": None,
        "max_attempts": 3,
        "requests_per_second": 2.5,
        "proxy": None,
        "verify": False,
        "ca_bundle": None,
    }
    assert stored_extra(scene, "typed") == expected

    connections.page.reload()
    connections.edit("typed")
    connections.unfold_extras()
    expect(connections.extra("requests_per_second")).to_have_value("2.5")
    expect(connections.extra("verify")).not_to_be_checked()
    connections.extra("max_attempts").fill("5")
    connections.save()

    assert stored_extra(scene, "typed") == expected | {"max_attempts": 5}
    assert connections.test("typed")["status"] is True


@pytest.mark.parametrize("conn_id", ["by_form", "by_cli"])
def test_a_run_uses_a_connection_made_in_the_form_or_on_the_command_line(
    conn_id: str, scene: Scene, begin: Callable[..., Any]
) -> None:
    if conn_id == "by_cli":
        scene.airflow.airflow(
            *("connections", "add", conn_id, "--conn-type", "magichour"),
            *("--conn-host", scene.sandbox_url, "--conn-password", API_KEY),
            *("--conn-extra", '{"max_attempts": 3}'),
        )
    run = begin("open_clips", f"uses-{conn_id}", conn_id=conn_id)

    assert run.finish() == "success"


def test_a_run_uses_a_connection_from_the_environment(runs: dict[str, Any]) -> None:
    assert runs["landed"].finish() == "success"
