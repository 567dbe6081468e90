"""Run the retrieval stage alone: write a TREC run, or build an index in a folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from qilin_rag.config.run import RunConfig
from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import check_out, write_text
from qilin_rag.core.stats import query_clusters
from qilin_rag.core.third_party import third_party
from qilin_rag.core.trec import format_trec
from qilin_rag.core.types import MetricSummary, Score
from qilin_rag.data import load_dataset
from qilin_rag.pipeline.cost import rerank_cost, say_rerank
from qilin_rag.pipeline.identity import retriever_label
from qilin_rag.pipeline.selection import select_questions
from qilin_rag.pipeline.shared import Shared
from qilin_rag.retrievers import IndexedRetriever, Retriever
from qilin_rag.scorers.retrieval import Retrieval
from qilin_rag.scorers.summary import summarise_metrics

logger = logging.getLogger(__name__)


class Index(NamedTuple):
    """An index on disk: its folder, the number of its notes, and its size."""

    path: Path
    n_notes: int
    n_bytes: int


def retrieve_only(config: RunConfig, out: Path) -> dict[str, MetricSummary]:
    """Write the hits of the run's questions to a TREC file, and return the figures of the ranking."""
    check_out(out)
    shared = Shared()
    questions = select_questions(shared.dataset(config).askable, config.limit, config.seed, config.ids)
    shared.count_defects(config, questions)
    retrieved = shared.retrieve(config, questions)
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
    return summarise_metrics(signed, query_clusters([question.query for question in questions]), config.seed)


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
    return Index(out, len(notes), sum(path.stat().st_size for path in out.iterdir()))
