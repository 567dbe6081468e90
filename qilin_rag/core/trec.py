"""TREC run files, the exchange format of retrieval systems: `question_id Q0 note_idx rank score tag`."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import decimal_number, whole_number
from qilin_rag.core.text_encodings import hint
from qilin_rag.core.ties import ranked
from qilin_rag.core.types import Hit

logger = logging.getLogger(__name__)
_FIELDS = ("id", "Q0", "note_idx", "rank", "score", "tag")


class _Line(NamedTuple):
    """One note of a ranking, as its line gives it."""

    note_idx: int
    rank: int
    score: float


def trec_id(question_id: str) -> str:
    """Return a question's id as one field of a TREC file: white space, control characters and `%` are URL-encoded.

    Different ids stay different; the empty id becomes `%`.
    """
    return re.sub(r"[\s%\x00-\x1f\x7f]", lambda found: quote(found[0], safe=""), question_id) or "%"


def format_trec(rankings: Iterable[tuple[str, Sequence[Hit]]], tag: str) -> str:
    """Return rankings by question id as the text of a TREC run.

    Scores count down to 1 with the rank, so that no evaluator can reorder ties.
    """
    tag = trec_id(tag)
    return "".join(
        f"{name} Q0 {hit.note_idx} {hit.rank} {len(hits) - hit.rank + 1} {tag}\n"
        for question_id, hits in rankings
        for name in [trec_id(question_id)]
        for hit in hits
    )


def read_trec(path: Path, note_number: Callable[[str], int | None] = whole_number) -> dict[str, list[Hit]]:
    """Read the rankings of a TREC run by `trec_id`.

    The score decides, as in trec_eval, and ties are ordered by a hash (`ties`). The rank decides in two cases: in a
    ranking whose scores are all equal, and in a file whose scores rise with the rank in every ranking (distances). Then
    n notes score n, n - 1, ..., 1. A disagreement of rank and score is logged.

    Args:
        path: The file.
        note_number: A function that reads the id of a note and returns None if it is not one.

    Raises:
        UsageError: if the file can't be read, a line does not have six valid fields, a ranking names a note twice,
            or scores rise with the rank in most rankings but not in all.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            return trec_of(path, file, note_number)
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}") from error


def trec_of(
    path: Path, file: Iterable[str], note_number: Callable[[str], int | None] = whole_number
) -> dict[str, list[Hit]]:
    """Read the rankings of the lines of an open TREC run, as `read_trec` does; `path` is its name for errors."""
    lines: dict[str, dict[int, _Line]] = {}
    try:
        for line_number, text in enumerate(file, start=1):
            if text.strip():
                try:
                    question_id, line = _parsed(text.split(), note_number)
                    if line.note_idx in lines.setdefault(question_id, {}):
                        raise ValueError(f"note {line.note_idx} is ranked twice for {question_id}")
                except ValueError as error:
                    raise UsageError(f"{path}, line {line_number}: {error}") from None
                lines[question_id][line.note_idx] = line
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} can't be read: not UTF-8 text{hint(path)}") from error
    return _rankings(path, {question_id: list(of_one.values()) for question_id, of_one in lines.items()})


def _rankings(path: Path, lines: dict[str, list[_Line]]) -> dict[str, list[Hit]]:
    """Decide for each ranking whether scores or ranks count, and log it if they disagree."""
    kinds = {question_id: _kind(of_one) for question_id, of_one in lines.items()}
    n = Counter(kinds.values())
    is_of_distances = n["rising"] > 0 and not n["falling"] and not n["mixed"]
    n_told = n["rising"] + n["falling"] + n["mixed"]
    if is_of_distances:
        logger.warning(
            "%s: in all %d rankings the score rises with the rank (distances?); the ranks count", path, n["rising"]
        )
    elif n["rising"] > n["falling"] + n["mixed"]:
        raise UsageError(
            f"{path}: in {n['rising']} of {n_told} rankings the score rises with the rank (distances?), but not in the "
            "others; write scores that are highest for the best note"
        )
    elif n_against := n["rising"] + n["mixed"]:
        logger.warning(
            "%s: rank and score disagree in %d of %d rankings; the scores count, as in trec_eval",
            *(path, n_against, len(lines)),
        )
    if n["flat"]:
        logger.warning("%s: in %d of %d rankings all scores are the same; the ranks count", path, n["flat"], len(lines))
    by_rank = {"flat", "rising"} if is_of_distances else {"flat"}
    return {
        question_id: _by_rank(of_one, question_id)
        if kinds[question_id] in by_rank
        else ranked({line.note_idx: line.score for line in of_one}, question_id)
        for question_id, of_one in lines.items()
    }


def _by_rank(lines: Sequence[_Line], question_id: str) -> list[Hit]:
    """Return hits in the order of their ranks (equal ranks by hash), with scores that count down to 1."""
    hits = ranked({line.note_idx: float(-line.rank) for line in lines}, question_id)
    return [hit.model_copy(update={"score": float(len(hits) - hit.rank + 1)}) for hit in hits]


def _kind(lines: Sequence[_Line]) -> str:
    """Return how scores change with the rank: falling, rising or mixed.

    flat: only the ranks differ; silent: the ranks do not differ.
    """
    if len({line.rank for line in lines}) == 1:
        return "silent"
    if len({line.score for line in lines}) == 1:
        return "flat"
    falling = sorted(lines, key=lambda line: (line.rank, -line.score))
    if all(line.score >= later.score for line, later in pairwise(falling)):
        return "falling"
    rising = sorted(lines, key=lambda line: (line.rank, line.score))
    return "rising" if all(line.score <= later.score for line, later in pairwise(rising)) else "mixed"


def _parsed(fields: Sequence[str], note_number: Callable[[str], int | None]) -> tuple[str, _Line]:
    """Read the fields of one line; a ValueError names what is wrong."""
    if len(fields) != len(_FIELDS):
        problem = f"{len(fields)} fields instead of 6 ({' '.join(_FIELDS)})"
        if len(fields) == len(_FIELDS) - 1:
            problem += f"; {_lacking(fields)} seems to be missing"
        raise ValueError(problem)
    question_id, _, note, of_rank, of_score, _ = fields
    note_idx, rank, score = note_number(note), whole_number(of_rank), decimal_number(of_score)
    if note_idx is None:
        raise ValueError(f"note_idx must be a whole number from 0 in digits 0-9, not {note!r:.40}")
    if rank is None:
        raise ValueError(f"the rank must be a whole number from 0 in digits 0-9, not {of_rank!r:.40}")
    if score is None:
        raise ValueError(f"the score must be a number, not {of_score!r:.40}")
    return question_id, _Line(note_idx, rank, score)


def _lacking(fields: Sequence[str]) -> str:
    """Guess which of the six fields is missing from five."""
    if fields[0] == "Q0":
        return "the id"
    if fields[1] != "Q0" and whole_number(fields[1]) is not None and whole_number(fields[2]) is not None:
        return "Q0"
    if all(decimal_number(field) is not None for field in fields[2:]):
        return "the tag"
    return "note_idx, rank or score"
