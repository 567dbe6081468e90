"""Rankers order the candidates of a search or recommendation request; four of them are trained."""

from __future__ import annotations

from qilin_rag.rankers.base import Ranker
from qilin_rag.rankers.trained import TrainedRanker, load_ranker

__all__ = ["Ranker", "TrainedRanker", "load_ranker"]
