"""Compare two rankings of the same requests, request by request, as `compare` does two runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qilin_rag.core.errors import UsageError, unknown_name
from qilin_rag.core.stats import paired_tests
from qilin_rag.rankers.ranking_directory import MANIFEST, RankingDirectory, clusters_of
from qilin_rag.reports.compare import Comparison, compare_metric, moved_most

_USUAL = "mrr@10"


def is_ranking(path: Path) -> bool:
    """Return whether a folder holds a ranking."""
    return (path / MANIFEST).is_file()


def compare_rankings(path_a: Path, path_b: Path, metric: str | None = None, n_moved: int = 5) -> Comparison:
    """Compare two complete rankings of the same candidates of the same requests.

    Copies of a query are one cluster, as in the leaderboard of rankers.

    Args:
        path_a: The folder of ranking A.
        path_b: The folder of ranking B.
        metric: The figure by which requests count as moved. Default: MRR@10, if both have it.
        n_moved: The number of moved requests to list for each side.

    Raises:
        UsageError: A ranking is not complete, or they are of other requests or have no figure in common.
    """
    is_one_name = path_a.name == path_b.name
    names = [str(path) if is_one_name else path.name for path in (path_a, path_b)]
    directories = [RankingDirectory(path) for path in (path_a, path_b)]
    manifests = [directory.read_manifest() for directory in directories]
    for path, manifest in zip((path_a, path_b), manifests, strict=True):
        if manifest.state != "complete":
            raise UsageError(f"{path} is not complete; the command rank makes it again")
    first, second = manifests
    parts = ("split", "first", "candidates", "missing_notes")
    differing = [name for name in parts if first.identity.get(name) != second.identity.get(name)]
    if first.requests_sha256 != second.requests_sha256 or differing:
        raise UsageError(
            f"{path_a} and {path_b} rank other requests or candidates{_named(differing)}; rank the same ones to compare"
        )
    summaries = [directory.read_summary() for directory in directories]
    signatures = [{name: each.signature for name, each in summary.metrics.items()} for summary in summaries]
    alike = [name for name, signature in signatures[0].items() if signatures[1].get(name) == signature]
    if not alike:
        raise UsageError(f"{path_a} and {path_b} have no figure in common; rank again (--fresh)")
    if metric is not None and metric not in alike:
        raise unknown_name("metric", metric, alike, "is not in both rankings")
    lines = [{line.id: line for line in directory.read_figures()} for directory in directories]
    ids = list(lines[0])
    if lines[1].keys() != lines[0].keys():
        raise UsageError(f"{path_a} and {path_b} hold figures of other requests; rank again (--fresh)")
    pairs = [
        np.array([[(of_run[each].figures or {}).get(name, np.nan) for of_run in lines] for each in ids], float)
        for name in alike
    ]
    clusters = clusters_of(list(lines[0].values()))
    tests = paired_tests(np.stack([pair[:, 0] - pair[:, 1] for pair in pairs], axis=1), clusters)
    compared = [
        compare_metric(name, signatures[0][name], pair, test, clusters)
        for name, pair, test in zip(alike, pairs, tests, strict=True)
        if not np.isnan(pair.sum(axis=1)).all()
    ]
    unscored = set(alike) - {each.metric for each in compared}
    moved_by = metric or (_USUAL if _USUAL in alike else alike[0])
    queries = [lines[0][each].query for each in ids]
    better_a, better_b = moved_most(ids, queries, pairs[alike.index(moved_by)], n_moved)
    return Comparison(
        run_a=names[0],
        run_b=names[1],
        n_questions=len(ids),
        n_clusters=len(np.unique(clusters)),
        metrics=compared,
        moved_by=moved_by,
        better_a=better_a,
        better_b=better_b,
        notes=[f"{name} left out: no request is scored in both rankings" for name in sorted(unscored)],
        unit="request",
    )


def _named(differing: list[str]) -> str:
    return f" (other {', '.join(differing)})" if differing else ""
