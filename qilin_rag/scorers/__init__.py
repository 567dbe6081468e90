"""Scorers measure how good an answer or a ranking is. Each metric has a signature that says how it is computed."""

from qilin_rag.scorers.base import AnswerScorer, Remarked, Scorer

__all__ = ["AnswerScorer", "Remarked", "Scorer"]
