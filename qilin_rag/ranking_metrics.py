"""Figures of a ranking of candidates against clicks: by ir_measures, and as the code released with the paper has them.

An evaluator gets scores rewritten from our ranks, so that its own order of ties can't change a figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

MEASURES = {
    "mrr@10": "RR@10",
    "mrr@100": "RR@100",
    "map@10": "AP@10",
    "map@100": "AP@100",
    "ndcg@10": "nDCG@10",
    "recall@10": "R@10",
    "precision@10": "P@10",
}
"""The names of the paper's figures, and of ir_measures."""

RELEASED = {"map@10 (released code)": 10, "map@100 (released code)": 100}
"""MAP with the smaller of k and the number of clicked notes below the fraction."""


def rank_figures(
    rankings: Mapping[str, Sequence[int]], relevant: Mapping[str, AbstractSet[int]]
) -> dict[str, dict[str, float]]:
    """Each measure of each request in `relevant` that has a relevant note.

    `rankings` are note_idx by request, best first, each once. A request that is not ranked has 0; the released code
    leaves it out of its mean, so it has no figure of that.
    """
    import ir_measures

    judged = [request for request, notes in relevant.items() if notes]
    names = {str(ir_measures.parse_measure(measure)): name for name, measure in MEASURES.items()}
    figures = {request: dict.fromkeys(MEASURES, 0.0) for request in judged}
    qrels = [ir_measures.Qrel(request, str(note), 1) for request in judged for note in relevant[request]]
    run = [
        ir_measures.ScoredDoc(request, str(note), float(-rank))
        for request in judged
        for rank, note in enumerate(rankings.get(request, []), start=1)
    ]
    if run:
        for found in ir_measures.iter_calc([ir_measures.parse_measure(m) for m in MEASURES.values()], qrels, run):
            figures[found.query_id][names[str(found.measure)]] = float(found.value)
    for request in judged:
        if request in rankings:
            for name, k in RELEASED.items():
                figures[request][name] = average_precision_as_released(rankings[request], relevant[request], k)
    return figures


def average_precision_as_released(ranking: Sequence[int], relevant: AbstractSet[int], k: int) -> float:
    """The sum of P@rank at the hits among the first k, over min(number of relevant notes, k)."""
    n_hits, total = 0, 0.0
    for rank, note in enumerate(ranking[:k], start=1):
        if note in relevant:
            n_hits += 1
            total += n_hits / rank
    return total / min(len(relevant), k) if relevant else 0.0
