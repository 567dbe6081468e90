"""Labels that follow a rule, of the sample runs, and the commands that read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from qilin_rag.reports.measured import read_run
from tests.conftest import Cli

EXAMPLES = Path(__file__).parents[2] / "runs" / "examples"
BM25, ORACLE, NONE = (next(EXAMPLES.glob(f"sample-{name}-*")) for name in ("bm25", "oracle", "none"))
Rows = list[dict[str, Any]]
Scores = Mapping[str, Mapping[str, float]]


@cache
def rouge_of_examples() -> Scores:
    """The rouge_l of each answer, by run and question."""
    runs = [read_run(path) for path in (BM25, ORACLE, NONE)]
    return {run.name: dict(zip(run.questions, run.values["rouge_l"].tolist(), strict=True)) for run in runs}


def preferring(rouge: Scores, *paths: Path) -> Rows:
    """Labels by somebody who prefers the answer with the higher rouge_l; on each side in turn."""
    rows = []
    for one, other in combinations([path.name for path in paths], 2):
        for place, question in enumerate(rouge[one]):
            a, b = (one, other) if place % 2 else (other, one)
            gain = rouge[b][question] - rouge[a][question]
            if not np.isnan(gain):
                choice = "B" if gain > 0 else "A" if gain < 0 else ("tie", "both_bad")[place % 2]
                rows.append({"question_id": question, "annotator": "An", "run_a": a, "run_b": b, "choice": choice})
    return rows


def rating(rouge: Scores, *paths: Path, annotator: str = "An", noise: float = 0) -> Rows:
    """Ratings from 1 to 5 by somebody who looks at rouge_l, more or less."""
    random = Random(annotator)
    return [
        {
            "question_id": question,
            "annotator": annotator,
            "run_a": path.name,
            "quality.a": min(5, max(1, round(1 + 12 * value + random.gauss(0, noise)))),
        }
        for path in paths
        for question, value in rouge[path.name].items()
        if not np.isnan(value)
    ]


def document_of(cli: Cli, labels: Path, *runs: Path, **options: object) -> dict[str, Any]:
    done = cli("agreement", "runs", *runs, "--labels", labels, "--json")
    assert done.code == 0, done.err
    return dict(json.loads(done.out))


def one_line(cli: Cli, *arguments: object) -> str:
    done = cli("agreement", *arguments)
    assert (done.code, done.out) == (2, ""), (done.out, done.err)
    [line] = done.err.strip().splitlines()
    return line
