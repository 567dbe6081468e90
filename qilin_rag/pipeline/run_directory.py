"""Read and write a run directory so that it survives a crash.

samples.jsonl is appended to and flushed as each question ends; a half line that a crash left is repaired on the
next start. Everything else is written to a temporary file and renamed; what belongs together, scores and summary, is
new from one rename on. One process at a time holds the lock.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import operator
import os
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError
from typing_extensions import TypedDict

from qilin_rag.config.spec import RunSpec
from qilin_rag.core.directories import BATCHES, is_locked, locked
from qilin_rag.core.errors import UsageError, explain
from qilin_rag.core.file_hashes import file_sha256
from qilin_rag.core.files import (
    _MOST_LOOKS,
    _TEMPORARY,
    SCHEMA_VERSION,
    LineWriter,
    as_lines,
    lines_of,
    mend_last_line,
    open_new,
    read_json,
    read_lines,
    validated,
    write_text,
    writing,
)
from qilin_rag.core.former import renewed_manifest
from qilin_rag.core.plain_files import open_plain
from qilin_rag.core.trec import format_trec
from qilin_rag.core.types import (
    ControlScore,
    Cost,
    Figure,
    Frozen,
    Judgement,
    Price,
    QueryReply,
    QueryUse,
    Question,
    QuestionDefects,
    RerankUse,
    Sample,
    Score,
    Summary,
    Times,
)
from qilin_rag.pipeline.import_record import ImportRecord, ImportSettings

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
QUESTIONS, SAMPLES, REPEATS, JUDGEMENTS = "questions.jsonl", "samples.jsonl", "repeats.jsonl", "judgements.jsonl"
QUERIES = "queries.jsonl"
TREC_RUN = "run.trec"
SCORES, SUMMARY = "scores.jsonl", "summary.json"
CONTROL_SCORES = "control_scores.jsonl"
NEW_SCORES = ".scores-new.jsonl"  # from the moment summary.json is of them until they are scores.jsonl
_MOST_OF_LABEL = 500
_OF_SCORES = "scores_sha256"
T = TypeVar("T", bound=BaseModel)


def _cut(label: str) -> str:
    return label if len(label) <= _MOST_OF_LABEL else f"{label[:_MOST_OF_LABEL]}…"


Label = Annotated[str, AfterValidator(_cut)]
"""A name in tables; one of a megabyte, which a stranger's run may have, is cut."""


class Labels(TypedDict):
    """The names of a run's parts in tables."""

    data: Label
    retriever: Label
    llm: Label
    prompt: Label


class DataRecord(TypedDict):
    """The data that a run is about."""

    label: Label
    sha256: str
    n_notes: int


class Manifest(Frozen):
    """manifest.json: everything needed to identify a run and to repeat it.

    `generation_s` is the sum over all calls, `times` what the clock said; `cost` is there when the run is complete.
    `queries`: what a query stage did and used, and `rerank`: what a second stage asked a server or an LLM for, at costs
    that are a part of `cost`; absent without one.
    `imported`: whose answers these are, if another system gave them; then no seconds are known.
    """

    schema_version: int = SCHEMA_VERSION
    state: Literal["complete", "incomplete"]
    fingerprint: Label
    identity: dict[str, Any]
    config: dict[str, Any]
    data: DataRecord
    data_defects: QuestionDefects = QuestionDefects()
    prompt: dict[str, Any]
    question_set_sha256: Label
    n_questions: Annotated[int, Field(ge=0, lt=2**53)]
    seed: int
    labels: Labels
    packages: dict[str, str]
    python: Label
    git_commit: Label | None
    server: dict[str, Any]
    started: Label
    updated: Label
    generation_s: Figure | None = 0.0
    times: Times | None = Times()
    cost: Cost | None = None
    rerank: Annotated[RerankUse | None, Field(exclude_if=operator.not_)] = None
    imported: ImportRecord | None = None
    queries: Annotated[QueryUse | None, Field(exclude_if=operator.not_)] = None


class RunDirectory:
    """A run on disk. Reading needs no lock; write inside `locked()`."""

    def __init__(self, path: Path) -> None:
        """Name the directory; nothing is created or read yet."""
        self.path = path

    @contextmanager
    def locked(self, option: str = "--runs-dir") -> Iterator[None]:
        """Lock the directory for writing, and complete what a crash interrupted."""
        with locked(self.path, option):
            with writing(self.path):
                self._mend()
            yield

    @property
    def is_in_use(self) -> bool:
        """Return whether a process holds the lock at this moment."""
        return is_locked(self.path)

    def _mend(self) -> None:
        """Complete what a crash interrupted between two writes, and remove half-written files."""
        if (scores := self.scores_path()).name == NEW_SCORES:
            scores.replace(self.path / SCORES)
        for path in (self.path / NEW_SCORES, *self.path.glob(f".*{_TEMPORARY}")):
            path.unlink(missing_ok=True)

    def read_manifest(self) -> Manifest:
        """Read the manifest; raise a UsageError if this is not a run directory, or one of another version."""
        return _with_whole_config(self._read_manifest(), self.path / MANIFEST)

    def _read_manifest(self) -> Manifest:
        """Read the manifest without checking its configuration."""
        path = self.path / MANIFEST
        return validated(Manifest, path, renewed_manifest(read_json(path)))

    def read_complete(self) -> Manifest:
        """Read the manifest of a complete run; raise a UsageError if it is incomplete."""
        manifest = self._read_manifest()
        if manifest.state != "complete":
            raise UsageError(f"{self.path} is {manifest.state}; finish it first, with the command that began it")
        return _with_whole_config(manifest, self.path / MANIFEST)

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace manifest.json."""
        self._write(MANIFEST, manifest.model_dump_json(indent=2) + "\n")

    def read_summary(self) -> Summary:
        """Read the summary; raise a UsageError if the run has none yet."""
        return self._read_summary()[0]

    def read_summary_of_scores(self) -> Summary:
        """Read the summary if it is of the scores beside it, which are compared by their hash alone if that is enough.

        Raises:
            UsageError: The scores are missing, or were not made as the summary says.
        """
        summary, of_scores = self._read_summary()
        path = self.scores_path()
        if path.is_file() and file_sha256(path) == of_scores:
            return summary
        return self.read_figures()[0]

    def _read_summary(self) -> tuple[Summary, str | None]:
        """Read the summary, and the hash of its scores; None in older runs."""
        path = self.path / SUMMARY
        content = read_json(path)
        of_scores = content.pop(_OF_SCORES, None)
        return validated(Summary, path, content), of_scores if isinstance(of_scores, str) else None

    def write_summary(self, summary: Summary) -> None:
        """Replace summary.json alone."""
        self._write(SUMMARY, summary.model_dump_json(indent=2) + "\n")

    def read_figures(self) -> tuple[Summary, list[Score]]:
        """Read a summary and the scores that belong to it, also while another process replaces them.

        Raises:
            UsageError: The scores are missing, or were not made as the summary says.
        """
        last = None
        for _ in range(_MOST_LOOKS):
            summary, of_scores = self._read_summary()
            path = self.scores_path()
            with _opened(path) as file:  # stays what it is while another process replaces it
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                file.seek(0)
                if digest == of_scores:
                    return summary, list(lines_of(path, file, Score))
            if (of_scores, digest) == last:  # nobody replaces them
                break
            last = of_scores, digest
        scores = list(read_lines(path, Score))
        ids = {question.id for question in self.read_questions()}
        if not _belong_together(summary, scores, ids, has_hash=of_scores is not None):
            again = f"to make both again: qilin-rag score {self.path}"
            raise UsageError(f"{self.path}: {SUMMARY} and {SCORES} are not of one scoring; {again}")
        return summary, scores

    def write_figures(self, scores: Iterable[Score], summary: Summary) -> None:
        """Replace scores.jsonl and summary.json, so that a reader finds both old or both new at any time.

        The summary names the scores it is of by their hash, so they are new once the summary is; until they have their
        name they are beside the old ones.
        """
        digest = hashlib.sha256()

        def lines() -> Iterator[str]:
            for score in scores:
                line = f"{score.model_dump_json()}\n"
                digest.update(line.encode())
                yield line

        write_text(self.path / NEW_SCORES, lines())
        content = {**summary.model_dump(mode="json"), _OF_SCORES: digest.hexdigest()}
        self._write(SUMMARY, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        with writing(self.path / SCORES):
            (self.path / NEW_SCORES).replace(self.path / SCORES)

    def scores_path(self) -> Path:
        """Return the file with the scores of summary.json; a crash may have left it without its final name."""
        new = self.path / NEW_SCORES
        try:
            with open_plain(new) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == read_json(self.path / SUMMARY).get(_OF_SCORES):
                    return new
        except (OSError, UsageError):
            pass
        return self.path / SCORES

    def discard_scores(self, question_ids: Collection[str]) -> None:
        """Delete the summary, and the scores of these questions, before their samples change."""
        with writing(self.path):
            (self.path / SUMMARY).unlink(missing_ok=True)
        self.write_scores([score for score in self.read_scores() if score.question_id not in question_ids])

    def read_questions(self) -> list[Question]:
        """Read the questions of the run, with their references."""
        return list(read_lines(self.path / QUESTIONS, Question))

    def read_questions_once(self, known: dict[str, dict[str, Question]]) -> tuple[str, dict[str, Question]]:
        """Return the hash of the file of questions, and the questions by id.

        Questions that are `known` by that hash are not read; others are added there.
        """
        path = self.path / QUESTIONS
        with _opened(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest not in known:
                file.seek(0)
                known[digest] = {question.id: question for question in lines_of(path, file, Question)}
        return digest, known[digest]

    def write_questions(self, questions: Iterable[Question]) -> None:
        """Replace questions.jsonl."""
        rows = (question.model_copy(update={"recorded": {}}) for question in questions)
        self._write(QUESTIONS, as_lines(rows))

    def read_scores(self) -> list[Score]:
        """Read all scores of the run; empty if there are none yet, or if the file is damaged, which a warning says."""
        try:
            return list(read_lines(self.scores_path(), Score))
        except UsageError as error:
            logger.warning("%s; its scores are made again when they are asked for", error)
            return []

    def read_scores_of(self, questions: Iterable[Question], metrics: Iterable[str]) -> dict[str, dict[str, Score]]:
        """Read the scores of questions by metric and question; raise a UsageError if a metric lacks one."""
        return self.chosen_scores(self.read_scores(), questions, metrics)

    def chosen_scores(
        self, scores: Iterable[Score], questions: Iterable[Question], metrics: Iterable[str]
    ) -> dict[str, dict[str, Score]]:
        """Choose the scores of these questions and metrics, as `read_scores_of` returns them."""
        ids = {question.id for question in questions}
        found: dict[str, dict[str, Score]] = {metric: {} for metric in metrics}
        for score in scores:
            if score.metric in found and score.question_id in ids:
                found[score.metric][score.question_id] = score
        if lacking := next((metric for metric, scores in found.items() if len(scores) < len(ids)), None):
            raise self.lacks_scores(lacking)
        return found

    def lacks_scores(self, metric: str) -> UsageError:
        """Return the error of a metric without a score for each question."""
        again = f"qilin-rag score {self.path}"
        return UsageError(f"{self.path}: scores.jsonl lacks scores by {metric}; to make them again: {again}")

    def write_scores(self, scores: Iterable[Score]) -> None:
        """Replace scores.jsonl alone."""
        self._write(SCORES, as_lines(scores))

    def read_control_scores(self) -> list[ControlScore]:
        """Read the scores of controls; empty if there are none."""
        return list(read_lines(self.path / CONTROL_SCORES, ControlScore))

    def write_control_scores(self, scores: Sequence[ControlScore], metrics: Container[str]) -> None:
        """Replace the scores of controls by these metrics, and keep those by others."""
        before = self.read_control_scores()
        if scores or before:
            kept = [score for score in before if score.metric not in metrics]
            self._write(CONTROL_SCORES, as_lines([*kept, *scores]))

    def write_trec_run(self, samples: Iterable[Sample]) -> None:
        """Replace run.trec; samples.jsonl keeps the retriever's own scores."""
        tag = self.path.resolve().name
        rankings = ((sample.question_id, sample.hits) for sample in samples)
        write_text(self.path / TREC_RUN, (format_trec([ranking], tag) for ranking in rankings))

    def read_finished(self) -> dict[str, Sample]:
        """Read the last sample of each question by id, without its prompt, which is long."""
        return {each.question_id: each.model_copy(update={"messages": []}) for each in self.each_sample()}

    def read_samples(self) -> tuple[dict[str, Sample], list[Sample]]:
        """Read the last sample of each question by id, and all samples ever written; skip a half last line."""
        lines = list(read_lines(self.path / SAMPLES, Sample, half_line_ok=True))
        return {sample.question_id: sample for sample in lines}, lines

    def each_sample(self) -> Iterator[Sample]:
        """Read all samples ever written, one after another; skip a half last line."""
        return read_lines(self.path / SAMPLES, Sample, half_line_ok=True)

    def read_samples_of(self, questions: Iterable[Question]) -> dict[str, Sample]:
        """Read the last sample of each of these questions, in their order; raise a UsageError if one has none."""
        ids = [question.id for question in questions]
        wanted = set(ids)
        lines = read_lines(self.path / SAMPLES, Sample, half_line_ok=True)
        finished = {sample.question_id: sample for sample in lines if sample.question_id in wanted}
        if unanswered := sum(question_id not in finished for question_id in ids):
            raise UsageError(f"{self.path}: {unanswered} questions have no sample yet; run it again to resume")
        return {question_id: finished[question_id] for question_id in ids}

    def read_repeats(self) -> list[Sample]:
        """Read the samples of repeated questions, any number a question; skip a half last line."""
        return list(read_lines(self.path / REPEATS, Sample, half_line_ok=True))

    def read_judgements(self, file_name: str = JUDGEMENTS) -> Iterator[Judgement]:
        """Read all judgements ever written to a file; skip a half last line."""
        return read_lines(self.path / file_name, Judgement, half_line_ok=True)

    def read_queries(self, file_name: str = QUERIES) -> Iterator[QueryReply]:
        """Read all replies to the query stage ever written to a file; skip a half last line."""
        return read_lines(self.path / file_name, QueryReply, half_line_ok=True)

    @contextmanager
    def line_writer(self, file_name: str = SAMPLES) -> Iterator[LineWriter]:
        """Open a file of samples or judgements to append to, after repairing a half line at its end."""
        path = self.path / file_name
        with writing(path):
            mend_last_line(path)
            file = open_new(path, "ab")
        try:
            yield LineWriter(file)
        finally:
            with writing(path):
                os.fsync(file.fileno())
                file.close()

    def set_aside_samples(self) -> Path | None:
        """Rename the files of samples, repeats and queries, and the batches, for a fresh start.

        Paid answers stay on disk.
        """
        now = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
        kept = None
        for path in (self.path / QUERIES, self.path / REPEATS, self.path / SAMPLES):
            if path.exists():
                kept = path.with_name(f"{path.stem}-until-{now}.jsonl")
                with writing(path):
                    path.rename(kept)
        batches = self.path / BATCHES
        if batches.is_dir():
            with writing(batches):
                batches.rename(batches.with_name(f"{BATCHES}-until-{now}"))
        return kept

    def _write(self, name: str, text: str) -> None:
        write_text(self.path / name, text)


def _opened(path: Path) -> BufferedReader | io.BytesIO:
    """Open a file of a run to read it; one that does not exist is empty."""
    try:
        return open_plain(path)
    except OSError:
        return io.BytesIO()


def _with_whole_config(manifest: Manifest, path: Path) -> Manifest:
    """Fill in and validate all settings of a run, since every reader looks some up."""
    top_k = manifest.identity.get("top_k")
    if "retriever" not in manifest.identity or isinstance(top_k, bool) or not isinstance(top_k, int | None):
        raise UsageError(f"{path}: identity: does not say which retriever gave how many notes (top_k)")
    if manifest.imported is not None:
        return manifest.model_copy(update={"config": validated(ImportSettings, path, manifest.config).model_dump()})
    try:
        known = RunSpec(**manifest.config).model_dump(mode="json")
        if price := known["llm"]["settings"].get("price"):
            Price.model_validate(price)
    except ValidationError as error:
        raise UsageError(f"{path}: its configuration can't be read: {explain(error, RunSpec)}") from error
    checked = {name: known[name] for name in ("retriever", "llm", "query")}
    config = {**known, **manifest.config, **checked}
    return manifest.model_copy(update={"config": config})


def _belong_together(summary: Summary, scores: Iterable[Score], question_ids: Collection[str], has_hash: bool) -> bool:
    """Return whether scores and summary have the same signatures, and the same means if the hash differs."""
    values: dict[str, list[float]] = {name: [] for name in summary.metrics}
    for score in scores:
        figure = summary.metrics.get(score.metric)
        if figure is None or score.question_id not in question_ids:
            continue
        if score.signature != figure.signature:
            return False
        if score.value is not None:
            values[score.metric].append(score.value)
    return not has_hash or all(
        figure.value is None
        or not values[name]
        or math.isclose(figure.value, fmean(values[name]), rel_tol=1e-6, abs_tol=1e-9)
        for name, figure in summary.metrics.items()
    )
