"""Length of the answer over that of the closest reference."""

from __future__ import annotations

import pytest

from qilin_rag.core.types import Question, Sample
from qilin_rag.scorers.base import Remarked
from qilin_rag.scorers.length import LengthRatio


@pytest.mark.parametrize(
    ("answer", "references", "ratio"),
    [
        ("水温92度。", ["水温92度。"], 1.0),
        ("水温92", ["水温92度。泡茶"], 3 / 7),  # a run of digits is one token
        ("水温", ["水"], 2.0),
        ("**水温**[第1篇](#) ９２", ["`92` 水温[2]"], 1.0),
        ("水温九二", ["水", "水温九", "水温九二度三分"], 4 / 3),
        ("水温九", ["水温九二", "水温"], 3 / 2),  # a tie: the shorter, as in BLEU
        ("水", ["", "水温"], 1 / 2),
        ("", ["水温"], 0.0),
    ],
)
def test_by_hand(answer: str, references: list[str], ratio: float) -> None:
    assert LengthRatio().score_answers([answer], [references]) == [Remarked(ratio)]


@pytest.mark.parametrize("references", [[""], ["", "[第1篇](#)"], []])
def test_an_empty_reference_leaves_the_answer_unscored(references: list[str]) -> None:
    sample = Sample(
        question_id="1",
        query="q",
        status="ok",
        hits=[],
        notes_given=0,
        notes_used=0,
        messages=[],
        answer="水温",
        raw="水温",
    )
    [score] = LengthRatio().score([sample], [Question(id="1", query="q", references=references)])
    assert (score.value, score.reason) == (None, "empty reference")


def test_signature() -> None:
    made = "tokens:mixed|strip:citations+emphasis|norm:nfkc_casefold|answer/reference|refs:closest|best:1|v2"
    assert LengthRatio().signatures() == {"length_ratio": f"length_ratio|{made}"}
