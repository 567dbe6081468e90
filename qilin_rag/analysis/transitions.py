"""Transitions within a session: Table 6 (kinds of requests) and Table 8 (reformulations of queries)."""

from __future__ import annotations

import numpy as np

from qilin_rag.analysis.figures import Column, FigureTable, ratio, table
from qilin_rag.analysis.log import Log
from qilin_rag.data.exposures import Ints
from qilin_rag.data.sessions import Sessions, pause_sessions

_SHARE = Column(name="share", unit="share")
_PAIRS = Column(name="pairs", unit="count")
_COLUMNS6 = [_SHARE, Column(name="clicks"), Column(name="CTR", unit="share"), _PAIRS]
_PAPER6 = {
    "S-S": [0.3488, 4.0014, 0.2018, 29295],
    "R-S": [0.0295, 3.9782, 0.2298, 2476],
    "R-R": [0.5932, 2.9745, 0.2320, 49815],
    "S-R": [0.0284, 4.4466, 0.2501, 2387],
}
_PAPER8 = {"Add": 0.1357, "Delete": 0.0253, "Change": 0.4716, "Repeat": 0.0757, "Others": 0.2917}


def table6(log: Log) -> FigureTable:
    """Return consecutive requests of a session by kind, with the engagement of the second one."""
    second = _second_of_pairs(log.pause_sessions)
    kinds = np.where(log.shown.is_search, "S", "R")
    pair = np.char.add(np.char.add(kinds[second - 1], "-"), kinds[second])
    rows: dict[str, list[float | None]] = {}
    for name in _PAPER6:
        of_kind = second[pair == name]
        clicks, results = log.n_clicks[of_kind].sum(), log.n_results[of_kind].sum()
        rows[name] = [
            ratio(len(of_kind), len(second)),
            ratio(clicks, len(of_kind)),
            ratio(clicks, results),
            len(of_kind),
        ]
    n_alone = int((log.pause_sessions.number < 0).sum())
    names = [column.name for column in _COLUMNS6]
    return table(
        "table6",
        "Consecutive requests in a session (Table 6)",
        _COLUMNS6,
        rows,
        {name: dict(zip(names, values, strict=True)) for name, values in _PAPER6.items()},
        [
            f"All requests of a user in true time; {pause_rule(log)}. "
            "R-S: a search after a recommendation. Clicks and CTR are those of the second request.",
            log.clock,
            *([f"{n_alone} requests without user or time are left out."] if n_alone else []),
        ],
        why_missing="no such pair",
    )


def table8(log: Log) -> FigureTable:
    """Return consecutive searches of a user by the change of the set of characters of the query."""
    queries = [(log.shown.queries[a], log.shown.queries[b]) for a, b in zip(*search_pairs(log), strict=True)]
    kinds = [reformulation(*pair) for pair in queries if all(pair)]
    missing = len(queries) - len(kinds)
    counts = {name: kinds.count(name) for name in _PAPER8}
    return table(
        "table8",
        "Reformulations of queries (Table 8)",
        [_SHARE, _PAIRS],
        {name: [ratio(count, len(kinds)), count] for name, count in counts.items()},
        {name: {"share": share} for name, share in _PAPER8.items()} | {"all": {"pairs": 29875}},
        [
            f"Searches of a user that follow one another, whatever recommendations are between; {pause_rule(log)}. "
            "Of the sets of characters: Add, only more; Delete, only fewer; Change, both and some shared; Repeat, the "
            "same; Others, none shared.",
            "The paper has 29,875 such pairs, and 29,295 in Table 6, so this counts searches only.",
            *([f"{missing} pairs in which a query is missing are left out."] if missing else []),
        ],
        why_missing="no such pair",
    )


def search_pairs(log: Log) -> tuple[Ints, Ints]:
    """Return the rows of consecutive searches by the rule of pauses, ignoring recommendations."""
    searches = np.flatnonzero(log.shown.is_search)
    alone = log.shown.take(searches)
    second = _second_of_pairs(pause_sessions(alone, [alone], log.settings.session_gap_s))
    return searches[second - 1], searches[second]


def _second_of_pairs(sessions: Sessions) -> Ints:
    """Return the rows that follow the row before in the same session."""
    number = sessions.number
    return 1 + np.flatnonzero((number[1:] == number[:-1]) & (number[1:] >= 0))


def pause_rule(log: Log) -> str:
    """Return what ends a session in the tables of section 4.3."""
    return f"a pause of more than {log.settings.session_gap_s / 60:g} minutes begins another session"


def reformulation(before: str, after: str) -> str:
    """Return the kind of a reformulation: Add, Delete, Change, Repeat or Others."""
    old, new = set(before), set(after)
    if old == new:
        return "Repeat"
    if old and not old & new:
        return "Others"
    if old < new:
        return "Add"
    return "Delete" if new < old else "Change"
