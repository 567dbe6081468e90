"""Make Table 10: rankers by figures over the same requests, with intervals and ties."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qilin_rag.core.errors import UsageError, unknown_name
from qilin_rag.core.hashing import json_hash
from qilin_rag.core.registry import describe
from qilin_rag.core.stats import Values
from qilin_rag.data.released import why_other_requests
from qilin_rag.data.requests import TaskName
from qilin_rag.rankers.candidates import EXPOSED
from qilin_rag.rankers.diversity import COVERAGE, ILD
from qilin_rag.rankers.metrics import RELEASED
from qilin_rag.rankers.placements import REQUEST_AUC, SAMPLED_FIGURES
from qilin_rag.rankers.ranking_directory import (
    MANIFEST,
    POOLED_SIGNATURES,
    SIGNATURES,
    RankingDirectory,
    RankingManifest,
    RankingSummary,
    RequestFigures,
    clusters_of,
    why_missing,
)
from qilin_rag.reports.cells import Block, Cell, Key, Kind, ResultTable, compared, detectable
from qilin_rag.reports.finding import find_runs
from qilin_rag.reports.paper import RANKERS_REMARK, paper_rankers, quote
from qilin_rag.reports.places import natural

_SHOWN = {
    "mrr@10": "MRR@10",
    "mrr@100": "MRR@100",
    "map@10": "MAP@10",
    "map@100": "MAP@100",
    "ndcg@10": "nDCG@10",
    "recall@10": "Recall@10",
    "precision@10": "Precision@10",
}
_SAMPLED = {name: name.replace("hit", "Hit").replace("ndcg", "nDCG").replace("mrr", "MRR") for name in SAMPLED_FIGURES}
COLUMNS = _SHOWN | {name: name.replace("map", "MAP") for name in RELEASED}
"""The heading of each figure that is shown of exposed candidates."""
HEADINGS = (
    COLUMNS
    | {"recall@100": "Recall@100", "precision@100": "Precision@100"}
    | _SAMPLED
    | {
        REQUEST_AUC: "AUC of requests",
        "auc": "AUC",
        "gauc_request": "GAUC by request",
        "gauc_user": "GAUC by user",
        "logloss": "LogLoss",
        "calibration": "Calibration",
        ILD: "ILD@10",
        COVERAGE: "Coverage@10",
    }
)
"""The heading of each figure."""

CONTROLS = ("random", "production")


class _Ranked(NamedTuple):
    """One run: its figures by request, for requests with a click."""

    name: str
    manifest: RankingManifest
    summary: RankingSummary
    lines: dict[str, RequestFigures]


def ranking_board(
    *runs_dirs: Path,
    task: TaskName,
    with_paper: bool = False,
    paper_anyway: bool = False,
    metrics: Sequence[str] = (),
) -> list[ResultTable]:
    """Return the tables of a task, one for each set of requests and candidates; largest first.

    Args:
        runs_dirs: Folders of rankings.
        task: The task.
        with_paper: Whether to add rows of the paper if the requests are known to be Qilin's.
        paper_anyway: Whether to add them beside other requests as well.
        metrics: Names, headings or patterns (`*`) of the figures to show. Default: the usual ones of the candidates.

    Raises:
        UsageError: There is no complete ranking, or no figure of these names.
    """
    chosen = named_figures(metrics)
    runs, left_out = _read(runs_dirs, task)
    if not runs:
        why = f" ({left_out[0]})" if left_out else ""
        folders = ", ".join(map(str, runs_dirs))
        raise UsageError(
            f"{folders} holds no complete ranking of {task}{why}; begin with: qilin-rag rank --task {task}"
        )
    groups: dict[tuple[object, ...], list[_Ranked]] = defaultdict(list)
    for run in runs:
        scored = frozenset(line.id for line in run.lines.values() if line.figures)
        of = run.manifest
        candidates = json_hash(of.identity.get("candidates"), sort_keys=True, ensure_ascii=True)
        groups[of.requests_sha256, of.config.split, of.identity.get("first"), candidates, scored].append(run)
    ordered = sorted(groups.values(), key=lambda group: (-group[0].summary.counts["requests"], group[0].name))
    tables = [_table(group, task, with_paper, paper_anyway, chosen) for group in ordered]
    if not (tables := [table for table in tables if table.blocks[0].columns]):
        raise UsageError(f"no ranking of {task} has a figure of {', '.join(metrics or HEADINGS)}")
    tables[-1] = tables[-1].model_copy(update={"notes": [*tables[-1].notes, *left_out]})
    return tables


def named_figures(metrics: Sequence[str]) -> list[str]:
    """Return the figures that are meant by names, headings or patterns, in the order of `HEADINGS`.

    Raises:
        UsageError: A name is of no figure.
    """
    found = set()
    for given in metrics:
        wanted = given.lower()
        fitting = {
            name
            for name, heading in HEADINGS.items()
            for known in (name, name.partition("@")[0], heading.lower())
            if known == wanted or fnmatchcase(known, wanted)
        }
        if not fitting:
            raise unknown_name("metric", given, HEADINGS, "is not a figure of rankings")
        found |= fitting
    return [name for name in HEADINGS if name in found]


def labels_of(rankers: Sequence[tuple[str, RankingManifest]]) -> list[str]:
    """Return a label for each run, by name and manifest, without duplicates.

    The label is the ranker with its settings that are not the default; for a trained ranker, only those that tell it
    apart from others of its kind here. If that is not enough, the folder of its checkpoint, the fingerprint, or the
    run's name is added.
    """
    kinds: dict[str, list[RankingManifest]] = defaultdict(list)
    for _, manifest in rankers:
        kinds[manifest.ranker.name].append(manifest)
    labels = [_label(manifest, kinds[manifest.ranker.name]) for _, manifest in rankers]
    more: tuple[Callable[[str, RankingManifest], str | None], ...] = (
        lambda name, manifest: manifest.ranker.checkpoint and Path(manifest.ranker.checkpoint).name,
        lambda name, manifest: manifest.fingerprint[:8],
        lambda name, manifest: name,
    )
    for tell in more:
        taken = Counter(labels)
        labels = [
            f"{label} · {told}" if taken[label] > 1 and (told := tell(*ranker)) else label
            for label, ranker in zip(labels, rankers, strict=True)
        ]
    return labels


def _label(manifest: RankingManifest, kind: Sequence[RankingManifest]) -> str:
    ranker = manifest.ranker
    fields = manifest.identity.get("note_fields")
    read = "" if fields is None else f" · {fields}"
    if ranker.checkpoint is None:
        return describe(ranker.name, ranker.changed) + read
    others = [other.ranker.settings for other in kind]
    differing = {
        name: value for name, value in ranker.changed.items() if any(settings.get(name) != value for settings in others)
    }
    return describe(ranker.name, differing) + read


def _read(runs_dirs: Sequence[Path], task: TaskName) -> tuple[list[_Ranked], list[str]]:
    """Return the complete runs of a task, and remarks on the others."""
    paths = find_runs(runs_dirs, MANIFEST, f"qilin-rag rank --task {task}")
    folders_with = Counter(path.name for path in paths)
    runs, left_out = [], []
    for path in paths:
        name = str(path) if folders_with[path.name] > 1 else path.name
        directory = RankingDirectory(path)
        try:
            manifest = directory.read_manifest()
            if manifest.config.task != task:
                continue
            if manifest.state != "complete":
                left_out.append(f"left out, {manifest.state}: {name}")
                continue
            lines = {line.id: line for line in directory.read_figures()}
            summary = directory.read_summary()
            made = {name: of.signature for name, of in (summary.metrics | summary.pooled).items()}
            known = SIGNATURES | POOLED_SIGNATURES
            if any(signature != known.get(name, signature) for name, signature in made.items()):
                raise UsageError(f"{path}: its figures were made in another way; rank again (--fresh)")
            if len(lines) != summary.counts["requests"]:
                raise UsageError(f"{path}: figures.jsonl has {len(lines)} of {summary.counts['requests']} requests")
            runs.append(_Ranked(name, manifest, summary, lines))
        except UsageError as error:
            left_out.append(f"left out, unreadable: {error}")
    return runs, left_out


def _table(
    group: Sequence[_Ranked], task: TaskName, with_paper: bool, paper_anyway: bool, chosen: Sequence[str]
) -> ResultTable:
    first = group[0]
    scored = [line for line in first.lines.values() if line.figures]
    clusters = clusters_of(scored)
    labels = dict(zip([run.name for run in group], labels_of([(run.name, run.manifest) for run in group]), strict=True))
    runs = sorted(group, key=lambda run: (_place(run), natural(labels[run.name])))
    there = {name for run in runs for name in (*run.summary.metrics, *run.summary.pooled)}
    shown = [name for name in chosen or _usual(first) if name in there]
    columns: dict[Key, Values] = {
        (figure, run.name): np.array([(run.lines[line.id].figures or {}).get(figure, np.nan) for line in scored])
        for figure in shown
        for run in runs
        if figure in run.summary.metrics
    }
    families = [[(figure, run.name) for run in runs if (figure, run.name) in columns] for figure in shown]
    cells, pairs = compared(columns, families, clusters) if scored else ({}, [])
    cells |= {(name, run.name): cell for name in shown for run in runs if (cell := _pooled(run, name))}
    could_be_shown = detectable([pair for pair in pairs if pair.best[0] == shown[0]], clusters)
    quoted = quote(with_paper, paper_anyway, _why_other_data(first, task), RANKERS_REMARK)
    of_paper = paper_rankers(task, quoted)
    kinds: list[Kind] = ["run" for _ in runs]
    is_sampled = first.manifest.config.candidates.startswith("sampled")
    how = "each click against the negatives" if is_sampled else "as ir_measures, relevance = click"
    how = f"{how}, mean over all orders of ties"
    block = Block(
        metric=task,
        signature=how if chosen or not shown else f"{how}; of {HEADINGS[shown[0]]}",
        signatures=[(SIGNATURES | POOLED_SIGNATURES)[name] for name in shown] if chosen else [],
        rows=[*(labels[run.name] for run in runs), *of_paper],
        kinds=[*kinds, *("paper" for _ in of_paper)],
        columns=[HEADINGS[name] for name in shown],
        cells=[
            *([cells.get((figure, run.name)) for figure in shown] for run in runs),
            *([Cell(value=row[figure]) if figure in row else None for figure in shown] for row in of_paper.values()),
        ],
        detectable=could_be_shown.difference,
        undetectable=could_be_shown.why_not,
        axes=("ranker", "metric"),
    )
    return ResultTable(
        data=_what(first.manifest),
        unit="requests",
        n_questions=len(scored),
        n_clusters=len(np.unique(clusters)),
        blocks=[block],
        notes=[*_ties(runs, labels), *_missing(runs, labels, shown), *_footnotes(group), *quoted.notes],
    )


def _usual(run: _Ranked) -> Sequence[str]:
    """Return the figures that are shown of the candidates of a run if none are named."""
    candidates = run.manifest.config.candidates
    if candidates == EXPOSED:
        return list(COLUMNS)
    return SAMPLED_FIGURES if candidates.startswith("sampled") else [*_SHOWN, "recall@100"]


def _pooled(run: _Ranked, name: str) -> Cell | None:
    """Return the cell of a figure of the whole set, which is compared with no other; None if it is missing."""
    figure = run.summary.pooled.get(name)
    if figure is None or figure.value is None:
        return None
    return Cell(value=figure.value, ci95=figure.ci95, no_interval=figure.no_interval, run=run.name)


def _missing(runs: Sequence[_Ranked], labels: Mapping[str, str], shown: Sequence[str]) -> list[str]:
    """Say which figures runs lack, and why."""
    notes: dict[tuple[str, str], list[str]] = defaultdict(list)  # figures by run and reason
    for run in runs:
        why_not = why_missing(run.summary)
        for name in shown:
            if name not in run.summary.metrics and name not in run.summary.pooled:
                notes[labels[run.name], "ranked before there was this figure (again: --fresh)"].append(HEADINGS[name])
            elif name in why_not:
                notes[labels[run.name], why_not[name]].append(HEADINGS[name])
    return [f"{label}: no {', '.join(headings)}: {why}" for (label, why), headings in notes.items()]


def _why_other_data(run: _Ranked, task: TaskName) -> str | None:
    """Return why requests may not be those of the paper's Table 10; None if they are."""
    if run.manifest.config.split != "test":
        return f"requests of the split {run.manifest.config.split}, the paper ranks those of test"
    if of_candidates := run.manifest.config.of_candidates:
        return f"{of_candidates}, the paper ranks what was shown"
    queries = {line.id: line.query for line in run.lines.values()}
    return why_other_requests(f"{task}_test", queries, is_part=run.manifest.identity.get("first") is not None)


def _place(run: _Ranked) -> int:
    """Return the place of a run: controls first, then rankers by name."""
    name = run.manifest.ranker.name
    return CONTROLS.index(name) if name in CONTROLS else len(CONTROLS)


def _what(manifest: RankingManifest) -> str:
    """Describe the data, its requests, and their candidates."""
    first = manifest.identity.get("first")
    requests = manifest.config.split + (f" (the first {first:,} by id)" if first else "")
    return ", ".join(filter(None, (manifest.label, requests, manifest.config.of_candidates)))


def _ties(runs: Sequence[_Ranked], labels: Mapping[str, str]) -> list[str]:
    """Say in one note how much each run's MRR@10 depends on ties."""
    found = [
        f"{labels[run.name]} {hanging.lowest:.4f} to {hanging.highest:.4f} "
        f"({run.summary.counts['tied'] / run.summary.counts['requests']:.1%} of the requests)"
        for run in runs
        if (hanging := run.summary.ties.get("mrr@10"))
    ]
    what = "MRR@10 by the order of clicked and unclicked candidates that score the same"
    return [f"{what}: {', '.join(found)}"] if found else []


def _footnotes(group: Sequence[_Ranked]) -> list[str]:
    notes = []
    counts, config = group[0].summary.counts, group[0].manifest.config
    if counts["without_click"]:
        notes.append(f"{counts['without_click']:,} of {counts['requests']:,} requests have no click, and no figure")
    if counts["left_out"]:
        notes.append(f"{counts['left_out']:,} candidates were left out: the data lacks their notes")
    if counts.get("not_found"):
        lost = f"{counts['not_found']:,} of {counts['clicked']:,} clicked notes are not among the candidates"
        notes.append(f"{lost}, and count as not found")
    if counts.get("without_candidates"):
        notes.append(f"{counts['without_candidates']:,} requests have no candidates")
    options = [f"--task {config.task}", f"--data {shlex.quote(config.data)}"]
    options += [f"--split {config.split}"] if config.split != "test" else []
    options += [f"--first {config.first}"] if config.first else []
    options += [f"--candidates {shlex.quote(config.candidates)}"] if config.of_candidates else []
    options += [f"--seed {config.seed}"] if config.seed else []
    options += ["--missing-notes skip"] if config.missing_notes == "skip" else []
    there = {run.manifest.ranker.name for run in group}
    if config.of_candidates and "production" in there:
        notes.append("production: the order of the candidates by their own score")
    controls = CONTROLS[:1] if config.candidates.startswith("sampled") else CONTROLS
    lacking = [name for name in controls if name not in there]
    return notes + [f"to compare with: qilin-rag rank --ranker {name} {' '.join(options)}" for name in lacking]
