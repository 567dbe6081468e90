"""A report in a browser, and whatever it said, ran into or asked for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install 'qilin-rag[test-browser]'")
WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}


class Visit:
    """A page, and whatever it said, ran into or asked for."""

    def __init__(self, browser: Any, path: Path, viewport: dict[str, int]) -> None:
        self.page = browser.new_page(viewport=viewport)
        self.heard: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.heard.append(message.text))
        self.page.on("pageerror", lambda error: self.heard.append(str(error)))
        self.page.on("dialog", lambda dialog: self.heard.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.address = path.resolve().as_uri()
        self.open()

    def open(self, fragment: str = "") -> None:
        """Load the page anew, under this fragment (or query) of its address."""
        self.page.goto("about:blank")
        self.requests.clear()
        self.page.goto(self.address + fragment)
        self.page.wait_for_selector("html[data-ready]")

    def column(self, table: str, number: int) -> list[str]:
        """The texts of one column."""
        self.wait_for_scores()
        texts: list[str] = self.page.locator(f"#{table} tbody td:nth-child({number})").all_inner_texts()
        return [text.split("\n")[0].rstrip(" ★≈") for text in texts]

    def wait_for(self, selector: str, text: str) -> None:
        """Until an element's text begins like this; the page's policy lets nobody poll it by a script."""
        sync_api.expect(self.page.locator(selector)).to_have_text(re.compile(f"^{text}"))

    def n_found(self) -> int:
        """How many questions are left, as the page says it."""
        self.wait_for_scores()
        return int(self.page.inner_text("#found").split()[0])

    def wait_for_scores(self) -> None:
        """Until those of the runs that were chosen last are shown."""
        self.page.wait_for_selector("#questions:not([aria-busy])")
