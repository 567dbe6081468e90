"""Read the nuggets, claims and cited sentences into which judges took a run's answers apart, as pages show them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import read_lines
from qilin_rag.core.judged_answers import (
    ASSIGNED,
    CHECKED,
    SUPPORTED,
    AssignedAnswer,
    CheckedAnswer,
    JudgedAnswer,
    SupportedAnswer,
)
from qilin_rag.core.types import Sample

logger = logging.getLogger(__name__)
L = TypeVar("L", bound=JudgedAnswer)
LinesOf = Callable[[Path, type[Any]], Iterable[Any]]
_SHOWN_ELSEWHERE = JudgedAnswer.model_fields.keys() - {"judge"}


class JudgedParts(NamedTuple):
    """The parts of an answer, as judges took it apart; None if no judge did."""

    nuggets: AssignedAnswer | None = None
    claims: CheckedAnswer | None = None
    support: SupportedAnswer | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the parts that there are, without what a page shows of the answer anyway."""
        return {
            name: line.model_dump(
                mode="json", exclude={**dict.fromkeys(_SHOWN_ELSEWHERE, True), "nuggets": {"__all__": {"provenance"}}}
            )
            for name, line in self._asdict().items()
            if line is not None
        }


NO_PARTS = JudgedParts()


def read_judged_parts(path: Path, samples: Iterable[Sample], lines_of: LinesOf = read_lines) -> dict[str, JudgedParts]:
    """Return the parts of these answers by the id of the question; those of an answer that has changed are left out.

    Args:
        path: The run directory. Of a damaged file the lines before the damage are read, and the log reports it.
        samples: Samples of the run.
        lines_of: Reads the lines of a file as a type.
    """
    answers = {sample.question_id: sample.answer for sample in samples if sample.is_answered}
    nuggets = _last(lines_of, path / ASSIGNED, AssignedAnswer, answers)
    claims = _last(lines_of, path / CHECKED, CheckedAnswer, answers)
    support = _last(lines_of, path / SUPPORTED, SupportedAnswer, answers)
    return {
        question_id: JudgedParts(nuggets.get(question_id), claims.get(question_id), support.get(question_id))
        for question_id in {**nuggets, **claims, **support}
    }


def _last(lines_of: LinesOf, path: Path, kind: type[L], answers: Mapping[str, str]) -> dict[str, L]:
    """Return the last line about each of these answers, which are given by the id of the question."""
    found: dict[str, L] = {}
    try:
        for line in lines_of(path, kind):
            if answers.get(line.qid) == line.answer_text:
                found[line.qid] = line
    except (UsageError, OSError) as error:
        logger.warning("%s", error)
    return found
