"""Make the retrieval block of a leaderboard: a row for each retriever, whatever LLMs and prompts it was used with."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from qilin_rag.core.stats import Values
from qilin_rag.reports.cells import Block, Cell, Detectable, Key
from qilin_rag.reports.measured import Measured, highest_is_best, values_of
from qilin_rag.reports.places import column_order
from qilin_rag.scorers.retrieval import cutoff, is_about_hits

NAME = "retrieval"
Figure = tuple[str, str]
"""A metric and its signature."""


class _Row(NamedTuple):
    """A retriever with the runs that have its figures; the runs under one figure all have the same hits."""

    label: str
    runs: dict[Figure, list[Measured]]


class RetrievalBlock:
    """The retrievers by figures, to be compared with all other figures of a table.

    Runs share a row if the same retriever (and re-ranker) found their notes. If runs of one row and one figure have
    different hits, they get rows of their own, and `notes` says so.
    """

    def __init__(self, group: Sequence[Measured], question_ids: Sequence[str]) -> None:
        """Read the hits of each run, if a figure is of several runs."""
        self._ids = question_ids
        self.notes: list[str] = []
        self.figures = _figures(group)
        by_retriever: dict[str, list[Measured]] = defaultdict(list)
        for run in group:
            if any(run.signature(metric) == signature for metric, signature in self.figures):
                by_retriever[_retriever_of(run)].append(run)
        labels = Counter(_label(runs[0]) for runs in by_retriever.values())
        rows = []
        for retriever, runs in by_retriever.items():
            label = _label(runs[0])
            if labels[label] > 1:
                label = f"{label} · {hashlib.sha256(retriever.encode()).hexdigest()[:8]}"
            rows += self._rows(label, runs)
        self._placed = sorted(rows, key=lambda row: column_order(row.label))
        self.notes += filter(None, map(self._lacking, self._placed))

    def columns(self) -> dict[Key, Values]:
        """Return the figures of each row by question, under the keys that `families` and `block` use."""
        return {
            (figure, runs[0].name): values_of(runs[:1], figure[0], self._ids)[:, 0]
            for row in self._placed
            for figure, runs in row.runs.items()
        }

    def families(self) -> list[list[Key]]:
        """Return the retrievers that are compared with each other: those that have a figure."""
        return [
            [(figure, row.runs[figure][0].name) for row in self._placed if figure in row.runs]
            for figure in self.figures
            if highest_is_best(figure[1])
        ]

    def block(self, cells: Mapping[Key, Cell], could_be_shown: Detectable) -> Block:
        """Return the block made of the cells of `columns`; `could_be_shown` is for the first figure."""
        return Block(
            metric=NAME,
            signature=_joined([signature for _, signature in self.figures]),
            signatures=[signature for _, signature in self.figures],
            rows=[row.label for row in self._placed],
            kinds=["run" for _ in self._placed],
            columns=[metric for metric, _ in self.figures],
            cells=[
                [
                    cells[figure, runs[0].name].model_copy(update={"also": [run.name for run in runs[1:]]})
                    if (runs := row.runs.get(figure))
                    else None
                    for figure in self.figures
                ]
                for row in self._placed
            ],
            detectable=could_be_shown.difference,
            undetectable=could_be_shown.why_not,
            axes=("retriever", "metric"),
        )

    def _lacking(self, row: _Row) -> str | None:
        """Return how to add the figures that a row lacks although its retriever returns all it has for any k."""
        run = next(iter(row.runs.values()))[0]
        ks = sorted({k for figure in self.figures if figure not in row.runs and (k := cutoff(figure[0]))})
        known = {cutoff(metric) for metric, _ in row.runs}
        lacking = [k for k in ks if k not in known]
        if run.manifest.identity["top_k"] is not None or run.manifest.imported or not lacking:
            return None
        again = f"qilin-rag score {run.directory.path} --metrics retrieval --set metrics.retrieval.k="
        return f"{row.label} has no figures at {', '.join(map(str, lacking))}; to add them: {again}{lacking[0]}"

    def _rows(self, label: str, runs: Sequence[Measured]) -> list[_Row]:
        """Return one row, or as many as are needed so that no two runs under one figure differ in their hits."""
        tells: tuple[Callable[[Measured], str], ...] = (
            lambda run: "",
            lambda run: f" · top {run.manifest.identity['top_k']}",
            lambda run: f" · {run.name}",
        )
        rows: list[_Row] = []
        for tell in tells:
            if rows and len({tell(run) for run in runs}) == 1:
                continue
            parts: dict[str, dict[Figure, list[Measured]]] = defaultdict(lambda: defaultdict(list))
            for figure in self.figures:
                for run in runs:
                    if run.signature(figure[0]) == figure[1]:
                        parts[label + tell(run)][figure].append(run)
            rows = [_Row(name, dict(by_figure)) for name, by_figure in parts.items()]
            differing = next(filter(None, map(self._differing, rows)), None)
            if differing is None:
                return rows
            first, other, n = differing
            said = f"{label}: {first.name} and {other.name} have other hits for {n} of {len(self._ids)} questions"
            self.notes += [] if said in self.notes else [said]
        return rows

    def _differing(self, row: _Row) -> tuple[Measured, Measured, int] | None:
        """Return a pair of runs whose hits or figures differ, and the number of such questions."""
        for (metric, _), runs in row.runs.items():
            for other in runs[1:]:
                if n := self._n_differing(metric, runs[0], other):
                    return runs[0], other, n
        return None

    def _n_differing(self, metric: str, first: Measured, other: Measured) -> int:
        depth = cutoff(metric)
        pair = values_of([first, other], metric, self._ids)
        is_other_figure = ~((pair[:, 0] == pair[:, 1]) | np.isnan(pair).all(axis=1))
        hits = [run.details.hits for run in (first, other)]
        return sum(
            is_other or hits[0].get(question_id, [])[:depth] != hits[1].get(question_id, [])[:depth]
            for question_id, is_other in zip(self._ids, is_other_figure.tolist(), strict=True)
        )


def _figures(group: Sequence[Measured]) -> list[Figure]:
    """Return the figures about hits that any run has: by their k, in the order of the runs."""
    found = dict.fromkeys(
        (metric, of.signature)
        for run in group
        for metric, of in run.summary.metrics.items()
        if is_about_hits(of.signature)
    )
    return sorted(found, key=lambda figure: cutoff(figure[0]) or 0)


def _label(run: Measured) -> str:
    """Return the retriever's name in tables, with the fields it read; an unknown one is named after its system."""
    label = run.manifest.labels["retriever"]
    if (fields := run.manifest.identity.get("note_fields")) is not None:
        label += f" · {fields}"
    return f"{label} ({run.manifest.imported.name})" if run.manifest.imported else label


def _retriever_of(run: Measured) -> str:
    """Return what found a run's notes, what ordered them, and the texts that both read."""
    identity = run.manifest.identity
    named = [identity["retriever"], identity.get("rerank"), identity.get("note_texts"), identity.get("query")]
    return json.dumps(named, sort_keys=True)


def _joined(signatures: Sequence[str]) -> str:
    """Join signatures: the heads of those that share the rest, then the rest."""
    heads: dict[str, list[str]] = defaultdict(list)
    for signature in signatures:
        head, _, rest = signature.partition("|")
        heads[rest].append(head)
    return "; ".join("|".join([", ".join(found), *([rest] if rest else [])]) for rest, found in heads.items())
