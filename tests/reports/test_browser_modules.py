"""The page in Chinese, and its modules as a viewer loads them: one by one, with data from a server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

import qilin_rag
from qilin_rag.config.run import resolve_run
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.reports.contents import QuestionInRun, answers_of, collect, columns_of, question_of, scores_of
from qilin_rag.reports.html import write_report
from qilin_rag.reports.leaderboard import leaderboard_of
from qilin_rag.reports.overview import directories_of, index_of, metrics_of, open_notes, table_of
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


ENTRY = """
import { useIndex } from "./data.js";
import { startResults } from "./results.js";
import { served } from "./served.js";
import { useSource } from "./source.js";
useIndex(await (await fetch("api/index")).json());
useSource(served);
await startResults();
"""


class Server:
    """Answers what the page asks for, as a viewer would; no socket is opened."""

    def __init__(self, paths: list[Path]) -> None:
        [self.board] = leaderboard_of(paths)
        self.directories = directories_of(self.board, paths)
        manifests = {name: directory.read_manifest() for name, directory in self.directories.items()}
        self.questions = next(iter(self.directories.values())).read_questions()
        self.notes, why_no_notes = open_notes(manifests.values())
        self.index = index_of([table_of(self.board, manifests, self.questions, why_no_notes)])
        self.asked: list[str] = []

    def answer(self, route: Any) -> Any:
        url = urlsplit(route.request.url)
        name = url.path.removeprefix("/")
        if name == "":
            body = (PAGE / "results.html").read_text(encoding="utf-8")
            entry = '<!doctype html><script type="module" src="page/entry.js"></script>'
            return route.fulfill(body=entry + body, content_type="text/html; charset=utf-8")
        if name.startswith("page/"):
            source = ENTRY if name == "page/entry.js" else (PAGE / name.removeprefix("page/")).read_text("utf-8")
            return route.fulfill(body=source, content_type="text/javascript; charset=utf-8")
        self.asked.append(f"{name} {url.query}".strip())
        return route.fulfill(json=self.data(name, parse_qs(url.query)))

    def data(self, name: str, fields: dict[str, list[str]]) -> Any:
        if name == "api/index":
            return self.index
        chosen = [self.directories[run] for run in fields["run"]]
        samples = [list(each.read_samples_of(self.questions).values()) for each in chosen]
        scores = [scores_of(each.read_scores(), self.questions, metrics_of(self.board)) for each in chosen]
        if name == "api/columns":
            return columns_of(samples[0], scores[0])
        if name == "api/answers":
            return answers_of(samples[0])
        place = [question.id for question in self.questions].index(fields["id"][0])
        answered = [QuestionInRun(own[place], row[place]) for own, row in zip(samples, scores, strict=True)]
        return question_of(self.questions[place], answered, self.notes)


def test_the_same_modules_show_what_a_server_sends(runs: list[Path], chromium: Any) -> None:
    strange = runs[1].rename(runs[1].with_name("奇怪 & run+1?#"))
    server = Server([runs[0], strange])
    page = chromium.new_page(viewport=WIDE)
    heard: list[str] = []
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("console", lambda message: heard.append(message.text))
    page.route("http://viewer.example/**", server.answer)
    page.goto("http://viewer.example/")
    page.wait_for_selector("html[data-ready]")
    best = max(server.index["tables"][0]["runs"], key=lambda shown: shown["figures"][0]["value"])
    assert server.asked[0] == "api/index"
    [asked] = [parse_qs(request.split(" ")[1]) for request in server.asked[1:]]
    assert asked == {"t": ["0"], "run": [best["run"]]}
    page.select_option("#run-a", label="bm25")
    page.select_option("#run-b", label="oracle")
    sync_api.expect(page.locator("#questions th")).to_have_count(5)
    page.check("#in-answers")
    page.fill("#search", "咖啡")
    sync_api.expect(page.locator("#found")).to_have_text(re.compile("^[123] of 3"))
    page.click("#questions tbody tr:first-child a")
    page.wait_for_selector(".run")
    samples, _ = RunDirectory(strange).read_samples()
    opened = page.inner_text("#question-title small").split()[-1]
    assert page.locator(".run").nth(1).locator(".answer .body").first.text_content() == samples[opened].answer
    assert page.locator(".run").nth(1).locator(".hits .note").count() == len(samples[opened].hits)
    last = [request for request in server.asked if request.startswith("api/question")][-1]
    assert parse_qs(last.split(" ")[1]) == {"t": ["0"], "id": [opened], "run": [runs[0].name, strange.name]}
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
