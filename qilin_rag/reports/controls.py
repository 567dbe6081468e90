"""Add rows that show what a figure is worth, from saved answers alone: the metric's floor, and equal length.

Two further controls need answers of their own and are retrievers: `random` (notes that have nothing to do with the
question) and `oracle_top_k` (the right notes, but no more than the other retrievers give).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from qilin_rag.core.errors import QilinError
from qilin_rag.core.registry import SCORERS
from qilin_rag.core.text import mixed_tokens, normalise, strip_markup
from qilin_rag.core.types import ControlScore, Question, Sample
from qilin_rag.pipeline.selection import other_questions
from qilin_rag.reports.measured import Measured
from qilin_rag.reports.run_figures import figures_by
from qilin_rag.scorers import AnswerScorer

SHUFFLED = "references shuffled"
EQUAL_LENGTH = "equal length"


def control_runs(
    runs: Sequence[Measured], question_ids: Sequence[str]
) -> tuple[list[tuple[str, Measured, Measured]], list[str]]:
    """Return the controls of each run as runs with their names, and remarks on metrics that can't have controls.

    - `references shuffled`: each answer against the references of another query, which is what a metric gives to any
    answer. It does not exist if all questions are copies of one.
    - `equal length`: each answer cut to the number of tokens of the shortest answer that any run gives to the question.
    - Those that a judge has scored (`nuggets assign --controls`).
    """
    samples = {run.name: run.samples() for run in runs}
    shortest = _shortest(samples.values(), question_ids)
    other = other_questions([runs[0].questions[question_id] for question_id in question_ids])
    controls, lacking = [], set()
    scorers: dict[tuple[str, str | None], AnswerScorer | None] = {}
    for run in runs:
        usable, unusable = _scorers(run, scorers)
        lacking |= unusable
        asked = [run.questions[question_id] for question_id in question_ids]
        answered = [samples[run.name][question_id] for question_id in question_ids]
        cut = [_cut(sample, shortest.get(sample.question_id)) for sample in answered]
        if other:
            shuffled = [
                question.model_copy(update={"references": run.questions[other[question.id]].references})
                for question in asked
            ]
            controls.append((SHUFFLED, run, _scored(run, SHUFFLED, usable, answered, shuffled)))
        controls.append((EQUAL_LENGTH, run, _scored(run, EQUAL_LENGTH, usable, cut, asked)))
        controls += _judged(run)
    notes = [f"no controls for {metric}: {why}" for metric, why in sorted(lacking)]
    return controls, notes if other else [f"no row {SHUFFLED}: there is no other query", *notes]


def _scorers(
    run: Measured, made: dict[tuple[str, str | None], AnswerScorer | None]
) -> tuple[list[AnswerScorer], set[tuple[str, str]]]:
    """Return the scorers that made the run's figures of answers, and which can't be made again and why.

    Only registered scorers are used: a run is a file, and a file must not name code to import.
    """
    named: Mapping[str, Mapping[str, object]] = {
        **{metric: {} for metric in run.summary.metrics},
        **run.manifest.config["metrics"],
    }
    usable, unusable = [], set()
    for name, settings in named.items():
        if not SCORERS.is_registered(name) or SCORERS.names_code(name, settings):
            continue
        scorer = SCORERS.create(name, settings)
        if not isinstance(scorer, AnswerScorer) or scorer.metric not in run.summary.metrics:
            continue
        key = (f"{name} {scorer.model_dump_json()}", run.signature(scorer.metric))
        if key not in made:
            try:
                made[key] = scorer if scorer.signatures()[scorer.metric] == run.signature(scorer.metric) else None
            except QilinError as error:
                unusable.add((scorer.metric, " ".join(str(error).split())))
                continue
        if kept := made[key]:
            usable.append(kept)
    return usable, unusable


def _scored(
    run: Measured, what: str, scorers: Iterable[AnswerScorer], samples: Sequence[Sample], questions: Sequence[Question]
) -> Measured:
    values = {scorer.metric: figures_by(run.questions, scorer.score(samples, questions)) for scorer in scorers}
    return run._replace(name=f"{run.name} · {what}", values=values)


def _judged(run: Measured) -> list[tuple[str, Measured, Measured]]:
    """Return the controls that a judge has scored in the same way as the run."""
    by_control: dict[str, list[ControlScore]] = {}
    for score in run.directory.read_control_scores():
        if score.signature == run.signature(score.metric) and score.question_id in run.questions:
            by_control.setdefault(score.control, []).append(score)
    controls = []
    for control, scores in by_control.items():
        metrics = dict.fromkeys(score.metric for score in scores)
        values = {
            metric: figures_by(run.questions, [score for score in scores if score.metric == metric])
            for metric in metrics
        }
        controls.append((control, run, run._replace(name=f"{run.name} · {control}", values=values)))
    return controls


def _tokens(text: str) -> list[str]:
    return mixed_tokens(normalise(strip_markup(text)))


def _shortest(runs: Iterable[Mapping[str, Sample]], question_ids: Iterable[str]) -> dict[str, int]:
    """Return the tokens of the shortest answer to each question; empty answers do not count."""
    found: dict[str, int] = {}
    for samples in runs:
        for question_id in question_ids:
            sample = samples[question_id]
            if sample.is_answered and (n := len(_tokens(sample.answer))):
                found[question_id] = min(n, found.get(question_id, n))
    return found


def _cut(sample: Sample, n_tokens: int | None) -> Sample:
    """Cut an answer to its first tokens, without markup, which scorers remove anyway."""
    text = normalise(strip_markup(sample.answer))
    if n_tokens is None or not sample.is_answered or len(mixed_tokens(text)) <= n_tokens:
        return sample
    return sample.model_copy(update={"answer": _beginning(text, n_tokens)})


def _beginning(text: str, n_tokens: int) -> str:
    """Return the shortest beginning of a text that has this many tokens."""
    end = 0
    for token in mixed_tokens(text)[:n_tokens]:
        end = text.index(token, end) + len(token)
    return text[:end]
