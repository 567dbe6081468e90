"""Labelling in a real browser, by keyboard: every label is kept once, and nothing that is sent tells the runs."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs Starlette: pip install 'qilin-rag[view]'")
from qilin_rag.config.run import resolve_run
from qilin_rag.pipeline.run import run
from qilin_rag.viewer.label_task import open_task, read_task
from qilin_rag.viewer.labels import LabelStore
from tests.conftest import write_jsonl
from tests.viewer.serving import started

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install 'qilin-rag[test-browser]'")
pytestmark = pytest.mark.browser
expect = sync_api.expect
KEYS = {"a": "A", "2": "B", "t": "tie", "x": "both_bad"}
SECRET = re.compile("secret|bm25|oracle|extractive|concise-|latency|manifest")
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


class Person:
    """An annotator with a browser of their own, and all that it was sent."""

    def __init__(self, browser: Any, address: str, name: str) -> None:
        self.context = browser.new_context(viewport={"width": 390, "height": 844})
        self.page = self.context.new_page()
        self.heard: list[str] = []
        self.sent: list[tuple[str, bytes]] = []
        self.page.on("console", lambda message: self.heard.append(message.text))
        self.page.on("pageerror", lambda error: self.heard.append(str(error)))
        self.page.on("requestfinished", self._hear)
        self.page.goto(address)
        self.page.fill("#name", name)
        self.page.press("#name", "Enter")
        expect(self.page.locator("#item")).to_be_visible()

    def _hear(self, request: Any) -> None:
        response = request.response()
        body = b"" if 300 <= response.status < 400 else response.body()
        self.sent.append((request.url, json.dumps(response.headers).encode() + body))

    def label(self, key: str) -> None:
        """Choose and save by keyboard, and wait until the page says that it is stored."""
        done = int(self.page.inner_text("#count").split()[0])
        self.page.keyboard.press(key)
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector(f'#bar[value="{done + 1}"]')


def made_runs() -> str:
    """Two runs of 40 questions, one of them hostile, whose names are easy to find in what is sent."""
    data = Path("secret-data")
    data.mkdir()
    notes = [{"note_idx": i, "title": f"题{i}", "content": f"第{i}篇。{HOSTILE}"} for i in range(80)]
    questions = [
        {"search_idx": i, "query": f"第{i}篇 {HOSTILE}", "answers": [f"第{i}篇。"], "ref_note_idx_list": [i]}
        for i in range(40)
    ]
    write_jsonl(data / "notes.jsonl", notes)
    write_jsonl(data / "dqa.jsonl", questions)
    made = [
        run(resolve_run({"data": str(data), "retriever": each, "metrics": "length_ratio"}))
        for each in ("bm25", "oracle")
    ]
    for each, name in zip(made, ("secret-alpha", "secret-omega"), strict=True):
        each.path.rename(name)
    return "secret-alpha,secret-omega"


def test_forty_pairs_by_keyboard_with_a_break_and_a_second_person(chromium: Any) -> None:
    named = made_runs()
    Path("secret-task.yaml").write_text(f"runs: [{named}]\noverlap: 0.25\n")
    task = open_task(read_task("secret-task.yaml"))
    with started("--label", "secret-task.yaml") as address:
        an, bo = (Person(chromium, address, name) for name in ("An", "Bo"))
        assert "alert(1)" in an.page.inner_text("#question-title")
        keys = list(KEYS)
        for number in range(8):
            an.label(keys[number % 4])
            bo.label(keys[number % 3])
        an.page.keyboard.press("u")
        expect(an.page.locator("#status")).to_have_text(re.compile("withdrawn"))
        an.label("a")
        state = an.context.storage_state()
        an.page.keyboard.press("x")  # chosen and not saved
        an.context.close()
        again = chromium.new_context(storage_state=state)
        an.page, before = again.new_page(), an.sent
        an.page.on("requestfinished", an._hear)
        an.page.goto(address)
        expect(an.page.locator("#count")).to_have_text(re.compile("^8 of"))
        n_saved = 0
        while an.page.is_visible("#item"):
            an.label(keys[n_saved % 4])
            n_saved += 1
        while bo.page.is_visible("#item"):
            bo.label("t")
        again.close()
    labels = LabelStore(task, Path("labels")).labels()
    times = Counter(label.question_id for label in labels)
    assert times == {each: 2 if item.is_shared else 1 for each, item in task.items.items()}
    assert len({(label.question_id, label.annotator) for label in labels}) == len(labels) == 50
    assert {label.choice for label in labels} == set(KEYS.values())
    assert len(before) > 40
    for url, content in an.sent + bo.sent:
        assert not (SECRET.search(content.decode()) if "/page/" not in url else b"secret" in content), url
    assert an.heard == bo.heard == []


def test_a_label_outlives_its_server(chromium: Any) -> None:
    named = made_runs()
    with started("--label", named) as address:
        an = Person(chromium, address, "An")
        port = re.findall(r":(\d+)/", address)[0]
        an.page.click("#show-keys", timeout=5_000)  # no other button is above it
        expect(an.page.locator("#keys")).to_be_visible()
        an.page.keyboard.press("Escape")
        an.page.keyboard.press("b")
    an.page.keyboard.press("Enter")
    expect(an.page.locator("#status")).to_have_text(re.compile("^Not saved yet: the server does not answer"))
    with started("--label", named, "--port", port) as address:
        expect(an.page.locator("#status")).to_have_text(re.compile("^Not saved yet: the server was started again"))
        an.page.goto(address)
        expect(an.page.locator("#count")).to_have_text(re.compile("^1 of"))
    [label] = LabelStore(open_task(read_task(named)), Path("labels")).labels()
    assert (label.choice, label.annotator) == ("B", "An")
