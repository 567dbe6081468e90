"""Draw a sample of notes for people to label, and measure how far a safety filter agrees with the labels."""

from __future__ import annotations

import csv
import json
import logging
import math
import random
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import write_text
from qilin_rag.core.spreadsheet import csv_text, read_back
from qilin_rag.core.stats import wilson95
from qilin_rag.core.types import Frozen
from qilin_rag.data.notes import NoteStore

logger = logging.getLogger(__name__)
SAFE, UNSAFE = "safe", "unsafe"
MOST_CHARS = 10_000  # of a cell, as much as a spreadsheet shows
_COLUMNS = ("note_idx", "label", "title", "content", "flagged", "weight")
_N_DRAWS = 10_000
Rows = npt.NDArray[np.bool_]


class Share(Frozen):
    """A share with its 95% interval (see `_share`); `n` draws (with weights: as many as they are worth)."""

    value: float
    ci95: tuple[float, float]
    n: float


class Agreement(Frozen):
    """A filter's verdicts beside labels. Null if nothing was flagged, or nothing is labelled unsafe.

    `not_judged`: labelled notes without a verdict, in no figure. `weighted`: each note counts for those it was drawn
    for, and the four counts are of notes without weights.
    """

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    not_judged: int
    weighted: bool
    precision: Share | None
    recall: Share | None
    f1: Share | None


class SafetyLabel(NamedTuple):
    """A person's finding about a note: names of prompts, or `unsafe` if no name is given; nothing if it is safe."""

    note_idx: int
    found: frozenset[str]
    weight: float


def write_review(path: Path, notes: NoteStore, unsafe: Rows, kept: Rows, n_sample: int, seed: int) -> None:
    """Draw notes for people to label: half of them flagged, half kept, in random order, an empty column for labels.

    If one half is short, the other fills up. A file in which somebody has begun to label is left alone.
    """
    if not n_sample:
        return
    if path.exists() and any(row.get("label", "").strip() for _, row in _read_csv(path)):
        logger.warning("%s holds labels, so no new sample is drawn; to draw one, move it away", path)
        return
    rng = random.Random(seed)
    strata = {"yes": np.flatnonzero(unsafe).tolist(), "no": np.flatnonzero(kept).tolist()}
    half = n_sample // 2
    sizes = {"yes": min(len(strata["yes"]), max(half, n_sample - len(strata["no"])))}
    sizes["no"] = min(len(strata["no"]), n_sample - sizes["yes"])
    drawn = [
        (slot, flagged, len(slots) / sizes[flagged])
        for flagged, slots in strata.items()
        for slot in rng.sample(slots, sizes[flagged])
    ]
    rng.shuffle(drawn)
    rows = []
    for slot, flagged, weight in drawn:
        [note] = notes.get([int(notes.note_idxs[slot])])
        rows.append([note.note_idx, "", _cell(note.title), _cell(note.content), flagged, f"{weight:.6g}"])
    write_text(path, "\ufeff" + csv_text(_COLUMNS, rows))  # the mark tells spreadsheets that it is UTF-8


def _cell(text: str) -> str:
    """Return a text as a cell of a spreadsheet holds it."""
    shown = text.replace("\r\n", "\n").replace("\r", "\n")
    return f"{shown[:MOST_CHARS]}…" if len(shown) > MOST_CHARS else shown


def read_labels(path: Path, names: Collection[str], notes: NoteStore) -> list[SafetyLabel]:
    """Read labels from csv or jsonl: `note_idx`, `label`, and `weight` if notes were drawn with different odds.

    A label is `safe`, `unsafe`, or the names of prompts with a semicolon between; a row without one is passed over.
    """
    rows = _read_csv(path) if path.suffix == ".csv" else _read_jsonl(path)
    labels: dict[int, SafetyLabel] = {}
    for line_number, row in rows:
        if not str(row.get("label") or "").strip():
            continue
        try:
            label = _label(row, names)
        except ValueError as error:
            raise UsageError(f"{path}, line {line_number}: {error}") from None
        if label.note_idx in labels:
            raise UsageError(f"{path}, line {line_number}: note {label.note_idx} is labelled twice")
        labels[label.note_idx] = label
    if not labels:
        raise UsageError(f"{path}: no note is labelled; it needs the columns note_idx and label")
    if missing := notes.missing(list(labels)):
        raise UsageError(f"{path}: the data has no note {', '.join(map(str, missing[:5]))}")
    return list(labels.values())


def _label(row: Mapping[str, Any], names: Collection[str]) -> SafetyLabel:
    found = frozenset(filter(None, re.split(r"[;；,，\s]+", str(row["label"]).lower())))
    if unknown := found - {SAFE, UNSAFE, *names}:
        raise ValueError(f"label {min(unknown)!r}: must be safe, unsafe, or of {', '.join(sorted(names))}")
    if SAFE in found and len(found) > 1:
        raise ValueError("a note can't be safe and something else")
    note_idx, weight = str(row.get("note_idx")), row.get("weight")
    if not note_idx.isascii() or not note_idx.isdigit() or int(note_idx) >= 2**63:
        raise ValueError(f"note_idx {note_idx!r} is not a whole number")
    try:
        weight = 1.0 if weight in (None, "") else float(str(weight))
    except ValueError:
        raise ValueError(f"weight {weight!r} is not a number") from None
    if not 0 < weight < math.inf:
        raise ValueError(f"weight {weight:g} must be above 0")
    return SafetyLabel(int(note_idx), found - {SAFE}, weight)


def _read_csv(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="", strict=True)
            for row in reader:
                yield reader.line_num, {key: read_back(value) for key, value in row.items() if key is not None}
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}") from error
    except (csv.Error, ValueError) as error:
        raise UsageError(f"{path} is not a table of comma-separated values in UTF-8: {error}") from error


def _read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open("rb") as file:
            for line_number, line in enumerate(file, start=1):
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                if not isinstance(row, dict):
                    raise UsageError(f"{path}, line {line_number}: not a JSON object")
                yield line_number, row
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}") from error


def agreements(labels: Sequence[SafetyLabel], said: Mapping[str, Sequence[bool | None]]) -> dict[str, Agreement]:
    """Measure agreement by the names of `said` (verdicts on the labelled notes, None if missing), and by `any`.

    A note that is labelled only `unsafe` is in the figures of `any` alone; what nobody was asked about counts nowhere.
    """
    asked = {UNSAFE, *said}
    found = {}
    for name, verdicts in said.items():
        pairs = [
            (flagged, bool(label.found & asked) if name == "any" else name in label.found, label.weight)
            for label, flagged in zip(labels, verdicts, strict=True)
            if name == "any" or label.found != {UNSAFE}
        ]
        found[name] = _agreement(pairs)
    return found


def _agreement(pairs: Sequence[tuple[bool | None, bool, float]]) -> Agreement:
    """Measure the agreement of triples (flagged, unsafe, weight)."""
    weights: dict[tuple[bool, bool], list[float]] = {(f, u): [] for f in (True, False) for u in (True, False)}
    for flagged, is_unsafe, weight in pairs:
        if flagged is not None:
            weights[flagged, is_unsafe].append(weight)
    hit, wrong, missed = weights[True, True], weights[True, False], weights[False, True]
    heaviest, kept = (max([*weights[side, True], *weights[side, False]], default=0.0) for side in (True, False))
    # F1 is 2J / (1 + J) of this share, which is Jaccard's, and so is its interval
    both = _share(hit, [*wrong, *missed], heaviest, max(heaviest, kept))
    return Agreement(
        true_positives=len(hit),
        false_positives=len(wrong),
        false_negatives=len(missed),
        true_negatives=len(weights[False, False]),
        not_judged=sum(flagged is None for flagged, _, _ in pairs),
        weighted=any(weight != 1 for _, _, weight in pairs),
        precision=_share(hit, wrong, heaviest, heaviest),
        recall=_share(hit, missed, heaviest, kept),
        f1=both and Share(value=_f1(both.value), ci95=(_f1(both.ci95[0]), _f1(both.ci95[1])), n=both.n),
    )


def _f1(jaccard: float) -> float:
    return 2 * jaccard / (1 + jaccard)


def _share(of: Sequence[float], others: Sequence[float], most_of: float, most_others: float) -> Share | None:
    """Return a weighted share, with as many draws as equal weights would need (Kish); None for no draws.

    `most_of` and `most_others` are the largest weights that a note of either kind could have had. If weights
    differ, a kind that none was found of may still be many: the interval is of Jeffreys' posterior, in
    which each kind has half a note of its largest weight more. Of equal weights it is Wilson's.
    """
    every = [*of, *others]
    if not every:
        return None
    value, n = sum(of) / sum(every), sum(every) ** 2 / sum(weight**2 for weight in every)
    if len({*every, most_of, most_others} - {0.0}) == 1:
        return Share(value=value, ci95=wilson95(value, n), n=n)
    rng = np.random.default_rng(0)
    totals = []
    for kind, most in ((of, most_of), (others, most_others)):
        weights, counts = np.unique(kind, return_counts=True)  # those of equal weight are drawn together
        totals.append(rng.standard_gamma([*counts, 0.5], (_N_DRAWS, len(weights) + 1)) @ [*weights, most])
    low, high = np.percentile(totals[0] / (totals[0] + totals[1]), [2.5, 97.5]).tolist()
    return Share(value=value, ci95=(min(low, value), max(high, value)), n=n)
