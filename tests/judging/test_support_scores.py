"""Sentences with their citations, and the figures of support, computed in another way than the code under test."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qilin_rag.core.judged_answers import JudgedCitation, JudgedSentence
from qilin_rag.judging.support_scores import SUPPORT_METRICS, split_citations, support_scores

HALVES = {"support": 2, "partial_support": 1, "not_support": 0, None: 0}


def sentence(verdicts: list[str | None]) -> JudgedSentence:
    """Return a sentence with these verdicts on its citations, None for a number without a note."""
    return JudgedSentence(
        text="先晾干。",
        citations=[
            JudgedCitation.model_validate({"number": n, "note_idx": None if said is None else n, "support": said})
            for n, said in enumerate(verdicts, start=1)
        ],
    )


@pytest.mark.parametrize(
    ("answer", "cited"),
    [
        ("先晾干[2][1][2]。", [[(2, 20), (1, 10)]]),
        ("先晾干[1][3]。", [[(1, 10)]]),  # one note under two numbers
        ("先晾干[3]。再浇水[1]。", [[(3, 10)], [(1, 10)]]),
        ("先晾干[0][9][9]。", [[(0, None), (9, None)]]),
        ("先晾干[1-4]。", [[(1, 10), (2, 20), (4, None)]]),
        ("先晾干。\n***\n😊\n[2]", [[(2, 20)]]),
        ("Dry it [1]. Water it.[2] Wait.", [[(1, 10)], [(2, 20)], []]),
        ("---\n😊", []),
        ("[1]", []),
    ],
)
def test_citations_are_of_notes(answer: str, cited: list[list[tuple[int, int | None]]]) -> None:
    found = split_citations(answer, [10, 20, 10])
    assert [[(each.number, each.note_idx) for each in sentence.citations] for sentence in found] == cited
    assert all(each.support is None for sentence in found for each in sentence.citations)


@given(st.lists(st.lists(st.sampled_from(list(HALVES)), max_size=4), min_size=1, max_size=12))
def test_figures_are_sums_of_halves(said: list[list[str | None]]) -> None:
    values = [support_scores(list(map(sentence, said)))[metric].value for metric in SUPPORT_METRICS]
    halves = [HALVES[each] for of_sentence in said for each in of_sentence]
    best = [max([HALVES[each] for each in of_sentence] or [0]) for of_sentence in said]
    precision = sum(halves) / (2 * len(halves)) if halves else None
    assert values == pytest.approx([precision, sum(best) / (2 * len(said)), said.count([]) / len(said)])


def test_an_unread_verdict_costs_what_rests_on_it() -> None:
    scores = support_scores([sentence(["support"]), sentence([])], "no verdict")
    assert [(score.value, score.reason) for score in scores.values()] == [
        (None, "no verdict"),
        (None, "no verdict"),
        (0.5, None),
    ]
