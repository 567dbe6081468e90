"""Read pairs of answers that people compared: one JSON object a line, in the form of RAGChecker's meta-evaluation.

`query`, `reference` (a text or several), `a` and `b` (`answer`, and `system` if known), `people` (a list of judges,
each a mapping of aspects to numbers: above 0 if b is better). Any other mapping with `a` and `b` holds the scores of a
measure: a number for each, or a number by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import expanded
from qilin_rag.core.stats import Clusters, Values, query_clusters
from qilin_rag.core.text import clean
from qilin_rag.data.text_files import json_lines, stop

LARGEST = 1e300
"""The largest score and judgement, so that differences are finite."""
MOST_BYTES = 2**30
"""The largest file that is read."""
_FIELDS = "query, reference, a, b, people"


Judgement = Annotated[FiniteFloat, Field(ge=-LARGEST, le=LARGEST)]


class ComparedAnswer(BaseModel):
    """One of two answers; `system` names who gave it."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    answer: str
    system: str | None = None


class ComparedPair(BaseModel):
    """Two answers to a query, and by how much judges find b better than a, by aspect."""

    model_config = ConfigDict(frozen=True, extra="allow")
    query: str
    reference: str | Annotated[list[str], Field(min_length=1)]
    a: ComparedAnswer
    b: ComparedAnswer
    people: Annotated[list[dict[str, Judgement | None]], Field(min_length=1)]

    @property
    def references(self) -> list[str]:
        """All references."""
        return [self.reference] if isinstance(self.reference, str) else self.reference

    @property
    def scores(self) -> dict[str, tuple[float | None, float | None]]:
        """The scores of a and b by measure, as the line has them.

        Raises:
            ValueError: if one is not a number, or only one answer has it.
        """
        found: dict[str, tuple[float | None, float | None]] = {}
        for name, sides in (self.model_extra or {}).items():
            if isinstance(sides, dict) and {"a", "b"} <= sides.keys():
                a, b = (_by_name(name, sides[side]) for side in "ab")
                if a.keys() != b.keys():
                    raise ValueError(f"{name}: a and b have scores of different names")
                found |= {measure: (a[measure], b[measure]) for measure in a}
        return found


class JudgedPairs:
    """The pairs of a file.

    Args:
        pairs: The pairs, at least one.
        measures: The scores of each measure of the file, of a and b of each pair; NaN for unscored ones, shape (n, 2).
    """

    def __init__(self, pairs: list[ComparedPair], measures: Mapping[str, Values]) -> None:
        """Hold the pairs, and number their queries."""
        self.pairs = pairs
        self.measures = dict(measures)
        self.queries: Clusters = query_clusters([pair.query for pair in pairs])
        self.aspects = list(dict.fromkeys(aspect for pair in pairs for judge in pair.people for aspect in judge))

    def judgements(self, aspect: str) -> Values:
        """Return what each judge of each pair said, shape (pairs, judges); NaN for what a judge did not say."""
        found = np.full((len(self.pairs), max(len(pair.people) for pair in self.pairs)), np.nan)
        for row, pair in enumerate(self.pairs):
            for column, judge in enumerate(pair.people):
                value = judge.get(aspect)
                found[row, column] = math.nan if value is None else value
        return found


def read_pairs(path: Path) -> JudgedPairs:
    """Read a file of judged pairs.

    Args:
        path: A JSONL file.

    Raises:
        UsageError: if it can't be read; the error names the line.
    """
    path = expanded(path)
    if not path.is_file():
        raise UsageError(f"{path} is not a file; name a JSONL file of judged pairs (query, reference, a, b, people)")
    if path.stat().st_size > MOST_BYTES:
        raise UsageError(f"{path} is larger than {MOST_BYTES >> 30} GB; split it")
    pairs, scores = [], []
    for number, row in json_lines(path, stop):
        try:
            pairs.append(ComparedPair.model_validate(row))
            scores.append(pairs[-1].scores)
        except ValidationError as error:
            raise UsageError(f"{path}, line {number}: {_problem(error)}") from None
        except ValueError as error:
            raise UsageError(f"{path}, line {number}: {error}") from None
    if not pairs:
        raise UsageError(f"{path} holds no pair")
    names = list(dict.fromkeys(name for row in scores for name in row))
    measures = {
        name: np.array([[math.nan if v is None else v for v in row.get(name, (None, None))] for row in scores])
        for name in names
    }
    judged = JudgedPairs(pairs, measures)
    if not judged.aspects:
        raise UsageError(f"{path}: no judge says anything; people needs mappings such as {{'overall': 1}}")
    return judged


def _by_name(measure: str, side: Any) -> dict[str, float | None]:
    """Return the scores of one answer by name."""
    if not isinstance(side, dict):
        return {measure: _number(measure, side)}
    return {f"{measure}.{clean(str(name))}": _number(f"{measure}.{name}", value) for name, value in side.items()}


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise ValueError(f"{name} must be a number or null, not {value!r:.40}")
    return float(value)


def _problem(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"{place} is missing; a pair has {_FIELDS}"
    return f"{place}: {first['msg']}"
