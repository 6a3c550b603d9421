"""A real browser for the tests of pages: headless Chromium, driven by playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
HERE = ("127.0.0.1", "localhost")


def program() -> str | None:
    """The path of this machine's browser; None for playwright's own, without which a test fails and says so."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def page(*, width: int = 1280, height: int = 900, **options: Any) -> Iterator[Page]:
    """A blank page of that many CSS pixels, in a browser of its own.

    `options`: of playwright's `browser.new_page`, as `color_scheme="dark"`, `java_script_enabled=False`.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=["--no-sandbox"])
        try:
            yield browser.new_page(viewport={"width": width, "height": height}, **options)
        finally:
            browser.close()


@dataclass
class Seen:
    """What a page did that a person would not see."""

    errors: list[str] = field(default_factory=list)  # of scripts, of the console, of what could not be loaded
    requests: list[str] = field(default_factory=list)  # every address asked for, data: ones aside

    def outside(self) -> list[str]:
        """The requests that went to another machine."""
        parts = ((url, urlsplit(url)) for url in self.requests)
        return [url for url, at in parts if at.scheme not in ("file", "blob") and at.hostname not in HERE]


def watch(tab: Page) -> Seen:
    """Notes from now on what the page asks for and what goes wrong in it; call it before `goto`."""
    seen = Seen()
    tab.on("request", lambda request: request.url.startswith("data:") or seen.requests.append(request.url))
    tab.on("websocket", lambda socket: seen.requests.append(socket.url))
    tab.on("pageerror", lambda error: seen.errors.append(str(error)))
    tab.on("console", lambda said: said.type in ("error", "warning") and seen.errors.append(said.text))
    tab.on("requestfailed", lambda request: seen.errors.append(f"{request.url}: {request.failure}"))
    return seen
