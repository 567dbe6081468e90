"""Turn text into index terms: `word` (jieba), `char`, or `cjk-bigram`, which mirrors Lucene's CJKAnalyzer.

Texts that look the same to a reader give the same terms. `word` and `char` read normalised text; `cjk-bigram` reads
text without invisible characters, because Lucene has its own rules for case and width.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from typing import Literal, NamedTuple

import regex

from qilin_rag.core.text import normalise, simplify, visible

Analyzer = Literal["word", "char", "cjk-bigram"]


# CJKAnalyzer.getDefaultStopSet()
_STOP_WORDS = frozenset(
    "a and are as at be but by for if in into is it no not of on or s such t that the their then there "  # noqa: SIM905
    "these they this to was will with www".split()
)


_MAX_TOKEN_CHARS = 255  # StandardTokenizer cuts longer words into pieces
_WIDTH_FORMS = regex.compile(r"[！-～]+|[ウ-ヽ]?[･-ﾟ]+")


class TermSplitter(NamedTuple):
    """An analyzer in two steps, so that a piece that occurs often is judged only once.

    Attributes:
        split: Splits a text into pieces without U+0000.
        is_term: Returns whether a piece is a term; an empty piece is none.
    """

    split: Callable[[str], Iterable[str]]
    is_term: Callable[[str], bool]

    def __call__(self, text: str) -> list[str]:
        """Return the terms of a text, in their order."""
        return list(filter(self.is_term, self.split(text)))


def _words(text: str) -> list[str]:
    import rjieba

    cut: list[str] = rjieba.cut(normalise(text))
    return cut


def _has_letter(piece: str) -> bool:
    """Return whether at least one character is a letter or digit."""
    return piece.isalnum() or any(map(str.isalnum, piece))


@cache
def _lucene_token() -> regex.Pattern[str]:
    """Compile the rules of StandardTokenizer (UAX #29 word boundaries, with script and emoji classes).

    Group 1 is a run of adjacent <IDEOGRAPHIC>, <HIRAGANA>, <KATAKANA> and <HANGUL> tokens, which CJKBigramFilter pairs;
    group 2 is any other token. The tokenizer makes one <ALPHANUM> word of Katakana next to an underscore, and of Hangul
    next to letters of another script: the look-aheads leave these to group 2.
    """
    extend = r"[\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]"
    alpha = r"[\p{WB=ALetter}\p{WB=Hebrew_Letter}]"
    letters = rf"{alpha}(?:{alpha}|{extend})*"
    letters = rf"{letters}(?:[\p{{WB=MidLetter}}\p{{WB=MidNumLet}}']{extend}*{letters})*"  # WB5-7
    digits = rf"\p{{WB=Numeric}}(?:\p{{WB=Numeric}}|{extend})*"
    digits = rf"{digits}(?:[\p{{WB=MidNum}}\p{{WB=MidNumLet}}']{extend}*{digits})*"  # WB8, 11, 12
    katakana = rf"\p{{WB=Katakana}}(?:\p{{WB=Katakana}}|{extend})*+"  # WB13
    part = rf"(?:{katakana}|(?:{letters}|{digits})+)"  # WB9, 10
    joiner = rf"\p{{WB=ExtendNumLet}}(?:\p{{WB=ExtendNumLet}}|{extend})*"  # WB13a, b
    han = rf"[\p{{Han}}\p{{Hiragana}}--[々〻]](?:{extend})*"
    word_goes_on = rf"{alpha}|\p{{WB=Numeric}}|\p{{WB=ExtendNumLet}}|[\p{{WB=MidLetter}}\p{{WB=MidNumLet}}']{alpha}"
    hangul = rf"(?:\p{{Hangul}}{extend}*+)++(?!{word_goes_on})"
    pictograph = r"[\p{Emoji_Presentation}\p{Extended_Pictographic}★]"  # Unicode 12.1 counts ★ as one
    emoji = rf"(?={pictograph})(?!\p{{RI}})\X|[#*]\ufe0f?\u20e3|\p{{RI}}{{2}}"
    return regex.compile(
        rf"((?:{han}|{katakana}(?!\p{{WB=ExtendNumLet}})|{hangul})+)"
        rf"|((?:{joiner})?{part}(?:{joiner}{part})*(?:{joiner})?|{emoji}|\p{{LB=SA}}+)",
        regex.V1,
    )


def _cjk_bigrams(text: str) -> list[str]:
    """Return the tokens of Lucene 9's CJKAnalyzer: bigrams of CJK characters, and words of other scripts.

    A CJK character without a neighbour stays alone. CJKWidthFilter and LowerCaseFilter are applied before the
    tokenizer, because they move no boundary. Invisible characters are left out first; Lucene would keep them in a token
    or split there.
    """
    text = visible(text)
    if not text.isascii():
        text = _WIDTH_FORMS.sub(lambda form: unicodedata.normalize("NFKC", form[0]), text)
        text = unicodedata.normalize("NFC", text)
    terms: list[str] = []
    for cjk, word in _lucene_token().findall(text.lower()):
        if cjk:
            terms += map(str.__add__, cjk, cjk[1:]) if len(cjk) > 1 else cjk
        elif word not in _STOP_WORDS:
            terms += (word[start : start + _MAX_TOKEN_CHARS] for start in range(0, len(word), _MAX_TOKEN_CHARS))
    return terms


word_terms = TermSplitter(_words, _has_letter)
"""Returns jieba's words that hold at least one letter or digit, normalised."""
char_terms = TermSplitter(normalise, str.isalnum)
"""Returns every letter and digit as its own term, normalised."""
cjk_bigram_terms = TermSplitter(_cjk_bigrams, bool)
"""Returns the tokens of Lucene 9's CJKAnalyzer: bigrams of CJK characters, and words of other scripts."""
_AS_IS: dict[Analyzer, TermSplitter] = {"word": word_terms, "char": char_terms, "cjk-bigram": cjk_bigram_terms}


def analyzer_key(name: Analyzer, simplified: bool) -> str:
    """Return the key of an analyzer in `ANALYZERS`; `simplified` selects its variant for simplified characters."""
    return f"{name}, simplified" if simplified else name


def _of_simplified(terms: TermSplitter) -> TermSplitter:
    return terms._replace(split=lambda text: terms.split(simplify(text)))


ANALYZERS: dict[str, TermSplitter] = {
    analyzer_key(name, is_simplified): _of_simplified(terms) if is_simplified else terms
    for name, terms in _AS_IS.items()
    for is_simplified in (False, True)
}
