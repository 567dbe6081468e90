"""The leaderboard of the view in Chromium: the report's own page, its questions from the server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

pytest.importorskip("starlette", reason="needs Starlette: pip install 'qilin-rag[view]'")
from qilin_rag.config.run import resolve_run
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import RunDirectory
from tests.reports.apart import write_parts
from tests.reports.visits import WIDE, sync_api
from tests.viewer.serving import started

pytestmark = pytest.mark.browser


@pytest.fixture
def runs(data_dir: Path) -> list[Path]:
    """Two runs, one of an odd name, whose answers a judge took apart."""
    first, second = (
        run(resolve_run({"data": str(data_dir), "retriever": name})).directory.path for name in ("bm25", "oracle")
    )
    write_parts(second, list(RunDirectory(second).read_samples()[0].values()))
    return [first, second.rename(second.with_name("奇怪 & run+1?#"))]


def test_the_leaderboard_of_the_view_shows_what_the_files_hold(runs: list[Path], chromium: Any) -> None:
    page = chromium.new_page(viewport=WIDE)
    heard: list[str] = []
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("console", lambda message: heard.append(message.text))
    with started("--runs-dir", "runs") as address:
        page.goto(address.replace("/?", "/board?"))
        page.wait_for_selector("html[data-ready]")
        page.select_option("#run-a", label="bm25")
        page.select_option("#run-b", label="oracle")
        sync_api.expect(page.locator("#questions th")).to_have_count(5)
        page.check("#in-answers")
        page.fill("#search", "咖啡")
        sync_api.expect(page.locator("#found")).to_have_text(re.compile("^[123] of 3"))
        page.click("#questions tbody tr:first-child a")
        page.wait_for_selector(".run")
        samples, _ = RunDirectory(runs[1]).read_samples()
        opened = page.inner_text("#question-title small").split()[-1]
        assert page.locator(".run").nth(1).locator(".answer .body").first.text_content() == samples[opened].answer
        assert page.locator(".run").nth(1).locator(".hits .note").count() == len(samples[opened].hits)
        parts = [
            "Nuggets: 1 of 3 supported, 1 in part",
            "Claims of the answer: 1 of 3 stated by the references",
            "Sentences: 1 of 2 cite notes, 1 of 5 citations supported",
        ]
        assert page.locator(".run").nth(1).locator(".judged summary").all_inner_texts() == parts
        assert page.locator(".run").nth(0).locator(".judged").count() == 0
        page.keyboard.press("Escape")
        assert page.locator("#changed").is_hidden()
        manifest = RunDirectory(runs[0]).read_manifest()
        labels = {**manifest.labels, "llm": "renamed"}
        RunDirectory(runs[0]).write_manifest(manifest.model_copy(update={"labels": labels}))
        page.click("#changed button")  # it says so by itself
        sync_api.expect(page.locator("#leaderboard")).to_contain_text("renamed")
        page.goto(address.replace("/?", f"/run?{urlencode({'run': runs[1].name})}&"))
        page.locator("#samples button.link").first.click()
        sync_api.expect(page.locator("#sample .judged summary")).to_have_text(parts)
    assert heard == []
    page.close()


def test_a_page_that_was_open_before_any_run_was_complete_says_when_one_is(runs: list[Path], chromium: Any) -> None:
    away = [path.rename(Path(f"away{number}")) for number, path in enumerate(runs)]
    page = chromium.new_page(viewport=WIDE)
    with started("--runs-dir", "runs") as address:
        page.goto(address.replace("/?", "/board?"))
        sync_api.expect(page.locator("#made")).to_contain_text("complete")
        away[0].rename(runs[0])
        page.click("#changed button")
        sync_api.expect(page.locator("#leaderboard")).to_contain_text("extractive")
    page.close()
