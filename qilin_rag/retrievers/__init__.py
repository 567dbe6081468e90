"""Retrievers: what notes an LLM gets to read. `Retriever.search` is the whole interface."""

from qilin_rag.retrievers.base import Retriever, rank_hits

__all__ = ["Retriever", "rank_hits"]
