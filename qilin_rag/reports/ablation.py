"""Measure what the way of asking changes: one factor at a time around a default, and whether rankings survive it.

A factor is the prompt, the number of notes, their order, their length, the number of their images, the query stage,
or the number of wrong notes (`noise`); its levels are the settings that were tried.
Each level of a system (retriever and LLM) is compared with its default, question by question.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qilin_rag.config.run import RunConfig
from qilin_rag.config.spec import NO_QUERY
from qilin_rag.core.errors import UsageError
from qilin_rag.core.note_fields import TITLE_AND_CONTENT, note_fields_label
from qilin_rag.core.stats import holm, kendall_tau, paired_tests
from qilin_rag.core.types import Frozen
from qilin_rag.pipeline.sweep import NOISE, NOTE_IMAGES, QUERY, factor_setting
from qilin_rag.reports.finding import find_runs
from qilin_rag.reports.measured import FROM_THE_HIGHEST, Measured, clusters_of, highest_is_best, read_runs, values_of
from qilin_rag.reports.noise import noise_level, share_of_wrong, without_level
from qilin_rag.reports.query_levels import query_level, without_query

Setting = str | int | None
Key = tuple[str, Setting]  # factor, setting


def _images_level(identity: Mapping[str, Any]) -> Setting:
    """Return the number of images of each note that a run sends; None if its questions have no notes."""
    retriever = identity.get("retriever")
    if isinstance(retriever, Mapping) and retriever.get("component") == "retriever/none":
        return None
    level = identity.get(NOTE_IMAGES, 0)
    return level if isinstance(level, int) else None


_FACTORS: dict[str, Callable[[Mapping[str, Any]], Setting]] = {
    "top_k": lambda identity: identity["top_k"],
    "note_fields": lambda identity: identity.get("note_fields", note_fields_label(TITLE_AND_CONTENT)),
    "note_order": lambda identity: identity.get("note_order", RunConfig.model_fields["note_order"].default),
    "note_chars": lambda identity: identity.get("note_chars"),
    NOTE_IMAGES: _images_level,
    QUERY: query_level,
    NOISE: noise_level,
}
_NOT_FOR_ALL = ("top_k", NOTE_IMAGES, QUERY, NOISE)
"""Factors that do not apply to every system; their setting is then None."""


class Level(Frozen):
    """One run: its value and, except at the default, its mean difference to the default over `n_paired` questions.

    `noise` is the share of wrong notes, if the retriever is mixed. `p` and `ci95` come from one paired sign-flip test
    of this difference alone: the interval excludes 0 if and only if p is at most .05. `p_holm` is p adjusted for all
    differences of the factor. `no_interval` says why there is none.
    """

    level: str
    value: float | None
    n: int
    run: str
    difference: float | None = None
    n_paired: int | None = None
    ci95: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None
    no_interval: str | None = None
    noise: float | None = None


class SystemFactors(Frozen):
    """A retriever with an LLM at each level, the default first; `spread` is the highest value minus the lowest.

    The spread is over the `n_spread` questions that are scored at every level.
    """

    retriever: str
    llm: str
    levels: list[Level]
    spread: float | None
    n_spread: int


class FactorRanking(Frozen):
    """Whether systems keep their order: Kendall's tau-b between levels, over questions scored for all at every level.

    `by_default` is the order at the default, best first. A tau is None if all values on one side are equal. The least
    similar pair of levels is the one with the lowest tau.
    """

    of: str
    by_default: list[str]
    n_questions: int
    best: dict[str, str]
    tau_with_default: dict[str, float | None]
    n_pairs: int
    mean_tau: float | None
    lowest_tau: float | None
    least_alike: tuple[str, str] | None


class Factor(Frozen):
    """One factor: what its levels change in each system, and in the order of systems."""

    factor: str
    default: str
    systems: list[SystemFactors]
    rankings: list[FactorRanking]


class Ablation(Frozen):
    """All factors over one set of questions under one metric."""

    data: str
    n_questions: int
    n_clusters: int
    metric: str
    signature: str
    factors: list[Factor]
    notes: list[str]


class _Runs(NamedTuple):
    """The runs of one system: the one at the default, and those with another setting in one factor."""

    default: Measured
    others: dict[Key, Measured]

    def at(self, key: Key) -> Measured | None:
        """Return the run at a setting of a factor; the default's run if the number of notes changes nothing."""
        is_same = key[0] in _NOT_FOR_ALL and _settings(self.default)[key[0]] is None
        return self.default if is_same else self.others.get(key)


class _Pair(NamedTuple):
    """A run at a setting, with the run of the same system at the default."""

    system: tuple[str, str]
    setting: Setting
    run: Measured
    default: Measured


def default_settings(config: RunConfig) -> dict[str, Setting]:
    """Return the setting of each factor in this run."""
    settings = {factor: factor_setting(config, factor) for factor in ("prompt", *_FACTORS)}
    return settings | {QUERY: settings[QUERY] or NO_QUERY}


def common_settings(runs: Sequence[Measured]) -> dict[str, Setting]:
    """Return the setting of each factor that most of these runs have; of equally many, that of the first run."""
    counts: dict[str, Counter[Setting]] = defaultdict(Counter)
    for run in runs:
        for factor, setting in _settings(run).items():
            counts[factor][setting] += 1
    for factor in (NOTE_IMAGES, QUERY, NOISE):
        if len(counts[factor]) > 1:
            del counts[factor][None]  # of other retrievers
    return {factor: of_factor.most_common(1)[0][0] for factor, of_factor in counts.items()}


def saved_runs(folders: Sequence[Path], wanted: Mapping[str, Iterable[Setting]]) -> tuple[list[Measured], list[str]]:
    """Return the complete runs of these folders, and remarks on the others.

    `wanted` limits the retriever, the LLM or a factor to these values.
    """
    runs, left_out = read_runs(find_runs(folders))
    only = {
        what: {Path(str(name)).stem if what == "prompt" else name for name in names} for what, names in wanted.items()
    }
    chosen = []
    for run in runs:
        config = run.manifest.config
        has = {**_settings(run), "retriever": config["retriever"]["name"], "llm": config["llm_label"]}
        if all(has[what] in names or (what in _NOT_FOR_ALL and has[what] is None) for what, names in only.items()):
            chosen.append(run)
    if not chosen:
        why = f" ({left_out[0]})" if left_out else ""
        raise UsageError(
            f"{', '.join(map(str, folders))} holds no such complete run{why}; to make it, ablate without --saved"
        )
    return chosen, left_out


def ablation(runs: Sequence[Measured], default: Mapping[str, Setting], metric: str) -> list[Ablation]:
    """Compare these runs with `default`, a setting of every factor; return a report for each set of questions.

    Leaves out runs that differ from the default in more than one factor, and sets of questions with fewer than two runs
    to compare.

    Raises:
        UsageError: Nothing is left to compare.
    """
    groups: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    for run in runs:
        if run.signature(metric) is None:
            raise UsageError(
                f"{run.name} is not scored by {metric}; qilin-rag score {run.directory.path} --metrics adds it"
            )
        groups[run.manifest.data["sha256"], run.manifest.question_set_sha256].append(run)
    reports = [report for group in groups.values() if (report := _ablation(group, default, metric)).factors]
    if not reports:
        at = ", ".join(f"{factor} {_name(setting)}" for factor, setting in default.items())
        raise UsageError(f"nothing to compare: no system has a run at the default ({at}) and one beside it")
    return reports


def _ablation(group: Sequence[Measured], default: Mapping[str, Setting], metric: str) -> Ablation:
    signatures = {run.signature(metric): run.name for run in group}
    if len(signatures) > 1:
        raise UsageError(
            f"{' and '.join(signatures.values())} are scored by {metric} in different ways; score them again"
        )
    systems, notes = _placed(group, default)
    signature = group[0].signature(metric) or ""
    if not highest_is_best(signature):
        notes.append(FROM_THE_HIGHEST)
    settings = sorted({key for runs in systems.values() for key in runs.others}, key=_order)
    questions = list(group[0].questions.values())
    clusters = clusters_of(questions)
    factors = []
    for factor in default:
        keys = [key for key in settings if key[0] == factor]
        if keys:
            compared = _compared(systems, keys, default[factor], metric)
            factors.append(compared.model_copy(update={"rankings": _rankings(systems, keys, default[factor], metric)}))
    return Ablation(
        data=group[0].manifest.labels["data"],
        n_questions=len(questions),
        n_clusters=len(set(clusters.tolist())),
        metric=metric,
        signature=signature,
        factors=factors,
        notes=notes,
    )


def _settings(run: Measured) -> dict[str, Setting]:
    """Return the setting of each factor in a run; None for a number of notes that changes nothing."""
    found = {factor: of(run.manifest.identity) for factor, of in _FACTORS.items()}
    return {"prompt": run.manifest.labels["prompt"], **found}


def _placed(
    group: Sequence[Measured], default: Mapping[str, Setting]
) -> tuple[dict[tuple[str, str], _Runs], list[str]]:
    """Return the runs by retriever and LLM, and remarks on the runs that have no place."""
    found: dict[tuple[str, str], dict[Key | None, Measured]] = defaultdict(dict)
    n_apart = 0
    varies_query = len({query_level(run.manifest.identity) for run in group} - {None}) > 1
    for run in group:
        has = _settings(run)
        moved = [(f, has[f]) for f in default if has[f] != default[f] and _applies(f, has[f], default[f])]
        if len(moved) > 1:
            n_apart += 1
            continue
        at = moved[0] if moved else None
        label = run.manifest.labels["retriever"]
        if varies_query:
            label = without_query(label, run.manifest.identity)
        its = found[label if default.get(NOISE) is None else without_level(label), run.llm]
        if at in its:
            raise UsageError(f"{its[at].name} and {run.name} differ in nothing that is compared; keep one elsewhere")
        its[at] = run
    systems = {system: _Runs(its.pop(None), its) for system, its in found.items() if None in its}  # type: ignore[arg-type]
    notes = [f"{r} + {llm}: left out, it has no run at the default" for r, llm in found if (r, llm) not in systems]
    if n_apart:
        notes.append(f"left out, since more than one factor is unlike the default: {n_apart} of {len(group)} runs")
    if any(factor == "top_k" for runs in systems.values() for factor, _ in runs.others):
        any_k = [
            f"{r} + {llm}" for (r, llm), runs in systems.items() if runs.default.manifest.identity["top_k"] is None
        ]
        notes += [f"{name}: the number of notes changes nothing" for name in any_k]
    return systems, notes


def _applies(factor: str, setting: Setting, default: Setting) -> bool:
    """Return whether a run can differ from the default in this factor."""
    return factor not in _NOT_FOR_ALL or (setting is not None and (factor != NOISE or default is not None))


def _compared(systems: Mapping[tuple[str, str], _Runs], keys: Sequence[Key], default: Setting, metric: str) -> Factor:
    """Compare each run with its default, all differences of the factor in one matrix."""
    pairs = [
        _Pair(system, setting, run, runs.default)
        for system, runs in systems.items()
        for factor, setting in keys
        if (run := runs.others.get((factor, setting)))
    ]
    questions = pairs[0].run.questions
    ids = list(questions)
    at_default = values_of([pair.default for pair in pairs], metric, ids)
    differences = values_of([pair.run for pair in pairs], metric, ids) - at_default
    clusters = clusters_of(list(questions.values()))
    tests = paired_tests(differences, clusters)
    tested = {i: test.p for i, test in enumerate(tests) if test.p is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    levels: dict[tuple[str, str], list[Level]] = defaultdict(list)
    for i, pair in enumerate(pairs):
        if pair.system not in levels:
            levels[pair.system].append(_level(default, pair.default, metric))
        paired = differences[~np.isnan(differences[:, i]), i]
        interval = tests[i].interval
        compared = {
            "difference": float(paired.mean()) if len(paired) else None,
            "n_paired": len(paired),
            "ci95": (interval.low, interval.high) if interval else None,
            "p": tests[i].p,
            "p_holm": adjusted.get(i),
            "no_interval": tests[i].no_interval,
        }
        levels[pair.system].append(_level(pair.setting, pair.run, metric).model_copy(update=compared))
    rows = []
    for (retriever, llm), its in levels.items():
        runs = [systems[retriever, llm].default, *(pair.run for pair in pairs if pair.system == (retriever, llm))]
        means, n = _shared_means(runs, metric)
        spread = max(means) - min(means) if n else None
        rows.append(SystemFactors(retriever=retriever, llm=llm, levels=its, spread=spread, n_spread=n))
    return Factor(factor=keys[0][0], default=_name(default), systems=rows, rankings=[])


def _level(setting: Setting, run: Measured, metric: str) -> Level:
    summary = run.summary.metrics[metric]
    is_mixed = noise_level(run.manifest.identity) is not None
    noise = share_of_wrong(run.details.hits, run.questions) if is_mixed else None
    return Level(level=_name(setting), value=summary.value, n=summary.n, run=run.name, noise=noise)


def _shared_means(runs: Sequence[Measured], metric: str) -> tuple[list[float], int]:
    """Return the means of runs over the questions that are scored in all of them, and the number of these questions."""
    values = values_of(runs, metric, list(runs[0].questions))
    shared = values[~np.isnan(values).any(axis=1)]
    return (shared.mean(axis=0).tolist() if len(shared) else []), len(shared)


def _rankings(
    systems: Mapping[tuple[str, str], _Runs], keys: Sequence[Key], default: Setting, metric: str
) -> list[FactorRanking]:
    """Compare from level to level the order of LLMs with each retriever, and of retrievers with LLMs."""
    complete = {
        system: [runs.default, *(run for key in keys if (run := runs.at(key)))] for system, runs in systems.items()
    }
    complete = {system: runs for system, runs in complete.items() if len(runs) == 1 + len(keys)}
    levels = [_name(default), *(_name(setting) for _, setting in keys)]
    retrievers = list(dict.fromkeys(retriever for retriever, _ in complete))
    found = []
    for one in [*retrievers, None]:
        ranked = {
            (llm if one else f"{retriever} + {llm}"): runs
            for (retriever, llm), runs in complete.items()
            if one in (retriever, None)
        }
        if len(ranked) < 2 or (one is None and len(retrievers) == 1):
            continue
        means, n = _shared_means([run for runs in ranked.values() for run in runs], metric)
        if n:
            by_level = np.array(means).reshape(len(ranked), len(levels)).T.tolist()
            what = f"LLMs with {one}" if one else "retrievers x LLMs"
            found.append(ranking(what, list(ranked), dict(zip(levels, by_level, strict=True)), n))
    return found


def ranking(of: str, systems: Sequence[str], means: Mapping[str, Sequence[float]], n_questions: int) -> FactorRanking:
    """Measure how stable the order of `systems` is.

    Args:
        of: The name of the ranking.
        systems: The names of the systems.
        means: The mean of each system at every level, the default's level first.
        n_questions: The number of questions that the means are over.
    """
    default = next(iter(means))
    pairs = {pair: kendall_tau(means[pair[0]], means[pair[1]]) for pair in combinations(means, 2)}
    known = {pair: tau for pair, tau in pairs.items() if tau is not None}
    lowest = min(known, key=known.__getitem__, default=None)
    return FactorRanking(
        of=of,
        by_default=[systems[i] for i in np.argsort(-np.asarray(means[default]), kind="stable")],
        n_questions=n_questions,
        best={level: systems[int(np.argmax(values))] for level, values in means.items()},
        tau_with_default={level: pairs[default, level] for level in means if level != default},
        n_pairs=len(pairs),
        mean_tau=float(np.mean(list(known.values()))) if known else None,
        lowest_tau=known[lowest] if lowest else None,
        least_alike=lowest,
    )


def _order(key: Key) -> tuple[str, bool, float, str]:
    """Sort numbers by size, then names; notes that are not cut come last."""
    factor, setting = key
    return factor, setting is None, float(setting) if isinstance(setting, int) else 0.0, str(setting)


def _name(setting: Setting) -> str:
    return "whole" if setting is None else str(setting)


def as_rows(reports: Sequence[Ablation]) -> list[dict[str, Any]]:
    """Return one flat record for each run and factor, for CSV."""
    return [
        {
            "data": report.data,
            "metric": report.metric,
            "factor": factor.factor,
            "default": factor.default,
            "retriever": system.retriever,
            "llm": system.llm,
            **level.model_dump(exclude={"ci95"}),
            "ci95_low": level.ci95[0] if level.ci95 else None,
            "ci95_high": level.ci95[1] if level.ci95 else None,
            "signature": report.signature,
        }
        for report in reports
        for factor in report.factors
        for system in factor.systems
        for level in system.levels
    ]
