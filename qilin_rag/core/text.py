"""Text functions: normalisation, tokens, sentences, and the markup of platform answers.

There is one normalisation in two steps. `visible` serves consumers that handle case and width themselves (encoders,
Lucene's analyzer), `normalise` serves comparisons. Different kinds of quotation marks, dashes of different lengths and
letters of different scripts stay distinct: a reader can distinguish them, or a machine must (a Cyrillic А is not a
verdict).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from qilin_rag.core.citation_markers import CitationMarker, find_markers
from qilin_rag.core.extras import require

# Default_Ignorable_Code_Point, which Unicode keeps stable; tags and joiners are handled separately.
_FILLERS = "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"


_CONTROLS = "\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u206f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
_NO_SPACES = "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u2800\ufff9-\ufffb"  # these are invisible, too
_TAGS, _TAG_ENDS, _BEYOND_TAGS = "\U000e0020-\U000e007e", "\U000e007f", "\U000e0000-\U000e001f\U000e0080-\U000e0fff"
_EMOJI = r"[\u2194\u2195\u2600-\u27bf\u2b00-\u2bff\U0001f300-\U0001faff]"  # includes all that can be joined
_ALWAYS_IGNORED = f"{_FILLERS}{_CONTROLS}{_NO_SPACES}{_BEYOND_TAGS}"
_SPACES = "\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # all characters of `str.isspace`
_UNSEEN = f"[{_ALWAYS_IGNORED}{_TAGS}{_TAG_ENDS}\u200d{_SPACES}]*"
BLANK_PATTERN = f"^{_UNSEEN}$"
"""A text of white space, controls and default-ignorable code points alone, for `re` as for RE2 (pyarrow)."""
_LEADING_UNSEEN = re.compile(_UNSEEN)
_IGNORED = re.compile(f"[{_ALWAYS_IGNORED}]")
_LONE_JOINER = re.compile(rf"(?<!{_EMOJI})\u200d|\u200d(?!{_EMOJI})")
_LONE_TAG = re.compile(rf"(\U0001f3f4[{_TAGS}]{{1,30}}{_TAG_ENDS})|[{_TAGS}{_TAG_ENDS}]")
_LINE_END = re.compile(r"\r\n?|[\x85\u2028\u2029]")
_RADICALS = "⺠⻁⻄⻅⻆⻉⻋⻑⻓⻔⻗⻘⻙⻚⻛⻜⻝⻢⻣⻤⻥⻦⻧⻨⻩⻪⻫⻬⻭⻮⻯⻰⻱⻲"  # NFKC does not map these
_CHARACTERS = "民虎西见角贝车長长门雨青韦页风飞食马骨鬼鱼鸟卤麦黄黾斉齐歯齿竜龙龜亀"
LOOKS_ALIKE: dict[str, str] = (
    dict(zip(_RADICALS, _CHARACTERS, strict=True))
    | {char: unicodedata.normalize("NFKC", char) for char in map(chr, (*range(0x2F00, 0x2FD6), 0x2E9F, 0x2EF3))}
    | dict.fromkeys("\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f", " ")
    | dict.fromkeys("‐‑", "-")
    | {"―": "—", "〜": "～", "∶": ":", "⼾": "户"}
)
"""Characters that look alike, each with the code point that replaces it."""
_LOOKS_ALIKE = re.compile(f"[{re.escape(''.join(LOOKS_ALIKE))}]")
_ANY_TAG = re.compile(f"[{_TAGS}{_TAG_ENDS}]")
_MAY_CHANGE = re.compile(
    f"[\r\x85\u2028\u2029\u200d{_ALWAYS_IGNORED}{_TAGS}{_TAG_ENDS}{re.escape(''.join(LOOKS_ALIKE))}]"
)
_COMPATIBLE = re.compile("[…℃℉①-⒛\u3000㌀-㏿！-～]")  # often in Chinese text; no neighbour changes their NFKC


# After a digit, NFKC would turn these into another number: 10² is not 102.
_APART = (
    (re.compile(r"(?<=\d)(?=[⁰¹²³⁴-⁹])"), "^"),
    (re.compile(r"(?<=\d)(?=[₀-₉])"), "_"),
    (re.compile(r"(?<=\d)(?=[¼-¾⅐-⅟↉①-⒛⓪])"), " "),
)
_MAY_BE_APART = re.compile("[⁰¹²³⁴-⁹₀-₉¼-¾⅐-⅟↉①-⒛⓪]")


CITED = "\0"  # replaces a citation marker
EMPHASIS = re.compile(r"\*\*|__|`+")
_MARKS = ("**", "__", "`")
_TAG_OR_STICKER = re.compile(r"#[^#\s\[\]]{1,40}\[话题\]#|\[[^\[\]\s]{1,8}R\]")
_MIXED_TOKEN = re.compile(r"[a-z0-9]+|\S(?:[\U0001f3fb-\U0001f3ff]?\u200d\S|[\U000e0020-\U000e007f])*")
_SENTENCE = re.compile(r"[^。！？!?；;…\r\n\x85\u2028\u2029]+[。！？!?；;…]*")
_LATIN = re.compile("[A-Za-z0-9Ａ-Ｚａ-ｚ０-９]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_ASCII_DIGITS = b"0123456789"
_WORD = re.compile(r"[A-Za-z\u4e00-\u9fff]")  # no marker begins with one of these
_NEITHER_ASCII_NOR_CHINESE = re.compile(r"[^\x21-\x7e\u3400-\u9fff]")
_REPEATED = re.compile(r"(.{1,4}?)\1+", re.DOTALL)
_WHOLE = re.compile(r"[0-9]{1,19}")
_DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_LONGEST_LABEL = 40  # characters of a path; fits a hub's owner and name
_UNSAFE_IN_NAME = re.compile(r"[^\w.-]+")


def clean(text: str) -> str:
    """Return text that can be written as UTF-8: lone surrogates (broken JSON escapes) become U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def skip_unseen(text: str, start: int) -> int:
    """Return the index of the first visible character at or after `start`, or the text's end."""
    found = _LEADING_UNSEEN.match(text, start)
    return found.end() if found else start


def printable(text: str) -> str:
    r"""Escape characters that would control a terminal: controls other than line break and tab, and direction changes.

    >>> printable("a\x1b[2J\u202eb")
    'a\\x1b[2J\\u202eb'
    """
    return _CONTROL.sub(lambda found: _escape(ord(found[0])), text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def is_blank(text: str) -> bool:
    """Return whether a text holds nothing that a reader can see.

    >>> is_blank(" \u200b\ufeff"), is_blank("茶")
    (True, False)
    """
    return skip_unseen(text, 0) == len(text)


def visible(text: str) -> str:
    """Return the text as a reader sees it: one spelling for what looks the same, without invisible characters.

    Removes the code points that Unicode calls default-ignorable: zero-width spaces, byte order marks, soft hyphens,
    bidi controls, variation selectors, Hangul fillers, and the joiners U+200C and U+200D. Also removes controls that
    are not white space, the braille blank and annotation marks. Keeps U+200D between two emoji and the tags of a flag,
    which change the picture. Then applies NFC, maps Kangxi and simplified radicals to the characters they look like,
    unifies line ends, and maps white space up to the width of a letter to a space. Case, width and punctuation stay.

    >>> visible("冷\u200b萃\ufeff咖啡")
    '冷萃咖啡'
    """
    if _MAY_CHANGE.search(text):
        text = _IGNORED.sub("", text)
        if "\u200d" in text:
            text = _LONE_JOINER.sub("", text)
        if _ANY_TAG.search(text):
            text = _LONE_TAG.sub(r"\1", text)
        text = _LINE_END.sub("\n", text)
        text = _LOOKS_ALIKE.sub(lambda found: LOOKS_ALIKE[found[0]], text)
    return unicodedata.normalize("NFC", text)


def normalise(text: str) -> str:
    """Return the text in one form for comparisons: `visible`, then NFKC and case folding until nothing changes.

    Text that `visible` does not change gets Unicode's toNFKC_Casefold, except after a digit, if this would make another
    number: 10² becomes 10^2, 10₂ becomes 10_2, 1½ becomes 1 1⁄2.

    >>> normalise("ＳＰＦ５０\u200b＋")
    'spf50+'
    """
    return _folded(visible(text))


def _folded(text: str) -> str:
    """Fold a text as a reader sees it."""
    if text.isascii():
        return text.lower()
    if _MAY_BE_APART.search(text):
        for place, sign in _APART:
            text = place.sub(sign, text)
    for char in set(_COMPATIBLE.findall(text)):  # else NFKC is slow
        text = text.replace(char, unicodedata.normalize("NFKC", char))
    while (folded := unicodedata.normalize("NFKC", text.casefold())) != text:
        text = folded
    return text


def query_key(query: str) -> str:
    """Return one key for all queries that read the same: `normalise`, without white space.

    >>> query_key("Ａ b") == query_key("ab")
    True
    """
    return "".join(normalise(query).split())


def simplify(text: str) -> str:
    """Return the text in simplified characters, by OpenCC's t2s (words of Taiwan and Hong Kong stay).

    Raises:
        UsageError: if OpenCC is not installed.
    """
    return _converter()(text)


@cache
def _converter() -> Callable[[str], str]:
    require("han", "opencc", what="simplify")
    from opencc import OpenCC

    convert: Callable[[str], str] = OpenCC("t2s").convert
    return convert


def strip_markup(text: str) -> str:
    """Remove citation markers (`citation_markers`) and the emphasis marks `**`, `__` and backticks.

    White space before a marker is removed with it; a space stays if two Latin words would run together.

    >>> strip_markup("**先**晾干 [1]。")
    '先晾干。'
    """
    [stripped] = strip_markups([text])
    return stripped


def strip_markups(texts: Iterable[str]) -> list[str]:
    """Remove the markup of each text, like `strip_markup`; one step after the other for all texts is faster."""
    plain = [_plain(text) for text in texts]
    markers = [find_markers(text) for text in plain]
    return [_with_sign(text, of_text, "") for text, of_text in zip(plain, markers, strict=True)]


def strip_and_normalise(texts: Iterable[str]) -> list[str]:
    """Return each text without its markup and normalised: `normalise(strip_markup(text))`, in less time."""
    texts = list(texts)
    stripped = strip_markups(texts)
    # What is left of a text without such characters has none either
    seen = [
        visible(after) if _MAY_CHANGE.search(before) else unicodedata.normalize("NFC", after)
        for before, after in zip(texts, stripped, strict=True)
    ]
    return [_folded(text) for text in seen]


def has_words(text: str) -> bool:
    """Return whether a text holds visible characters besides markup.

    >>> has_words("**[1]**"), has_words("**先** [1]")
    (False, True)
    """
    return bool(_WORD.match(text)) or not is_blank(strip_markup(text))


def cited_numbers(text: str) -> list[int]:
    """Return the numbers that the text's citation markers name, in their order, with repeats.

    >>> cited_numbers("先晾干[1]，再装【第3篇】。")
    [1, 3]
    """
    return [number for marker in find_markers(_plain(text)) for number in marker.numbers]


def mark_citations(text: str) -> tuple[str, list[list[int]]]:
    """Return the text without emphasis marks, with `CITED` for each marker, and the numbers of each marker."""
    plain = _plain(text)
    markers = find_markers(plain)
    return _with_sign(plain, markers, CITED), [marker.numbers for marker in markers]


def _with_sign(plain: str, markers: Sequence[CitationMarker], sign: str) -> str:
    """Replace each marker and the white space before it by a sign; keep a space between Latin words."""
    parts = []
    done = 0
    for marker in markers:
        before = plain[done : marker.start].rstrip(" \t\u3000")
        joins = _LATIN.match(before[-1:]) and _LATIN.match(plain, marker.end)
        parts += [before, " " if joins else "", sign]
        done = marker.end
    return "".join([*parts, plain[done:]])


def _plain(text: str) -> str:
    """Return the text as a reader sees it, without emphasis marks."""
    text = visible(text).replace(CITED, "")
    marks = [mark for mark in _MARKS if mark in text]
    if len(marks) == 1:
        return text.replace(marks[0], "")  # quicker than the pattern, and the same
    return EMPHASIS.sub("", text) if marks else text


def strip_tags(text: str) -> str:
    """Remove a note's topic tags (`#家常菜[话题]#`) and stickers (`[笑哭R]`)."""
    return _TAG_OR_STICKER.sub("", text)


def mixed_tokens(text: str) -> list[str]:
    """Split normalised text into tokens: a run of Latin letters and digits, or any other visible character.

    Joined emoji are one token.
    """
    return _MIXED_TOKEN.findall(text)


def words(text: str) -> list[str]:
    """Split normalised text into Chinese words by jieba's default model (rjieba), without white space."""
    import rjieba

    return [word for word in rjieba.cut(text) if not word.isspace()]


def sentences(text: str) -> list[str]:
    """Split at Chinese and Western sentence ends and at line breaks; the end mark stays with its sentence."""
    return [stripped for found in _SENTENCE.findall(text) if (stripped := found.strip())]


def whole_number(text: str) -> int | None:
    """Read a whole number below 2^63 that is written in ASCII digits only; return None for any other text.

    Python's `int` also reads 5_1 (as 51), +5 and digits of other scripts.
    """
    return int(text) if _WHOLE.fullmatch(text) and int(text) < 2**63 else None


def decimal_number(text: str) -> float | None:
    """Read a finite decimal number in ASCII digits, with optional sign and exponent; else return None."""
    number = float(text) if _DECIMAL.fullmatch(text) else math.inf
    return number if math.isfinite(number) else None


def estimate_tokens(text: str) -> int:
    """Return a cautious estimate of the number of LLM tokens without the model's tokenizer.

    A token is a digit, 3 other ASCII characters or 2.5 bytes. A Chinese character counts 1.2 (models since 2023 need
    0.6 to 1.2), and some models read digits one by one, so the estimate is rather too high.
    """
    in_ascii = text.encode("ascii", "ignore")
    n_ascii = len(in_ascii)
    n_digits = n_ascii - len(in_ascii.translate(None, _ASCII_DIGITS))
    n_other_bytes = len(text.encode("utf-8", "replace")) - n_ascii
    return math.ceil(n_digits + (n_ascii - n_digits) / 3 + n_other_bytes / 2.5)


def fewest_tokens(text: str) -> int:
    """Return fewer tokens than an LLM's tokenizer makes of a prompt, to detect a server that read only a part of it.

    This is a third of the estimate. Compared with the estimate, the tokenizers of Qwen 2.5 to 3.6, DeepSeek V4 and GPT
    (cl100k, o200k) make 0.45 to 1.55 of real Chinese notes, 0.6 to 0.8 of English and 0.33 to 1 of digits. Text of
    which they make less (blanks and other repeats down to 0.03, Thai 0.14, Russian 0.25) counts as 0, or as one repeat.
    """
    return estimate_tokens(_NEITHER_ASCII_NOR_CHINESE.sub("", _REPEATED.sub(r"\1", text))) // 3


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, in the singular for 1.

    >>> counted(1, "question"), counted(1200, "query"), counted(2, "process")
    ('1 question', '1,200 queries', '2 processes')
    """
    if number == 1:
        return f"1 {noun}"
    if not plural:
        ending = "es" if noun.endswith(("s", "x", "ch", "sh")) else "s"
        plural = f"{noun[:-1]}ies" if re.search("[^aeiou]y$", noun) else f"{noun}{ending}"
    return f"{number:,} {plural}"


def short_path(path: str, told_apart_by: str) -> str:
    """Return the last part of a long path, with digits that distinguish equal names; return other text unchanged.

    >>> short_path("/data/models/2026/qwen2.5-7b", "5f1a09"), short_path("BAAI/bge-base-zh-v1.5", "5f1a09")
    ('qwen2.5-7b@5f1a', 'BAAI/bge-base-zh-v1.5')
    """
    *above, last = path.rstrip("/").split("/")
    is_long = len(path) > _LONGEST_LABEL or path.startswith(("/", "~"))
    return f"{last}@{told_apart_by[:4]}" if above and last and is_long else path


def slug(text: str, max_bytes: int = 48) -> str:
    """Return a name that is safe as a part of a path: no separators, no leading dot, bounded in bytes, never empty."""
    name = _UNSAFE_IN_NAME.sub("-", clean(text)).encode()[:max_bytes].decode(errors="ignore")
    return name.strip("-.") or "unnamed"
