"""Turn the hits of our retrievers into LangChain documents."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from qilin_rag.core.extras import require
from qilin_rag.core.types import Hit, Note, Question
from qilin_rag.data import NoteStore

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever

Search = Callable[[Sequence[Question], NoteStore, int], list[list[Hit]]]


def note_retriever(search: Search, notes: NoteStore, k: int, questions: Sequence[Question]) -> BaseRetriever:
    """Return a BaseRetriever over `search`; see `Retriever.as_langchain`."""
    require("langchain", "langchain_core", what="as_langchain")
    from langchain_core.retrievers import BaseRetriever

    known: dict[str, Question] = {}
    for question in questions:
        known.setdefault(question.query, question)
    one_at_a_time = threading.Lock()  # LangChain calls from several threads; indexes are built on first use

    class NoteRetriever(BaseRetriever):  # type: ignore[misc]
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            question = known.get(query) or Question(id=query, query=query, references=[])
            with one_at_a_time:
                [hits] = search([question], notes, k)
                found = notes.get([hit.note_idx for hit in hits])
            return [as_document(note, hit) for note, hit in zip(found, hits, strict=True)]

    return NoteRetriever()


def as_document(note: Note, hit: Hit) -> Document:
    """Make a document of title, line break and content (content alone if it has no title); add the hit as metadata."""
    from langchain_core.documents import Document

    return Document(
        id=str(note.note_idx),
        page_content=f"{note.title}\n{note.content}" if note.title else note.content,
        metadata={"note_idx": note.note_idx, "title": note.title, "score": hit.score, "rank": hit.rank},
    )
