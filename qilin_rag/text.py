"""Text as this project reads it: normalisation, tokens, sentences, and the markup of platform answers."""

from __future__ import annotations

import math
import re
import unicodedata

_CITED = r"(?:第\s*)?\d{1,2}(?:\s*篇)?"
CITATION = re.compile(
    r"[\[［][^\[\]［］\n]{1,20}[\]］][(（]#[^)）\s]*[)）]"  # any link to nowhere: [第1篇](#), [笔记一](#), [1-3](#)
    rf"|[\[［]{_CITED}(?:\s*[-–,，、]\s*{_CITED})*[\]］]"  # a bare number: [1], [第1篇], [1, 3]
)
_ONE_TO_NINE = "一二三四五六七八九"
_NUMBER = rf"\d{{1,2}}(?!\d)|[{_ONE_TO_NINE}]?十[{_ONE_TO_NINE}]?|[{_ONE_TO_NINE}]"
_NOTE = rf"(?:(?:第|笔记|notes?)\s*)?({_NUMBER})(?:\s*篇(?:笔记)?)?"
_NOTES = re.compile(rf"{_NOTE}(?:\s*[-–—－~～至到]\s*{_NOTE})?", re.IGNORECASE)
_LABEL = re.compile(rf"\s*(?:参?见|参考|来自|出自|根据)?(?:(?>{_NOTES.pattern})[,，、;；和及与\s]*+)++", re.IGNORECASE)
_BRACKETED = re.compile(r"[\[［]([^\[\]［］\n]{1,80})[\]］]|[【(（]([^【】()（）\[\]［］\n]{1,80})[】)）]")
_ANY_BRACKETED = re.compile(f"{CITATION.pattern}|{_BRACKETED.pattern}")
CITED = "\0"  # stands for a citation marker
_NAMES_A_NOTE = re.compile("篇|笔记|note", re.IGNORECASE)
EMPHASIS = re.compile(r"\*\*|__|`+")
_TAG_OR_STICKER = re.compile(r"#[^#\s\[\]]{1,40}\[话题\]#|\[[^\[\]\s]{1,8}R\]")
_MIXED_TOKEN = re.compile(r"[a-z0-9]+|\S")
_SENTENCE = re.compile(r"[^。！？!?；;…\n]+[。！？!?；;…]*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ASCII_DIGIT = re.compile(r"[0-9]")
_NEITHER_ASCII_NOR_CHINESE = re.compile(r"[^\x21-\x7e\u3400-\u9fff]")
_REPEATED = re.compile(r"(.{1,4}?)\1+", re.DOTALL)
_WHOLE = re.compile(r"[0-9]{1,19}")
_DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_UNSEEN = re.compile(
    "[\\s\\x00-\\x1f\\x7f-\\x9f\\xad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u200b-\\u200f\\u202a-\\u202e"
    "\\u2060-\\u206f\\u2800\\u3164\\ufe00-\\ufe0f\\ufeff\\uffa0\\ufff0-\\ufff8"
    "\\U0001bca0-\\U0001bca3\\U0001d173-\\U0001d17a\\U000e0000-\\U000e0fff]*"
)
_UNSAFE_IN_NAME = re.compile(r"[^\w.-]+")


def clean(text: str) -> str:
    """Text that can be written as UTF-8: lone surrogates (broken JSON escapes) become U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def has_text(text: str) -> bool:
    """Return whether a reader sees anything: not only white space, control and default-ignorable characters."""
    return skip_unseen(text, 0) < len(text)


def skip_unseen(text: str, start: int) -> int:
    """Return the index of the first character at or behind `start` that a reader sees, or the text's end."""
    found = _UNSEEN.match(text, start)
    return found.end() if found else start


def printable(text: str) -> str:
    """Text that does nothing to a terminal: control characters other than line break and tab as `\\x1b`."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


_UNSEEN_RANGES = (
    *((0x00, 0x20), (0x7F, 0xA0), (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x1680, 0x1680)),
    *((0x17B4, 0x17B5), (0x180B, 0x180F), (0x2000, 0x200F), (0x2028, 0x202F), (0x205F, 0x206F), (0x2800, 0x2800)),
    *((0x3000, 0x3000), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB)),
    *((0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
)
BLANK_PATTERN = "^[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _UNSEEN_RANGES) + "]*$"
"""A text of white space, controls and default-ignorable code points alone, for `re` as for RE2 (pyarrow)."""
_BLANK = re.compile(BLANK_PATTERN)


def is_blank(text: str) -> bool:
    """Tell whether a text holds nothing that a reader can see.

    >>> is_blank(" \u200b\ufeff"), is_blank("茶")
    (True, False)
    """
    return _BLANK.search(text) is not None


def strip_markup(text: str) -> str:
    """Remove citation markers (`[第1篇](#)`, `[1]`, `[1](#)`) and the emphasis marks `**`, `__` and backticks.

    A number of three or more digits in brackets is no citation.
    """
    return EMPHASIS.sub("", CITATION.sub("", text))


def cited_numbers(text: str) -> list[int]:
    """The numbers that the text's citation markers name, as they stand, repeats included; `[1-3]` names all three.

    Beside the markers that `strip_markup` knows, those with Chinese numbers, and 【第1篇】, （第1篇）, [Note 1]: other
    brackets than square ones need the word. A number of three or more digits is no citation, a year for one.
    """
    numbers: list[int] = []
    for square, other in _BRACKETED.findall(text):
        if _LABEL.fullmatch(square or other) and (square or _NAMES_A_NOTE.search(other)):
            for first, last in _NOTES.findall(square or other):
                ends = sorted(_number(end) for end in (first, last or first))
                numbers += range(ends[0], ends[1] + 1)
    return numbers


def mark_citations(text: str) -> tuple[str, list[list[int]]]:
    """The text with `CITED` for each citation marker that either of the above knows, and the numbers each names."""
    found: list[list[int]] = []

    def mark(bracketed: re.Match[str]) -> str:
        numbers = cited_numbers(bracketed[0])
        if not numbers and not CITATION.fullmatch(bracketed[0]):
            return bracketed[0]
        found.append(numbers)
        return CITED

    return _ANY_BRACKETED.sub(mark, text.replace(CITED, "")), found


def _number(text: str) -> int:
    """The value of one or two digits, or of a Chinese number below 100."""
    if text.isdecimal():
        return int(text)
    tens, ten, ones = text.rpartition("十")
    return 10 * (_ONE_TO_NINE.find(tens) + 1 if tens else len(ten)) + (_ONE_TO_NINE.find(ones) + 1 if ones else 0)


def strip_tags(text: str) -> str:
    """Remove a note's topic tags (`#家常菜[话题]#`) and stickers (`[笑哭R]`)."""
    return _TAG_OR_STICKER.sub("", text)


def normalise(text: str) -> str:
    """NFKC, so that full-width and half-width forms are one, then lower case."""
    return unicodedata.normalize("NFKC", text).lower()


def query_key(query: str) -> str:
    """Return what two queries share if they read the same: normalised, without white space."""
    return "".join(normalise(query).split())


def mixed_tokens(text: str) -> list[str]:
    """Runs of Latin letters and digits are one token each, any other visible character is one.

    Expects normalised text.
    """
    return _MIXED_TOKEN.findall(text)


def words(text: str) -> list[str]:
    """Chinese words by jieba's default model (rjieba), white space left out. Expects normalised text."""
    import rjieba

    return [word for word in rjieba.cut(text) if not word.isspace()]


def sentences(text: str) -> list[str]:
    """Split at Chinese and Western sentence ends and at line breaks; the end mark stays with its sentence."""
    return [stripped for found in _SENTENCE.findall(text) if (stripped := found.strip())]


def whole_number(text: str) -> int | None:
    """Read a whole number below 2^63 that is written in ASCII digits and nothing else; None if it is not one.

    Python's `int` also reads 5_1 (as 51), +5 and digits of other scripts.
    """
    return int(text) if _WHOLE.fullmatch(text) and int(text) < 2**63 else None


def decimal_number(text: str) -> float | None:
    """Read a finite decimal number in ASCII digits, with or without sign and exponent; None if it is not one."""
    number = float(text) if _DECIMAL.fullmatch(text) else math.inf
    return number if math.isfinite(number) else None


def estimate_tokens(text: str) -> int:
    """A cautious estimate of LLM tokens without the model's tokenizer: a digit, 3 other ASCII characters, 2.5 bytes.

    A Chinese character counts 1.2 (models since 2023 need 0.6 to 1.2), and some models take digits one by one, so the
    estimate errs on the long side.
    """
    n_ascii = len(text.encode("ascii", "ignore"))
    n_digits = len(_ASCII_DIGIT.findall(text))
    n_other_bytes = len(text.encode("utf-8", "replace")) - n_ascii
    return math.ceil(n_digits + (n_ascii - n_digits) / 3 + n_other_bytes / 2.5)


def fewest_tokens(text: str) -> int:
    """Fewer tokens than an LLM's tokenizer makes of a prompt: to notice a server that read only a part of it.

    A third of the estimate. Of it, the tokenizers of Qwen 2.5 to 3.6, DeepSeek V4 and GPT (cl100k, o200k) make 0.45 to
    1.55 of real Chinese notes, 0.6 to 0.8 of English and 0.33 to 1 of digits. Where they make less (blanks and other
    repeats down to 0.03, Thai 0.14, Russian 0.25) nothing, or one of the repeats, is counted.
    """
    return estimate_tokens(_NEITHER_ASCII_NOR_CHINESE.sub("", _REPEATED.sub(r"\1", text))) // 3


def slug(text: str, max_bytes: int = 48) -> str:
    """A name that is safe as one part of a path: no separators, no leading dot, bounded in bytes, never empty."""
    name = _UNSAFE_IN_NAME.sub("-", clean(text)).encode()[:max_bytes].decode(errors="ignore")
    return name.strip("-.") or "unnamed"
