"""Which notes an answer cites, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from qilin_rag.core.types import Hit, Question, Sample
from qilin_rag.scorers.citations import INVALID, PRECISION, RECALL, Citations

Figures = tuple[float | str, float | str, float | str]


def sample(answer: str, hits: list[int], **fields: Any) -> Sample:
    ranking = [Hit(note_idx=note_idx, score=1.0, rank=rank) for rank, note_idx in enumerate(hits, start=1)]
    defaults = {"status": "ok", "notes_used": len(hits), "prompt_notes": hits}
    return Sample(
        **{"question_id": "1", "query": "q", "hits": ranking, "notes_given": len(hits), "messages": []}
        | {"answer": answer, "raw": answer}
        | defaults
        | fields
    )


def figures(done: Sample, wanted: list[int], references: list[str] | None = None) -> Figures:
    """Precision, recall and invalid: the values, or why there is none."""
    question = Question(id="1", query="q", references=references or ["a"], reference_notes=wanted)
    found = {score.metric: score for score in Citations().score([done], [question])}
    assert all((score.value is None) == (score.reason is not None) for score in found.values())
    precision, recall, invalid = (
        score.reason or "" if score.value is None else score.value
        for score in (found[metric] for metric in (PRECISION, RECALL, INVALID))
    )
    return precision, recall, invalid


@pytest.mark.parametrize(
    ("answer", "wanted", "expected"),
    [
        ("先晾干[第1篇](#)，再装[第2篇](#)。", [70, 80], (1.0, 1.0, 0.0)),
        ("先晾干[第2篇](#)。", [70, 80], (1.0, 0.5, 0.0)),
        ("先晾干[1-3]。", [80, 99], (1 / 3, 0.5, 0.0)),
        ("先[1]晾[1]干[1]再[2]装", [70], (1 / 2, 1.0, 0.0)),  # a note counts once
        ("先[1]晾[1]干[1]再[9]装", [70], (1 / 2, 1.0, 1 / 4)),  # a citation as often as it stands
        ("先晾干[9][０]。", [70], (0.0, 0.0, 1.0)),
        ("先晾干【第3篇】［1］", [90], (1 / 2, 1.0, 0.0)),
        ("2024年[2024]的做法", [70], ("cites nothing", 0.0, "cites nothing")),
        ("先晾干。", [70], ("cites nothing", 0.0, "cites nothing")),
        ("", [70], ("empty", "empty", "empty")),
        ("先晾干[1][4]。", [], ("no reference notes", "no reference notes", 1 / 2)),
        ("先晾干。", [], ("no reference notes", "no reference notes", "cites nothing")),
    ],
)
def test_by_hand(answer: str, wanted: list[int], expected: Figures) -> None:
    assert figures(sample(answer, [70, 80, 90]), wanted) == expected


def test_numbers_count_the_notes_of_the_prompt_not_the_hits() -> None:
    done = sample("先晾干[2]。", [70, 80, 90], prompt_notes=[70, 90], notes_used=2)
    assert figures(done, [90]) == (1.0, 1.0, 0.0)
    assert figures(done.model_copy(update={"answer": "[3]"}), [90]) == (0.0, 0.0, 1.0)


def test_numbers_of_reference_answers_are_not_used() -> None:
    done = sample("先晾干[第1篇](#)。", [70, 80])
    assert figures(done, [80], ["先晾干[第1篇](#)。"]) == figures(done, [80]) == (0.0, 0.0, 0.0)


def test_without_notes_every_citation_is_invalid() -> None:
    assert figures(sample("先晾干[1]。", []), [70]) == (0.0, 0.0, 1.0)


def test_older_runs_are_scored_where_all_or_no_notes_were_used() -> None:
    """They kept only the number of notes used; which of them, nobody knows."""
    for used, expected in ((3, (1.0, 1.0, 0.0)), (0, (0.0, 0.0, 1.0))):
        line = sample("先晾干[1]。", [70, 80, 90], notes_used=used).model_dump(exclude={"prompt_notes"})
        assert figures(Sample.model_validate(line), [70]) == expected
    unknown = "not recorded which notes the prompt held"
    assert figures(sample("[1]", [70, 80, 90], notes_used=2, prompt_notes=None), [70]) == (unknown,) * 3


@pytest.mark.parametrize("status", ["failed", "filtered"])
def test_what_was_not_answered_is_unscored(status: str) -> None:
    assert figures(sample("[1]", [70], status=status), [70]) == (status,) * 3


def test_truncated_answers_are_scored() -> None:
    assert figures(sample("[1]", [70], status="truncated"), [70]) == (1.0, 1.0, 0.0)


def test_signatures_say_what_is_counted() -> None:
    signatures = Citations().signatures()
    assert set(signatures) == {"citation_precision", "citation_recall", "citation_invalid"}
    assert len(set(signatures.values())) == 3
    assert "best:lowest" in signatures[INVALID]
