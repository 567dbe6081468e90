"""Rerank in LangChain's pipelines: a retriever with its second stage, or documents of any retriever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from qilin_rag.core.errors import UsageError
from qilin_rag.core.extras import require
from qilin_rag.core.text import clean
from qilin_rag.core.types import Hit, Note, Question
from qilin_rag.data.notes import NoteStore, hold_notes
from qilin_rag.retrievers.base import Retriever
from qilin_rag.retrievers.documents import note_retriever

if TYPE_CHECKING:
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.retrievers import BaseRetriever

Rerank = Callable[[Sequence[Question], Sequence[Sequence[Hit]], NoteStore], list[list[Hit]]]
"""`Reranker.rerank`."""


def reranked_retriever(
    rerank: Rerank, depth: int, retriever: Retriever, notes: NoteStore, k: int, questions: Sequence[Question]
) -> BaseRetriever:
    """Return a BaseRetriever over both stages; see `Reranker.as_langchain`."""
    if k > depth:
        raise UsageError(f"k {k}: the second stage ranks only {depth} notes; raise its depth")

    def search(questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        found = retriever.search(questions, notes, depth)
        return [hits[:k] for hits in rerank(questions, found, notes)]

    return note_retriever(search, notes, k, questions)


def document_compressor(rerank: Rerank, depth: int, k: int | None) -> BaseDocumentCompressor:
    """Return a BaseDocumentCompressor; see `Reranker.as_compressor`."""
    require("langchain", "langchain_core", what="as_compressor")
    from langchain_core.documents import BaseDocumentCompressor

    one_at_a_time = threading.Lock()  # LangChain calls from several threads; models are loaded on first use

    class NoteCompressor(BaseDocumentCompressor):  # type: ignore[misc]
        def compress_documents(
            self, documents: Sequence[Document], query: str, callbacks: Any = None
        ) -> list[Document]:
            first, rest = documents[:depth], documents[depth:]
            notes = hold_notes([_as_note(place, document) for place, document in enumerate(first)])
            found = [Hit(note_idx=i, score=float(len(first) - i), rank=i + 1) for i in range(len(first))]
            with one_at_a_time:
                [hits] = rerank([Question(id=query, query=query, references=[])], [found], notes)
            ranked = [_scored(first[hit.note_idx], hit) for hit in hits]
            return [*ranked, *rest][:k]

    return NoteCompressor()


def _as_note(place: int, document: Document) -> Note:
    """Return a document as a note: a first line that is its title in the metadata is the note's title."""
    title, line_break, content = document.page_content.partition("\n")
    if not line_break or document.metadata.get("title") != title:
        title, content = "", document.page_content
    return Note(note_idx=place, title=clean(title), content=clean(content))


def _scored(document: Document, hit: Hit) -> Document:
    return document.model_copy(update={"metadata": {**document.metadata, "relevance_score": hit.score}})
