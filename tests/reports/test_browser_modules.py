"""The report in Chinese, and a leaderboard of many runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import qilin_rag
from qilin_rag.config.run import resolve_run
from qilin_rag.pipeline.run import run
from qilin_rag.reports.contents import collect
from qilin_rag.reports.html import write_report
from tests.reports.visits import WIDE, Visit, sync_api

pytestmark = pytest.mark.browser
PAGE = Path(qilin_rag.__file__).parent / "reports/page"
CHINESE = re.compile(r"[\u4e00-\u9fff]")


@pytest.fixture
def runs(data_dir: Path) -> list[Path]:
    return [run(resolve_run({"data": str(data_dir), "retriever": each})).directory.path for each in ("bm25", "oracle")]


def test_the_report_is_in_the_language_of_the_address_and_remembers_a_choice(runs: list[Path], chromium: Any) -> None:
    write_report(collect(runs), Path("report.html"))
    visit = Visit(chromium, Path("report.html"), WIDE)
    page = visit.page
    assert page.get_attribute("html", "lang") == "en"
    visit.open("?lang=zh")
    assert page.get_attribute("html", "lang") == "zh-CN"
    shown = page.locator("h1, h2, h3, label, button, th button, .hint, summary").all_inner_texts()
    metrics = {"rouge_l", "English"}
    assert [text for text in shown if text and not CHINESE.search(text) and text not in metrics] == []
    assert page.get_attribute("#search", "placeholder") == "问题中的词"
    page.click("#questions tbody tr:first-child a")
    page.wait_for_selector(".run")
    assert page.locator(".run .badge").first.inner_text() == "正常"
    page.keyboard.press("Escape")
    page.click("#language")
    page.wait_for_url("**lang=en*")
    page.wait_for_selector("html[data-ready]")
    assert page.inner_text("#leaderboard-title") == "Leaderboard"
    visit.open()
    assert page.inner_text("#language") == "中文"
    page.click("#language")
    page.wait_for_url("**lang=zh*")
    visit.open()
    assert page.get_attribute("html", "lang") == "zh-CN"  # remembered, without the address
    assert visit.heard == []
    page.close()


def test_a_report_without_storage_is_in_the_language_of_the_browser(runs: list[Path], chromium: Any) -> None:
    write_report(collect(runs), Path("report.html"))
    page = chromium.new_page(locale="zh-TW")
    heard: list[str] = []
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('refused'); } })")
    page.goto(Path("report.html").resolve().as_uri())
    sync_api.expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    page.click("#language")
    page.wait_for_url("**lang=en*")
    sync_api.expect(page.locator("html")).to_have_attribute("lang", "en")
    assert heard == []
    page.close()


def test_runs_of_a_long_leaderboard_are_filtered(data_dir: Path, chromium: Any) -> None:
    for top_k in range(1, 6):
        for retriever in ("bm25", "random"):
            run(resolve_run({"data": str(data_dir), "retriever": retriever, "top_k": top_k}))
    paths = sorted(Path("runs").iterdir())
    write_report(collect(paths), Path("report.html"))
    visit = Visit(chromium, Path("report.html"), WIDE)
    page = visit.page
    assert len(visit.column("leaderboard", 2)) == len(paths) >= 9
    page.fill("#board-filter", " ＲＡＮＤＯＭ ")
    n_random = len([path for path in paths if "-random-" in path.name])
    assert [name.split()[0] for name in visit.column("leaderboard", 2)] == ["random"] * n_random
    assert page.locator("#intervals circle").count() == n_random
    assert page.inner_text("#board-found") == f"{n_random} of {len(paths)} runs"
    page.fill("#board-filter", f"bm25 {paths[0].name}")
    assert len(visit.column("leaderboard", 2)) == 1
    address = page.url
    visit.open(address.removeprefix(visit.address))
    assert len(visit.column("leaderboard", 2)) == 1
    page.fill("#board-filter", "")
    assert len(visit.column("leaderboard", 2)) == len(paths)
    assert visit.heard == []
    page.close()
