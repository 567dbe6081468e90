"""TREC run files, at which retrieval stages of any project meet: `question_id Q0 note_idx rank score tag`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from qilin_rag.errors import UsageError
from qilin_rag.types import Hit, ranked


def trec_id(question_id: str) -> str:
    """A question's id as one field of a TREC file: white space, control characters and `%` as in an URL.

    Different ids stay different; the empty one is `%`.
    """
    return re.sub(r"[\s%\x00-\x1f\x7f]", lambda found: quote(found[0], safe=""), question_id) or "%"


def format_trec(rankings: Iterable[tuple[str, Sequence[Hit]]], tag: str) -> str:
    """Rankings by question id as the text of a TREC run.

    Scores count down to 1 with the rank, so that no evaluator can order ties in its own way.
    """
    return "".join(
        f"{trec_id(question_id)} Q0 {hit.note_idx} {hit.rank} {len(hits) - hit.rank + 1} {trec_id(tag)}\n"
        for question_id, hits in rankings
        for hit in hits
    )


def read_trec(path: Path) -> dict[str, list[Hit]]:
    """The rankings of a TREC run by `trec_id`, ordered by (-score, note_idx); the rank column is not looked at."""
    scores: dict[str, dict[int, float]] = {}
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line_number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                fields = line.split()
                try:
                    question_id, _, note_idx, _, score = (
                        fields[0],
                        fields[1],
                        int(fields[2]),
                        fields[3],
                        float(fields[4]),
                    )
                except (IndexError, ValueError) as error:
                    raise UsageError(f"{path}, line {line_number}: expected id Q0 note_idx rank score tag") from error
                if not 0 <= note_idx < 2**63:
                    raise UsageError(f"{path}, line {line_number}: no note can be called {note_idx}")
                if not math.isfinite(score):
                    raise UsageError(f"{path}, line {line_number}: the score must be a number, not {fields[4]}")
                if note_idx in scores.setdefault(question_id, {}):
                    raise UsageError(f"{path}, line {line_number}: note {note_idx} is ranked twice for {question_id}")
                scores[question_id][note_idx] = score
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} can't be read: {error}") from error
    return {question_id: ranked(found) for question_id, found in scores.items()}
