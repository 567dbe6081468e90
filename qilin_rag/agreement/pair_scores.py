"""Score both answers of judged pairs, by this package's measures and by sentinels.

A sentinel (Perrella et al. 2024, arXiv 2408.13831) sees nothing that makes an answer good. A measure that agrees with
people no better than a sentinel may have learned no more than the sentinel.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from random import Random

import numpy as np

from qilin_rag.agreement.pairs import JudgedPairs
from qilin_rag.core.registry import SCORERS
from qilin_rag.core.stats import Clusters, Values
from qilin_rag.core.text import cited_numbers, has_words
from qilin_rag.scorers import AnswerScorer, Remarked
from qilin_rag.scorers.bertscore import BertScore
from qilin_rag.scorers.length import LengthRatio
from qilin_rag.scorers.rouge import RougeL

METRICS = ("rouge_1", "rouge_2", "rouge_l", "chrf", "bleu", "contains")
SENTINELS = {
    "length": "tokens of the answer",
    "citations": "citations in the answer",
    "permuted": "rouge_l of the same system's answer to another query",
    "constant": "0 for every answer",
}
"""Each sentinel, and how it scores an answer."""


def measure_scores(judged: JudgedPairs, encoder: str | None = None, layer: int | None = None) -> dict[str, Values]:
    """Return the scores of both answers of each pair by measure, shape (pairs, 2).

    Args:
        judged: The pairs. Their own measures come first, and keep their names if one of this package has the same.
        encoder: The model of BERTScore, a hub name or a folder; None leaves BERTScore out.
        layer: The layer of the model. Default: BERTScore's.
    """
    scorers = [SCORERS.create(name, {}) for name in METRICS]
    if encoder is not None:
        scorers.append(BertScore(model=encoder, **({} if layer is None else {"layer": layer})))
    answers, references = _texts(judged)
    found = dict(judged.measures)
    for scorer in scorers:
        assert isinstance(scorer, AnswerScorer)
        scorer.prepare()
        name = scorer.metric if scorer.metric not in found else f"{scorer.metric} (qilin_rag)"
        found[name] = _as_pairs(_scored(scorer, answers, references))
    return found


def sentinel_scores(judged: JudgedPairs, seed: int = 0) -> dict[str, Values]:
    """Return the scores of both answers of each pair by sentinel, shape (pairs, 2).

    Args:
        judged: The pairs.
        seed: Draws the permutation.
    """
    answers, references = _texts(judged)
    systems = [side.system for pair in judged.pairs for side in (pair.a, pair.b)]
    found = answer_sentinels(answers, references, systems, np.repeat(judged.queries, 2), seed)
    return {name: _as_pairs(values) for name, values in found.items()}


def answer_sentinels(
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    systems: Sequence[str | None],
    queries: Clusters,
    seed: int = 0,
) -> dict[str, Values]:
    """Return the score of each answer by sentinel, shape (answers,); NaN for unscored ones.

    Args:
        answers: The answers.
        references: The references of each.
        systems: Who gave each answer; None if nobody knows.
        queries: The number of the query of each answer.
        seed: Draws the permutation.
    """
    length = LengthRatio()
    return {
        "length": np.array([float(length.n_tokens(answer)) for answer in answers]),
        "citations": np.array([float(len(cited_numbers(answer))) for answer in answers]),
        "permuted": _scored(RougeL(), _permuted(answers, systems, queries, seed), references),
        "constant": np.zeros(len(answers)),
    }


def _texts(judged: JudgedPairs) -> tuple[list[str], list[list[str]]]:
    """Return all answers, a and b of one pair after another, and their references."""
    answers = [side.answer for pair in judged.pairs for side in (pair.a, pair.b)]
    return answers, [pair.references for pair in judged.pairs for _ in "ab"]


def _scored(scorer: AnswerScorer, answers: Sequence[str | None], references: Sequence[Sequence[str]]) -> Values:
    """Return the score of each answer; NaN if there is no answer, or no score."""
    rows = [(place, text) for place, text in enumerate(answers) if text is not None and has_words(text)]
    values = np.full(len(answers), np.nan)
    if rows:
        found = scorer.score_answers([text for _, text in rows], [references[place] for place, _ in rows])
        for (place, _), each in zip(rows, found, strict=True):
            value = each.value if isinstance(each, Remarked) else each
            values[place] = math.nan if value is None or not math.isfinite(value) else value
    return values


def _as_pairs(values: Values) -> Values:
    return values.reshape(-1, 2)


def _permuted(answers: Sequence[str], systems: Sequence[str | None], queries: Clusters, seed: int) -> list[str | None]:
    """Return for each answer one of the same system to another query; None if it gave no other."""
    by_system: dict[str | None, list[int]] = defaultdict(list)
    for place, system in enumerate(systems):
        by_system[system].append(place)
    exchanged: list[str | None] = [None] * len(answers)
    for places in by_system.values():
        Random(seed).shuffle(places)
        for place, other in zip(places, places[1:] + places[:1], strict=True):
            if queries[place] != queries[other]:
                exchanged[place] = answers[other]
    return exchanged
