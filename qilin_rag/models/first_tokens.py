"""Cut texts before they are tokenized, if a model reads only their first tokens: the rest costs as much time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import Any

_BEGINS = re.compile(r"[\u4e00-\u9fff]|(?<=[ \n\r\t])[A-Za-z0-9]")
"""Beginnings of BERT's words that are never empty: an ideograph, a letter or digit after a space."""


def with_first_tokens(tokenizer: Any, inputs: Sequence[Any], n_tokens: int) -> list[Any]:
    """Return texts, long ones cut to a beginning that has at least `n_tokens`, which are those of the whole text.

    BERT's tokenizer splits a text into words by single characters, and makes at least one token of each word. So no
    token crosses the beginning of a word, and as many words have at least as many tokens. Other tokenizers may merge
    what is apart here; their texts stay whole, as do inputs that are not text.

    Args:
        tokenizer: The tokenizer, of transformers.
        inputs: The texts, or pairs of texts, of which the second one is cut.
        n_tokens: The number of tokens of each that are read, counted from its beginning.
    """
    if not _splits_at_words(tokenizer):
        return list(inputs)
    return [(each[0], _cut(each[1], n_tokens)) if isinstance(each, tuple) else _cut(each, n_tokens) for each in inputs]


def _cut(text: Any, n_words: int) -> Any:
    if not isinstance(text, str) or len(text) <= n_words:
        return text
    begins = next(islice(_BEGINS.finditer(text), n_words, None), None)
    return text if begins is None else text[: begins.start()]


def _splits_at_words(tokenizer: Any) -> bool:
    """Return whether this is the tokenizer of BERT, truncates at the end, and has no added tokens of several words."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    normalizer: Any = getattr(backend, "normalizer", None)
    return bool(
        type(normalizer).__name__ == "BertNormalizer"
        and normalizer.handle_chinese_chars
        and type(backend.pre_tokenizer).__name__ == "BertPreTokenizer"
        and type(backend.model).__name__ == "WordPiece"
        and tokenizer.truncation_side == "right"
        and not any(
            token.single_word or re.search(r"[\s\u4e00-\u9fff]", token.content)
            for token in backend.get_added_tokens_decoder().values()
        )
    )
