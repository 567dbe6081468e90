"""A run is watched in a real browser from start to end: what the pages show is what the files say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs Starlette: pip install 'qilin-rag[view]'")
from qilin_rag.core.types import Price, Usage
from qilin_rag.core.units import format_amount
from tests.conftest import wait_until
from tests.fake_server import MODEL, FakeServer
from tests.test_crash import launch, make_data, question_of
from tests.viewer.serving import started

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install 'qilin-rag[test-browser]'")
pytestmark = pytest.mark.browser
PRICE = Price(currency="CNY", prompt_per_mtok=40, completion_per_mtok=120, as_of="2026-11-01")
N_QUESTIONS = 500
EXAMPLES = Path(__file__).parents[2] / "runs" / "examples"


class Watched:
    """The list and the page of a run in a browser, and the run's files."""

    def __init__(self, browser: Any, address: str, runs_dir: Path) -> None:
        self.context = browser.new_context(viewport={"width": 1400, "height": 900}, locale="en")
        self.heard: list[str] = []
        self.listed, self.alone = self.context.new_page(), self.context.new_page()
        for page in (self.listed, self.alone):
            page.on("console", lambda message: self.heard.append(message.text))
            page.on("pageerror", lambda error: self.heard.append(str(error)))
        self.runs_dir = runs_dir
        self.last: Counter[str] = Counter()
        self.listed.goto(address)
        self.row = self.listed.locator("#runs tbody tr")

    def wait_for(self, state: str) -> None:
        for badge in (self.row.locator(".badge"), self.alone.locator("#state .badge")):
            sync_api.expect(badge).to_have_text(state, timeout=20_000)

    def samples(self) -> list[dict[str, Any]]:
        [path] = self.runs_dir.glob("*/samples.jsonl")
        return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]

    def look(self, page: str, read: Callable[[], str]) -> int:
        """Compare what a page says of progress, outcomes and cost with the files, and return how many are done."""
        n_before = len(self.samples())
        wait_until(lambda: done_of(read()) >= n_before, timeout_s=20)
        shown = read()  # at once: the page goes on
        done, lines = done_of(shown), self.samples()
        assert max(self.last[page], n_before) <= done <= len(lines)
        self.last[page] = done
        statuses = Counter(line["status"] for line in lines[:done])
        told = {status: int(n) for n, status in re.findall(r"(\d+) (failed|filtered|truncated|empty)", shown)}
        assert told == {status: n for status, n in statuses.items() if status != "ok"}
        used = [line["usage"] for line in lines[:done]]
        amount = sum(PRICE.of(Usage(**use)) for use in used)
        assert f"{format_amount(amount)} CNY" in shown
        return done

    def look_at_both(self) -> int:
        self.look("list", self.row.inner_text)
        return self.look("run", self.alone.locator("#state").inner_text)


def done_of(text: str) -> int:
    found = re.search(r"(\d+) (?:of \d+|questions)", text) or re.search(r"(?:^|\s)(\d+)(?:\s|$)", text)
    return int(found[1]) if found else 0


class Gate:
    """A slow server's faults, and how many calls it answers: it holds the others back."""

    def __init__(self) -> None:
        self.server = FakeServer(0.08, self._fault, lambda body: f"泡{int(question_of(body)) % 7}分钟。")
        self._allowed = 0

    def let_pass(self, n: int) -> None:
        """Answer this many more calls; those that a killed run left behind are not among them."""
        self._allowed = len(self.server.calls) + n

    def _fault(self, n: int, body: dict[str, Any]) -> str | None:
        while n > self._allowed and not self.server.stopping.wait(0.02):
            pass
        return "length" if n % 17 == 0 else "filtered" if n % 41 == 0 else None


@pytest.mark.slow
def test_a_run_is_watched_from_start_to_end(chromium: Any, tmp_path: Path) -> None:
    data, runs_dir, gate = make_data(tmp_path / "many", N_QUESTIONS), tmp_path / "runs", Gate()
    runs_dir.mkdir()
    llm = ["--llm", "openai", "--set", f"llm.model={MODEL}", "--set", f"llm.price={PRICE.model_dump_json()}"]
    with gate.server, started("--runs-dir", runs_dir) as address:
        watched = Watched(chromium, address, runs_dir)

        def follow(n_before: int, n: int) -> subprocess.Popen[str]:
            """Go on with the run until it has this many samples, and look at it on the way."""
            gate.let_pass(n - n_before)
            process = launch(data, runs_dir, *llm, "--base-url", gate.server.url)
            sync_api.expect(watched.row).to_have_count(1, timeout=30_000)
            if not n_before:
                link = watched.row.locator("a.name").get_attribute("href")
                watched.alone.goto(address.partition("/?")[0] + link)
            watched.wait_for("running")
            wait_until(lambda: len(watched.samples()) >= n_before + 40, process)
            watched.look_at_both()
            wait_until(lambda: len(watched.samples()) == n, process)
            assert watched.look_at_both() == n
            sync_api.expect(watched.alone.locator("#range")).to_have_text(re.compile(f"to {n} of {n}$"))
            return process

        sync_api.expect(watched.listed.locator("#found")).to_contain_text("qilin-rag run")
        killed = follow(0, 150)
        sync_api.expect(watched.row.locator(".rate")).to_contain_text("/min", timeout=20_000)
        killed.kill()
        killed.communicate()
        watched.wait_for("interrupted")
        assert watched.look_at_both() == 150
        assert "/min" not in watched.row.inner_text()

        resumed = follow(150, 350)
        gate.let_pass(N_QUESTIONS)
        told, _ = resumed.communicate(timeout=60)
        watched.wait_for("complete")
        assert watched.look_at_both() == N_QUESTIONS
        figures = {name: of["value"] for name, of in json.loads(told)["metrics"].items()}
        sync_api.expect(watched.row.locator(".metric")).to_have_text(f"{figures['rouge_l']:.4f}")
        table = watched.alone.locator("#figures-table tbody tr")
        sync_api.expect(table).to_have_count(len(figures))
        shown = [text.split("\t")[:2] for text in table.all_inner_texts()]
        assert shown == [[name, f"{value:.4f}"] for name, value in figures.items()]
        sync_api.expect(watched.alone.locator("#range")).to_have_text("301 to 500 of 500")
        check_keys_and_width(watched)
        assert watched.heard == []
        check_move(watched, runs_dir)  # Chromium says that the folder is not there
        watched.context.close()


def check_move(watched: Watched, runs_dir: Path) -> None:
    """The page of a run says that its folder is gone, until it is back."""
    notice, moved = watched.alone.locator("#notice"), runs_dir / "moved"
    [folder] = [path.parent for path in runs_dir.glob("*/manifest.json")]
    folder.rename(moved)
    sync_api.expect(notice).to_have_text("There is no such run any more.")
    moved.rename(folder)
    sync_api.expect(notice).to_be_hidden()


def check_keys_and_width(watched: Watched) -> None:
    """The keyboard finds, chooses and opens a run; on a phone nothing reaches beyond the page."""
    page, found = watched.listed, watched.listed.locator("#found")
    for view in (page, watched.alone):
        view.set_viewport_size({"width": 390, "height": 844})
        assert view.evaluate("document.documentElement.scrollWidth") == 390
    page.keyboard.press("/")
    page.keyboard.type("no such run")
    sync_api.expect(found).to_have_text("No run has these words.")
    page.fill("#filter", "BM25 fake")
    sync_api.expect(watched.row).to_have_count(1)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("x")
    sync_api.expect(page.locator("#n-chosen")).to_have_text("1 chosen")
    sync_api.expect(page.locator("#to-compare")).to_be_disabled()
    page.keyboard.press("Enter")
    page.wait_for_url("**/run?run=*")
    page.locator("#samples button.link").last.click()
    sync_api.expect(page.locator("#sample .answer")).to_contain_text("泡")
    page.keyboard.press("ArrowLeft")
    sync_api.expect(page.locator("#place")).to_have_text(f"{N_QUESTIONS - 1} of {N_QUESTIONS}")
    page.locator("#sample a").click()
    sync_api.expect(page.locator("#question-title")).to_contain_text("号怎么做")


def test_a_link_elsewhere_opens_the_view_and_a_wrong_address_leaves_its_choices(chromium: Any) -> None:
    page = chromium.new_page()
    with started("--runs-dir", EXAMPLES) as address:
        page.set_content(f'<a href="{address}">a terminal in a browser</a>')  # another origin than the view
        page.locator("a").click()
        sync_api.expect(page.locator("#runs tbody tr")).to_have_count(4)
        assert "token" not in page.url
        names = page.locator("#runs a.name").all_inner_texts()
        base = address.partition("/?")[0]
        page.goto(f"{base}/compare?run={names[0]}&run={names[1]}&metric=bleu")
        sync_api.expect(page.locator("#why")).to_contain_text("bleu")
        page.get_by_label("Run B").select_option(names[2])
        sync_api.expect(page.locator("#sections table")).to_be_visible()
        page.goto(f"{base}/compare?run={names[0]}&run=gone")
        sync_api.expect(page.locator("#why")).to_contain_text("no such run")
        page.get_by_label("Run B").select_option(names[3])
        sync_api.expect(page.locator("#sections table")).to_be_visible()
    page.close()


def test_the_leaderboard_says_that_a_run_of_it_is_gone(chromium: Any, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "runs")
    page = chromium.new_page()
    with started("--runs-dir", tmp_path / "runs") as address:
        page.goto(address)
        page.goto(address.partition("/?")[0] + "/board")
        sync_api.expect(page.locator("#downloads")).to_be_visible()
        sync_api.expect(page.locator("#changed")).to_be_hidden()
        shutil.rmtree(next((tmp_path / "runs").glob("sample-none-*")))
        sync_api.expect(page.locator("#changed")).to_be_visible()
    page.close()
