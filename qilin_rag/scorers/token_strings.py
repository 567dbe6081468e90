"""Write the tokens of two texts as strings of one character a token, which are compared faster than lists."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

from qilin_rag.core.text import mixed_tokens, words

TokenKind = Literal["mixed", "word"]
TOKENIZERS: dict[TokenKind, Callable[[str], Sequence[str]]] = {"mixed": mixed_tokens, "word": words}
_FIRST, _LAST = 0xF0000, 0x10FFFE  # private use: seldom in a text
_OTHER = "\U0010ffff"
_LATIN = re.compile("([a-z0-9]{2,})")
_PRIVATE = re.compile("([\U000f0000-\U0010ffff])")
_LATIN_OR_PRIVATE = re.compile("([a-z0-9]{2,}|[\U000f0000-\U0010ffff])")
_JOINING = ("\u200d", "\U0001f3f4")  # every mixed token of several characters that is not Latin has one


class TokenStrings:
    """One text as a string of tokens, and any other beside it.

    A token of several characters, and one of private use, gets a character of private use if the first text has it; all
    others are the same character, which the first text never has. So two tokens are equal if their characters are, but
    for tokens of the other text among themselves.
    """

    def __init__(self, text: str, kind: TokenKind) -> None:
        """Spell the first text.

        Args:
            text: The text, normalised.
            kind: The tokens.
        """
        self._kind: TokenKind = kind
        self._characters: dict[str, str] | None = {}
        try:
            self.first: Sequence[str] = self._spell(text, self._learn)
        except OverflowError:  # more tokens than characters of private use
            self._characters, self.first = None, TOKENIZERS[kind](text)

    def beside(self, text: str) -> Sequence[str]:
        """Return another text, spelled for a comparison with `first`."""
        known = self._characters
        if known is None:
            return TOKENIZERS[self._kind](text)
        return self._spell(text, lambda token: known.get(token, _OTHER))

    def _spell(self, text: str, character: Callable[[str], str]) -> str:
        if self._kind == "mixed" and not any(sign in text for sign in _JOINING):
            not_alone = _LATIN_OR_PRIVATE if _PRIVATE.search(text) else _LATIN  # quicker
            parts = not_alone.split(text)  # every second one is such a token
            parts[1::2] = map(character, parts[1::2])
            return "".join("".join(parts).split())
        return "".join(
            token if len(token) == 1 and ord(token) < _FIRST else character(token)
            for token in TOKENIZERS[self._kind](text)
        )

    def _learn(self, token: str) -> str:
        assert self._characters is not None
        if _FIRST + len(self._characters) > _LAST:
            raise OverflowError
        return self._characters.setdefault(token, chr(_FIRST + len(self._characters)))
