"""A note that was clicked under a query is no negative of that query, whichever request clicked it."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from qilin_rag.core.types import Hit, Question
from qilin_rag.data.requests import Requests, requests_of
from qilin_rag.rankers.examples import ClickedNotes, contrasts, with_negatives


def shown(*requests: tuple[str, list[int], list[int]]) -> Requests:
    """Requests by query, with the notes that were clicked, and those that were not."""
    questions = [
        Question(id=str(i), query=query, references=["-"], reference_notes=clicked)
        for i, (query, clicked, _) in enumerate(requests)
    ]
    return requests_of(
        questions, [[Hit(note_idx=n, score=0, rank=i) for i, n in enumerate(a + b, 1)] for _, a, b in requests]
    )


def negatives_of(requests: Requests, n: int = 9) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
    """By request, what is taken for a negative beside notes of a batch, and among pairs."""
    found: dict[str, set[int]] = defaultdict(set)
    pairs = contrasts(requests, n, seed=1)
    for request, negatives in zip(pairs.request, pairs.negatives, strict=True):
        found[requests.ids[request]] |= set(negatives[negatives >= 0].tolist())
    rows = with_negatives(requests, n, seed=1)
    drawn: dict[str, set[int]] = defaultdict(set)
    for row in rows[~requests.clicked[rows]]:
        drawn[requests.ids[requests.request[row]]].add(int(requests.note_idx[row]))
    return dict(found), {**{requests.ids[requests.request[row]]: set() for row in rows}, **drawn}


@pytest.mark.parametrize("other", ["Latte 咖啡", "latte  咖啡\n", "ＬＡＴＴＥ咖啡", "latte咖啡"])
def test_requests_of_one_query_share_their_clicks(other: str) -> None:
    requests = shown(("latte 咖啡", [1], [2, 3]), (other, [2], [1, 4]), ("茶", [5], [1, 2]))
    assert negatives_of(requests) == ({"0": {3}, "1": {4}, "2": {1, 2}},) * 2
    clicked = ClickedNotes.of(requests).of_requests(np.array([0, 2, 1]))
    assert [set(notes) - {-1} for notes in clicked.tolist()] == [{1, 2}, {5}, {1, 2}]


def test_requests_without_a_query_share_nothing() -> None:
    requests = shown(("", [1], [2]), ("", [2], [1]), (" \n", [3], [1, 2]))
    assert negatives_of(requests) == ({"0": {2}, "1": {1}, "2": {1, 2}},) * 2


def test_a_request_whose_results_were_all_clicked_under_its_query_has_no_negative() -> None:
    requests = shown(("a", [1], [2]), ("A", [2], [1]))
    assert negatives_of(requests) == ({"0": set(), "1": set()},) * 2
    assert with_negatives(requests, 3, seed=0).tolist() == np.flatnonzero(requests.clicked).tolist()


def test_a_stray_click_does_not_make_a_note_that_others_passed_over_relevant() -> None:
    requests = shown(("a", [1], [2]), ("a", [2], [3]), ("a", [2], [1]), ("a", [3], [1]), ("a", [4], [1]))
    in_batch, pairs = negatives_of(requests)
    assert in_batch == {str(i): set() for i in range(5)}
    assert pairs == {
        "0": set(),
        "1": set(),
        "2": {1},
        "3": {1},
        "4": {1},
    }  # 1 clicked once of four, 2 and 3 as often as not


def test_many_requests_by_hand() -> None:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(300):
        notes = rng.choice(60, 8, replace=False).tolist()
        n = int(rng.integers(0, 4))
        made.append((f"q{rng.integers(40)}", notes[:n], notes[n:]))
    requests = shown(*made)
    clicked: dict[str, Counter[int]] = defaultdict(Counter)
    passed: dict[str, Counter[int]] = defaultdict(Counter)
    for query, notes, rest in made:
        clicked[query].update(notes)
        passed[query].update(rest)
    in_batch, pairs = ({str(i): set[int]() for i, (_, notes, _) in enumerate(made) if notes} for _ in range(2))
    for i, (query, notes, rest) in enumerate(made):
        for note in rest if notes else []:
            if not clicked[query][note]:
                in_batch[str(i)].add(note)
            if clicked[query][note] < passed[query][note]:
                pairs[str(i)].add(note)
    assert negatives_of(requests) == (in_batch, pairs) and in_batch != pairs
    of_each = ClickedNotes.of(requests).of_requests(np.arange(len(made)))
    assert [set(notes) - {-1} for notes in of_each.tolist()] == [set(clicked[query]) for query, _, _ in made]
