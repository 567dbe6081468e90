"""Whether an answer contains a reference."""

from __future__ import annotations

import pytest

from qilin_rag.scorers.contains import Contains


@pytest.mark.parametrize(
    ("answer", "references", "value"),
    [
        ("水温应为92度。", ["92度"], 1.0),
        ("水温应为９２ 度。", ["92度。"], 1.0),  # full width, white space, punctuation
        ("是**粗研磨**的咖啡粉[第1篇](#)", ["粗研磨的咖啡粉"], 1.0),
        ("It is PARIS.", ["london", "Paris"], 1.0),
        ("水温应为9度。", ["92度"], 0.0),
        ("92度", ["水温应为92度"], 0.0),  # the reference contains the answer: not the same
        ("水温应为192度。", ["92度"], 0.0),  # another number
        ("there are cats", ["cat"], 0.0),  # another word
        ("2012年12月", ["12月"], 1.0),
        ("A, B and C", ["b and c"], 1.0),
        ("", ["92度"], 0.0),
        ("随便什么", ["。"], 0.0),  # nothing to compare with is contained in nothing
        ("随便什么", [], 0.0),
    ],
)
def test_whole_tokens_decide(answer: str, references: list[str], value: float) -> None:
    assert Contains().score_answers([answer], [references]) == [value]
