"""The connection in Airflow's form: added, tested and edited, and used by a run."""

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
"""Airflow's own: its login page reads a configuration that needs a login."""


class ConnectionsPage:
    """The page of connections and its form; `answers` are the API's responses to it."""

    def __init__(self, window: Window) -> None:
        self.window, self.page = window, window.page
        self.form = self.page.get_by_role("dialog")
        self.answers: list[str] = []
        self.page.on("response", self._keep)

    def _keep(self, response: Response) -> None:
        if "/api/v2/" in response.url or "/ui/" in response.url:
            self.answers.append(response.text())

    def add(self, conn_id: str, **fields: str) -> None:
        """Open the form for a new connection of our type and fill it."""
        self.page.get_by_role("button", name="Add Connection").click()
        self.form.locator("input[name=connection_id]").fill(conn_id)
        self.form.get_by_role("combobox").click()
        self.page.get_by_role("option", name="Magic Hour", exact=True).click()
        for name, value in fields.items():
            self.form.locator(f"input[name={name}]").fill(value)

    def edit(self, conn_id: str) -> None:
        self.row(conn_id).get_by_role("button", name="Edit Connection").click()

    def extra(self, name: str) -> Locator:
        return self.form.locator(f"input[name=element_{name}]")

    def unfold_extras(self) -> None:
        self.form.get_by_role("button", name="Extra Fields", exact=True).click()
        expect(self.extra("timeout")).to_be_visible()

    def save(self) -> None:
        self.form.get_by_role("button", name="Save").click()
        expect(self.form).to_be_hidden()

    def test(self, conn_id: str) -> dict[str, Any]:
        """Press Test and return the API's response."""
        with self.page.expect_response("**/api/v2/connections/test") as response:
            self.row(conn_id).get_by_role("button", name="Test Connection").click()
        result: dict[str, Any] = response.value.json()
        return result

    def row(self, conn_id: str) -> Locator:
        return self.page.get_by_role("row").filter(has=self.page.get_by_text(conn_id, exact=True))


@pytest.fixture
def connections(open_window: Callable[..., Window]) -> ConnectionsPage:
    """The page of connections, for an admin."""
    page = ConnectionsPage(open_window())
    page.window.goto("/connections")
    return page


@pytest.fixture
def address(scene: Scene) -> dict[str, str]:
    return {"host": scene.sandbox_url, "port": scene.sandbox_url.rpartition(":")[2]}


def test_connection_is_added_tested_and_used_after_a_login(
    scene: Scene, address: dict[str, str], begin: Callable[..., Any], open_window: Callable[..., Window]
) -> None:
    connections = ConnectionsPage(open_window(user=None))
    page = connections.page
    connections.window.goto("/connections")
    page.locator("input[name=username]").fill(ADMIN)
    page.locator("input[name=password]").fill(PASSWORDS[ADMIN])
    page.keyboard.press("Enter")
    page.wait_for_url("**/connections")
    assert set(connections.window.take_problems()) == {NOT_YET_LOGGED_IN}

    connections.add("by_form", password=API_KEY, **address)
    connections.save()
    result = connections.test("by_form")

    tier = scene.sandbox.state()["account"]["tier"]
    assert result["status"] is True
    assert re.search(rf"tier {tier}, \d+ credits", result["message"])
    expect(connections.row("by_form").locator("svg[color=green], svg[style*=green]")).to_be_visible()

    connections.edit("by_form")
    expect(connections.form.locator("input[name=password]")).to_have_value("***")
    assert API_KEY not in page.content()
    assert [text for text in connections.answers if API_KEY in text] == []
    assert any('"by_form"' in text for text in connections.answers), "the responses were read"
    assert begin("open_videos", "uses-by-form", conn_id="by_form").finish() == "success"


def test_form_has_our_labels_and_fields(connections: ConnectionsPage) -> None:
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


def test_wrong_key_is_explained(connections: ConnectionsPage, address: dict[str, str]) -> None:
    connections.add("wrong_key", password=WRONG_KEY, **address)
    connections.save()

    result = connections.test("wrong_key")

    assert result["status"] is False
    expect(connections.page.get_by_text("valid API key").first).to_be_visible()
    assert WRONG_KEY not in connections.page.content() + json.dumps(result)


def test_extras_keep_their_types(scene: Scene, connections: ConnectionsPage, address: dict[str, str]) -> None:
    def stored_extra() -> Any:
        return json.loads(scene.airflow.request("GET", "/connections/typed")["extra"])

    connections.add("typed", password=API_KEY, **address)
    connections.unfold_extras()
    for name, value in {"requests_per_second": "2.5", "max_attempts": "3", "timeout": ""}.items():
        connections.extra(name).fill(value)
    switch = connections.page.locator("input[name=element_verify]")
    connections.form.locator("label").filter(has=switch).click()
    connections.save()
    expected = {"timeout": None, "max_attempts": 3, "requests_per_second": 2.5}
    expected |= {"proxy": None, "verify": False, "ca_bundle": None}
    assert stored_extra() == expected

    connections.page.reload()
    connections.edit("typed")
    connections.unfold_extras()
    expect(connections.extra("requests_per_second")).to_have_value("2.5")
    expect(connections.extra("verify")).not_to_be_checked()
    connections.extra("max_attempts").fill("5")
    connections.save()
    assert stored_extra() == expected | {"max_attempts": 5}
    assert connections.test("typed")["status"] is True
