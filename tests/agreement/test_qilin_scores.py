"""Measures of Qilin's answers see what they say they see, and no answer is compared with itself or a copy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from qilin_rag.agreement.qilin_answers import ENGAGED, LabelledAnswers
from qilin_rag.agreement.qilin_scores import (
    MEASURES,
    METRICS,
    OTHERS,
    SENTINELS,
    other_favoured,
    score_measures,
    score_sentinels,
)
from qilin_rag.core.registry import SCORERS
from qilin_rag.scorers import AnswerScorer


def answers_of(*rows: tuple[str, str, int], notes: Sequence[Sequence[str | None]] | None = None) -> LabelledAnswers:
    """Return answers, each a query, a text and whether it is favoured."""
    queries, texts, favoured = zip(*rows, strict=True)
    labels = {ENGAGED: np.array(favoured)}
    return LabelledAnswers(queries, texts, notes or [[]] * len(rows), np.arange(len(rows)), labels)


ONE_QUERY = answers_of(
    ("冷萃", "冷藏12小时后过滤", 1),
    ("冷萃 ", "粗磨，用冷水", 1),
    ("冷萃", "浓缩液加奶", 1),
    ("冷萃", "水温92度", 0),
    ("冷萃", "冷藏 12小时后过滤[第1篇](#)", 0),
    ("手冲", "水温92度", 1),
    ("多肉", "先晾干", 0),
)


def test_references_are_other_favoured_answers_to_the_query() -> None:
    found = other_favoured(ONE_QUERY)
    assert list(map(sorted, found[:3])) == [
        ["浓缩液加奶", "粗磨，用冷水"],
        ["冷藏12小时后过滤", "浓缩液加奶"],
        ["冷藏12小时后过滤", "粗磨，用冷水"],
    ]
    assert len(found[3]) == 2 and set(found[3]) < {"冷藏12小时后过滤", "粗磨，用冷水", "浓缩液加奶"}
    assert sorted(found[4]) == ["浓缩液加奶", "粗磨，用冷水"]  # never the text that it copies
    assert found[5:] == [[], []]
    assert len({tuple(sorted(other_favoured(ONE_QUERY, seed)[3])) for seed in range(20)}) == 3


@pytest.mark.parametrize("seed", range(3))
def test_all_answers_to_a_query_have_as_many_references(seed: int) -> None:
    """With copies and with many answers, whatever is favoured; else the number would tell who is."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"问{rng.integers(4)}", f"答{'甲乙丙丁戊己庚辛壬癸子丑寅卯辰'[rng.integers(15)]}", int(rng.integers(2)))
        for _ in range(200)
    ]
    answers = answers_of(*rows)
    found = other_favoured(answers, seed)
    numbers: dict[str, set[int]] = {}
    for (query, text, _), references in zip(rows, found, strict=True):
        assert text not in references and len(set(references)) == len(references)
        numbers.setdefault(query, set()).add(len(references))
    assert all(len(each) == 1 and max(each) > 3 for each in numbers.values())


def test_the_score_is_the_mean_over_references() -> None:
    found = score_measures(ONE_QUERY)
    assert list(found) == list(MEASURES)
    references = other_favoured(ONE_QUERY)
    for name in METRICS:
        scorer = SCORERS.create(name, {})
        assert isinstance(scorer, AnswerScorer)
        wanted = [
            np.mean(np.array(scorer.score_answers([text] * len(others), [[other] for other in others]), float))
            for text, others in zip(ONE_QUERY.texts[:5], references[:5], strict=True)
        ]
        assert found[f"{OTHERS}{name}"][:5] == pytest.approx(wanted, abs=1e-12)
        assert np.isnan(found[f"{OTHERS}{name}"][5:]).all()


def test_measures_of_notes_and_query() -> None:
    answers = answers_of(
        ("水温", "水温92度。先晾干[第2篇](#)", 1),
        ("冷萃", "冷藏[第9篇](#)", 0),
        ("手冲", "先晾干[1][第2篇](#)", 0),
        notes=[["水温92度", "晾干"], ["水洗"], ["先晾", None]],
    )
    found = score_measures(answers)
    assert found["query_overlap"] == pytest.approx([1, 0.5, 0])
    # bigrams of "水 温 92 度 。 先 晾 干": three of seven are in the first note, one in the second
    assert found["notes_overlap"] == pytest.approx([4 / 7, 0, 1 / 2])
    assert found["cited_overlap"] == pytest.approx([1 / 2, np.nan, 1 / 2], nan_ok=True)
    assert found["notes_rouge_l"] == pytest.approx([2 * 4 / 12, 0, 2 * 2 / 5])
    without = score_measures(answers._replace(notes=[[], [None], []]))
    assert all(np.isnan(without[name]).all() for name in ("notes_overlap", "cited_overlap", "notes_rouge_l"))


def test_sentinels_see_nothing_of_the_answer_but_its_size() -> None:
    notes = [["水温92度"]] * 5 + [["先晾干"]] * 2
    found = score_sentinels(ONE_QUERY._replace(notes=notes))
    assert list(found) == list(SENTINELS)
    assert found["length"].tolist() == [8, 6, 5, 4, 8, 4, 3]
    assert found["citations"].tolist() == [0, 0, 0, 0, 1, 0, 0]
    assert found["constant"].tolist() == [0] * 7
    for seed in range(20):  # the answer to another query: of 冷萃, only 手冲's is in the notes
        permuted = score_sentinels(ONE_QUERY._replace(notes=notes), seed)["permuted"]
        assert {value for value in permuted[:5].tolist() if not np.isnan(value)} <= {0, 1}
        assert permuted[6] in (0, 0.0) and not np.isnan(permuted[5:]).any()
    alone = score_sentinels(answers_of(("冷萃", "水温", 1), ("冷萃", "过滤", 0), notes=[["水温"]] * 2))
    assert np.isnan(alone["permuted"]).all()
