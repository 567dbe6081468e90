"""Diversity of the first ten notes: by hand, and as the mean over all orders of ties."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qilin_rag.data.catalogue import open_catalogue
from qilin_rag.data.source import open_source
from qilin_rag.rankers import diversity as measured
from qilin_rag.rankers.diversity import COVERAGE, ILD, diversity, taxonomy_of
from tests.rankers.test_placements import requests_like

Path3 = tuple[str | None, str | None, str | None]


def distance(a: Path3, b: Path3) -> float:
    shared = 0
    for one, other in zip(a, b, strict=True):
        if one is None or one != other:
            break
        shared += 1
    return 1 - shared / 3


def slowly(paths: list[Path3], scores: list[float], k: int) -> tuple[float, float]:
    """The mean ILD and coverage over every order that the scores allow."""
    rows = [row for row, path in enumerate(paths) if path[0] is not None]
    orders = [
        order
        for order in itertools.permutations(rows)
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    ilds, coverages = [], []
    for order in orders:
        top = order[:k]
        pairs = [distance(paths[a], paths[b]) for a, b in itertools.combinations(top, 2)]
        ilds.append(mean(pairs) if pairs else math.nan)
        categories = {paths[row][0] for row in rows}
        coverages.append(len({paths[row][0] for row in top}) / len(categories) if categories else math.nan)
    return float(np.mean(ilds)), float(np.mean(coverages))


Notes = st.lists(
    st.tuples(st.tuples(*[st.sampled_from(["a", "b", None])] * 3), st.sampled_from([0.0, 1.0])),
    max_size=6,
)


@settings(max_examples=80, deadline=None)
@given(Notes, st.integers(2, 4))
def test_the_mean_over_all_orders_of_ties(notes: list[tuple[Any, float]], k: int) -> None:
    paths: list[Path3] = [path for path, _ in notes]
    requests, scores = requests_like([[(False, score) for _, score in notes]])
    codes = np.full((requests.n_candidates, 3), -1)
    for row, note in enumerate(requests.note_idx.tolist()):
        for level in range(3):
            if None in paths[note][: level + 1]:
                break
            codes[row, level] = hash(paths[note][: level + 1]) % 10**9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measured, "K", k)
        found = diversity(requests, scores, codes)
    ild, coverage = slowly(paths, [score for _, score in notes], k)
    assert found[ILD][0] == pytest.approx(ild, abs=1e-12, nan_ok=True)
    assert found[COVERAGE][0] == pytest.approx(coverage, abs=1e-12, nan_ok=True)


def test_taxonomies_by_hand(tmp_path: Path) -> None:
    """The same names below another category are another path; a missing level is shared with no note."""
    rows = [
        (0, "food", "cake", "cheese"),
        (1, "food", "cake", "cheese"),
        (2, "food", "cake", "nan"),
        (3, "food", "cake", "nan"),
        (4, "shop", "cake", "cheese"),
        (5, "nan", "cake", "cheese"),
        (6, None, None, None),
    ]
    lines = [
        {"note_idx": n, "title": "", "content": "", "taxonomy1_id": a, "taxonomy2_id": b, "taxonomy3_id": c}
        for n, a, b, c in rows
    ]
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    requests, scores = requests_like([[(False, float(-n)) for n in range(7)]])
    paths = taxonomy_of(requests, open_catalogue(open_source(str(tmp_path))))
    assert paths is not None
    by_note = dict(zip(requests.note_idx.tolist(), paths.tolist(), strict=True))
    assert by_note[0] == by_note[1] and by_note[2][:2] == by_note[0][:2] and by_note[2][2] == -1
    assert by_note[4][0] != by_note[0][0] and by_note[4][1] != by_note[0][1]
    assert by_note[5] == by_note[6] == [-1, -1, -1]
    found = diversity(requests, scores, paths)
    pairs = [0, *[1 / 3] * 5, *[1] * 4]  # 0-1; 0-2, 0-3, 1-2, 1-3, 2-3; each with 4
    assert found[ILD][0] == pytest.approx(np.mean(pairs))
    assert found[COVERAGE][0] == 1


def test_notes_without_a_taxonomy(tmp_path: Path) -> None:
    (tmp_path / "notes.jsonl").write_text('{"note_idx": 0, "title": "", "content": ""}\n')
    requests, _ = requests_like([[(False, 0.0)]])
    assert taxonomy_of(requests, open_catalogue(open_source(str(tmp_path)))) is None
