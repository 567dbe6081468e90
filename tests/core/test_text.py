from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qilin_rag.core import text


@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        ("先晾干[第1篇](#)。", "先晾干。"),
        ("先晾干[第 12 篇](#)，再装[2](#)。", "先晾干，再装。"),
        ("见[1]和[第1篇、第3篇](#)", "见和"),
        ("**重点**是__晾干__和`通风`", "重点是晾干和通风"),
        ("见[第一篇](#)、［1］和[1-3](#)[笔记2](#a)", "见和"),
        ("[笑哭R] [a] [2024] a[100] [x](http://y) 5*3", "[笑哭R] [a] [2024] a[100] [x](http://y) 5*3"),
    ],
)
def test_markup_is_stripped(marked: str, plain: str) -> None:
    assert text.strip_markup(marked) == plain


@pytest.mark.parametrize(
    ("marked", "numbers"),
    [
        ("先晾干[第1篇](#)，再装[2](#)，见[第 12 篇](#)", [1, 2, 12]),
        ("见[1]、［３］和[1, 3]、[第1篇、第3篇](#)[第2篇第4篇]", [1, 3, 1, 3, 1, 3, 2, 4]),
        ("[1-3] [2–3](#) [第1至3篇] [第1篇到第2篇](#) [３－４] [3-1]", [1, 2, 3, 2, 3, 1, 2, 3, 1, 2, 3, 4, 1, 2, 3]),
        ("[1][1] [1,1]", [1, 1, 1, 1]),
        ("[0] [第0篇](#)", [0, 0]),
        (
            "[第一篇](#)[笔记二](#a)[第十篇][第十二篇][第二十篇](#)[第二十三篇](#)[第一至三篇]",
            [1, 2, 10, 12, 20, 23, 1, 2, 3],
        ),
        ("【第1篇】（见第2篇）(第3篇、第4篇) [Note 1] (notes 1-2)", [1, 2, 3, 4, 1, 1, 2]),
        ("于[2024]年 [100](#) [第2024篇](#) [1, 2024]", []),
        ("[3分钟](#) [笔记](#) [笑哭R] [a] (1) （2） 【3】 (第3天) 第1篇 [第2天] a[] [1", []),
        ("[[第1篇](#)] ([2]) （[第3篇](#)）", [1, 2, 3]),
        ("", []),
    ],
)
def test_cited_numbers(marked: str, numbers: list[int]) -> None:
    assert text.cited_numbers(marked) == numbers


@given(st.lists(st.integers(0, 99), min_size=1, max_size=6), st.sampled_from([",", "、", "，", ", "]), st.booleans())
def test_what_is_stripped_as_a_bare_number_is_read_as_a_citation(numbers: list[int], comma: str, named: bool) -> None:
    marker = f"[{comma.join(f'第{n}篇' if named else str(n) for n in numbers)}]"
    assert text.strip_markup(marker) == ""
    assert text.cited_numbers(f"先晾干{marker}。") == numbers


@given(st.text(alphabet="[]【】()（）第一十篇1 2-,、至#笔记", max_size=80))
def test_numbers_below_100_are_read_from_anything(value: str) -> None:
    assert all(0 <= number <= 99 for number in text.cited_numbers(value))


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


@pytest.mark.parametrize(
    ("prompt", "counted"),
    [
        ("冷萃咖啡：粗研磨咖啡粉80克，加冷水800毫升，冷藏12小时后过滤，喝之前按口味兑水或牛奶。", (34, 36, 30, 41, 66)),
        ("The quick brown fox jumps over the lazy dog, and nobody was surprised by it.", (17, 17, 17, 17, 17)),
        ("13812345678 2026-11-21 08:30 20263.14159 11010519491231002X", (59, 59, 29, 29, 29)),
        ("冷萃" + " " * 200 + "-" * 200 + "\n" * 50, (11, 11, 12, 12, 13)),
        ("哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈😭😭😭😭！！！！！！", (15, 11, 14, 14, 27)),
        ("นี่คือข้อความภาษาไทย Это русский текст, 이것은 한국어", (10, 18, 16, 13, 35)),
    ],
)
def test_no_tokenizer_makes_fewer_tokens(prompt: str, counted: tuple[int, ...]) -> None:
    """Counted by the tokenizers of Qwen 3.6, Qwen 2.5, DeepSeek V4, GPT-4o (o200k) and GPT-4 (cl100k)."""
    assert text.fewest_tokens(prompt) < min(counted)


def test_a_note_that_is_cut_by_two_thirds_is_noticed() -> None:
    note = "冷萃咖啡：粗研磨咖啡粉80克，加冷水800毫升，冷藏12小时后过滤，喝之前按口味兑水或牛奶。"
    assert text.fewest_tokens(note) > 34 / 3


def test_token_estimate_is_on_the_long_side() -> None:
    assert text.estimate_tokens("") == 0
    assert text.estimate_tokens("多肉夏天怎么浇水") >= 8
    assert text.estimate_tokens("three words here") >= 3


@given(st.text(alphabet="a1カハ\u3099\u309aſİ℃㎡㌀㏿…①⒛Ａ５％～\u3000²½", max_size=12))
def test_normalise_is_nfkc_casefold_without_shortcuts(value: str) -> None:
    wanted = text.visible(value)
    for apart, sign in (("⁰¹²³⁴-⁹", "^"), ("₀-₉", "_"), ("¼-¾⅐-⅟↉①-⒛⓪", " ")):
        wanted = re.sub(rf"(?<=\d)(?=[{apart}])", sign, wanted)
    while (folded := unicodedata.normalize("NFKC", wanted.casefold())) != wanted:
        wanted = folded
    assert text.normalise(value) == wanted


STRIPPED_PIECES = [*"[]1-2^*_`茶 a。①²\0\r\u0301\u200d\u200b가\u11a8〜⺠Å", "[1]", "**", "👨", "İ", "½"]


@given(st.lists(st.sampled_from(STRIPPED_PIECES), max_size=12))
def test_texts_are_stripped_and_normalised_at_once(pieces: list[str]) -> None:
    joined = "".join(pieces)
    assert text.strip_and_normalise([joined, "茶"]) == [text.normalise(text.strip_markup(joined)), "茶"]


def test_every_letter_has_an_end_of_folding() -> None:
    letters = "ΐΰẞŉǰẖﬃİı\u1fb3\u1fd3\u1fe3"
    for letter in [*letters, letters]:  # ΐ folds to three code points, which compose to ΐ again
        folded = text.normalise(letter)
        assert folded == text.normalise(folded)
        assert text.strip_and_normalise([letter]) == [folded]
