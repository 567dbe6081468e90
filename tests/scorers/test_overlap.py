"""BLEU and chrF, against sacreBLEU's own functions and by hand."""

from __future__ import annotations

import math
import socket

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from qilin_rag.core.text import clean, normalise, strip_markup
from qilin_rag.scorers.base import AnswerScorer
from qilin_rag.scorers.overlap import Bleu, ChrF, SacreBleu
from qilin_rag.scorers.rouge import Rouge1, Rouge2, RougeL

ANSWER = "冷萃用粗研磨咖啡粉80克，加冷水800毫升，冷藏12小时后过滤。"
TEXTS = [
    ANSWER,
    "粗研磨80克，加冷水800毫升，冷藏12小时。",
    "水温92度。",
    "Cold brew：**SPF50**+，不是3.14[第1篇](#)！\n第二段😀",
    "好",
    "",
]


def one(scorer: AnswerScorer, answer: str, *references: str) -> float:
    [value] = scorer.score_answers([answer], [references])
    assert isinstance(value, float)
    return value


@pytest.mark.parametrize("answer", TEXTS)
@pytest.mark.parametrize("references", [TEXTS[:1], TEXTS[1:3], TEXTS[:4]])
def test_equals_sacrebleu(answer: str, references: list[str]) -> None:
    said, targets = normalise(strip_markup(answer)), [normalise(strip_markup(target)) for target in references]
    bleu = sacrebleu.sentence_bleu(said, targets, tokenize="zh", smooth_method="exp", use_effective_order=True).score
    assert one(Bleu(), answer, *references) == pytest.approx(min(bleu, 100) / 100, abs=1e-12)
    assert one(ChrF(), answer, *references) == pytest.approx(
        min(sacrebleu.sentence_chrf(said, targets).score, 100) / 100, abs=1e-12
    )


def test_bleu_by_hand() -> None:
    """水温应为92度 against 水温92度: characters, and a number is one token."""
    precisions = (4 / 6) * (2 / 5) * (1 / (2 * 4)) * (1 / (4 * 3))  # 3 and 4 tokens in a row: none, smoothed
    assert one(Bleu(), "水温应为92度", "水温92度") == pytest.approx(precisions ** (1 / 4))
    assert one(Bleu(), "水温", "水温92度") == pytest.approx(math.exp(1 - 4 / 2))  # all right, but half of it


def test_chrf_by_hand() -> None:
    """Precision 1, recall (2/4 + 1/3) / 2, F2; orders without n-grams on a side are left out."""
    recall = (2 / 4 + 1 / 3) / 2
    assert one(ChrF(), "水温", "水温适当") == pytest.approx(5 * recall / (4 + recall))


def test_several_references_are_taken_as_sacrebleu_takes_them() -> None:
    """BLEU counts n-grams of all of them, chrF takes the best one."""
    answer, first, second = "先晾根再浇水", "先晾根", "再浇水"
    assert one(Bleu(), answer, first, second) > max(one(Bleu(), answer, first), one(Bleu(), answer, second))
    assert one(ChrF(), answer, first, second) == max(one(ChrF(), answer, first), one(ChrF(), answer, second))


@pytest.mark.parametrize(
    "scorer",
    [RougeL(), RougeL(tokens="word"), Rouge1(), Rouge2(), Bleu(), ChrF()],
    ids=lambda scorer: scorer.metric,
)
def test_identical_chinese_scores_one_and_other_texts_less(scorer: AnswerScorer) -> None:
    for text in (ANSWER, "水温", "今天也是想辞职的一天😭", "先晾干，再装。\n不要暴晒！"):
        assert one(scorer, text, text) == 1.0
        assert one(scorer, text, "茶", text) == 1.0
        assert one(scorer, f"**{text}**[第1篇](#)", text) == 1.0
        assert one(scorer, text, text + "然后过滤，加冰块") < 1.0
        assert one(scorer, text, "茶") == one(scorer, "", text) == one(scorer, text, "") == one(scorer, text) == 0.0


def test_an_empty_reference_is_passed_over() -> None:
    """To BLEU it would be the closest in length, and a short answer complete."""
    for scorer in (Bleu(), ChrF()):
        assert one(scorer, "水温", "水温应为92度", "", " ", "[1]") == one(scorer, "水温", "水温应为92度") < 1


@given(st.text(max_size=40).map(clean), st.lists(st.text(max_size=40).map(clean), max_size=3))
def test_every_value_lies_between_0_and_1(answer: str, references: list[str]) -> None:
    for scorer in (Bleu(), ChrF()):
        assert 0.0 <= one(scorer, answer, *references) <= 1.0


def test_signatures_hold_sacrebleus_own() -> None:
    ends = f"version:{sacrebleu.__version__}|v2"
    made = "level:sentence, mean|scale:0-1|strip:citations+emphasis|norm:nfkc_casefold|nrefs:var|case:mixed|eff:yes"
    assert Bleu().signatures() == {"bleu": f"bleu|{made}|tok:zh|smooth:exp|{ends}"}
    assert ChrF().signatures() == {"chrf": f"chrf|{made}|nc:6|nw:0|space:no|{ends}"}
    assert "strip:nothing" in Bleu(strip_markup=False).signatures()["bleu"]


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    scorers: list[SacreBleu] = [Bleu(), ChrF()]
    assert [one(scorer, ANSWER, ANSWER) for scorer in scorers] == [1.0, 1.0]
