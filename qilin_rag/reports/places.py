"""Place runs in a leaderboard: the labels of rows, and the order of rows and columns."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from qilin_rag.core.text import counted
from qilin_rag.reports.measured import Measured

RETRIEVER_ORDER = {"none": 0, "random": 1, "bm25": 2, "oracle_top_k": 8, "oracle": 9}


def row_labels(group: Sequence[Measured]) -> dict[str, list[str]]:
    """Return row labels: the LLM, with as much of the settings as is needed to tell runs apart.

    In this order: fields, order and length of notes, prompt, number of notes, fingerprint, name. If two folders hold
    runs of one configuration, the first keeps its row and the others are told apart by name.

    A run that does not depend on the number of notes is in the row of each number its LLM was given.
    """
    with_prompt = len({run.manifest.labels["prompt"] for run in group if not run.manifest.imported}) > 1
    systems = {run.name: _system_label(run, with_prompt) for run in group}
    top_ks: dict[str, set[int]] = defaultdict(set)
    for run in group:
        if (k := run.manifest.identity.get("top_k")) is not None:
            top_ks[systems[run.name]].add(k)
    with_k = len(set().union(*top_ks.values())) > 1
    labels = {}
    for run in group:
        system = systems[run.name]
        own_k = run.manifest.identity.get("top_k")
        in_rows = sorted(k for k in top_ks[system] if own_k in (k, None)) if with_k else []
        labels[run.name] = [f"{system} · top {k}" for k in in_rows] or [system]
    copied = {run.name for runs in _by_fingerprint(group) for run in runs[1:]}
    labels |= {name: [f"{row} · {name}" for row in labels[name]] for name in copied}
    fingerprints = {run.name: run.manifest.fingerprint[:8] for run in group}
    names = {run.name: run.name for run in group}
    for distinguished in (fingerprints, names):
        places = [(row, run.manifest.labels["retriever"], run.name) for run in group for row in labels[run.name]]
        taken = Counter((row, column) for row, column, _ in places)
        for name in {name for row, column, name in places if taken[row, column] > 1}:
            labels[name] = [f"{row} · {distinguished[name]}" for row in labels[name]]
    return labels


def copies(group: Sequence[Measured]) -> list[str]:
    """Return remarks on runs of one configuration: the first keeps its row, the others have rows of their own."""
    notes = []
    for first, *others in _by_fingerprint(group):
        for run in others:
            figures = "the same figures" if _have_same_figures(run, first) else "other figures"
            notes.append(f"{run.name}: the configuration of {first.name}, {figures}")
    return notes


def _have_same_figures(first: Measured, other: Measured) -> bool:
    signatures = [{metric: run.signature(metric) for metric in run.values} for run in (first, other)]
    return (
        list(first.questions) == list(other.questions)
        and signatures[0] == signatures[1]
        and all(np.array_equal(first.values[metric], other.values[metric], equal_nan=True) for metric in first.values)
    )


def _by_fingerprint(group: Sequence[Measured]) -> list[list[Measured]]:
    found: dict[str, list[Measured]] = defaultdict(list)
    for run in group:
        found[run.manifest.fingerprint].append(run)
    return list(found.values())


def _system_label(run: Measured, with_prompt: bool) -> str:
    label = run.llm
    if (fields := run.manifest.identity.get("note_fields")) is not None:
        label += f" · {fields}"
    if (order := run.manifest.config.get("note_order")) not in ("best_first", None):
        label += f" · {order}"
    if chars := run.manifest.config.get("note_chars"):
        label += f" · notes of {chars} characters"
    if n_images := run.manifest.identity.get("note_images"):
        label += f" · {counted(n_images, 'image')} a note"
    return f"{label} · {run.manifest.labels['prompt']}" if with_prompt and not run.manifest.imported else label


def natural(row: str) -> list[tuple[bool, int, str]]:
    """Return a sort key that puts 7b before 72b."""
    parts = re.split(r"([0-9]+)", row)
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def column_order(column: str) -> tuple[int, str]:
    """Return the place of a column: no notes first, unknown retrievers before the oracle."""
    return RETRIEVER_ORDER.get(column.split(" ")[0], RETRIEVER_ORDER["oracle"] - 1), column
