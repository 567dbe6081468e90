"""What a page packs comes back character by character, in Python and in a browser, and takes less room than UTF-8."""

from __future__ import annotations

import base64
import gzip
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qilin_rag.reports.html import asset
from qilin_rag.reports.packing import pack, unpack


def some(n_distinct: int, first: int = 0x4E00) -> str:
    """A text of so many characters and their names in JSON; the first are the most common."""
    letters = [chr(code) for code in range(first, first + 0x20000) if not 0xD800 <= code < 0xE000][:n_distinct]
    return "".join(letters + letters[:50] + letters[:7])


TEXTS = {
    "empty": "",
    "ASCII": 'a "quoted" \\ line\nand another\t',
    "emoji": "😀答案👩‍🚀" * 3,
    "a byte order mark is the most common": "\ufeff" * 9 + "茶",
    "one byte each": some(200),
    "the last that fit one byte": some(256 - 4),
    "the first that do not": some(256 - 3),
    "Chinese": some(3_000),
    "many planes": some(30_000, 0x3400) + some(9_000, 0x1F300),
    "as many as codes reach": some(65_532, 0x4E00),
    "more than codes reach": some(65_600, 0x4E00),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_comes_back(name: str) -> None:
    assert unpack(pack([TEXTS[name]])) == [TEXTS[name]]


@settings(max_examples=30)
@given(st.recursive(st.none() | st.integers() | st.text(st.characters(categories=["L", "N", "P", "S"])), st.lists))
def test_any_content_comes_back(content: Any) -> None:
    assert unpack(pack(content)) == content


def test_nothing_in_it_can_end_an_element() -> None:
    assert set(pack(["</script><!--", TEXTS["Chinese"]])) <= set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
    )


def test_chinese_takes_less_than_in_utf8_and_repetitions_no_more() -> None:
    drawn = random.Random(0)
    common = [chr(0x4E00 + round(3_000 * drawn.random() ** 4)) for _ in range(200_000)]
    text = "".join(common)

    def size_in_utf8(content: object) -> int:
        return len(base64.b64encode(gzip.compress(json.dumps(content, ensure_ascii=False).encode(), 6)))

    assert len(pack([text])) < 0.85 * size_in_utf8([text])
    repeated = [text[:300]] * 400
    assert len(pack(repeated)) < 1.5 * size_in_utf8(repeated)


@pytest.mark.browser
def test_a_browser_reads_the_same(chromium: Any) -> None:
    page = chromium.new_page()
    source = asset("blocks.js")
    decoded = source[source.index("function decoded(") : source.index("/** @type {Source} */")]
    program = f"""async (packed) => {{
        {decoded}
        const bytes = Uint8Array.from(atob(packed), (char) => char.charCodeAt(0));
        const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
        return JSON.parse(decoded(new Uint8Array(await new Response(stream).arrayBuffer())));
    }}"""
    for name, text in TEXTS.items():
        assert page.evaluate(program, pack([text])) == [text], name
    page.close()
