"""Tables of what followed searches, by whether an answer was shown, with 95% intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qilin_rag.analysis.after_search import AfterSearch, ReSearchLimits, abandonment
from qilin_rag.analysis.covariates import group_by_user
from qilin_rag.analysis.figures import Column, FigureTable
from qilin_rag.analysis.log import Log
from qilin_rag.analysis.transitions import reformulation
from qilin_rag.core.stats import Clusters, intervals95, share95
from qilin_rag.core.text import counted
from qilin_rag.data.exposures import Bools, Ints

Values = npt.NDArray[np.float64]
Estimated = tuple[float | None, tuple[float, float] | None]
"""A mean and its interval."""
_COUNT = Column(name="searches", unit="count")
_NEXT = ("Add", "Delete", "Change", "Repeat", "Others", "none")
_WHY = "no such search"


def tables_of(log: Log, after: AfterSearch, limits: ReSearchLimits, n_left_out: int) -> list[FigureTable]:
    """Return what followed, what came of the results, and how the next search changed the query, by group."""
    groups = _groups(log)
    users = np.unique(group_by_user(log, np.arange(len(log.shown))), return_inverse=True)[1].astype(np.intp)
    followed = {name: (values.astype(float), np.ones(len(values), bool)) for name, values in after.is_followed.items()}
    left = {
        name: (values.astype(float), np.ones(len(values), bool))
        for name, values in abandonment(log.n_clicks == 0, after.is_followed["re-search"]).items()
    }
    left["long click"] = after.has_long_click.astype(float), after.is_timed
    dwell = after.dwell_s, after.dwell_s >= 0
    n_searches, n_timed = int(log.shown.is_search.sum()), int((after.is_timed & log.shown.is_search).sum())
    left_out = [f"{counted(n_left_out, 'search')} without user or time left out."] if n_left_out else []
    return [
        _table(
            "re_search_rate",
            "Searches that another search follows",
            groups,
            followed,
            {},
            users,
            [
                f"Within {limits.minutes:g} minutes, by the same user. Re-search: in other words whose similarity is "
                f"at least {limits.similarity:g} (Dice's coefficient of the sets of characters, or words of Latin "
                "letters). Same query: a reload, or a return to the page. Another need: any other query. A search may "
                "be followed by several.",
                *left_out,
                log.clock,
            ],
        ),
        _table(
            "re_search_clicks",
            "Searches by what came of their results",
            groups,
            left,
            {"seconds a click": dwell},
            users,
            [
                f"Long click: a clicked note was open for {limits.long_click_s:g} seconds or more. Seconds a click: "
                "the mean page time of a search's clicked notes. Both are over searches whose clicks all have a page "
                f"time, as {n_timed:,} of {n_searches:,} have.",
            ],
        ),
        _next_table(log, after, limits, groups, users),
    ]


def _groups(log: Log) -> dict[str, Bools]:
    """Return the searches with an answer, those of dqa without, and those of other tables, if there are any."""
    searched, answered = log.shown.is_search, log.shown.answered
    groups = {"with an answer": answered & searched, "without, in dqa": ~answered & log.is_dqa}
    elsewhere = searched & ~answered & ~log.is_dqa
    return groups | ({"without, elsewhere": elsewhere} if elsewhere.any() else {})


def _table(
    key: str,
    title: str,
    groups: dict[str, Bools],
    shares: dict[str, tuple[Values, Bools]],
    means: dict[str, tuple[Values, Bools]],
    users: Clusters,
    notes: list[str],
) -> FigureTable:
    rows = [
        [
            _estimate(column, of_group & is_known, users, is_share=name in shares)
            for name, (column, is_known) in (shares | means).items()
        ]
        for of_group in groups.values()
    ]
    return FigureTable(
        key=key,
        title=title,
        columns=[
            _COUNT,
            *(Column(name=name, unit="share") for name in shares),
            *(Column(name=name) for name in means),
        ],
        rows=list(groups),
        values=[
            [float(of_group.sum()), *(value for value, _ in row)]
            for of_group, row in zip(groups.values(), rows, strict=True)
        ],
        ci95=[[None, *(interval for _, interval in row)] for row in rows],
        notes=[*[note for note in notes if note], _intervals_note(rows)],
        why_missing=_WHY,
    )


def _estimate(values: Values, chosen: Bools, users: Clusters, is_share: bool = True) -> Estimated:
    """Return the mean of the chosen values and its 95% interval; neither without a value."""
    values, users = values[chosen], users[chosen]
    if not len(values):
        return None, None
    mean = float(values.mean())
    if is_share:
        return mean, share95(values, users)
    [found] = intervals95(values[:, None], users)
    return mean, (found.low, found.high) if found else None


def _intervals_note(rows: Sequence[Sequence[Estimated]]) -> str:
    n_without = sum(interval is None for row in rows for _, interval in row)
    few = f" {counted(n_without, 'figure')} without one: too few users." if n_without else ""
    return f"In brackets 95% intervals, in which searches of one user are one piece of evidence.{few}"


def _next_table(
    log: Log, after: AfterSearch, limits: ReSearchLimits, groups: dict[str, Bools], users: Clusters
) -> FigureTable:
    """Return the kinds of the next search (paper's Table 8) as rows, and the groups as columns."""
    kinds, is_known = _kinds(log, after)
    rows = [
        [_estimate((kinds == number).astype(float), of_group & is_known, users) for of_group in groups.values()]
        for number in range(len(_NEXT))
    ]
    n_unknown = int((~is_known & log.shown.is_search).sum())
    return FigureTable(
        key="re_search_next",
        title="How the next search changes the query",
        columns=[Column(name=name, unit="share") for name in groups],
        rows=list(_NEXT),
        values=[[value for value, _ in row] for row in rows],
        ci95=[[interval for _, interval in row] for row in rows],
        notes=[
            f"The next search of the user within {limits.minutes:g} minutes; of the sets of characters: Add, only "
            "more; Delete, only fewer; Change, both and some shared; Repeat, the same; Others, none shared; none, no "
            "search follows.",
            *([f"{counted(n_unknown, 'search')} left out: a query is missing."] if n_unknown else []),
            _intervals_note(rows),
        ],
        why_missing=_WHY,
    )


def _kinds(log: Log, after: AfterSearch) -> tuple[Ints, Bools]:
    """Return the place in `_NEXT` of each search, and whether it is known."""
    queries = log.shown.queries
    kinds = np.full(len(log.shown), len(_NEXT) - 1)
    is_known = log.shown.is_search.copy()
    for row in np.flatnonzero(after.next_row >= 0).tolist():
        first, second = queries[row], queries[after.next_row[row]]
        if first and second:
            kinds[row] = _NEXT.index(reformulation(first, second))
        else:
            is_known[row] = False
    return kinds, is_known
