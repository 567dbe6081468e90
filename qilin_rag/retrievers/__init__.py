"""Retrievers: they choose the notes that an LLM reads. The whole interface is `Retriever.search`."""

from qilin_rag.retrievers.base import Retriever, checked_rankings, rank_hits
from qilin_rag.retrievers.index_files import IndexedRetriever

__all__ = ["IndexedRetriever", "Retriever", "checked_rankings", "rank_hits"]
