"""One finished run scored again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qilin_rag.config.run import build_scorers
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.run import score_runs


def score_run(path: Path, metrics: Mapping[str, Mapping[str, Any]], optional_metrics: Sequence[str] = ()) -> Run:
    [run] = score_runs([path], build_scorers(metrics), optional_metrics)
    return run
