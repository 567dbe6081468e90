"""The report in a real browser: what people do with it, and that nothing it shows can act or fetch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rapidfuzz.distance import LCSseq

from qilin_rag.config.run import resolve_run
from qilin_rag.core.text import mixed_tokens, normalise, strip_markup
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.reports.contents import collect
from qilin_rag.reports.html import write_report
from tests.conftest import write_jsonl
from tests.reports.hostile import HOSTILE, hostile_run
from tests.reports.visits import PHONE, WIDE, Visit, sync_api

pytestmark = pytest.mark.browser


@pytest.fixture
def visit(chromium: Any, data_dir: Path) -> Iterator[Visit]:
    for retriever in ("none", "bm25", "oracle"):
        run(resolve_run({"data": "sample", "retriever": retriever}))
    write_report(collect(sorted(Path("runs").iterdir())), Path("report.html"))
    opened = Visit(chromium, Path("report.html"), WIDE)
    yield opened
    assert opened.heard == []
    assert {url.split("#")[0] for url in opened.requests} == {opened.address}
    opened.page.close()


def test_the_leaderboard_sorts_both_ways(visit: Visit) -> None:
    assert visit.column("leaderboard", 2) == ["none", "bm25", "oracle"]
    visit.page.click("#leaderboard th:nth-child(3) button")
    assert visit.page.get_attribute("#leaderboard th:nth-child(3)", "aria-sort") == "descending"
    assert visit.column("leaderboard", 2) == ["oracle", "bm25", "none"]
    assert visit.page.locator("#intervals .label").all_text_contents() == ["oracle", "bm25", "none"]
    visit.page.keyboard.press("Enter")  # the heading keeps the focus
    assert visit.column("leaderboard", 3) == sorted(visit.column("leaderboard", 3))
    assert visit.page.get_attribute("#leaderboard th:nth-child(3)", "aria-sort") == "ascending"


def test_retrieval_is_a_table_of_its_own_with_marks(visit: Visit) -> None:
    rows = visit.page.locator("#retrieval tbody th").all_inner_texts()
    assert rows == ["none", "bm25", "oracle"]
    marks = visit.page.locator("#retrieval tbody td:last-child span").evaluate_all(
        "all => all.map(x => x.dataset.marks)"
    )
    assert marks == ["", "", "*"]
    assert "recall" not in visit.page.inner_text("#leaderboard thead")
    best = visit.page.locator("#leaderboard td.best span")
    assert best.get_attribute("data-marks") == "*+"
    assert re.match(r"best of its column or only row; \+0\.\d{4} to none \(\+0", best.get_attribute("title") or "")


def test_a_figure_leads_to_the_answers_behind_it(visit: Visit) -> None:
    page = visit.page
    page.fill("#search", "怎么")
    page.click("#leaderboard tbody tr:nth-child(2) td.figure a")
    sync_api.expect(page.locator("#run-a option:checked")).to_have_text("bm25")
    assert (page.input_value("#metric"), page.input_value("#search"), visit.n_found()) == ("0", "", 60)
    assert page.locator("#questions-title").bounding_box()["y"] < WIDE["height"] / 2
    assert page.locator("#retrieval a").count() == 0


def test_the_plots_show_each_run_at_its_figures(visit: Visit) -> None:
    assert visit.page.locator("#intervals circle").count() == visit.page.locator("#scatter circle").count() == 3
    means = [float(text) for text in visit.column("leaderboard", 3)]
    xs = [float(circle.get_attribute("cx")) for circle in visit.page.locator("#intervals circle").all()]
    ys = [float(circle.get_attribute("cy")) for circle in visit.page.locator("#scatter circle").all()]
    share = (means[1] - means[0]) / (means[2] - means[0])
    assert (xs[1] - xs[0]) / (xs[2] - xs[0]) == pytest.approx(share, abs=1e-3)
    assert (ys[1] - ys[0]) / (ys[2] - ys[0]) == pytest.approx(share, abs=1e-3)
    assert visit.page.locator("#intervals .tick").count() >= 3


@pytest.mark.parametrize(
    ("low", "high"), [(0.3, 0.1 + 0.2), (1e-12, 1.0000000000000002e-12), (-1e9, math.nextafter(-1e9, 0)), (0.0, 5e-324)]
)
def test_figures_that_differ_in_the_last_bit_are_plotted(
    data_dir: Path, chromium: Any, low: float, high: float
) -> None:
    for retriever in ("none", "oracle"):
        run(resolve_run({"data": str(data_dir), "retriever": retriever}))
    contents = collect(sorted(Path("runs").iterdir()))
    for shown, value in zip(contents.overview["tables"][0]["runs"], (low, high), strict=True):
        for figure in shown["figures"]:
            figure.update(value=value, ci95=None)
    write_report(contents, Path("report.html"))
    visit = Visit(chromium, Path("report.html"), WIDE)
    for plot in ("intervals", "scatter"):
        assert visit.page.locator(f"#{plot} circle").count() == 2
        ticks = visit.page.locator(f"#{plot} .tick").all_text_contents()
        assert 2 <= len(ticks) <= 24
    assert visit.heard == []
    visit.page.close()


def test_questions_are_sorted_searched_and_filtered(visit: Visit) -> None:
    page = visit.page
    assert page.inner_text("#found") == "60 of 60 questions"
    page.click("#questions th:nth-child(3) button")
    low_first = visit.column("questions", 3)
    assert low_first == sorted(low_first)
    assert page.inner_text("#page") == "Page 1 of 2"
    page.click("#later")
    assert len(visit.column("questions", 1)) == 10
    page.fill("#low", "0.5")
    page.fill("#high", "0.6")
    assert all(0.5 <= float(score) <= 0.6 for score in visit.column("questions", 3))
    page.click("#reset")
    assert visit.n_found() == 60
    page.fill("#search", "多肉")
    assert all("多肉" in query for query in visit.column("questions", 1))
    page.fill("#search", "坐标江浙")
    assert visit.n_found() == 0
    page.check("#in-answers")
    visit.wait_for("#found", "1 of")
    page.select_option("#status", "failed")
    visit.wait_for("#found", "0 of")


def test_two_runs_side_by_side(visit: Visit) -> None:
    page = visit.page
    page.select_option("#run-a", label="bm25")
    page.select_option("#run-b", label="oracle")
    a, b, difference = (visit.column("questions", number) for number in (3, 4, 5))
    signed = [float(text.replace("−", "-")) for text in difference]
    assert signed == pytest.approx([float(y) - float(x) for x, y in zip(a, b, strict=True)], abs=1.5e-4)
    page.select_option("#compare", "more")
    assert all(
        float(x) > float(y) for x, y in zip(visit.column("questions", 3), visit.column("questions", 4), strict=True)
    )
    page.click("#questions tbody tr:first-child a")
    page.wait_for_selector(".run")
    assert page.locator(".run h3 .text").all_inner_texts() == ["extractive · bm25", "extractive · oracle"]
    left, right = (run.bounding_box() for run in page.locator(".run").all())
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]


def test_a_question_by_its_address_and_by_keyboard(visit: Visit) -> None:
    page = visit.page
    [directory] = [RunDirectory(path) for path in Path("runs").glob("*-bm25-*")]
    samples, _ = directory.read_samples()
    questions = directory.read_questions()
    visit.open(f"#q={questions[1].id}&a={directory.path.name}")
    page.wait_for_selector(".run")
    asked, sample = questions[1], samples[questions[1].id]
    assert page.inner_text("#question-title span") == asked.query
    assert page.locator(".run .answer .body").first.text_content() == sample.answer
    assert page.locator(".run .reference .body").first.text_content() == asked.references[0]
    assert page.locator(".hits .note").count() == len(sample.hits)
    is_reference = [hit.note_idx in asked.reference_notes for hit in sample.hits]
    assert ["is-reference" in note.get_attribute("class") for note in page.locator(".hits .note").all()] == is_reference
    page.click(".prompt summary")
    assert page.locator(".prompt .body").all_text_contents() == [message["content"] for message in sample.messages]
    page.keyboard.press("ArrowRight")
    visit.wait_for("#question-title span", re.escape(questions[2].query))
    assert page.url.startswith(f"{visit.address}#q={questions[2].id}&")
    page.keyboard.press("Escape")
    sync_api.expect(page.locator("dialog")).to_be_hidden()
    sync_api.expect(page).to_have_url(visit.address)


def test_the_marked_text_is_what_rouge_l_counts(visit: Visit) -> None:
    [path] = Path("runs").glob("*-oracle-*")
    directory = RunDirectory(path)
    samples, _ = directory.read_samples()
    for asked in directory.read_questions()[:12]:
        visit.open(f"#q={asked.id}&a={path.name}")
        visit.page.wait_for_selector(".run")
        answer, reference = samples[asked.id].answer, asked.references[0]
        shared = LCSseq.similarity(*(mixed_tokens(normalise(strip_markup(text))) for text in (answer, reference)))
        for kind in ("answer", "reference"):
            marks = visit.page.locator(".run .pair").first.locator(f".{kind} mark").all_text_contents()
            assert sum(len(mixed_tokens(normalise(strip_markup(mark)))) for mark in marks) == shared > 0


def test_what_is_not_compared_is_not_marked(chromium: Any, own_folder: Path) -> None:
    """Markers of citations, invisible code points and other spellings: all that is left is shared, and marked."""
    plain = "先登录官网预约é门票，再带ABC身份证入园👨\u200d👩\u200d👧见。"
    spoiled = (
        "先登录【1】官\u200b网**预约e\u0301门票**[citation:1]，再带ａｂｃ身份证"
        "入园👨\u200d👩\u200d👧⻅（[2]）。<sup>1</sup>"
    )
    Path("one").mkdir()
    write_jsonl(Path("one/notes.jsonl"), [{"note_idx": 1, "title": "", "content": plain}])
    asked = [{"search_idx": 1, "query": "官网", "answers": [spoiled], "ref_note_idx_list": [1]}]
    write_jsonl(Path("one/dqa.jsonl"), asked)
    path = run(resolve_run({"data": "one", "retriever": "oracle"})).directory.path
    write_report(collect([path]), Path("report.html"))
    visit = Visit(chromium, Path("report.html"), WIDE)
    visit.open(f"#q=1&a={path.name}")
    visit.page.wait_for_selector(".run")
    pair = visit.page.locator(".run .pair").first
    assert "".join(pair.locator(".answer mark").all_text_contents()) == plain
    marked = "".join(pair.locator(".reference mark").all_text_contents())
    assert mixed_tokens(normalise(strip_markup(marked))) == mixed_tokens(normalise(plain))
    assert visit.heard == []
    visit.page.close()


@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_hostile_text_changes_nothing(own_folder: Path, chromium: Any, viewport: dict[str, int]) -> None:
    path = hostile_run()
    write_report(collect([path]), Path("report.html"))
    visit = Visit(chromium, Path("report.html"), viewport)
    page = visit.page
    page.click("#remarks summary")
    for number in (1, 2):
        page.click(f"#questions tbody tr:nth-child({number}) a")
        page.wait_for_selector(".run")
        for summary in page.locator("dialog summary").all():
            if summary.evaluate("element => !element.parentElement.open"):
                summary.click()
        shown = page.inner_text("dialog")
        assert all(text in shown for text in HOSTILE[:3])
        assert page.evaluate("window.hacked") is None
        assert page.locator("dialog img, dialog script, dialog svg").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("(dialog => dialog.scrollWidth <= dialog.clientWidth)(document.querySelector('dialog'))")
        page.keyboard.press("Escape")
    assert page.locator("script:not([type])").count() == 1
    assert page.locator("img").count() == 0
    assert visit.heard == []
    assert {re.sub("#.*", "", url) for url in visit.requests} == {visit.address}


def test_the_policy_would_stop_a_script_that_got_in(visit: Visit) -> None:
    """Should the escaping ever fail, the page's own policy is the second wall."""
    visit.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.hacked = 1";
            document.body.append(script);
            const holder = document.createElement("div");
            holder.innerHTML = "<svg onload='window.hacked = 1'></svg>";
            document.body.append(holder);
        }"""
    )
    visit.page.wait_for_timeout(200)
    assert visit.page.evaluate("window.hacked") is None
    assert all("Content Security Policy" in text for text in visit.heard)
    assert visit.heard
    visit.heard.clear()


def test_filters_survive_a_reload(visit: Visit) -> None:
    page = visit.page
    page.select_option("#run-a", label="bm25")
    page.select_option("#run-b", label="oracle")
    page.fill("#search", "怎么")
    page.fill("#high", "0.5")
    page.select_option("#compare", "less")
    page.click("#questions th:nth-child(3) button")
    before = visit.n_found(), visit.column("questions", 1), page.url
    assert 0 < before[0] < 60
    visit.open(page.url.removeprefix(visit.address))
    assert (visit.n_found(), visit.column("questions", 1), page.url) == before
    assert page.input_value("#search") == "怎么" and page.input_value("#high") == "0.5"
    page.click("#questions tbody tr:first-child a")
    page.wait_for_selector(".run")
    page.keyboard.press("ArrowRight")
    visit.wait_for("#place", f"2 of {before[0]}")
    page.keyboard.press("Escape")
    sync_api.expect(page.locator("dialog")).to_be_hidden()
    sync_api.expect(page).to_have_url(before[2])
    page.click("#reset")
    page.select_option("#run-b", label="none")
    visit.open("#lo=x&m=99&st=bad&cmp=no&sort=-nothing&a=nobody")
    assert visit.n_found() == 60


def test_the_arrow_goes_on_from_the_first_question_to_the_last(visit: Visit) -> None:
    page = visit.page
    page.fill("#search", "怎么")
    n = visit.n_found()
    page.click("#questions tbody tr:first-child a")
    page.wait_for_selector(".run")
    for place in range(2, min(n, 6)):
        page.keyboard.press("ArrowRight")
        visit.wait_for("#place", f"{place} of {n}")
    page.keyboard.press("ArrowLeft")
    visit.wait_for("#place", f"{min(n, 6) - 2} of {n}")


def test_long_labels_are_told_apart_and_a_phone_shows_a_figure(data_dir: Path, chromium: Any) -> None:
    for chars in (20, 30):
        given = {"data": str(data_dir), "retriever": "oracle"}
        run(resolve_run(given, [f"llm.max_chars={chars}"]))
    paths = sorted(Path("runs").iterdir())
    for path, name in zip(paths, ("one", "two"), strict=True):
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["labels"]["llm"] = f"openai model=some-organisation/a-model-of-a-long-name-{name}"
        (path / "manifest.json").write_text(json.dumps(manifest))
    write_report(collect(paths), Path("report.html"))
    visit = Visit(chromium, Path("report.html"), {"width": 390, "height": 844})
    labels = visit.page.locator("#run-a option").all_inner_texts()
    assert labels == [f"… a-model-of-a-long-name-{name} · oracle" for name in ("one", "two")]
    box = visit.page.locator("#leaderboard tbody td.figure").first.bounding_box()
    assert box["x"] + box["width"] <= 390
    name = visit.page.locator("#leaderboard tbody td.text").first.bounding_box()
    assert name["width"] >= 90  # no letter a line
    visit.page.set_viewport_size(WIDE)
    sync_api.expect(visit.page.locator("#scatter svg")).not_to_have_attribute("width", "366")
    one, two = (item.bounding_box() for item in visit.page.locator(".legend li").all())
    assert one["y"] == two["y"]  # two columns, and room for the number of the second
    assert two["x"] - (one["x"] + one["width"]) >= 34
    visit.page.close()
