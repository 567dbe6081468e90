"""Run the retrieval stage alone: write a TREC run, or build an index in a folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from qilin_rag.config.run import RunConfig
from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.files import check_out, write_text
from qilin_rag.core.stats import query_clusters
from qilin_rag.core.text import counted
from qilin_rag.core.third_party import third_party
from qilin_rag.core.trec import format_trec
from qilin_rag.core.types import MetricSummary, QueryUse, Question, Score
from qilin_rag.data import load_dataset
from qilin_rag.pipeline.cost import rerank_cost, say_rerank
from qilin_rag.pipeline.identity import retriever_label
from qilin_rag.pipeline.queries import QueryWork, use_of, write_queries
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.pipeline.selection import select_questions
from qilin_rag.pipeline.shared import Shared
from qilin_rag.retrievers import IndexedRetriever, Retriever
from qilin_rag.retrievers.dense.backends import NoteEncoding, kept_encoding
from qilin_rag.scorers.retrieval import Retrieval
from qilin_rag.scorers.summary import summarise_metrics

logger = logging.getLogger(__name__)


class Index(NamedTuple):
    """An index on disk: its folder, the number of its notes, its size, and the encoder that it records, if any."""

    path: Path
    n_notes: int
    n_bytes: int
    encoding: NoteEncoding | None


class RetrievedRun(NamedTuple):
    """The figures of a ranking by metric, and what its query stage used, if it has one."""

    metrics: dict[str, MetricSummary]
    queries: QueryUse | None = None


def retrieve_only(config: RunConfig, out: Path) -> RetrievedRun:
    """Write the hits of the run's questions to a TREC file, and return the figures of the ranking.

    The replies of a query stage are kept beside it, in a file that ends with `.queries.jsonl`.
    """
    check_out(out)
    shared = Shared()
    questions = select_questions(shared.dataset(config).askable, config.limit, config.seed, config.ids)
    shared.count_defects(config, questions)
    written, queries = _write_queries(config, shared, questions, out)
    retrieved = shared.retrieve(config, questions, written)
    if use := shared.take_rerank_use(config):
        logger.info(say_rerank(use.model_copy(update={"cost": rerank_cost(use, config.rerank)})))
    rankings = [found.hits for found in retrieved]
    tag = retriever_label(config)
    write_text(out, format_trec(zip((question.id for question in questions), rankings, strict=True), tag))
    signed: dict[str, list[Score]] = {}
    for k in sorted({min(5, config.top_k), config.top_k}):
        scorer = Retrieval(k=k)
        scores = scorer.score_hits(rankings, questions, [found.n_missing for found in retrieved])
        for metric, signature in scorer.signatures().items():
            of_metric = (score for score in scores if score.metric == metric)
            signed[metric] = [score.model_copy(update={"signature": signature}) for score in of_metric]
    clusters = query_clusters([question.query for question in questions])
    return RetrievedRun(summarise_metrics(signed, clusters, config.seed), queries)


def _write_queries(
    config: RunConfig, shared: Shared, questions: Sequence[Question], out: Path
) -> tuple[dict[str, list[str]], QueryUse | None]:
    """Ask for the texts of the query stage; return those of each question, and what this used.

    Raises:
        QilinError: A call failed; the same command asks it again.
    """
    directory, file_name = RunDirectory(out.absolute().parent), out.with_suffix(".queries.jsonl").name
    work = QueryWork.of(config, shared, directory, file_name)
    if work is None:
        return {}, None
    if out.exists() and not out.is_file():
        raise UsageError(f"{out} (--out) must be a plain file: the queries are kept beside it")
    if work.left(questions):
        with third_party(f"llm {work.config.llm.called()}"):
            work.config.llm.check()
        shared.prepare_search(config, questions)
    written = write_queries(work, questions, shared)
    if written.failed:
        raise QilinError(
            f"query {work.stage.called()}: {len(written.failed)} of {counted(len(questions), 'call')} failed, for one: "
            f"{next(iter(written.failed.values()))}; the same command asks those again"
        )
    keys = {work.key(question) for question in questions}
    lines = [line for line in directory.read_queries(file_name) if line.key in keys]
    return written.texts, use_of(lines, work.config.llm.price)


def build_index(config: RunConfig, out: Path) -> Index:
    """Build the index of the run's retriever in the folder `out`, for its setting `index`."""
    retriever: Retriever = config.retriever
    if not isinstance(retriever, IndexedRetriever):
        raise UsageError(
            f"retriever {retriever.named().name} has no index to build; bm25, biencoder, sparse and multivector do"
        )
    notes = load_dataset(config.data, note_fields=config.note_fields).notes
    with third_party(f"retriever {retriever.called()}"):
        retriever.write_index(notes, out)
    return Index(out, len(notes), sum(path.stat().st_size for path in out.iterdir()), kept_encoding(out))
