"""Read a run or a ranking from its directory as the plain values that hooks get."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from qilin_rag.core.errors import UsageError
from qilin_rag.core.plugins import holds_secret
from qilin_rag.core.types import MetricSummary
from qilin_rag.pipeline.hooks.base import TrackedRun
from qilin_rag.pipeline.run_directory import MANIFEST, SUMMARY, Manifest, RunDirectory
from qilin_rag.rankers.ranking_directory import MANIFEST as RANKING
from qilin_rag.rankers.ranking_directory import PooledFigure, RankingDirectory, RankingManifest

_MOST_ROWS = 10_000
_MOST_CHARS = 500
_MOST_FILE_BYTES = 5_000_000
_MOST_PARAMS = 1_000


def read_tracked(path: Path, tracked_as: str | None = None) -> TrackedRun:
    """Read a run, or a ranking, as hooks get it; an incomplete one has no figures.

    Args:
        path: The directory of the run or the ranking.
        tracked_as: The id of the run in the tracker, if it has one.

    Raises:
        UsageError: This is no run, or its files can't be read.
    """
    values = _of_ranking(path) if (path / RANKING).is_file() else _of_run(path)
    small = [name for name in (MANIFEST, RANKING, SUMMARY) if _is_small(path / name)]
    resolved = path.resolve()
    files = [resolved / name for name in small if values["metrics"] or name != SUMMARY]
    return TrackedRun(name=resolved.name, path=resolved, files=files, tracked_as=tracked_as, **values)


def check_complete(path: Path) -> None:
    """Check that a directory holds a run or a ranking that is complete.

    Raises:
        UsageError: It does not.
    """
    if not (path / RANKING).is_file():
        RunDirectory(path).read_complete()
    elif (state := RankingDirectory(path).read_manifest().state) != "complete":
        raise UsageError(f"{path} is {state}; finish it first, with the command that began it")


def flat_params(settings: Mapping[str, Any]) -> dict[str, str | bool | int | float]:
    """Return settings by dotted name, lists as JSON, without nulls, keys and passwords."""
    found = ((name, value) for name, value in _flat(settings) if value is not None and not holds_secret(name, value))
    texts = ((name, value[:_MOST_CHARS] if isinstance(value, str) else value) for name, value in found)
    return dict(list(texts)[:_MOST_PARAMS])


def _of_run(path: Path) -> dict[str, Any]:
    directory = RunDirectory(path)
    manifest = directory.read_manifest()
    facts = {
        "fingerprint": manifest.fingerprint,
        "version": manifest.packages.get("qilin-rag"),
        "git_commit": manifest.git_commit,
        "data_sha256": manifest.data["sha256"],
        "prompt_sha256": manifest.prompt.get("sha256"),
        "question_set_sha256": manifest.question_set_sha256,
        "n_questions": manifest.n_questions,
        "currency": manifest.cost.currency if manifest.cost else None,
        "labels": dict(manifest.labels),
        "path": str(path.resolve()),
    }
    values = _without_figures(manifest, {**manifest.config, **facts})
    if manifest.state != "complete":
        return values
    summary, scores = directory.read_figures()
    cost = None if manifest.cost is None else manifest.cost.amount
    times = {} if manifest.times is None else manifest.times.model_dump()
    more = {
        **{f"count/{name}": n for name, n in summary.counts.items()},
        **{f"count/{name}": getattr(summary, name) for name in ("lost", "cached", "retries")},
        **{f"tokens/{name.removesuffix('_tokens')}": n for name, n in summary.usage.model_dump().items()},
        **{f"time/{name}": seconds for name, seconds in times.items() if name.endswith("_s")},
        "cost/amount": cost,
    }
    by_question = {(score.question_id, score.metric): score.value for score in scores}
    samples = directory.read_finished()
    names = list(summary.metrics)
    rows = (
        [
            question.id,
            _cut(question.query),
            sample.status if (sample := samples.get(question.id)) else None,
            _cut(sample.answer) if sample else None,
            *(by_question.get((question.id, name)) for name in names),
        ]
        for question in directory.read_questions()[:_MOST_ROWS]
    )
    columns = ["question_id", "query", "status", "answer", *names]
    return values | {
        "metrics": {**_figures(summary.metrics), **_numbers(more)},
        "columns": columns,
        "rows": list(rows),
    }


def _of_ranking(path: Path) -> dict[str, Any]:
    directory = RankingDirectory(path)
    manifest = directory.read_manifest()
    facts = {
        "fingerprint": manifest.fingerprint,
        "version": manifest.packages.get("qilin-rag"),
        "git_commit": manifest.git_commit,
        "requests_sha256": manifest.requests_sha256,
        "ranker": manifest.ranker.model_dump(exclude={"changed"}),
        "path": str(path.resolve()),
    }
    values = _without_figures(manifest, {**manifest.config.model_dump(mode="json"), **facts})
    if manifest.state != "complete":
        return values
    summary = directory.read_summary()
    names = list(summary.metrics)
    rows = [
        [line.id, _cut(line.query), *((line.figures or {}).get(name) for name in names)]
        for line in directory.read_figures()[:_MOST_ROWS]
    ]
    counts = {f"count/{name}": n for name, n in summary.counts.items()}
    return values | {
        "metrics": {**_figures({**summary.metrics, **summary.pooled}), **_numbers(counts)},
        "columns": ["request_id", "query", *names],
        "rows": rows,
    }


def _without_figures(manifest: Manifest | RankingManifest, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "fingerprint": manifest.fingerprint,
        "params": flat_params(settings),
        "metrics": {},
        "columns": [],
        "rows": [],
        "started": datetime.fromisoformat(manifest.started),
        "ended": datetime.fromisoformat(manifest.updated),
    }


def _figures(metrics: Mapping[str, MetricSummary | PooledFigure]) -> dict[str, float]:
    """Return each figure with its interval and the number of scored questions; without what has no value."""
    found: dict[str, Any] = {}
    for name, figure in metrics.items():
        low, high = figure.ci95 or (None, None)
        found |= {name: figure.value, f"{name}.low": low, f"{name}.high": high, f"{name}.n": figure.n}
    return _numbers(found)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str | bool | int | float | None]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is None or isinstance(value, str | bool | int | float):
            yield f"{prefix}{name}", value
        elif not _has_secret(value):
            yield f"{prefix}{name}", json.dumps(value, ensure_ascii=False, default=str)


def _has_secret(values: Iterable[Any]) -> bool:
    items = ((str(number), value) for number, value in enumerate(values))
    return any(holds_secret(name, value) for name, value in _flat(dict(items)))


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}…"


def _is_small(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size <= _MOST_FILE_BYTES
