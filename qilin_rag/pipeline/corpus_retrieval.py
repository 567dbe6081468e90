"""Search all notes for the requests of a task: write a TREC run as it is found, and judge it by what was clicked.

Requests are searched in batches, and of each ranking only the ranks of its relevant notes are kept, so that memory
does not grow with the number of requests.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.config.run import RunConfig
from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import check_out, write_text
from qilin_rag.core.note_fields import IMAGE_TEXT
from qilin_rag.core.progress import stage
from qilin_rag.core.stats import query_clusters
from qilin_rag.core.text import is_blank
from qilin_rag.core.trec import format_trec
from qilin_rag.core.types import Hit, MetricSummary, Question
from qilin_rag.data.exposures import offsets_of
from qilin_rag.data.notes import NoteStore, open_notes_of
from qilin_rag.data.requests import (
    HISTORY,
    VALIDATION_SHARE,
    Requests,
    TaskName,
    questions_of,
    read_table,
    split_by_time,
    table_of,
)
from qilin_rag.data.source import open_source
from qilin_rag.pipeline.answering import known_notes, search, without_notes
from qilin_rag.pipeline.identity import retriever_label
from qilin_rag.pipeline.jobs import Retrieved
from qilin_rag.pipeline.selection import select_questions
from qilin_rag.retrievers import Retriever
from qilin_rag.retrievers.parts import leaves
from qilin_rag.retrievers.trec import Trec
from qilin_rag.scorers.relevant_ranks import RankMeasure, as_columns, measures_at, relevant_figures
from qilin_rag.scorers.summary import summarise_metrics

logger = logging.getLogger(__name__)
TOP_K = 1000
"""The usual number of notes to find for a request."""
NO_STAGES = (
    "a search for the requests of a task has neither query nor rerank (--query, --rerank); rank what it "
    "writes with: qilin-rag rank --candidates trec:FILE"
)
_HITS_AT_ONCE = 2**19  # hits of a batch, about 0.4 GB
JudgedSplit = Literal["validation", "test", "dqa"]
Ints = npt.NDArray[np.int64]


class RequestsTask(NamedTuple):
    """The requests to search for, and whether the notes that their users clicked before count.

    Attributes:
        split: test, validation (the latest requests of train), or dqa (the searches of the table dqa).
        without_history: Whether these notes are removed from the rankings and from the relevant notes.
    """

    task: TaskName
    split: JudgedSplit = "test"
    without_history: bool = False


class CorpusFigures(NamedTuple):
    """The figures of a search among all notes for the requests of a task.

    Attributes:
        metrics: The figures by metric.
        slices: The same figures with the relevant notes of a slice alone: `cold` notes, which no train request of the
            task was shown, and `warm` ones; empty without a train table.
        counts: Numbers of requests and notes, by what is counted.
    """

    metrics: dict[str, MetricSummary]
    slices: dict[str, dict[str, MetricSummary]]
    counts: dict[str, int]


def retrieve_requests(config: RunConfig, asked: RequestsTask, out: Path) -> CorpusFigures:
    """Search all notes for the requests of a task, write the rankings to a TREC file, and return their figures.

    A clicked note is relevant, any other is not. A clicked note that the data lacks can't be found, and counts. A
    request whose query is blank has no hits if the retriever searches by queries.

    Raises:
        UsageError: A table does not exist, or the retriever can't return enough hits.
    """
    check_out(out)
    if config.query is not None or config.rerank is not None:
        raise UsageError(NO_STAGES)
    train_table = f"{asked.task}_train"
    tables = ["notes", table_of(asked.task, asked.split), train_table, *({IMAGE_TEXT} & {*config.note_fields})]
    source = open_source(config.data, tables)
    notes = open_notes_of(source, config.note_fields)
    requests = read_table(source, table_of(asked.task, asked.split))
    train: Requests | None = None
    if asked.split == "validation":
        train, requests = split_by_time(requests, VALIDATION_SHARE)
    elif train_table in source.tables():
        train = read_table(source, train_table)
    questions = select_questions(questions_of(requests), config.limit, config.seed, config.ids)
    n_clicked = sum(len(question.reference_notes) for question in questions)
    if asked.without_history:
        questions = [_without_history(question) for question in questions]
    judged = _Judged.of(questions, None if train is None else np.unique(train.note_idx))
    counts = {
        "requests": len(questions),
        "relevant": len(judged.note),
        "in_history": n_clicked - len(judged.note),
        "missing": int(np.isin(judged.note, notes.missing(judged.note)).sum()),
        "cold": 0 if judged.is_cold is None else int(judged.is_cold.sum()),
        "blank": sum(is_blank(question.query) for question in questions),
        "left_out": 0,
    }
    rankings = _rankings(config, questions, notes, asked.without_history, judged, counts)
    tag = retriever_label(config)
    write_text(out, (format_trec([ranking], tag) for ranking in rankings))
    metrics, slices = _summaries(config, asked, questions, judged)
    return CorpusFigures(metrics, slices, counts)


def _without_history(question: Question) -> Question:
    """Return the question without the notes of its history among its relevant ones."""
    seen = set(question.meta[HISTORY])
    return question.model_copy(
        update={"reference_notes": [note_idx for note_idx in question.reference_notes if note_idx not in seen]}
    )


class _Judged(NamedTuple):
    """The relevant notes of all requests: (n_relevant,) each; `rank` is 0 until a note is found."""

    request: Ints
    note: Ints
    is_cold: npt.NDArray[np.bool_] | None
    """None if it is not known which notes train requests were shown."""
    rank: Ints
    starts: Ints
    """(n_requests + 1,): the relevant notes of request i are starts[i] to starts[i + 1]."""

    @classmethod
    def of(cls, questions: Sequence[Question], exposed: Ints | None) -> _Judged:
        """Return those of questions; `exposed` are the notes that train requests were shown, in ascending order."""
        lengths = np.array([len(question.reference_notes) for question in questions], np.int64)
        note = np.array([note_idx for question in questions for note_idx in question.reference_notes], np.int64)
        is_cold = None if exposed is None else ~np.isin(note, exposed)
        request = np.repeat(np.arange(len(questions)), lengths)
        return cls(request, note, is_cold, np.zeros(len(note), np.int64), offsets_of(lengths))

    def look_up(self, row: int, hits: Sequence[Hit]) -> None:
        """Record the ranks of the relevant notes of a request in its ranking."""
        places = {int(self.note[place]): place for place in range(self.starts[row], self.starts[row + 1])}
        for hit in hits:
            if (place := places.get(hit.note_idx)) is not None:
                self.rank[place] = hit.rank


def _rankings(
    config: RunConfig,
    questions: Sequence[Question],
    notes: NoteStore,
    without_history: bool,
    judged: _Judged,
    counts: dict[str, int],
) -> Iterator[tuple[str, Sequence[Hit]]]:
    """Yield the ranking of each request with its id, and record the ranks of its relevant notes."""
    retriever: Retriever = config.retriever
    depth = config.top_k
    if without_history:
        depth += max((len(set(question.meta[HISTORY])) for question in questions), default=0)
    if retriever.most_hits is not None and depth > retriever.most_hits:
        raise UsageError(
            f"retriever {retriever.called()} returns at most {retriever.most_hits} notes, but {depth} are needed for "
            f"{config.top_k} without those of the history; set retriever.depth={depth}, or lower top_k (--top-k)"
        )
    is_read = any(isinstance(part, Trec) for part in leaves(retriever))  # a file, which is read at each search
    n_at_once = max(1, len(questions) if is_read else _HITS_AT_ONCE // depth)
    with stage("retrieving", len(questions)) as advance:
        for start in range(0, len(questions), n_at_once):
            some = questions[start : start + n_at_once]
            asked = [row for row, each in enumerate(some) if not (retriever.reads_query and is_blank(each.query))]
            hits = search(retriever, notes, [some[row] for row in asked], depth) if asked else []
            found: dict[int, Retrieved] = dict(zip(asked, known_notes(hits, notes, config.missing_notes), strict=True))
            for row, question in enumerate(some):
                ranking, n_missing = found.get(row, Retrieved([]))
                if without_history:
                    ranking = without_notes(frozenset(question.meta[HISTORY]), ranking).hits
                ranking = ranking[: config.top_k]
                counts["left_out"] += n_missing
                judged.look_up(start + row, ranking)
                yield question.id, ranking
            advance(len(some))


def _summaries(
    config: RunConfig, asked: RequestsTask, questions: Sequence[Question], judged: _Judged
) -> tuple[dict[str, MetricSummary], dict[str, dict[str, MetricSummary]]]:
    """Return the figures of all relevant notes, and those of cold and of warm ones."""
    measures = measures_at(config.top_k)
    # A request without a query (a user without history) is its own cluster.
    clusters = query_clusters([each.query if not is_blank(each.query) else f"\0{each.id}" for each in questions])
    ids = [question.id for question in questions]
    parts = {"": np.ones(len(judged.note), bool)}
    if judged.is_cold is not None:
        parts |= {"cold": judged.is_cold, "warm": ~judged.is_cold}
    found = {}
    for part, is_in in parts.items():
        rows = np.flatnonzero(is_in & (judged.rank > 0))
        n_relevant = np.bincount(judged.request[is_in], minlength=len(questions))
        figures = relevant_figures(measures, judged.request[rows], judged.rank[rows], n_relevant)
        signatures = {measure.name: _signature(measure, part, asked.without_history) for measure in measures}
        beyond = "beyond the history was clicked" if asked.without_history else "was clicked"
        why = f"no {part} note {beyond}" if part else f"no note {beyond}"
        found[part] = summarise_metrics(as_columns(figures, ids, signatures, why), clusters, config.seed)
    return found.pop(""), found


def _signature(measure: RankMeasure, part: str, without_history: bool) -> str:
    """Return the signature of a figure: the measure, relevance, and treatment of ties, history and empty rankings."""
    relevant = f"rel:{part} clicked notes" if part else "rel:clicked notes"
    history = "|history:removed" if without_history else ""
    return f"{measure.of_ir_measures}|{relevant}|of:all notes{history}|ties:by rank|empty:0|v1"
