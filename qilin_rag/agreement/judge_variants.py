"""Collect the scores of judges to choose from, for labels of runs: each metric in each way in which it was made.

A run holds the grades of one judge. So the variants of a judge are in copies of a run: the labels name one of them, and
the scores of all of them count for the same answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from qilin_rag.agreement.label_rows import LabelRow
from qilin_rag.agreement.pairs import JudgedPairs
from qilin_rag.agreement.run_labels import match_labels
from qilin_rag.core.errors import UsageError
from qilin_rag.core.stats import Values
from qilin_rag.core.types import Question
from qilin_rag.reports.measured import Measured, highest_is_best

Key = tuple[str, str, tuple[str, ...], str]
"""An answer: the id, text and references of its question, and its own text."""
_TELLING = ("judge:", "prompt:", "model:")
"""The parts of a signature that name a variant, the first of them that tells all apart."""


class JudgedRuns(NamedTuple):
    """Labelled pairs with the scores of judges, and remarks on labels and runs that were left out."""

    judged: JudgedPairs
    remarks: list[str]


def judged_runs(rows: Sequence[LabelRow], runs: Sequence[Measured]) -> JudgedRuns:
    """Join labels of pairs with the scores that any of the runs has of the same answers.

    Args:
        rows: The labels.
        runs: The runs, and copies of them that other judges scored.

    Returns:
        The pairs, with a measure for each metric, or for each way in which it was made. A metric of which the lowest is
        the best has its sign turned round.

    Raises:
        UsageError: if no label is of a pair of these runs.
    """
    matched = match_labels(rows, runs)
    if not matched.pairs:
        raise UsageError("no label is of two answers to a question; label answers of two runs or more")
    judged = matched.judged(runs)
    keys = [
        [_key(runs[place].questions[question_id], matched.texts[place][question_id]) for place in both]
        for question_id, *both in matched.pairs
    ]
    wanted = {key for both in keys for key in both}
    answers = [
        [_key(question, texts[question_id]) for question_id, question in run.questions.items()]
        for run, texts in zip(runs, matched.texts, strict=True)
    ]
    remarks = [
        f"{runs[place].name}: no label, and none of the labelled answers"
        for place in matched.unlabelled
        if wanted.isdisjoint(answers[place])
    ]
    for (metric, signature), name in _names(runs).items():
        lenders = [place for place, run in enumerate(runs) if run.signature(metric) == signature]
        sign = 1.0 if highest_is_best(signature) else -1.0
        known = {
            key: sign * value
            for place in lenders
            for key, value in zip(answers[place], runs[place].values[metric].tolist(), strict=True)
            if not np.isnan(value)
        }
        scores: Values = np.array([[known.get(key, np.nan) for key in both] for both in keys])
        if np.isnan(scores).any(axis=1).all():
            remarks.append(f"{name} left out: it scores both answers of no labelled pair")
            continue
        judged.measures[name] = scores
        if name != metric:
            remarks.append(f"{name}: scores of {', '.join(runs[place].name for place in lenders)}")
    return JudgedRuns(judged, [*matched.remarks, *remarks])


def chosen_measures(measures: Mapping[str, Values], names: Sequence[str]) -> tuple[dict[str, Values], list[str]]:
    """Return the measures of these names, and the names that there are not; a metric stands for all of its variants.

    Args:
        measures: The scores by measure.
        names: The names.

    >>> both = {"grade [prompt:1]": np.zeros(1), "grade [prompt:2]": np.zeros(1)}
    >>> list(chosen_measures(both, ["grade"])[0]), chosen_measures(both, ["grades"])[1]
    (['grade [prompt:1]', 'grade [prompt:2]'], ['grades'])
    """
    meant = {name: [each for each in measures if each == name or each.startswith(f"{name} [")] for name in names}
    chosen = dict.fromkeys(each for of_name in meant.values() for each in of_name)
    return {name: measures[name] for name in chosen}, [name for name, of_name in meant.items() if not of_name]


def _key(question: Question, answer: str) -> Key:
    return question.id, question.query, tuple(question.references), answer


def _names(runs: Sequence[Measured]) -> dict[tuple[str, str], str]:
    """Return a name for each metric and signature: that of the metric, with what differs if there are several ways."""
    ways: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        for metric in run.values:
            if (signature := run.signature(metric)) and signature not in ways[metric]:
                ways[metric].append(signature)
    return {
        (metric, signature): metric if len(signatures) == 1 else f"{metric} [{told}]"
        for metric, signatures in ways.items()
        for signature, told in zip(signatures, _told_apart(signatures), strict=True)
    }


def _told_apart(signatures: Sequence[str]) -> list[str]:
    """Return the part of each signature that tells it apart: its judge or prompt, or all that is not common."""
    parts = [signature.split("|") for signature in signatures]
    for start in _TELLING:
        found = [next((part for part in each if part.startswith(start)), "") for each in parts]
        if all(found) and len(set(found)) == len(found):
            return found
    common = set.intersection(*map(set, parts))
    return ["|".join(part for part in each if part not in common) or "|".join(each) for each in parts]
