"""What judges took apart, in a browser: each verdict is read by its word, and hostile texts stay texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.reports.contents import collect
from qilin_rag.reports.html import write_report
from tests.conftest import write_jsonl
from tests.reports.apart import TEXTS, write_parts
from tests.reports.visits import PHONE, WIDE, Visit

pytestmark = pytest.mark.browser


@pytest.fixture
def directory(data_dir: Path) -> RunDirectory:
    done = run(resolve_run({"data": str(data_dir), "retriever": "bm25", "metrics": "rouge_l"})).directory
    write_parts(done.path, list(done.read_samples()[0].values())[:1])
    return done


def parts_of(visit: Visit, directory: RunDirectory, place: int = 0) -> list[list[str]]:
    """Return the title and the rows of each part below the answer, as a person reads them."""
    visit.open(f"#q={directory.read_questions()[place].id}&a={directory.path.name}")
    visit.page.wait_for_selector(".run")
    return [
        [" ".join(text.split()) for text in part.locator("summary, li").all_inner_texts()]
        for part in visit.page.locator(".run .judged").all()
    ]


@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_each_part_has_its_verdict_in_words(directory: RunDirectory, chromium: Any, viewport: dict[str, int]) -> None:
    write_report(collect([directory.path]), Path("report.html"))
    visit = Visit(chromium, Path("report.html"), viewport)
    a, b, c = TEXTS
    assert parts_of(visit, directory) == [
        [
            "Nuggets: 1 of 3 supported, 1 in part",
            f"✓ support {a} vital",
            f"◐ partial {b} okay",
            f"✗ no support {c} vital",
        ],
        [
            "Claims of the answer: 1 of 3 stated by the references",
            f"✓ stated {a} notes: 1, 3",
            f"✗ not stated {b} notes: none",
            f"? not judged {c} notes: not judged",
        ],
        [
            "Sentences: 1 of 2 cite notes, 1 of 5 citations supported",
            f"{a} [1] ✓ support [2] ◐ partial [3] ✗ no support [4] ? not judged [99] ✗ no such note",
            f"{b} no citation",
        ],
    ]
    shown = visit.page.inner_text(".run")
    assert "Claims of the references: not judged" in shown and "judged by referee, bank 01234567" in shown
    assert visit.page.evaluate("(dialog => dialog.scrollWidth <= dialog.clientWidth)(document.querySelector('dialog'))")
    assert parts_of(visit, directory, 1) == []
    assert visit.heard == []
    visit.page.close()


def test_a_long_list_is_closed_and_a_huge_one_is_cut(directory: RunDirectory, chromium: Any) -> None:
    [sample, *_] = directory.read_samples()[0].values()
    nugget = {"text": "要点", "importance": "okay", "assignment": "support"}
    about = {"qid": sample.question_id, "query": "", "run_id": "", "answer_text": sample.answer, "judge": "j"}
    write_jsonl(directory.path / "nuggets.jsonl", [{**about, "bank": "b", "nuggets": [nugget] * 2_000}])
    write_report(collect([directory.path]), Path("report.html"))
    visit = Visit(chromium, Path("report.html"), WIDE)
    [nuggets, *others] = parts_of(visit, directory)
    assert nuggets[0] == "Nuggets: 2000 of 2000 supported, 0 in part" and len(nuggets) == 501 and len(others) == 2
    part = visit.page.locator(".run .judged").first
    assert part.get_attribute("open") is None
    assert "not shown" not in part.inner_text()
    part.locator("summary").focus()
    visit.page.keyboard.press("Enter")
    assert "1500 more are not shown." in part.inner_text()
    visit.page.close()
