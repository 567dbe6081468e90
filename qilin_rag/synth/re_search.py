"""Re-search: after a bad answer the user's next search asks for the same need in other words."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qilin_rag.synth.answers import draw_quality
from qilin_rag.synth.dice import Bools, Dice, Floats, Ints
from qilin_rag.synth.queries import ENDINGS, Queries, Query
from qilin_rag.synth.sessions import SessionPlan
from qilin_rag.synth.words import FLAVOURS_PER_TOPIC, QUESTIONS
from qilin_rag.synth.world import World

SOON_S = 600
"""The longest time in seconds between an answer and a search because of it."""
_MOST_FLAVOURS = FLAVOURS_PER_TOPIC - 1
_QUESTIONS = range(1, 1 + len(QUESTIONS))
_WISHES = range(1 + len(QUESTIONS), len(ENDINGS))


class ReSearch(NamedTuple):
    """Searches because of an answer, one value for each request of the plan."""

    probability: Floats
    """The probability that the answer makes the user search again; NaN if no answer was shown."""
    happened: Bools

    def take(self, rows: Ints) -> ReSearch:
        """Return the values of these rows of the plan."""
        return ReSearch(self.probability[rows], self.happened[rows])


def search_again(
    world: World, dice: Dice, plan: SessionPlan, queries: Queries, answered: Bools
) -> tuple[Queries, ReSearch]:
    """Return the queries in which users ask again after an answer that did not help, and which answers caused this.

    Only a search that the plan has anyway, directly after the answer and in its session, can be such a query. It asks
    for a fact if the one that it replaces did, so that the same requests are in dqa and get an answer.
    """
    rows = np.arange(len(answered))
    next_row = np.minimum(rows + 1, len(rows) - 1)
    is_soon = plan.is_search[next_row] & (plan.session[next_row] == plan.session) & (next_row > rows)
    is_soon &= plan.time_s[next_row] - plan.time_s <= SOON_S
    probability = np.where(answered, is_soon * world.re_search * (1 - draw_quality(dice, rows)), np.nan)
    happened = answered & (dice.uniform("re-search", rows) < probability)
    parts = queries.parts.copy()
    for row in np.flatnonzero(happened).tolist():  # in order: a query may be the second of one pair, first of another
        number = int(plan.number[row])
        before = Query(*parts[number].tolist())
        draws = dice.bits("re-search-query", np.array([row]), np.arange(2)).tolist()
        parts[number + 1] = _same_need(before, bool(queries.is_factoid[number + 1]), *draws)
    return Queries(parts, queries.source), ReSearch(probability, happened)


def _same_need(before: Query, is_factoid: bool, choice: int, which: int) -> Query:
    """Return another query with the name and the words of the topic, and an ending of the wanted kind."""
    endings = _QUESTIONS if is_factoid else _WISHES
    if before.ending not in endings or choice & 1:
        others = [ending for ending in endings if ending != before.ending]
        return before._replace(ending=others[which % len(others)])
    fewer = before.n_flavours == _MOST_FLAVOURS or (before.n_flavours > 0 and bool(choice & 2))
    return before._replace(n_flavours=before.n_flavours + (-1 if fewer else 1))
