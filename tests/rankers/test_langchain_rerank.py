"""A second stage in LangChain's pipelines gives the order of a run, for our notes and for documents of anybody's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import Note, Question
from qilin_rag.data import Dataset, load_dataset
from qilin_rag.data.notes import hold_notes
from qilin_rag.rankers.rerank import Reranker
from qilin_rag.retrievers.bm25.retriever import BM25
from tests.rankers.rerank_server import RerankServer, by_length

pytest.importorskip("langchain_core", reason="needs LangChain: pip install 'qilin-rag[langchain]'")

from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda


@pytest.fixture
def server() -> Iterator[RerankServer]:
    with RerankServer() as server:
        yield server


@pytest.fixture
def dataset(data_dir: Any) -> Dataset:
    return load_dataset(str(data_dir))


def test_both_stages_are_one_retriever(server: RerankServer, dataset: Dataset) -> None:
    reranker = Reranker.open(f"{server.root}/v1/rerank", 4)
    theirs = reranker.as_langchain(BM25(), dataset.notes, k=2)
    assert isinstance(theirs, BaseRetriever)
    for query in ("多肉咖啡怎么养", "水温"):
        question = Question(id=query, query=query, references=[])
        [hits] = reranker.rerank([question], BM25().search([question], dataset.notes, 4), dataset.notes)
        found = theirs.invoke(query)
        assert [(each.metadata["note_idx"], each.metadata["score"], each.metadata["rank"]) for each in found] == [
            (hit.note_idx, hit.score, hit.rank) for hit in hits[:2]
        ]
    with pytest.raises(UsageError, match="ranks only 4 notes"):
        reranker.as_langchain(BM25(), dataset.notes, k=5)


def test_documents_of_anybody_are_put_in_order(server: RerankServer) -> None:
    texts = ["咖啡", "手冲咖啡的水温", "多肉", "咖啡的水温", "水"]
    documents = [Document(page_content=text, metadata={"source": i}) for i, text in enumerate(texts)]
    compressor = Reranker.open(f"{server.root}/v1/rerank", 4).as_compressor()
    assert isinstance(compressor, BaseDocumentCompressor)
    found = compressor.compress_documents(documents, "咖啡水温")
    scores = by_length("咖啡水温", [f" {text}" for text in texts[:4]])
    order = sorted(range(4), key=lambda i: -scores[i])
    assert [document.metadata["source"] for document in found] == [*order, 4]
    assert [document.metadata.get("relevance_score") for document in found] == [
        *(pytest.approx(scores[i]) for i in order),
        None,
    ]
    assert documents[0].metadata == {"source": 0}
    first = Reranker.open(f"{server.root}/v1/rerank", 4).as_compressor(k=1)
    assert first.compress_documents(documents, "咖啡水温") == found[:1]
    assert compressor.compress_documents([], "咖啡水温") == []


def test_our_documents_score_as_their_notes(server: RerankServer, dataset: Dataset) -> None:
    reranker = Reranker.open(f"{server.root}/v1/rerank", 5)
    chain = BM25().as_langchain(dataset.notes, k=5) | RunnableLambda(
        lambda documents: reranker.as_compressor(k=2).compress_documents(documents, "多肉咖啡")
    )
    found = chain.invoke("多肉咖啡")
    expected = reranker.as_langchain(BM25(), dataset.notes, k=2).invoke("多肉咖啡")
    n_pairs = len(server.pairs)
    assert [each.metadata["note_idx"] for each in found] == [each.metadata["note_idx"] for each in expected]
    assert len(server.pairs) == n_pairs and len(set(server.pairs)) == n_pairs  # each pair once, kept for both


def test_notes_are_held_without_a_file() -> None:
    notes = [Note(note_idx=i, title=f"题{i}", content="文" * i) for i in range(600)]
    store = hold_notes(notes[::-1])
    assert store.get([599, 0, 300]) == [notes[599], notes[0], notes[300]]
    assert (len(store), store.missing([600])) == (600, [600])
    assert store.sha256 == hold_notes(notes).sha256
    assert len(hold_notes([])) == 0
