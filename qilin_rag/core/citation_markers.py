"""Find citation markers by one table of forms, both to count citations and to remove them.

Markers are searched in text as a reader sees it (`text.visible`, without emphasis marks). Python and JavaScript (the
report's page) read the patterns alike, with the flag for ignoring case. Every list can be parsed in one way only, so
the time of a search is linear in the length of the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import chain
from typing import NamedTuple

_DIGIT, _CHINESE, _SUPERSCRIPT = "[0-9０-９]", "[一二三四五六七八九]", "[⁰¹²³⁴-⁹]"
_SUPERSCRIPTS, _CIRCLED = "⁰¹²³⁴⁵⁶⁷⁸⁹", "①②③④⑤⑥⑦⑧⑨⑩⑪⑫⑬⑭⑮⑯⑰⑱⑲⑳"
_ONE_TO_NINE = _CHINESE.strip("[]")


# 0 to 99: a number of three or more digits is a year, a price or a count.
_NUMBER = rf"{_DIGIT}{{1,2}}(?!{_DIGIT})|(?:{_CHINESE}?十{_CHINESE}?|{_CHINESE})(?![一二三四五六七八九十])"


_WORD = (
    "(?:笔记|来源|资料|文献|文档|文章|参考|引用|网页|搜索结果|cite|"
    "(?:note|source|src|ref|reference|doc|document|citation|passage|webpage)s?)"
)
_SAID = rf"(?:(?:参见|见|来自|出自|根据|see)\s?)?(?:(?:{_WORD}|注|id|web)(?:\s?[:：.#]\s?|[\s_])?){{0,3}}"
_UNIT = r"\s?(?:篇|条(?=笔记))(?:笔记(?=[,，、;；和及与&–—－~～至到\[\]［］()（）【】〔〕-]))?"


def _item(number: str) -> str:
    return rf"{_SAID}(?:第\s?|#)?{number}(?:{_UNIT})?"


def _range(number: str) -> str:
    return rf"{_item(number)}(?:\s?[–—－−~～至到-]\s?{_item(number)})?"


_ONE_RANGE = _range(f"(?:{_NUMBER})")
_BETWEEN = r"(?:\^[,，、;；\s]{0,2}\^|(?:[,，、;；和及与&\s]|and\s){0,3})"
_LIST = rf"\s?{_ONE_RANGE}(?:{_BETWEEN}{_ONE_RANGE}){{0,30}}\s?"
_INSIDE = r"[^\[\]［］()（）【】〔〕\n]{0,80}"
_NAMED = rf"(?={_INSIDE}(?:篇|{_WORD}))"
_DIGITAL = r"(?![\s^]{0,2}[一二三四五六七八九十])"  # 十一 is a day


# 3篇 and 笔记3篇 are counts
_NO_COUNT = rf"{_DIGITAL}(?![^第#\[\]［］()（）【】〔〕\n]{{0,80}}(?:{_NUMBER})\s?[篇条])"


# 约[30]分钟, and not [1]个人
_UNITS = (
    r"(?:[元块折岁楼碗次号克斤倍度%％℃篇]|小时|分(?![享别为])|个(?!人)|"
    r"天(?!气)|年(?!轻)|月(?!饼)|日(?![常本])|米(?!饭))"
)


_NO_AMOUNT = rf"(?![\[［]\s?{_DIGIT}{{1,2}}(?:\s?[–—－−~～至到-]\s?{_DIGIT}{{1,2}})?\s?[\]］]{_UNITS})"
_ADDRESS = r"(?:#|https?:|www\.|/|\./)(?:[^\s()（）]|\([^\s()]{0,200}\)){0,500}"
_LINK = rf"[(（](?:<?{_ADDRESS}(?:\s\x22[^\x22\n]{{0,200}}\x22)?|[a-z_.-]{{1,20}}{_DIGIT}{{1,4}})?[)）]"
_NO_DEFINITION = rf"(?:(?<=[^\n])|(?![\[［]{_INSIDE}[\]］]\s?[:：]))"


# m², 10⁵ and 50米² are powers.
_AFTER_TEXT = r"(?:(?<=[\u3400-\u9fff。，！？；：、“”‘’」』》〉%…])(?<![米尺])|(?<=[a-z]{4}))"


_AFTER_TEXT_OR_MARK = r"(?:(?<![a-z0-9米尺])|(?<=[a-z]{4}))"


# ① is a bullet before its text, and a name in 步骤①.
_BEHIND_TEXT = r"(?<=[\u3400-\u9fffa-z0-9%。！？”’」』》〉)）\]］】])(?<![图表步骤第题式案选见和与及或项是类名型])"


_NO_TEXT_FOLLOWS = r"(?=[^\S\n]?(?:[。，！？；：、,.!?;:”’」』》〉)）\]］】\n]|$))"
_TAG = r"(?:\s[^<>\n]{0,300})?>"


# 先洗【1】。 and not 【1】先洗, 满【10】减【5】.
_TEXT_BEFORE = r"(?:(?<=[^\s:：,，、;；(（满减约达超共仅第])|(?<=】[,，、]))"


_HEADED = r"【[0-9０-９,，、\s–~～-]{1,80}】"
_BEFORE_END = rf"(?=(?:{_HEADED}){{0,30}}(?:[\[［〔]\s?{_DIGIT}|{_NO_TEXT_FOLLOWS}))"
_OPEN, _CLOSE = rf"[\[［]\^?{_NO_COUNT}", r"\^?[\]］]"


class Form(NamedTuple):
    """A form of citation marker: an example and its pattern."""

    example: str
    pattern: str


_DAGGER = Form("【4:0†source】 【1†L3-L5】", rf"[\[［【](?:{_NUMBER})(?:[:：]{_DIGIT}{{1,3}})?†{_INSIDE}[\]］】]")
_BY_OPENING = {
    "[［": (
        Form("[第1篇](#) or any link to nowhere", r"[\[［][^\[\]［］\n]{1,20}[\]］][(（]#[^()（）\s]{0,200}[)）]"),
        Form("[3篇](https://a)", rf"[\[［]{_DIGITAL}{_LIST}[\]］](?=[(（]<?[^)）]){_LINK}"),
        Form(
            "[1] [笔记1、3] [citation:1] [^1^] [web:1]",
            rf"{_NO_DEFINITION}{_NO_AMOUNT}{_OPEN}{_LIST}{_CLOSE}(?:{_LINK})?",
        ),
        Form("[①]", r"[\[［][①-⑳](?:[,，、]?[①-⑳]){0,30}[\]］]"),
        _DAGGER,
    ),
    "\\": (Form(r"\[1\]", rf"\\\[{_NO_COUNT}{_LIST}\\\]"),),
    "【": (
        Form("【第1篇】 【来源1】", rf"【{_NO_COUNT}{_NAMED}{_LIST}】"),
        Form("【^1^】", rf"【\^{_NO_COUNT}{_LIST}\^】"),
        Form("text【1】。", rf"{_TEXT_BEFORE}(?={_HEADED})【{_LIST}】{_BEFORE_END}"),
        _DAGGER,
    ),
    "〔": (Form("〔1〕", rf"〔{_NO_COUNT}{_LIST}〕"),),
    "(（": (Form("（第1篇） (Notes 1 and 2)", rf"[(（]{_NO_COUNT}{_NAMED}{_LIST}[)）]"),),
    "<": (
        Form("text<sup>1</sup>", rf"{_AFTER_TEXT_OR_MARK}<sup{_TAG}{_NO_COUNT}{_LIST}</sup>"),
        Form("<sup><a>1</a></sup>", rf"<sup{_TAG}\s?<a{_TAG}[\[［]?{_NO_COUNT}{_LIST}[\]］]?</a>\s?</sup>"),
        Form("<ref>1</ref>", rf"<(?:ref|cite|citation)>{_NO_COUNT}{_LIST}</(?:ref|cite|citation)>"),
    ),
    "^": (Form("text^1^", rf"{_AFTER_TEXT}\^{_NO_COUNT}{_LIST}\^"),),
    "$": (Form("text$^{1}$", rf"{_AFTER_TEXT_OR_MARK}\$\^\{{{_NO_COUNT}{_LIST}\}}\$"),),
    "#": (Form("##1$$", rf"##{_LIST}\$\$"),),
    _SUPERSCRIPTS: (
        Form(
            "text¹",
            rf"{_AFTER_TEXT}{_SUPERSCRIPT}{{1,2}}(?:[⁻,，、]{_SUPERSCRIPT}{{1,2}}){{0,30}}(?!{_SUPERSCRIPT})",
        ),
    ),
    _CIRCLED: (Form("text①。", rf"{_BEHIND_TEXT}[①-⑳](?:[,，、]?[①-⑳]){{0,30}}{_NO_TEXT_FOLLOWS}"),),
}
FORMS = tuple(dict.fromkeys(chain.from_iterable(_BY_OPENING.values())))
"""All forms of a marker. These are not markers: (1), [2024], （3篇）, [30]分钟, [1-99],
`[^1]:` at the start of a line, ① before its text, m², [店铺](https://a)."""
_BLANK = "\0"
_FILLED = r"\0[\0\s,，、;；]{0,2000}"
_WRAPPERS = (
    rf"[(（]\s?{_SAID}{_FILLED}[)）]",
    rf"[\[［]\s?{_FILLED}[\]］](?:{_LINK})?",
    rf"【\s?{_SAID}{_FILLED}】",
    rf"〔\s?{_FILLED}〕",
    rf"<sup>\s?{_FILLED}</sup>",
    rf"\^{_FILLED}\^",
    rf"\$\^\{{{_FILLED}\}}\$",
)
_OPENINGS = re.compile(f"[{re.escape(''.join(_BY_OPENING))}]")
MARKER = rf"(?=[\[［【〔(（<^$#\\⁰¹²³⁴-⁹①-⑳])(?:{'|'.join(form.pattern for form in FORMS)})"
WRAPPER = rf"(?=[(（\[［【〔<^$])(?:{'|'.join(_WRAPPERS)})"
"""Brackets that hold nothing but markers, whose characters were replaced by NULs."""
_SEPARATOR = r"[ \t\u3000,，、;；]"
BETWEEN_MARKERS = rf"\0{_SEPARATOR}{{1,3}}(?=\0)"
RANGE = _range(f"({_NUMBER})")
"""The numbers in a marker, and the last number of a range, which is at most `WIDEST_RANGE` above its first."""
WIDEST_RANGE = 10
_BLANKS = re.compile("\0+")
_GAP = re.compile(f"{_SEPARATOR}{{0,3}}")
_CLOSED = re.compile(r"[\s,，、;；]{0,2000}[)）\]］】〕<^}]")
_LABEL = rf"(?:[\[［【〔(（^\\#${{]|<\w+{_TAG})*({_LIST})(?=[\]］】〕)）^<†\\$}}]|[:：]{_DIGIT}+†|$)"


class _Patterns(NamedTuple):
    wrapper: re.Pattern[str]
    between: re.Pattern[str]
    range: re.Pattern[str]
    label: re.Pattern[str]


@cache
def _patterns() -> _Patterns:
    """Compile the patterns on first use, for which `--help` must not wait."""
    return _Patterns(
        re.compile(WRAPPER, re.IGNORECASE),
        re.compile(BETWEEN_MARKERS),
        re.compile(RANGE, re.IGNORECASE),
        re.compile(_LABEL, re.IGNORECASE | re.ASCII),
    )


@cache
def _forms(opening: str) -> re.Pattern[str]:
    """Compile the forms that begin with a character on first use: all forms take 0.1 s, and a run has few."""
    forms = next(forms for openings, forms in _BY_OPENING.items() if opening in openings)
    return re.compile("|".join(form.pattern for form in forms), re.IGNORECASE)


class CitationMarker(NamedTuple):
    """A sequence of adjacent markers: its start and end in the text, and the numbers that it names."""

    start: int
    end: int
    numbers: list[int]


def find_markers(text: str) -> list[CitationMarker]:
    """Return all markers of a text that holds no NUL, including brackets that hold nothing but markers.

    A range names all its numbers, and repeated numbers are kept. A link to nowhere without a number names none.

    >>> find_markers("先晾干[1][2-3]。")
    [CitationMarker(start=3, end=11, numbers=[1, 2, 3])]
    """
    cited: list[tuple[int, int, tuple[int, ...]]] = []
    searched_to = 0
    for opening in _OPENINGS.finditer(text):
        start = opening.start()
        if start < searched_to or not (match := _forms(opening[0]).match(text, start)):
            continue
        searched_to = match.end()
        if (numbers := _numbers(match[0])) is not None:
            cited.append((start, searched_to, numbers))
    if any(_CLOSED.match(text, end) for _, end, _ in cited):
        runs = [run.span() for run in _BLANKS.finditer(_blanked(text, cited))]
    else:
        runs = _joined(text, cited)
    markers, remaining = [], iter([*cited, (len(text), 0, ())])
    start, _, numbers = next(remaining)
    for first, last in runs:
        together: list[int] = []
        while start < last:
            together += numbers
            start, _, numbers = next(remaining)
        markers.append(CitationMarker(first, last, together))
    return markers


def _joined(text: str, cited: Sequence[tuple[int, int, tuple[int, ...]]]) -> list[tuple[int, int]]:
    """Return the start and end of each sequence of adjacent markers, none of which is in brackets of its own."""
    runs: list[tuple[int, int]] = []
    for start, end, _ in cited:
        if runs and _GAP.fullmatch(text, runs[-1][1], start):
            runs[-1] = runs[-1][0], end
        else:
            runs.append((start, end))
    return runs


def _blanked(text: str, cited: Sequence[tuple[int, int, tuple[int, ...]]]) -> str:
    """Replace each marker, brackets that hold nothing else, and what is between two of them by NULs."""
    pieces, done = [], 0
    for start, end, _ in cited:
        pieces += [text[done:start], _BLANK * (end - start)]
        done = end
    patterns = _patterns()
    blanked = "".join([*pieces, text[done:]])
    blanked = patterns.wrapper.sub(_blanks, patterns.wrapper.sub(_blanks, blanked))  # ([[1]])
    return patterns.between.sub(_blanks, blanked)


def _blanks(match: re.Match[str]) -> str:
    return _BLANK * len(match[0])


@lru_cache(maxsize=4096)  # most texts have the same few
def _numbers(marker: str) -> tuple[int, ...] | None:
    """Return the numbers that a marker names; None if one of its ranges is too wide for a marker."""
    ranges = _ranges(marker)
    if any(high - low > WIDEST_RANGE for low, high in ranges):
        return None
    return tuple(number for low, high in ranges for number in range(low, high + 1))


def _ranges(marker: str) -> list[tuple[int, int]]:
    """Return the lowest and highest number of each range in a marker; a single number is both."""
    if circled := [ord(char) - ord("①") + 1 for char in marker if "①" <= char <= "⑳"]:
        return [(number, number) for number in circled]
    label = _patterns().label.match(unicodedata.normalize("NFKC", marker) if marker[0] in "⁰¹²³⁴⁵⁶⁷⁸⁹" else marker)
    ends = _patterns().range.findall(label[1]) if label else []
    return [(min(pair), max(pair)) for first, last in ends if (pair := (_value(first), _value(last or first)))]


def _value(number: str) -> int:
    """Return the value of one or two digits, or of a Chinese number below 100."""
    if number.isdecimal():
        return int(number)
    tens, ten, ones = number.rpartition("十")
    return 10 * (_ONE_TO_NINE.find(tens) + 1 if tens else len(ten)) + (_ONE_TO_NINE.find(ones) + 1 if ones else 0)
