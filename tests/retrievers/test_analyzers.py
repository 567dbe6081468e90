from __future__ import annotations

import json
from pathlib import Path

import pytest

from qilin_rag.core.text import visible
from qilin_rag.retrievers.bm25.analyzers import char_terms, cjk_bigram_terms, word_terms

GOLDEN = Path(__file__).parents[1] / "golden" / "lucene_cjk.jsonl"
# Texts of the golden file on which we differ from Lucene 9.5, and why that is left so.
EXOTIC = {
    "葛\U000e0100城": "invisible to a reader, a boundary to Lucene: a selector of a variant",
    "中\ufe0f国": "the same: an emoji's selector",
    "零\u200b宽": "the same: a zero-width space",
    "ab\u200bcd": "the same",
    "a\u202fb": "a narrow space is a space to a reader, a letter to Lucene",
    "ΟΔΟΣ Ὀδυσσεύς": "Python lowers a final sigma by context",
    "İstanbul ISPARTA ı": "Python lowers the dotted capital I to two characters",
    "鿯鿰𰻝": "Han characters newer than Unicode 12.1 are Han to us",
}


def golden() -> list[tuple[str, list[str]]]:
    lines = GOLDEN.read_text(encoding="utf-8").splitlines()
    return [(row["text"], row["tokens"]) for row in map(json.loads, lines)]


def test_cjk_bigrams_are_lucenes() -> None:
    """The golden tokens were made by Lucene 9.5's CJKAnalyzer (default stop words); what is invisible is taken out."""
    seen = [(text, [left for token in tokens if (left := visible(token))]) for text, tokens in golden()]
    differing = {text for text, tokens in seen if cjk_bigram_terms(text) != tokens}
    overlong = {text for text in differing if max(map(len, text.split())) > 255}  # we cut these elsewhere
    assert differing - overlong <= set(EXOTIC)
    assert len(overlong) <= 2
    assert len(golden()) > 200


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("冷萃咖啡 Cold Brew！", ["冷萃", "萃咖", "咖啡", "cold", "brew"]),
        ("水", ["水"]),
        ("ＳＰＦ５０＋ the 防晒", ["spf50", "防晒"]),
        ("", []),
        ("，。 ！", []),
    ],
)
def test_cjk_bigrams_by_hand(text: str, terms: list[str]) -> None:
    assert cjk_bigram_terms(text) == terms


def test_words_and_characters_leave_punctuation_out() -> None:
    assert word_terms("咖啡机，怎么清洗？SPF50+") == ["咖啡机", "怎么", "清洗", "spf50"]
    assert char_terms("咖啡 A1！") == ["咖", "啡", "a", "1"]
