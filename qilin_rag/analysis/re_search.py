"""Describe what users do after a search with an answer, beside other searches, and which part the answer causes."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from qilin_rag.analysis.after_search import AfterSearch, ReSearchLimits, abandonment
from qilin_rag.analysis.dqa_effect import DqaEffect, Outcome, dqa_effects, known_on_both_sides
from qilin_rag.analysis.figures import FigureTable
from qilin_rag.analysis.log import Log
from qilin_rag.analysis.re_search_tables import tables_of
from qilin_rag.core.errors import UsageError
from qilin_rag.data.exposures import Ints
from qilin_rag.data.feedback import has_user_and_time


class ReSearchReport(NamedTuple):
    """The shares by group, and the effects of an answer.

    Attributes:
        tables: What followed searches, by whether an answer was shown.
        effects: The effects within each population; empty if they are refused.
        refused: Why there is no effect; None if there is one.
    """

    limits: ReSearchLimits
    tables: list[FigureTable]
    effects: list[DqaEffect]
    refused: str | None


def re_search_report(
    log: Log,
    users: pa.Table | None,
    limits: ReSearchLimits | None = None,
    seed: int = 0,
    only: Collection[str] | None = None,
) -> ReSearchReport:
    """Return what users do after searches with and without an answer, and what of it is an effect of the answer.

    The effects are estimated as those of `dqa_effects`. Searches without user or time are left out, since it is not
    known what followed them.

    Args:
        log: All requests.
        users: The features of the users, by `user_idx` ascending.
        limits: What counts as a re-search and as a long click.
        seed: The seed of the folds, the matching, and the dimensions of the text.
        only: The names of the outcomes; None takes all.

    Raises:
        UsageError: if the log has no search with user and time, or a limit is out of range.
    """
    limits = limits or ReSearchLimits()
    known = log.taken(np.flatnonzero(has_user_and_time(log.shown)))
    if not known.shown.is_search.any():
        raise UsageError("no search has a user and a time, so it is not known what users did after searches")
    after = AfterSearch(known, limits)
    tables = tables_of(known, after, limits, int(log.shown.is_search.sum() - known.shown.is_search.sum()))

    def outcomes(of: Log, rows: Ints) -> list[Outcome]:
        return outcomes_after(of, after, rows)

    try:
        effects, refused = dqa_effects(known, users, seed, only, outcomes), None
    except UsageError as error:
        effects, refused = [], str(error)
    return ReSearchReport(limits, tables, effects, refused)


def outcomes_after(log: Log, after: AfterSearch, rows: Ints) -> list[Outcome]:
    """Return the outcomes of these searches."""
    everywhere = np.ones(len(rows), bool)
    is_followed = {name: values[rows] for name, values in after.is_followed.items()}
    no_click = log.n_clicks[rows] == 0
    candidates = [
        *(Outcome(name, "all", values.astype(float), everywhere) for name, values in is_followed.items()),
        Outcome("next search reformulates", "all", after.reformulates[rows].astype(float), everywhere),
        *(
            Outcome(name, "all", values.astype(float), everywhere)
            for name, values in abandonment(no_click, is_followed["re-search"]).items()
        ),
        Outcome("long click", "clicks timed", after.has_long_click[rows].astype(float), after.is_timed[rows]),
        Outcome("seconds a click", "with timed clicks", after.dwell_s[rows], after.dwell_s[rows] >= 0),
    ]
    return known_on_both_sides(candidates, log.shown.answered[rows])
