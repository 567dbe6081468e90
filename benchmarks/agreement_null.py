"""How often `agreement qilin` names a measure in worlds without quality, and finds the planted AUC in worlds with it.

Without quality, users' feedback has to do with the length of an answer alone, so whatever measure is named better than
the sentinels, on any label of a world, is an error. `few-queries`: worlds in which many answers are to one query, so
that answers are compared with other favoured ones, too, and length matters three times as much. With quality, it prints
how often the interval of a measure holds the AUC that was planted within strata of length: the mean over all worlds, to
which draws of users refer, and that of the very answers of the world, which varies less.

usage: python benchmarks/agreement_null.py [worlds] [usual|few-queries|quality ...]
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.agreement.auc import auc, quantile_strata
from qilin_rag.agreement.qilin_answers import ENGAGED, NO_RE_SEARCH, LabelledAnswers, no_re_search, user_clusters
from qilin_rag.agreement.qilin_scores import LENGTH, notes_overlaps, score_sentinels
from qilin_rag.agreement.qilin_table import N_STRATA, QilinAgreement, qilin_agreement
from qilin_rag.core.stats import wilson95
from qilin_rag.data.feedback import find_re_searches
from qilin_rag.data.schema import FEEDBACK
from qilin_rag.synth import PlantedAnswers, plant_answers, resolve_world

N_WORLDS = 200
N_ANSWERS = 200
WORLDS = {
    "usual": (),
    "few-queries": ("topics=2", "lengths={4: 1}", "length_bias=1.5"),
}
SEEN = "notes_overlap"
"""The measure that sees the quality."""
QUALITY = "quality"
_SHOWN = ("shown_if_factoid=1", "shown_if_not=1")

Floats = npt.NDArray[np.floating[Any]]


class Share(NamedTuple):
    """How many of all had it."""

    n: int
    of: int

    def __str__(self) -> str:
        """Write it with Wilson's interval."""
        low, high = wilson95(self.n / self.of, self.of)
        return f"{self.n} of {self.of} = {self.n / self.of:.1%} [{low:.1%}, {high:.1%}]"


def plant(seed: int, settings: Sequence[str] = (), without: Sequence[str] = (), n: int = N_ANSWERS) -> PlantedAnswers:
    """Return the answers of a world."""
    counts = {"notes": 2 * n, "searches": n, "recommendations": 1, "dqa": n, "users": n // 3}
    return plant_answers(resolve_world(counts, seed, without, [*_SHOWN, *settings]))


def labelled(planted: PlantedAnswers) -> LabelledAnswers:
    """Return the answers as `agreement qilin` reads them from files."""
    dqa = planted.dqa
    names = list(map(str, dqa.column("search_idx").to_pylist()))
    flags = {name: dqa.column(name).to_numpy().astype(np.int64) for name in FEEDBACK}
    again = dict(zip(planted.searches.ids, find_re_searches(planted.searches).label.tolist(), strict=True))
    notes = dqa.column("ref_note_idx_list").to_pylist()
    known = sorted({note for each in notes for note in each})
    text_of = dict(zip(known, planted.note_texts(known), strict=True))
    return LabelledAnswers(
        queries=dqa.column("query").to_pylist(),
        texts=dqa.column("dqa_output").to_pylist(),
        notes=[[text_of[note] for note in each] for each in notes],
        users=user_clusters(dqa.column("user_idx").to_numpy().astype(np.int64)),
        labels={
            ENGAGED: np.max(list(flags.values()), axis=0),
            **flags,
            NO_RE_SEARCH: no_re_search(np.array([again[name] for name in names])),
        },
    )


def named(found: QilinAgreement) -> Iterator[tuple[str, str]]:
    """Yield the labels and the measures that are named better than the sentinels."""
    for table in found.labels:
        for row in table.rows:
            if row.is_beyond_sentinels:
                yield table.label, row.measure


def planted_within(scores: Floats, p: Floats, strata: npt.NDArray[np.intp]) -> float:
    """Return the AUC within strata that scores have in the long run for labels of these probabilities."""
    weight = p[:, None] * (1 - p) * (strata[:, None] == strata)
    np.fill_diagonal(weight, 0)
    won = (scores[:, None] > scores) + (scores[:, None] == scores) / 2
    return float((won * weight).sum() / weight.sum())


class Found(NamedTuple):
    """The interval of the AUC of a measure on a flag, and the AUC that was planted for the same answers."""

    ci95: tuple[float, float]
    planted: float

    def is_below(self, auc: float) -> bool:
        """Whether the interval is below an AUC."""
        return self.ci95[1] < auc

    def is_above(self, auc: float) -> bool:
        """Whether the interval is above an AUC."""
        return self.ci95[0] > auc

    def holds(self, auc: float) -> bool:
        """Whether the interval holds an AUC."""
        return not self.is_below(auc) and not self.is_above(auc)


def found_and_planted(planted: PlantedAnswers, seed: int = 0) -> dict[str, Found]:
    """Return what is found of the measure that sees the quality, by flag."""
    answers = labelled(planted)
    scores = notes_overlaps(answers.texts, answers.notes)
    strata = quantile_strata(score_sentinels(answers, seed)[LENGTH].tolist(), N_STRATA)
    found = {}
    for flag in FEEDBACK:
        ci95 = auc(scores, answers.labels[flag] == 1, answers.users, strata, seed).ci95
        assert ci95 is not None
        p = np.array(planted.truth.column(f"p_{flag}").to_pylist(), float)
        found[flag] = Found(ci95, planted_within(scores, p, strata))
    return found


def errors(n_worlds: int, settings: Sequence[str] = (), first_seed: int = 0) -> tuple[Share, Counter[tuple[str, str]]]:
    """Return in how many worlds without quality a measure is named, and which."""
    which: Counter[tuple[str, str]] = Counter()
    n_wrong = 0
    for seed in range(first_seed, first_seed + n_worlds):
        wrong = list(named(qilin_agreement(labelled(plant(seed, settings, ["quality"])), seed)))
        which.update(wrong)
        n_wrong += bool(wrong)
    return Share(n_wrong, n_worlds), which


def main(n_worlds: int, kinds: Sequence[str]) -> None:
    """Print the errors without quality, then what is found with it."""
    for name in (name for name in WORLDS if name in kinds):
        share, which = errors(n_worlds, WORLDS[name])
        said = ", ".join(f"{measure} on {label} {n}" for (label, measure), n in which.most_common(4))
        print(f"without quality, {name}: a measure is named in {share}{said and f' ({said})'}", flush=True)
    if QUALITY not in kinds:
        return
    found = [found_and_planted(plant(seed, ("quality=2.5",)), seed) for seed in range(n_worlds)]
    every: list[tuple[Found, float]] = []
    for flag in FEEDBACK:
        of_flag = [each[flag] for each in found]
        planted = sum(each.planted for each in of_flag) / n_worlds
        _print_planted(f"{flag} (AUC {planted:.3f})", [(each, planted) for each in of_flag])
        every += [(each, planted) for each in of_flag]
    _print_planted("all flags", every)


def _print_planted(name: str, found: Sequence[tuple[Found, float]]) -> None:
    """Print how many intervals hold the AUC of all worlds, with which each is given."""
    holds = Share(sum(each.holds(planted) for each, planted in found), len(found))
    n_below, n_above = (sum(side(*each) for each in found) for side in (Found.is_below, Found.is_above))
    of_these = Share(sum(each.holds(each.planted) for each, _ in found), len(found))
    print(f"with quality, {SEEN} on {name}: holds in {holds}, {n_below} below and {n_above} above it")
    print(f"    the AUC of the very answers: in {of_these}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else N_WORLDS, sys.argv[2:] or [*WORLDS, QUALITY])
