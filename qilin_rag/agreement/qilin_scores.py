"""Score Qilin's answers by measures that need no favoured answer, or other favoured answers of the same query.

A flag says that users favoured an answer. A measure that compares this answer with itself would always be right, so a
reference is never the answer or a copy of it. All answers to one query are compared with equally many references: of k
favoured texts, a favoured one is compared with the k - 1 others, and for an answer that was not favoured one of them is
left out by lot. A score is the mean over these references, not the best, since the best of many is higher. Otherwise a
score would tell how many answers to a query were favoured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np

from qilin_rag.agreement.qilin_answers import ENGAGED, LabelledAnswers
from qilin_rag.core.cited_sentences import cited_sentences
from qilin_rag.core.progress import stage
from qilin_rag.core.registry import SCORERS
from qilin_rag.core.stats import Values
from qilin_rag.core.text import cited_numbers, query_key
from qilin_rag.scorers import AnswerScorer
from qilin_rag.scorers.rouge import RougeL

OTHERS = "others_"
"""How the names of measures begin that compare an answer with other favoured ones."""
METRICS = ("rouge_1", "rouge_2", "rouge_l", "chrf", "bleu")
MOST_OTHERS = 10
"""The most references of an answer; of more, as many are drawn."""
MEASURES = {
    "query_overlap": "share of the query's tokens in the answer",
    "notes_overlap": "share of the answer's token bigrams in its reference notes",
    "notes_rouge_l": "rouge_l of the answer and the closest of its reference notes",
    "cited_overlap": "share of a citing sentence's token bigrams in the notes it cites",
    **{f"{OTHERS}{name}": f"{name} of the answer and another favoured answer to its query" for name in METRICS},
}
"""Each measure, and how it scores an answer."""
LENGTH, CITATIONS, PERMUTED, CONSTANT = "length", "citations", "permuted", "constant"
SENTINELS = {
    LENGTH: "tokens of the answer",
    CITATIONS: "citations in the answer",
    PERMUTED: "notes_overlap of an answer to another query",
    CONSTANT: "0 for every answer",
}
"""Each sentinel, and how it scores an answer."""

_Tokens = Sequence[str]
_Bigrams = frozenset[tuple[str, str]]
_Tokenizer = tuple[Callable[[str], _Tokens], Callable[[str], _Bigrams]]


def score_measures(answers: LabelledAnswers, seed: int = 0) -> dict[str, Values]:
    """Return the score of each answer by measure, shape (n,); NaN for unscored ones.

    Args:
        answers: The answers.
        seed: Draws the references that are left out.
    """
    tokens, bigrams = grams = _tokenizer()
    found: dict[str, list[float]] = {name: [] for name in ("query_overlap", "cited_overlap")}
    with stage("measures of answers and notes", len(answers.texts)) as advance:
        for query, text, notes in zip(answers.queries, answers.texts, answers.notes, strict=True):
            found["query_overlap"].append(_share(sorted(set(tokens(query))), frozenset(tokens(text))))
            found["cited_overlap"].append(_cited_overlap(text, notes, tokens, bigrams))
            advance()
    references = [[note for note in notes if note is not None] for notes in answers.notes]
    rouge_l = np.array(RougeL().score_answers(answers.texts, references))
    rouge_l[[not notes for notes in references]] = np.nan
    scores = {name: np.array(values) for name, values in found.items()} | {"notes_rouge_l": rouge_l}
    scores["notes_overlap"] = notes_overlaps(answers.texts, answers.notes, grams)
    scores |= _against_others(answers, seed)
    return {name: scores[name] for name in MEASURES}


def score_sentinels(answers: LabelledAnswers, seed: int = 0) -> dict[str, Values]:
    """Return the score of each answer by sentinel, shape (n,); NaN for unscored ones.

    Args:
        answers: The answers.
        seed: Draws the permutation.
    """
    tokens, _ = grams = _tokenizer()
    n = len(answers.texts)
    order = np.random.default_rng(seed).permutation(n)
    others = np.empty_like(order)
    others[order] = np.roll(order, 1)
    keys = np.array([query_key(query) for query in answers.queries])
    permuted = notes_overlaps([answers.texts[other] for other in others.tolist()], answers.notes, grams)
    permuted[keys == keys[others]] = np.nan
    return {
        LENGTH: np.array([float(len(tokens(text))) for text in answers.texts]),
        CITATIONS: np.array([float(len(cited_numbers(text))) for text in answers.texts]),
        PERMUTED: permuted,
        CONSTANT: np.zeros(n),
    }


def notes_overlaps(
    texts: Sequence[str], notes: Sequence[Sequence[str | None]], grams: _Tokenizer | None = None
) -> Values:
    """Return the share of each text's token bigrams that are in its notes, shape (n,); NaN for unscored ones.

    Args:
        texts: The texts.
        notes: The notes of each; None for one whose text is not known.
        grams: The tokens and bigrams of a text. Default: those of ROUGE.
    """
    tokens, bigrams = grams or _tokenizer()
    return np.array(
        [
            _share(list(pairwise(tokens(text))), _all(bigrams, of_text))
            for text, of_text in zip(texts, notes, strict=True)
        ],
        dtype=np.float64,
    )


def other_favoured(answers: LabelledAnswers, seed: int = 0) -> list[list[str]]:
    """Return the references of each answer: favoured texts of its query, never itself or a copy of it.

    Args:
        answers: The answers; those with any flag are favoured.
        seed: Draws which are left out.
    """
    draw = Random(seed)
    favoured: dict[str, dict[str, str]] = defaultdict(dict)
    copies = [query_key("".join(_tokens(text))) for text in answers.texts]
    keys = [query_key(query) for query in answers.queries]
    for query, copy, text, label in zip(keys, copies, answers.texts, answers.labels[ENGAGED].tolist(), strict=True):
        if label == 1:
            favoured[query].setdefault(copy, text)
    found = []
    for query, copy in zip(keys, copies, strict=True):
        others = [text for other, text in favoured[query].items() if other != copy]
        n_wanted = min(max(0, len(favoured[query]) - 1), MOST_OTHERS)
        found.append(draw.sample(others, n_wanted))
    return found


def _against_others(answers: LabelledAnswers, seed: int) -> dict[str, Values]:
    """Return the mean score of each answer over its references, by measure."""
    references = other_favoured(answers, seed)
    n_references = np.array([len(each) for each in references], dtype=np.intp)
    rows = np.repeat(np.arange(len(references)), n_references)
    texts, targets = [answers.texts[row] for row in rows.tolist()], [[other] for each in references for other in each]
    found = {}
    with stage("measures of other answers", len(METRICS)) as advance:
        for name in METRICS:
            scorer = SCORERS.create(name, {})
            assert isinstance(scorer, AnswerScorer)
            scorer.prepare()
            values = np.array(scorer.score_answers(texts, targets), dtype=np.float64)
            sums = np.bincount(rows, values, minlength=len(references))
            found[f"{OTHERS}{name}"] = np.divide(
                sums, n_references, out=np.full(len(references), np.nan), where=n_references > 0
            )
            advance()
    return found


def _tokens(text: str) -> _Tokens:
    return RougeL().tokenize(text)


def _tokenizer() -> _Tokenizer:
    """Return functions for the tokens and the bigrams of a text, which are made once a text."""
    rouge = RougeL()

    @cache
    def tokens(text: str) -> _Tokens:
        return rouge.tokenize(text)

    @cache
    def bigrams(text: str) -> _Bigrams:
        return frozenset(pairwise(tokens(text)))

    return tokens, bigrams


def _all(bigrams: Callable[[str], _Bigrams], notes: Sequence[str | None]) -> _Bigrams:
    return frozenset[tuple[str, str]]().union(*(bigrams(note) for note in notes if note is not None))


def _cited_overlap(
    text: str, notes: Sequence[str | None], tokens: Callable[[str], _Tokens], bigrams: Callable[[str], _Bigrams]
) -> float:
    """Return the mean over the sentences that cite a known note; NaN if none does."""
    shares = []
    for sentence, numbers in cited_sentences(text):
        cited = [notes[number - 1] for number in numbers if 1 <= number <= len(notes)]
        shares.append(_share(list(pairwise(tokens(sentence))), _all(bigrams, cited)))
    known = [share for share in shares if not np.isnan(share)]
    return float(np.mean(known)) if known else np.nan


def _share(parts: Sequence[Hashable], of: frozenset[Any]) -> float:
    """Return the share of parts that are there; NaN if there is nothing to compare."""
    return sum(part in of for part in parts) / len(parts) if parts and of else np.nan
