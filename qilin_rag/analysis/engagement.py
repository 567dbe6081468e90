"""Engagement of users with results: Table 5 of the paper and Figure 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qilin_rag.analysis.figures import Column, FigureTable, ratio, table
from qilin_rag.analysis.log import IMAGE_TEXT, VIDEO, Log
from qilin_rag.analysis.transitions import pause_rule
from qilin_rag.data.exposures import Bools, Ints
from qilin_rag.data.schema import ACTIONS

MOST = 10
BUCKETS = [*map(str, range(1, MOST + 1)), f">{MOST}"]
TOP = MOST + 1
"""The bucket of position 0."""
_AT_ONE_MOMENT = " Its place is 1 + the requests of the session that began earlier."

_TABLE5_COLUMNS = [
    Column(name="requests", unit="count"),
    Column(name="browsing depth"),
    Column(name="first click rank"),
    Column(name="clicks"),
    Column(name="CTR", unit="share"),
    *(Column(name=name, unit="share") for name in ACTIONS[1:]),
]
_PAPER5 = {
    "S": [57188, 22.75, 3.01, 3.88, 0.2101, 0.0411, 0.0187, 0.0057, 0.0032],
    "R": [94552, 18.80, 4.97, 3.67, 0.2413, 0.0707, 0.0147, 0.0063, 0.0099],
    "S-DQA": [54256, 23.41, 3.03, 3.99, 0.2102, 0.0419, 0.0188, 0.0057, 0.0032],
    "S+DQA": [2932, 10.61, 2.50, 2.50, 0.2073, 0.0129, 0.0126, 0.0052, 0.0021],
}


def table5(log: Log) -> FigureTable:
    """Return browsing depth, first click rank, clicks, click-through rate, and the actions that come with clicks."""
    searched = log.shown.is_search
    groups = {"S": searched, "R": ~searched, "S-DQA": searched & ~log.shown.answered, "S+DQA": log.shown.answered}
    names = [column.name for column in _TABLE5_COLUMNS]
    return table(
        "table5",
        "User behaviour (Table 5)",
        _TABLE5_COLUMNS,
        {name: _behaviour(log, of_group) for name, of_group in groups.items()},
        {name: dict(zip(names, values, strict=True)) for name, values in _PAPER5.items()},
        [
            "S: searches; R: recommendations; S+DQA: searches with an answer shown; S-DQA: the others.",
            "Browsing depth is the mean of the largest position, first click rank that of the smallest clicked one "
            "over requests with a click; clicks include requests without; CTR is clicks over results; the actions "
            "are shares of the clicks.",
            "The paper's two search columns, weighted, give 3.91 clicks, not the 3.88 it prints.",
            *_zero_notes(log),
        ],
    )


def _zero_notes(log: Log) -> list[str]:
    """Return the note on position 0; none if no result is there."""
    n_zero = int((log.shown.position == 0).sum())
    return [f"{n_zero} results are at position 0, which is read as the top (log.position_zero)."] if n_zero else []


def _behaviour(log: Log, of_group: Bools) -> list[float | None]:
    depth = log.depth[of_group]
    first = log.first_click[of_group]
    clicks = log.n_clicks[of_group]
    group = of_group[log.shown.request]
    clicked = log.clicked & group
    with_click = log.shown.actions[clicked].sum(axis=0)
    return [
        int(of_group.sum()),
        _mean(depth[depth >= 0]),
        _mean(first[first >= 0]),
        _mean(clicks),
        ratio(clicked.sum(), group.sum()),
        *(ratio(with_click[i], clicked.sum()) for i in range(1, len(ACTIONS))),
    ]


def _mean(values: Ints) -> float | None:
    return float(values.mean()) if len(values) else None


def figure3(log: Log) -> list[FigureTable]:
    """Return CTR by position and by place in the session, and note types by position with their CTR.

    Results at position 0 have their own row above position 1, if there are any.
    """
    position = _bucket(log.shown.position)
    position[log.shown.position == 0] = TOP
    places = {TOP: "0 (top)"} if (position == TOP).any() else {}
    places |= dict(enumerate(BUCKETS))
    searched = log.shown.is_search[log.shown.request]
    kinds = [("search", searched), ("recommendation", ~searched)]
    types = [("image-text", log.note_type == IMAGE_TEXT), ("video", log.note_type == VIDEO)]
    share = [Column(name=name, unit="share") for name, _ in kinds]
    by_type = [Column(name=name, unit="share") for name, _ in types]

    def ctr(mask: Bools) -> float | None:
        return ratio((log.clicked & mask).sum(), mask.sum())

    def rows(bucket: Ints, masks: Sequence[Bools], names: Mapping[int, str]) -> dict[str, list[float | None]]:
        return {name: [ctr((bucket == i) & mask) for mask in masks] for i, name in names.items()}

    masks = [mask for _, mask in kinds]
    tables = [
        table("figure3a", "CTR by position (Figure 3a)", share, rows(position, masks, places), notes=_zero_notes(log))
    ]
    by_session = [
        (
            "figure3b",
            "CTR by place of the request in its session of the app (Figure 3b)",
            log.app_sessions,
            "A session is the requests of both kinds with one session_idx, as in the paper.",
            "no request at this place, or no session_idx",
        ),
        (
            "figure3b_pause",
            "CTR by place of the request in its session by the rule of pauses",
            log.pause_sessions,
            f"A session is a user's requests of both kinds; {pause_rule(log)}, as in section 4.3.",
            "no request at this place",
        ),
    ]
    for key, title, sessions, definition, why in by_session:
        ordinal = _bucket(sessions.ordinal)[log.shown.request]
        n_none = int((sessions.number < 0).sum())
        notes = [definition + _AT_ONE_MOMENT, *([f"{n_none} requests are in no session."] if n_none else []), log.clock]
        ctrs = rows(ordinal, masks, dict(enumerate(BUCKETS)))
        tables.append(table(key, title, share, ctrs, notes=notes, why_missing=why))
    has_type = log.note_type > 0
    why = "no result of a known type there"
    for letter, (kind, of_kind) in zip("cd", kinds, strict=True):
        shares = {
            name: [
                ratio(((position == i) & of_kind & mask).sum(), ((position == i) & of_kind & has_type).sum())
                for _, mask in types
            ]
            for i, name in places.items()
        }
        title = f"Types of notes by position, {kind} (Figure 3{letter})"
        tables.append(table(f"figure3{letter}", title, by_type, shares, why_missing=why))
    for letter, (kind, of_kind) in zip("ef", kinds, strict=True):
        title = f"CTR by type of note and position, {kind} (Figure 3{letter})"
        of_types = rows(position, [of_kind & mask for _, mask in types], places)
        tables.append(table(f"figure3{letter}", title, by_type, of_types, why_missing=why))
    return tables


def _bucket(places: Ints) -> Ints:
    """Return 0 to 9 for places 1 to 10, 10 for later ones, -1 for unknown ones."""
    return np.where(places > 0, np.minimum(places, MOST + 1) - 1, -1)
