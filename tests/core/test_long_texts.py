"""Long texts must be normalised to what Unicode's own steps make of them."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from qilin_rag.core.text import normalise, visible

CHINESE = "\n，。！？～「」《》“”—·ＡＺ０９㐂一鿿☀❤🏳🏵👍🏽"
COMMON = st.characters(min_codepoint=0x20, max_codepoint=0x7E) | st.sampled_from(CHINESE)
SPECIAL = st.sampled_from("\ufe0f\u200d\u200b…\r\x00\u0301\u3099éÅſßﬁㄱ가ｶﾞ\u3000⼾〜🏴\U000e0067\U000e007f㎡①İςΣ￥")


def by_unicode(text: str) -> str:
    """Case folding and NFKC of what is visible, until nothing changes; no number of another kind after a digit."""
    text = visible(text)
    while (folded := unicodedata.normalize("NFKC", text.casefold())) != text:
        text = folded
    return text


@given(st.text(COMMON, min_size=64, max_size=200))
def test_long_text_of_common_characters(text: str) -> None:
    assert normalise(text) == by_unicode(text)


@given(st.lists(st.text(COMMON, max_size=40) | st.text(SPECIAL, max_size=6), min_size=3, max_size=12))
def test_long_text_with_other_characters(parts: list[str]) -> None:
    text = "一" * 64 + "，".join(parts).replace("①", "一①")  # after a digit, ① stays apart
    assert normalise(text) == by_unicode(text)


def test_each_code_point_of_common_blocks_among_others() -> None:
    for start in (*range(0, 0x3400, 0x20), *range(0xFF00, 0x10000, 0x20), *range(0x1F000, 0x1FB00, 0x20)):
        text = f"{'长' * 64}{'长'.join(map(chr, range(start, start + 0x20)))}长"
        assert normalise(text) == by_unicode(text), hex(start)
