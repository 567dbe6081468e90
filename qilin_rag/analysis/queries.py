"""Queries: Table 7 (their length) and Table 9 (their sources)."""

from __future__ import annotations

import numpy as np

from qilin_rag.analysis.figures import Column, FigureTable, ratio, table
from qilin_rag.analysis.log import Log
from qilin_rag.core.text import visible

LENGTHS = ["<=3", *map(str, range(4, 11)), ">10"]
_COLUMNS7 = [
    Column(name="share", unit="share"),
    Column(name="CTR", unit="share"),
    Column(name="clicks"),
    Column(name="searches", unit="count"),
]
_PAPER7 = {
    "<=3": [0.0032, 0.1967, 2.9892],
    "4": [0.1364, 0.1962, 4.0276],
    "5": [0.1394, 0.2047, 3.9303],
    "6": [0.1727, 0.2051, 4.0338],
    "7": [0.1407, 0.2111, 3.9446],
    "8": [0.1242, 0.2150, 3.8180],
    "9": [0.0954, 0.2199, 3.6971],
    "10": [0.0689, 0.2272, 3.7497],
    ">10": [0.1191, 0.2216, 3.7010],
}
SOURCES = [
    "active search",
    "auto-completion",
    "history",
    "suggestion on the page",
    "suggestion in a note",
    "filter",
    "hot list",
    "others",
]
_PAPER9 = [0.3370, 0.5097, 0.0578, 0.0397, 0.0302, 0.0137, 0.0063, 0.0055]


def table7(log: Log) -> FigureTable:
    """Return share of searches, CTR and mean clicks by the number of visible characters of the query."""
    searches = np.flatnonzero(log.shown.is_search)
    n_chars = np.array([len(visible(log.shown.queries[row])) for row in searches.tolist()], np.int64)
    missing = int((n_chars == 0).sum())
    searches, n_chars = searches[n_chars > 0], n_chars[n_chars > 0]
    bucket = np.clip(n_chars, 3, 11) - 3
    rows: dict[str, list[float | None]] = {}
    for i, name in enumerate(LENGTHS):
        in_bucket = searches[bucket == i]
        clicks, results = log.n_clicks[in_bucket].sum(), log.n_results[in_bucket].sum()
        rows[name] = [
            ratio(len(in_bucket), len(searches)),
            ratio(clicks, results),
            ratio(clicks, len(in_bucket)),
            len(in_bucket),
        ]
    return table(
        "table7",
        "Length of queries in characters (Table 7)",
        _COLUMNS7,
        rows,
        {name: dict(zip(("share", "CTR", "clicks"), values, strict=True)) for name, values in _PAPER7.items()},
        [f"{missing} searches without a query are left out."] if missing else [],
        why_missing="no such search",
    )


def table9(log: Log) -> FigureTable:
    """Return the shares of the sources of queries, among known ones."""
    sources = log.shown.source[log.shown.is_search]
    known_sources = sources[sources > 0]
    counts = {f"{i} {name}": int((known_sources == i).sum()) for i, name in enumerate(SOURCES, start=1)}
    n_others = len(known_sources) - sum(counts.values())
    missing = len(sources) - len(known_sources)
    return table(
        "table9",
        "Sources of queries (Table 9)",
        [Column(name="share", unit="share"), Column(name="searches", unit="count")],
        {name: [ratio(count, len(known_sources)), count] for name, count in counts.items()},
        {name: {"share": share} for name, share in zip(counts, _PAPER9, strict=True)},
        [
            f"Shares are of the {len(known_sources)} searches whose source is known; {missing} have none.",
            *([f"{n_others} have a source above 8, not shown here."] if n_others else []),
        ],
        why_missing="no search with a known source",
    )
