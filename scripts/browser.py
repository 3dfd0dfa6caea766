"""Debian's chromium, headless, driven by Playwright: windows of people who use Airflow's UI.

    with chromium() as browser:
        window = Window.open(browser, airflow.base_url, token, theme="dark")
        window.goto("/dags")
        assert window.take_problems() == []

No browser is ever downloaded: CHROMIUM names the one to use (default /usr/bin/chromium).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    FrameLocator,
    Page,
    Request,
    sync_playwright,
)

Theme = Literal["light", "dark"]
View = Literal["grid", "graph"]
"""How Airflow's pages of a Dag begin."""

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
SMALL, LARGE = (1280, 800), (1920, 1080)
"""Sizes of a window, in pixels."""

_LEFT_BEHIND = "net::ERR_ABORTED"
"""What chromium says of a request that the page itself gave up, as a player does and a page that is left."""
_TOKEN_COOKIE = "_token"


class NoChromiumError(RuntimeError):
    """There is no chromium to drive."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless chromium. Raises NoChromiumError, which says how to get one."""
    if not Path(CHROMIUM).is_file():
        raise NoChromiumError(
            f"No chromium at {CHROMIUM}. On Debian and Ubuntu: apt-get install --no-install-recommends "
            "chromium. One that is elsewhere is named by the variable CHROMIUM."
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Window:
    """A user's window: its page, and the errors that the page does not show."""

    page: Page
    base_url: str
    problems: list[str] = field(default_factory=list)

    @classmethod
    def open(
        cls,
        browser: Browser,
        base_url: str,
        token: str | None = None,
        *,
        theme: Theme = "light",
        size: tuple[int, int] = SMALL,
        view: View = "grid",
    ) -> Window:
        """Open a window with storage and cookies of its own; `token` None: the user is not logged in."""
        width, height = size
        context = browser.new_context(color_scheme=theme, viewport={"width": width, "height": height})
        if token is not None:
            context.add_cookies([{"name": _TOKEN_COOKIE, "value": token, "url": base_url}])
        _remember(context, theme, view)
        window = cls(context.new_page(), base_url)
        window._collect()
        return window

    def goto(self, path: str) -> None:
        """Go to a page of this Airflow."""
        self.page.goto(f"{self.base_url}{path}")

    def take_problems(self) -> list[str]:
        """Messages on the console, script errors and requests that failed, since this was asked last."""
        taken, self.problems[:] = list(self.problems), []
        return taken

    @property
    def frame(self) -> FrameLocator:
        """Our own page within Airflow's."""
        return self.page.frame_locator("iframe[src*='/magichour/']")

    def close(self) -> None:
        """Close the window and forget its storage."""
        self.page.context.close()

    def _collect(self) -> None:
        self.page.on("console", self._note_message)
        self.page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        self.page.on("requestfailed", self._note_failure)

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            where = message.location["url"].removeprefix(self.base_url)
            self.problems.append(f"console: {message.text} ({where})")

    def _note_failure(self, request: Request) -> None:
        if request.failure != _LEFT_BEHIND:
            path = request.url.removeprefix(self.base_url)
            self.problems.append(f"request: {request.method} {path}: {request.failure}")


def _remember(context: BrowserContext, theme: Theme, view: View) -> None:
    """Store this theme and view as Airflow's UI stores a user's choice."""
    context.add_init_script(
        f"""if (!localStorage.getItem('theme')) {{
            localStorage.setItem('theme', '{theme}');
            localStorage.setItem('default_dag_view', '"{view}"');
        }}"""
    )
