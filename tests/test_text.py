from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qilin_rag import text


@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        ("先晾干[第1篇](#)。", "先晾干。"),
        ("先晾干[第 12 篇](#)，再装[2](#)。", "先晾干，再装。"),
        ("见[1]和[第1篇、第3篇](#)", "见和"),
        ("**重点**是__晾干__和`通风`", "重点是晾干和通风"),
        ("见[第一篇](#)、［1］和[1-3](#)[笔记2](#a)", "见、和"),
        ("[笑哭R] [a] [2024] a[100] [x](http://y) 5*3", "[笑哭R] [a] [2024] a[100] [x](http://y) 5*3"),
    ],
)
def test_markup_is_stripped(marked: str, plain: str) -> None:
    assert text.strip_markup(marked) == plain


def test_tags_and_stickers_are_stripped_from_notes() -> None:
    assert text.strip_tags("好吃[笑哭R]！#家常菜[话题]# 第[1]步") == "好吃！ 第[1]步"


def test_full_width_and_half_width_are_one() -> None:
    assert text.normalise("ＳＰＦ５０＋") == text.normalise("spf50+") == "spf50+"


def test_mixed_tokens_keep_every_visible_character() -> None:
    assert text.mixed_tokens("用spf50+的防晒 2次😀") == ["用", "spf50", "+", "的", "防", "晒", "2", "次", "😀"]


@given(st.text())
def test_mixed_tokens_lose_nothing_but_white_space(value: str) -> None:
    normal = text.normalise(text.clean(value))
    assert "".join(text.mixed_tokens(normal)) == "".join(normal.split())


def test_words() -> None:
    assert text.words("咖啡机怎么清洗 spf50") == ["咖啡机", "怎么", "清洗", "spf50"]


def test_sentences_end_at_marks_and_line_breaks() -> None:
    assert text.sentences("先焯水。再炖！！\n  三小时？\n\n完") == ["先焯水。", "再炖！！", "三小时？", "完"]


@given(st.text(alphabet=st.characters(), max_size=40))
def test_cleaned_text_is_writable_and_unchanged_where_it_was(value: str) -> None:
    cleaned = text.clean(value)
    assert cleaned.encode("utf-8").decode("utf-8") == cleaned
    assert cleaned == value or any("\ud800" <= char <= "\udfff" for char in value)


def test_lone_surrogates_are_replaced() -> None:
    assert text.clean("好\ud83d的") == "好\ufffd的"


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a/b\\c", ".hidden", "", "...", "x" * 200, "长" * 100, "模型 72B"]
)
def test_a_slug_is_one_safe_part_of_a_path(name: str) -> None:
    slug = text.slug(name)
    assert slug
    assert not set(slug) & set("/\\ ")
    assert not slug.startswith(".")
    assert len(slug.encode()) <= 48


def test_token_estimate_is_on_the_long_side() -> None:
    assert text.estimate_tokens("") == 0
    assert text.estimate_tokens("多肉夏天怎么浇水") >= 8
    assert text.estimate_tokens("three words here") >= 3
