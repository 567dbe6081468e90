"""How good the order is that scores put candidates in: the figures of each request."""

from __future__ import annotations

from qilin_rag.data.requests import Floats, Requests
from qilin_rag.ranking_metrics import rank_figures


def figures_of(requests: Requests, scores: Floats) -> list[dict[str, float] | None]:
    """For each request its figures by name (see `ranking_metrics`), None where nothing was clicked."""
    order = requests.best_first(scores)
    parts = list(zip(requests.offsets[:-1], requests.offsets[1:], strict=True))
    rankings = {str(i): requests.note_idx[order[start:end]].tolist() for i, (start, end) in enumerate(parts)}
    relevant = {
        str(i): set(requests.note_idx[start:end][requests.clicked[start:end]].tolist())
        for i, (start, end) in enumerate(parts)
    }
    found = rank_figures(rankings, relevant)
    return [found.get(str(i)) for i in range(len(requests))]
