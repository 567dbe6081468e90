"""Show what depends on how a metric is made: rank runs by its variants, from saved answers. Nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from statistics import fmean
from typing import Any, get_args

import numpy as np
from pydantic import ValidationError

from qilin_rag.core.errors import UsageError, explain
from qilin_rag.core.stats import Values, kendall_tau
from qilin_rag.core.types import Frozen, Question, Sample
from qilin_rag.pipeline.scoring import load_models, score_samples
from qilin_rag.reports.measured import FROM_THE_HIGHEST, Measured, highest_is_best
from qilin_rag.scorers import AnswerScorer, Scorer
from qilin_rag.scorers.summary import as_values

AS_IT_IS = "as it is"
LAYER_STEPS = (-2, 2)
"""The BERTScore layers below and above the one in use that are tried by default."""


GROUPINGS: dict[str, Callable[[list[float]], float]] = {"references: mean": fmean, "references: first": itemgetter(0)}
"""How to combine the values of an answer against each single reference; as it is, a metric takes all at once."""


class Variant(Frozen):
    """The metric made in one way: the mean of each run, and how the order of runs changes.

    `tau` is Kendall's tau-b with the first variant, the metric as it is; None if all runs are equal under one of them.
    `changes_best`: the best run of the metric as it is, is not the best here.
    """

    variant: str
    means: list[float]
    order: list[str]
    tau: float | None = None
    changes_best: bool = False


class Sensitivity(Frozen):
    """All variants of a metric over the `n_scored` questions that are scored in every run."""

    data: str
    n_questions: int
    n_scored: int
    metric: str
    signature: str
    runs: list[str]
    variants: list[Variant]
    notes: list[str]


def sensitivity(runs: Sequence[Measured], scorers: Sequence[Scorer], layers: Sequence[int] = ()) -> list[Sensitivity]:
    """Rank runs by each of these metrics, in all its variants; skip metrics that do not read references.

    Raises:
        UsageError: The runs are about different questions, or no metric compares answers with references.
    """
    about = {(run.manifest.data["sha256"], run.manifest.question_set_sha256): run.name for run in runs}
    if len(about) > 1:
        raise UsageError(f"{' and '.join(about.values())} are about different questions; give runs over the same")
    if len(runs) < 2:
        raise UsageError("a ranking needs two runs or more")
    chosen = [scorer for scorer in scorers if isinstance(scorer, AnswerScorer)]
    if not chosen:
        raise UsageError("none of these metrics compares answers with references; rouge_l does")
    if layers and not any(getattr(scorer, "layer", None) for scorer in chosen):
        raise UsageError("none of these metrics has layers; bertscore does (--metrics bertscore)")
    load_models(chosen)
    questions = list(runs[0].questions.values())
    finished = [run.samples() for run in runs]
    samples = [[of_run[question.id] for question in questions] for of_run in finished]
    return [_sensitivity(runs, samples, questions, scorer, layers) for scorer in chosen]


def _sensitivity(
    runs: Sequence[Measured],
    samples: Sequence[Sequence[Sample]],
    questions: Sequence[Question],
    scorer: AnswerScorer,
    layers: Sequence[int],
) -> Sensitivity:
    values = {AS_IT_IS: _values(scorer, samples, questions)}
    signature = scorer.signatures()[scorer.metric]
    notes = [] if highest_is_best(signature) else [FROM_THE_HIGHEST]
    for change in _changes(scorer, layers):
        [(name, value)] = change.items()
        label = f"{name}: {str(value).lower()}"
        try:
            values[label] = _values(_made_with(scorer, change), samples, questions)
        except UsageError as error:
            if name != "layer" or layers:
                raise
            notes.append(f"{label}: left out, {error}")
    if any(len(question.references) > 1 for question in questions):
        alone = [_by_reference(scorer, of_run, questions) for of_run in samples]
        for label, of in GROUPINGS.items():
            values[label] = np.array([[of(each) if each else np.nan for each in of_run] for of_run in alone]).T
    else:
        notes.append("every question has one reference: best, mean and first are the same")
    shared = ~np.isnan(np.stack(list(values.values()))).any(axis=(0, 2))
    if not shared.any():
        raise UsageError(f"{scorer.metric}: no question is scored in every run")
    names = _names(runs)
    return Sensitivity(
        data=runs[0].manifest.labels["data"],
        n_questions=len(questions),
        n_scored=int(shared.sum()),
        metric=scorer.metric,
        signature=signature,
        runs=names,
        variants=_variants(names, {label: matrix[shared].mean(axis=0).tolist() for label, matrix in values.items()}),
        notes=notes,
    )


def _variants(names: Sequence[str], means: Mapping[str, Sequence[float]]) -> list[Variant]:
    """Return the orders, and how they agree with the first one."""
    base = next(iter(means.values()))
    best = int(np.argmax(base))
    return [
        Variant(
            variant=name,
            means=list(its),
            order=[names[i] for i in np.argsort(-np.asarray(its), kind="stable")],
            tau=None if its is base else kendall_tau(base, its),
            changes_best=its[best] < max(its),
        )
        for name, its in means.items()
    ]


def _changes(scorer: AnswerScorer, layers: Sequence[int]) -> list[dict[str, Any]]:
    """Return other settings for this metric, one at a time: tokens, stripping, layer."""
    settings = scorer.model_dump()
    changes: list[dict[str, Any]] = []
    if "tokens" in settings:
        every = get_args(type(scorer).model_fields["tokens"].annotation)
        changes += [{"tokens": tokens} for tokens in every if tokens != settings["tokens"]]
    if "strip_markup" in settings:
        changes.append({"strip_markup": not settings["strip_markup"]})
    if own := settings.get("layer"):
        changes += [{"layer": layer} for layer in layers or [own + step for step in LAYER_STEPS] if layer != own]
    return changes


def _made_with(scorer: AnswerScorer, change: Mapping[str, Any]) -> AnswerScorer:
    """Return the scorer with another setting, ready to use; raise a UsageError if there is no such setting."""
    try:
        made = type(scorer)(**{**scorer.model_dump(), **change})
    except ValidationError as error:
        raise UsageError(f"{scorer.metric}: {explain(error, type(scorer))}") from error
    load_models([made])
    return made


def _values(scorer: AnswerScorer, samples: Sequence[Sequence[Sample]], questions: Sequence[Question]) -> Values:
    """Return values (n_questions, n_runs), NaN if unscored."""
    scorer.foresee([[sample.answer for sample in of_run if sample.is_answered] for of_run in samples])
    return as_values([score_samples([scorer], of_run, questions) for of_run in samples])


def _by_reference(scorer: AnswerScorer, samples: Sequence[Sample], questions: Sequence[Question]) -> list[list[float]]:
    """Return the value of each answer against each single reference; empty if it is unscored."""
    alone = [
        (row, question.model_copy(update={"references": [reference]}))
        for row, question in enumerate(questions)
        for reference in question.references
    ]
    scores = score_samples([scorer], [samples[row] for row, _ in alone], [question for _, question in alone])
    found: list[list[float]] = [[] for _ in questions]
    for (row, _), score in zip(alone, scores, strict=True):
        if score.value is not None:
            found[row].append(score.value)
    return found


def _names(runs: Sequence[Measured]) -> list[str]:
    """Return retriever and LLM, with the prompt if there are several; the run's own name if that is not enough."""
    several = len({run.manifest.labels["prompt"] for run in runs}) > 1
    labels = [run.manifest.labels for run in runs]
    names = [f"{of['retriever']} + {of['llm']}" + (f" · {of['prompt']}" if several else "") for of in labels]
    taken = Counter(names)
    return [run.name if taken[name] > 1 else name for run, name in zip(runs, names, strict=True)]


def as_rows(reports: Sequence[Sensitivity]) -> list[dict[str, Any]]:
    """Return one flat record for each run and variant, for CSV."""
    return [
        {
            "data": report.data,
            "metric": report.metric,
            "variant": variant.variant,
            "run": run,
            "value": value,
            "rank": 1 + sum(other > value for other in variant.means),
            "n": report.n_scored,
            "tau": variant.tau,
            "changes_best": variant.changes_best,
        }
        for report in reports
        for variant in report.variants
        for run, value in zip(report.runs, variant.means, strict=True)
    ]
