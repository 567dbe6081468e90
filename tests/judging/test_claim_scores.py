"""Figures of claims equal a table computed by hand, and RAGChecker's own code."""

from __future__ import annotations

import importlib
import importlib.util
import random
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from qilin_rag.core.judged_answers import CheckedClaim
from qilin_rag.judging.claim_scores import (
    CLAIM_METRICS,
    NO_CLAIMS,
    NO_NOTES,
    NO_REFERENCE_CLAIMS,
    NOTHING_IN_NOTES,
    OF_NOTES,
    OF_REFERENCES,
    Figure,
    claim_scores,
)

Said = tuple[bool | None, list[int] | None]
YES, NO = True, False
OUR_NAMES = {
    "precision": "claim_precision",
    "recall": "claim_recall",
    "f1": "claim_f1",
    "claim_recall": "context_recall",
    "noise_sensitivity_in_relevant": "noise_sensitivity_relevant",
    "noise_sensitivity_in_irrelevant": "noise_sensitivity_irrelevant",
    **{
        name: name
        for name in ("context_precision", "context_utilization", "hallucination", "self_knowledge", "faithfulness")
    },
}

# Claims of the answer (right? in which notes?), of the references (found? in which notes?), the number of notes, and
# P R F1, context precision, recall and utilization, faithfulness, hallucination, noise irrelevant and relevant,
# self-knowledge.
BY_HAND: list[tuple[list[Said], list[Said], int, list[float]]] = [
    # all right, all in the one note
    ([(YES, [1])], [(YES, [1])], 1, [1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]),
    # right, and from the model's own memory
    ([(YES, [])], [(YES, [1])], 1, [1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1]),
    # wrong, and in no note
    ([(NO, [])], [(NO, [1])], 1, [0, 0, 0, 1, 1, 0, 0, 1, 0, 0, 0]),
    # wrong, and from the relevant note
    ([(NO, [1])], [(NO, [1])], 1, [0, 0, 0, 1, 1, 0, 1, 0, 0, 1, 0]),
    # wrong, and from the irrelevant note
    ([(NO, [2])], [(NO, [1])], 2, [0, 0, 0, 0.5, 1, 0, 1, 0, 1, 0, 0]),
    # wrong, and in both: counts as relevant alone
    ([(NO, [1, 2])], [(NO, [1])], 2, [0, 0, 0, 0.5, 1, 0, 1, 0, 0, 1, 0]),
    # no note is relevant: the wrong claim's note is irrelevant, and there is nothing to use
    ([(NO, [1])], [(NO, [])], 1, [0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0]),
    # nothing of the references is in the notes, and the answer knows it anyway
    ([(YES, [])], [(YES, [])], 2, [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1]),
    # two of four right, one reference of two found
    (
        [(YES, [1]), (YES, []), (NO, [1]), (NO, [])],
        [(YES, [1]), (NO, [])],
        1,
        [0.5, 0.5, 0.5, 1, 0.5, 1, 0.5, 0.25, 0, 0.25, 0.25],
    ),
    # precision 1, recall 1/3: F1 is 1/2
    ([(YES, [1])], [(YES, [1]), (NO, [1]), (NO, [2])], 2, [1, 1 / 3, 0.5, 1, 1, 1 / 3, 1, 0, 0, 0, 0]),
    # precision 1/4, recall 1: F1 is 2/5
    (
        [(YES, [1]), (NO, [2]), (NO, [2]), (NO, [])],
        [(YES, [1])],
        2,
        [0.25, 1, 0.4, 0.5, 1, 1, 0.75, 0.25, 0.5, 0, 0],
    ),
    # three of five notes are relevant
    (
        [(YES, [1, 2, 3])],
        [(YES, [1]), (YES, [2, 3]), (NO, [])],
        5,
        [1, 2 / 3, 0.8, 0.6, 2 / 3, 1, 1, 0, 0, 0, 0],
    ),
    # the answer finds what the notes lack and misses what they have: it uses nothing of them
    ([(YES, [])], [(YES, []), (NO, [1])], 1, [1, 0.5, 2 / 3, 1, 0.5, 0, 0, 0, 0, 0, 1]),
    # the answer states a claim that it does not count as its own
    ([(NO, [])], [(YES, [1]), (YES, [1])], 1, [0, 1, 0, 1, 1, 1, 0, 1, 0, 0, 0]),
    # an answer without claims is 0 everywhere
    ([], [(NO, [1])], 2, [0, 0, 0, 0.5, 1, 0, 0, 0, 0, 0, 0]),
    # an answer without claims, and notes that lack the answer
    ([], [(NO, [])], 3, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    # every kind of claim once: right in a note, right in none, wrong in the relevant, the irrelevant, none
    (
        [(YES, [1]), (YES, []), (NO, [1]), (NO, [2]), (NO, [])],
        [(YES, [1]), (NO, [1])],
        4,
        [0.4, 0.5, 4 / 9, 0.25, 1, 0.5, 0.6, 0.2, 0.2, 0.2, 0.2],
    ),
    # right claims in irrelevant notes are no noise
    ([(YES, [2]), (YES, [3])], [(YES, [1])], 3, [1, 1, 1, 1 / 3, 1, 1, 1, 0, 0, 0, 0]),
    # all wrong, half of it from irrelevant notes
    ([(NO, [2]), (NO, [])], [(NO, [1])], 2, [0, 0, 0, 0.5, 1, 0, 0.5, 0.5, 0.5, 0, 0]),
    # all references in all notes, none found
    ([(NO, [])], [(NO, [1, 2]), (NO, [1, 2])], 2, [0, 0, 0, 1, 1, 0, 0, 1, 0, 0, 0]),
    # many claims: 7 of 8 right, 3 of 4 found, both from the one relevant note of two
    (
        [*[(YES, [1])] * 7, (NO, [1])],
        [*[(YES, [1])] * 3, (NO, [1])],
        2,
        [7 / 8, 3 / 4, 21 / 26, 0.5, 1, 0.75, 1, 0, 0, 1 / 8, 0],
    ),
]
ORDER = (
    *("claim_precision", "claim_recall", "claim_f1", "context_precision", "context_recall", "context_utilization"),
    *("faithfulness", "hallucination", "noise_sensitivity_irrelevant", "noise_sensitivity_relevant", "self_knowledge"),
)


def claims(said: list[Said]) -> list[CheckedClaim]:
    return [CheckedClaim(text=f"c{n}", is_supported=yes, notes=notes) for n, (yes, notes) in enumerate(said)]


def figures(answer: list[Said], references: list[Said], n_notes: int | None) -> dict[str, Figure]:
    return claim_scores(claims(answer), claims(references), n_notes, "no verdict")


@pytest.mark.parametrize(("answer", "references", "n_notes", "by_hand"), BY_HAND)
def test_figures_equal_those_computed_by_hand(
    answer: list[Said], references: list[Said], n_notes: int, by_hand: list[float]
) -> None:
    made = figures(answer, references, n_notes)
    assert {name: made[name].value for name in ORDER} == pytest.approx(dict(zip(ORDER, by_hand, strict=True)))
    assert set(made) == set(ORDER) == set(CLAIM_METRICS)


def test_every_claim_is_of_one_kind() -> None:
    """Right, noise, or made up: the shares of the answer's claims sum to 1."""
    kinds = ("hallucination", "noise_sensitivity_irrelevant", "noise_sensitivity_relevant")
    for answer, references, n_notes, _ in BY_HAND:
        made = {name: figure.value or 0.0 for name, figure in figures(answer, references, n_notes).items()}
        wrong = sum(made[name] for name in kinds)
        assert made["claim_precision"] + wrong == pytest.approx(float(bool(answer)))


def test_a_figure_says_why_it_is_zero_or_has_no_value() -> None:
    empty = figures([], [(NO, [])], 1)
    assert empty["claim_precision"] == empty["hallucination"] == Figure(0.0, NO_CLAIMS)
    assert empty["context_utilization"] == Figure(0.0, NOTHING_IN_NOTES)
    closed_book = figures([(YES, [])], [(YES, [])], 0)
    assert {closed_book[name] for name in OF_NOTES} == {Figure(None, NO_NOTES)}
    assert [closed_book[name].value for name in OF_REFERENCES] == [1, 1, 1]
    without = figures([(None, [1])], [], 1)
    assert without.pop("faithfulness") == Figure(1.0)
    assert set(without.values()) == {Figure(None, NO_REFERENCE_CLAIMS)}
    imported = figures([(YES, None)], [(YES, None)], None)
    assert {imported[name].remark for name in OF_NOTES} == {"not known which notes the prompt held"}


@pytest.mark.parametrize(
    ("answer", "references", "lost"),
    [
        # a verdict about an answer's claim in the references
        ([(None, [1])], [(YES, [1])], {"claim_precision", "claim_f1", "hallucination", "self_knowledge"}),
        # about a claim of the references in the answer
        ([(YES, [1])], [(None, [1])], {"claim_recall", "claim_f1", "context_utilization"}),
        # about an answer's claim in a note
        ([(YES, None)], [(YES, [1])], {"faithfulness", "hallucination", "self_knowledge"}),
        # about a claim of the references in a note
        ([(YES, [1])], [(YES, None)], {"context_precision", "context_recall", "context_utilization"}),
    ],
)
def test_only_figures_that_need_a_lost_verdict_are_lost(
    answer: list[Said], references: list[Said], lost: set[str]
) -> None:
    noise = {"noise_sensitivity_relevant", "noise_sensitivity_irrelevant"}
    needs_noise = answer[0] != (YES, [1]) or references[0][1] is None
    made = figures(answer, references, 1)
    assert {name for name, figure in made.items() if figure.value is None} == lost | (noise if needs_noise else set())
    assert {figure.remark for figure in made.values() if figure.value is None} == {"no verdict"}


def test_an_unread_split_costs_only_what_rests_on_it() -> None:
    of_references = claim_scores(None, claims([(YES, [1])]), 1, "no verdict")
    with_value = {name for name, figure in of_references.items() if figure.value is not None}
    assert with_value == {"claim_recall", "context_precision", "context_recall", "context_utilization"}
    of_answer = claim_scores(claims([(YES, [1])]), None, 1, "no verdict")
    with_value = {name for name, figure in of_answer.items() if figure.value is not None}
    assert with_value == {"claim_precision", "faithfulness", "hallucination", "self_knowledge"}


@pytest.fixture
def ragchecker() -> Iterator[Any]:
    """RAGChecker's computation of figures, without its models."""
    found = importlib.util.find_spec("ragchecker")
    if found is None:
        pytest.skip("ragchecker is not installed (pip install --no-deps ragchecker)")
    package, container = ModuleType("ragchecker"), ModuleType("ragchecker.container")
    package.__path__ = list(found.submodule_search_locations or [])
    container.RAGResult = object  # type: ignore[attr-defined]
    names = {"ragchecker": package, "ragchecker.container": container}
    sys.modules.update(names)
    try:
        yield importlib.import_module("ragchecker.computation")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "ragchecker"]:
            del sys.modules[name]


class _Result:
    def __init__(self, answer: list[Said], references: list[Said], n_notes: int) -> None:
        self.metrics: dict[str, float] = {}
        self.answer2response = [_word(yes) for yes, _ in answer]
        self.response2answer = [_word(yes) for yes, _ in references]
        self.retrieved2response = [_words(notes, n_notes) for _, notes in answer]
        self.retrieved2answer = [_words(notes, n_notes) for _, notes in references]


def _word(yes: bool | None) -> str:
    return "Entailment" if yes else "Neutral"


def _words(notes: list[int] | None, n_notes: int) -> list[str]:
    return [_word(number in (notes or [])) for number in range(1, n_notes + 1)]


def test_figures_equal_ragcheckers(ragchecker: Any) -> None:
    dice = random.Random(22)

    def some(least: int, n_notes: int) -> list[Said]:
        numbers = range(1, n_notes + 1)
        return [
            (dice.random() < 0.6, [number for number in numbers if dice.random() < 0.35])
            for _ in range(dice.randrange(least, 7))
        ]

    cases = [(answer, references, n_notes) for answer, references, n_notes, _ in BY_HAND]
    for _ in range(300):
        n_notes = dice.randrange(1, 6)
        cases.append((some(0, n_notes), some(1, n_notes), n_notes))
    for answer, references, n_notes in cases:
        result = _Result(answer, references, n_notes)
        for evaluate in ragchecker.METRIC_FUNC_MAP.values():
            evaluate(result)
        ours = figures(answer, references, n_notes)
        assert {OUR_NAMES[name]: value for name, value in result.metrics.items()} == pytest.approx(
            {name: figure.value for name, figure in ours.items()}
        )
