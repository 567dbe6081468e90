"""Retrievers: what notes an LLM gets to read. `Retriever.search` is the whole interface."""

from qilin_rag.retrievers.base import Retriever, checked_rankings, rank_hits
from qilin_rag.retrievers.index_files import IndexedRetriever

__all__ = ["IndexedRetriever", "Retriever", "checked_rankings", "rank_hits"]
