"""Score lists of answers against lists of references: no data set, no run directory."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from qilin_rag.config.run import resolve_metrics
from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import SCORERS
from qilin_rag.core.stats import query_clusters
from qilin_rag.core.tables import FIGURE_COLUMNS, as_frame, as_html, figure_cells
from qilin_rag.core.text import clean, has_words, is_blank
from qilin_rag.core.types import Frozen, MetricSummary, Question, Sample, Score
from qilin_rag.data.note_ids import shown
from qilin_rag.pipeline.import_rows import plain
from qilin_rag.pipeline.scoring import check_names, load_models, score_samples, usable_scorers
from qilin_rag.scorers import AnswerScorer, Scorer
from qilin_rag.scorers.summary import summarise_metrics

if TYPE_CHECKING:
    from pandas import DataFrame


Metrics = str | Scorer | Sequence[str | Scorer] | Mapping[str, Mapping[str, Any]]
"""Names (also in one text, separated by commas), scorers, or names with settings."""


class AnswerScores(Frozen):
    """Figures of some answers.

    Attributes:
        metrics: The figure of each metric over all answers, with interval, n and signature.
        values: The value of each answer by metric, from 0 to 1 for most metrics; None if it is unscored.
        reasons: By metric, why an answer is unscored, or a remark about its value; None if there is none.

    Example:
        >>> import qilin_rag as qr
        >>> scores = qr.score(["冷藏12小时", None], ["冷藏12小时后过滤", "92度"], metrics="rouge_l")
        >>> scores.metrics["rouge_l"].n, scores.to_frame().shape
        (1, (2, 1))
    """

    metrics: dict[str, MetricSummary]
    values: dict[str, list[float | None]] = Field(repr=False)
    reasons: dict[str, list[str | None]] = Field(repr=False)

    def to_frame(self) -> DataFrame:
        """Return the values as a pandas DataFrame: a row for each answer, a column for each metric.

        Raises:
            UsageError: pandas is not installed.
        """
        return as_frame(self.values, numbers=self.values)

    def _repr_html_(self) -> str:
        """Return the figures as an HTML table, for a notebook."""
        return as_html(FIGURE_COLUMNS, [figure_cells(name, of) for name, of in self.metrics.items()])


def score(
    answers: Iterable[str | None],
    references: Iterable[str | Iterable[str]],
    metrics: Metrics | None = None,
    *,
    queries: Iterable[str | None] | None = None,
    seed: int = 0,
) -> AnswerScores:
    """Score answers against their references, as a run over the same answers is scored.

    Args:
        answers: The answers: a list, or a column of a DataFrame. One that is missing (None, NaN) or empty is unscored.
        references: For each answer its reference, or a list of several.
        metrics: Metrics that compare answers with references: names, scorers, or a mapping of names to settings.
            Default: as of a run, rouge_l, and bertscore if its model is there.
        queries: What was asked, an item for each answer: answers to one query count as one in the intervals.
        seed: Draws the intervals.

    Returns:
        The figure of each metric, and the value of each answer.

    Raises:
        UsageError: The lists are not of one length, hold something else than text, or a metric can't be used.

    Example:
        >>> found = score(["冷藏12小时", "不知道"], ["冷藏12小时后过滤", ["92度", "水温92度"]], metrics=["rouge_l"])
        >>> [round(value, 3) for value in found.values["rouge_l"]]
        [0.769, 0.0]
    """
    given, expected = _listed("answers", answers), _listed("references", references)
    asked = [str(number) for number in range(len(given))] if queries is None else _listed("queries", queries)
    for name, column in (("references", expected), ("queries", asked)):
        if len(column) != len(given):
            raise UsageError(f"{len(given)} answers and {len(column)} {name}: each answer needs one")
    if not given:
        raise UsageError("answers holds no answer")
    scorers = _scorers(metrics)
    samples, questions = [], []
    for number, (answer, reference, query) in enumerate(zip(given, expected, asked, strict=True)):
        text = _text(f"answers[{number}]", answer)
        question = Question(
            id=str(number),
            query=_text(f"queries[{number}]", query) or "",
            references=_references(f"references[{number}]", reference),
        )
        questions.append(question)
        samples.append(sample_of(question, text, "no answer"))
    by_metric: dict[str, list[Score]] = {}
    for made in score_samples(scorers, samples, questions):
        by_metric.setdefault(made.metric, []).append(made)
    place = {question.id: number for number, question in enumerate(questions)}
    ordered = {metric: sorted(scores, key=lambda made: place[made.question_id]) for metric, scores in by_metric.items()}
    alone = (question.query if question.query.strip() else f"\0{question.id}" for question in questions)
    clusters = np.arange(len(given)) if queries is None else query_clusters(list(alone))
    return AnswerScores(
        metrics=summarise_metrics(ordered, clusters, seed),
        values={metric: [made.value for made in scores] for metric, scores in ordered.items()},
        reasons={metric: [made.reason for made in scores] for metric, scores in ordered.items()},
    )


def sample_of(question: Question, answer: str | None, why_none: str, **fields: Any) -> Sample:
    """Make the sample of an answer from elsewhere; if `answer` is None, there is none, because of `why_none`.

    Prompt, tokens and seconds are unknown; `fields` has what is known.
    """
    is_there = answer is not None and has_words(answer)
    status = "failed" if answer is None else "ok" if is_there else "empty"
    error = why_none if answer is None else None if is_there else "there is nothing to be seen in the answer"
    text = clean(answer or "")
    unknown: dict[str, Any] = {
        "messages": [],
        "hits": [],
        "notes_given": None,
        "notes_used": None,
        "latency_s": None,
        "raw": text,
    }
    of_question = {"question_id": question.id, "query": question.query}
    return Sample(**{**unknown, **of_question, "status": status, "answer": text, "error": error, **fields})


def _scorers(metrics: Metrics | None) -> list[AnswerScorer]:
    """Build the scorers, and load their models."""
    if metrics is None:
        usual, optional = resolve_metrics()
        more, _ = usable_scorers(optional)
        found = [*usual.values(), *more.values()]
        found = [scorer for scorer in found if isinstance(scorer, AnswerScorer)]
    else:
        if isinstance(metrics, Scorer):
            metrics = [metrics]
        if isinstance(metrics, str):
            metrics = [name.strip() for name in metrics.split(",") if name.strip()]
        named = _with_settings(metrics)
        found = [each if isinstance(each, Scorer) else SCORERS.create(each, settings) for each, settings in named]
        if not found:
            raise UsageError("metrics names no metric")
        found = [each for place, each in enumerate(found) if each not in found[:place]]
    for scorer in found:
        if not isinstance(scorer, AnswerScorer):
            name = type(scorer).__name__
            raise UsageError(f"metric {name} looks at more than answers and references; import_answers takes notes")
    check_names(found)
    load_models(found)
    return found


def _with_settings(metrics: Any) -> list[tuple[str | Scorer, Mapping[str, Any]]]:
    """Return each metric with its settings; a scorer has its own."""
    if isinstance(metrics, Mapping):
        named = list(metrics.items())
    else:
        named = [(each, {}) for each in metrics] if isinstance(metrics, Iterable) else [(None, {})]
    for each, settings in named:
        if not (isinstance(each, str | Scorer) and isinstance(settings, Mapping)):
            raise UsageError(
                f"metrics: expected names, scorers, or a mapping of names to settings; got {reprlib.repr(metrics)}"
            )
    return named


def _listed(name: str, column: Iterable[Any]) -> list[Any]:
    if isinstance(column, str | bytes | Mapping) or not isinstance(column, Iterable):
        raise UsageError(f"{name} must be a list or a column, not {type(column).__name__}")
    return [plain(value) for value in column]


def _text(name: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{name} must be text, not {shown(value)}")
    return None if value is None else clean(value)


def _references(name: str, value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not texts:
        raise UsageError(f"{name} must be a text or a list of texts, not {shown(value)}")
    for text in texts:
        if not isinstance(text, str) or is_blank(text):
            raise UsageError(f"{name} must hold texts that are not empty, not {shown(text)}")
    return [clean(text) for text in texts]
