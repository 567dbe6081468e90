"""Select the questions of a run: all, the first of a permutation, those that a file names; or another for each."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from qilin_rag.core.errors import UsageError
from qilin_rag.core.stats import query_clusters
from qilin_rag.core.text_encodings import hint
from qilin_rag.core.types import Question


def select_questions(
    questions: Sequence[Question], limit: int | None = None, seed: int = 0, ids: Path | None = None
) -> list[Question]:
    """Select the questions named in the file `ids`, then the first `limit` of a seeded permutation.

    A larger limit takes the same questions and more, so it extends a run. The order of the rows in the data's files
    does not matter: the permutation is of the questions by id.
    """
    chosen = list(questions)
    if ids is not None:
        chosen = _named_questions(chosen, ids)
    if limit is not None:
        chosen.sort(key=lambda question: (not question.id.isdecimal(), len(question.id), question.id))
        random.Random(seed).shuffle(chosen)
        chosen = chosen[:limit]
    return chosen


def other_questions(questions: Sequence[Question]) -> dict[str, str]:
    """Return for each question the id of another one with another query; empty if all are copies of one query."""
    clusters = query_clusters([question.query for question in questions])
    firsts = np.unique(clusters, return_index=True)[1].tolist()
    if len(firsts) < 2:
        return {}
    order = np.random.default_rng(0).permutation(len(firsts))
    following = dict(zip(order.tolist(), np.roll(order, -1).tolist(), strict=True))
    return {
        question.id: questions[firsts[following[cluster]]].id
        for question, cluster in zip(questions, clusters.tolist(), strict=True)
    }


def _named_questions(questions: Iterable[Question], path: Path) -> list[Question]:
    try:
        wanted = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise UsageError(f"ids {path} can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"ids {path} can't be read: not UTF-8 text{hint(path)}") from error
    by_id = {question.id: question for question in questions}
    unknown = [question_id for question_id in wanted if question_id not in by_id]
    if unknown:
        raise UsageError(f"ids {path}: no question {unknown[0]!r} ({len(unknown)} of {len(wanted)} ids are unknown)")
    if not wanted:
        raise UsageError(f"ids {path} names no question")
    return [by_id[question_id] for question_id in dict.fromkeys(wanted)]
