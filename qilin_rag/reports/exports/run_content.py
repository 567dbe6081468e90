"""Read what exports of whole runs need, sample by sample, so that a large run needs little memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import read_lines
from qilin_rag.core.plugins import is_secret_name
from qilin_rag.core.text import cited_numbers, clean
from qilin_rag.core.types import Question, Sample, Score
from qilin_rag.pipeline.run_directory import MANIFEST, REPEATS, SAMPLES, RunDirectory
from qilin_rag.pipeline.stored_samples import StoredSamples
from qilin_rag.reports.exports.eee_evaluation import model_of
from qilin_rag.reports.exports.json_lines import without_addresses
from qilin_rag.scorers.table import ScoreTable

_LEFT_OUT = frozenset({"base_url", "headers", "environment", "extra_arguments", "api_key_env", "engine", "price"})


class ScoredSample(NamedTuple):
    """A question with its sample and its scores by metric."""

    question: Question
    sample: Sample
    scores: dict[str, Score]


class RunContent:
    """A complete run, to be read once or several times from its beginning to its end.

    Attributes:
        manifest: The manifest.
        summary: The figures.
        questions: The questions, in their order.
        name: The name of the directory.
    """

    def __init__(self, directory: RunDirectory) -> None:
        """Read everything but the samples.

        Raises:
            UsageError: if the run is incomplete, lacks samples or scores, or its manifest has no time.
        """
        self.name = directory.path.resolve().name
        self.manifest = directory.read_complete()
        for time in (self.manifest.started, self.manifest.updated):
            if not _is_time(time):
                raise UsageError(f"{directory.path / MANIFEST}: {time!r:.40} is not a time")
        self.summary = directory.read_summary_of_scores()
        self.questions = directory.read_questions()
        ids = [question.id for question in self.questions]
        self._directory = directory
        self._samples = StoredSamples(directory.path / SAMPLES, ids)
        table = ScoreTable(ids)
        table.add(read_lines(directory.scores_path(), Score))
        for metric in self.summary.metrics:
            if metric not in table.columns or not table.columns[metric].is_complete:
                raise directory.lacks_scores(metric)
        self._columns = {metric: table.columns[metric] for metric in self.summary.metrics}

    def samples(self) -> Iterator[ScoredSample]:
        """Yield each question with its last sample."""
        for row, (question, sample) in enumerate(zip(self.questions, self._samples, strict=True)):
            yield ScoredSample(question, sample, {metric: column[row] for metric, column in self._columns.items()})

    def repeats(self) -> Iterator[tuple[int, Question, Sample]]:
        """Yield the samples of repeated questions, each with its number: 2 is the first repeat."""
        questions = {question.id: question for question in self.questions}
        numbers: Counter[str] = Counter()
        for sample in read_lines(self._directory.path / REPEATS, Sample, half_line_ok=True):
            if sample.question_id in questions:
                numbers[sample.question_id] += 1
                yield 1 + numbers[sample.question_id], questions[sample.question_id], sample

    def column(self, metric: str) -> Sequence[Score]:
        """Return the scores by a metric, in the order of the questions."""
        return self._columns[metric]

    @cached_property
    def llm(self) -> str:
        """Return the name of the model that was asked; of an imported run that names none, the name of its system."""
        return clean(model_of(self.manifest, {str(sample.model): sample for sample in self._models()}))

    def _models(self) -> Iterator[Sample]:
        """Yield the samples if the names of their models are needed."""
        yield from self._samples if self.manifest.imported else ()

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings that say how the run was made, without addresses, keys and settings of engines."""
        config = self.manifest.config
        named = ("data", "answers", "references", "retriever", "top_k", "prompt", "note_fields", "note_order")
        known = {name: config[name] for name in (*named, "note_chars", "seed", "limit") if config.get(name) is not None}
        if self.manifest.imported:
            known = {name: value for name, value in known.items() if name not in ("retriever", "prompt")}
        stages = {name: config[name] for name in ("query", "rerank") if config.get(name)}
        return public_settings({**known, **stages})


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without keys, addresses, environments and engines; of a path, only the last part stays.

    >>> public_settings({"k1": 0.9, "api_key": "s", "model": {"base_url": "http://u:p@host/v1", "name": "/home/me/m"}})
    {'k1': 0.9, 'model': {'name': 'm'}}
    """
    kept = {name: value for name, value in settings.items() if name not in _LEFT_OUT and not is_secret_name(name)}
    return {name: _public(value) for name, value in kept.items()}


def _public(value: Any) -> Any:
    if isinstance(value, Mapping):
        return public_settings(value)
    if isinstance(value, list | tuple):
        return [_public(each) for each in value]
    if not isinstance(value, str):
        return value
    is_path = value.startswith(("/", "~", ".")) or "\\" in value
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if is_path else without_addresses(value)


def about_notes(sample: Sample) -> dict[str, Any]:
    """Return what is known of a sample's notes: found ones, best first, those of the prompt, and the cited ones."""
    known: dict[str, Any] = {}
    if sample.has_known_hits:
        known["note_ids"] = [hit.note_idx for hit in sample.hits]
        known["note_scores"] = [hit.score for hit in sample.hits]
    if (numbered := sample.known_prompt_notes) is not None:
        known["prompt_notes"] = numbered
        numbers = [number for number in cited_numbers(sample.answer) if 1 <= number <= len(numbered)]
        known["citations"] = list(dict.fromkeys(numbered[number - 1] for number in numbers))
    return known


def about_call(sample: Sample) -> dict[str, Any]:
    """Return how a call ended, without the addresses that an error may name."""
    known = {
        "status": sample.status,
        "finish_reason": sample.finish_reason,
        "error": None if sample.error is None else without_addresses(sample.error),
        "marks": sample.marks or None,
        "raw": sample.raw if sample.raw != sample.answer else None,
        "usage": {name: n for name, n in sample.usage if n is not None},
    }
    return {name: value for name, value in known.items() if value is not None}


def seconds_of(sample: Sample) -> float | None:
    """Return the seconds until the reply; None if none came, or nobody measured them."""
    return None if sample.status == "failed" else sample.latency_s
