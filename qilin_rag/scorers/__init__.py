"""Scorers: how good an answer, or a ranking, is. Each metric carries a signature that says how it was made."""

from qilin_rag.scorers.base import AnswerScorer, Remarked, Scorer

__all__ = ["AnswerScorer", "Remarked", "Scorer"]
