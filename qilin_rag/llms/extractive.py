"""A reader without an LLM: answers with the sentences of the notes that match the question best.

It is the built-in default, so that everything runs with nothing but Python, and the lower bound of every leaderboard.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar

from pydantic import PositiveInt

from qilin_rag.core.text import mixed_tokens, normalise, sentences, strip_tags
from qilin_rag.core.types import NO_TOKENS, Completion, Note, RenderedPrompt
from qilin_rag.llms.base import LLM


class Extractive(LLM):
    r"""A reader without an LLM: answers with the sentences that share the most words with the question.

    Notes are ranked by the share of the question's bigrams that they hold, weighted by rarity among the given notes.
    Within that order, whole sentences are taken in reading order, without near-repeats. Without notes, the answer is
    empty.

    Args:
        max_chars (int): The most characters of an answer.

    Example:
        >>> import qilin_rag as qr
        >>> llm = qr.Extractive(max_chars=60)
        >>> llm.read("手冲水温", [qr.Note(note_idx=1, title="手冲", content="水温92度。闷蒸30秒。")])
        '水温92度。\n闷蒸30秒。'
    """

    version: ClassVar[int] = 2
    takes_tokens = False

    max_chars: PositiveInt = 320

    async def generate(self, prompt: RenderedPrompt) -> Completion:
        """Return the best-matching sentences, in reading order."""
        text = self.read(prompt.query, prompt.notes)
        return Completion(text=text, raw=text, model="extractive", finish_reason="stop", usage=NO_TOKENS)

    def read(self, query: str, notes: list[Note]) -> str:
        """Return the answer to `query` from `notes`."""
        parts = [(i, sentence) for i, note in enumerate(notes) for sentence in _sentences_of(note)]
        grams = [_bigrams(sentence) for _, sentence in parts]
        note_grams = [_bigrams(note.title) for note in notes]
        for (i, _), sentence_grams in zip(parts, grams, strict=True):
            note_grams[i] |= sentence_grams
        query_grams = _bigrams(query)
        n_holding = {gram: sum(gram in sentence_grams for sentence_grams in note_grams) for gram in query_grams}
        rarity = {gram: math.log(1 + len(notes) / (0.5 + n_holding[gram])) for gram in query_grams}

        def overlap(grams_of_text: set[str]) -> float:
            return math.fsum(rarity[gram] for gram in query_grams & grams_of_text)  # independent of the order of a set

        whole = math.fsum(rarity.values()) or 1.0
        of_note = [overlap(sentence_grams) for sentence_grams in note_grams]
        relevance = [
            2 * of_note[i] / whole + overlap(sentence_grams) / whole - 0.1 * i
            for (i, _), sentence_grams in zip(parts, grams, strict=True)
        ]
        chosen: list[int] = []
        n_chars = 0
        for row in sorted(range(len(parts)), key=lambda row: (-relevance[row], row)):
            fits = n_chars + len(parts[row][1]) <= self.max_chars
            if fits and not any(_repeats(grams[row], grams[chosen_row]) for chosen_row in chosen):
                chosen.append(row)
                n_chars += len(parts[row][1])
        return "\n".join(parts[row][1] for row in sorted(chosen))


def _sentences_of(note: Note) -> list[str]:
    return [sentence for sentence in sentences(strip_tags(note.content)) if len(sentence) > 1]


def _bigrams(text: str) -> set[str]:
    tokens = mixed_tokens(normalise(text))
    return {a + b for a, b in pairwise(tokens)} or set(tokens)


def _repeats(grams: set[str], earlier: set[str]) -> bool:
    return len(grams & earlier) > 0.6 * min(len(grams), len(earlier))
