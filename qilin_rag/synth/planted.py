"""Answers of a synthetic Qilin in memory, with the planted truth of their feedback, for trials of measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qilin_rag.data.exposures import Ints, RequestColumns, offsets_of
from qilin_rag.synth.dice import Bools
from qilin_rag.synth.log import Corpus, Simulation
from qilin_rag.synth.queries import Query, QueryText
from qilin_rag.synth.re_search import SOON_S
from qilin_rag.synth.tables import NAMES, rows, schema, truth_of_answers
from qilin_rag.synth.texts import Writer
from qilin_rag.synth.world import World

_BATCH = 4096
_DQA = NAMES.index("dqa")


class PlantedAnswers(NamedTuple):
    """The table dqa of a world, and why its feedback is as it is."""

    dqa: pa.Table
    """The rows that `synthesize` writes."""
    truth: pa.Table
    """One row for each row of `dqa`, null if no answer was shown.

    The columns are `search_idx`, `answer_quality` (from 0 to 1), `answer_length` (binary logarithm over the usual
    length), the probability `p_FLAG` of each kind of feedback, that of a search because of the answer (`p_re_search`),
    whether there was one (`re_search`), and whether a search soon after asked for the same need in other words, for
    whatever reason (`same_need`)."""
    searches: RequestColumns
    """All searches, without their results."""
    writer: Writer

    def note_texts(self, note_idxs: Sequence[int]) -> list[str]:
        """Return the texts of notes, such as references."""
        bodies: list[str] = self.writer.bodies(np.array(note_idxs, np.int64)).to_pylist() if len(note_idxs) else []
        return bodies


def plant_answers(world: World) -> PlantedAnswers:
    """Make the table dqa of a world in memory: its rows are those that `synthesize` writes, without the other tables.

    Args:
        world: The settings. The work grows with all requests, so let most searches be in dqa and have an answer.

    Returns:
        The table, with its truth.

    >>> from qilin_rag.synth import resolve_world
    >>> counts = {"notes": 400, "searches": 60, "recommendations": 1, "dqa": 60, "users": 20}
    >>> world = resolve_world(counts, seed=1, without=["quality"], overrides=["shown_if_factoid=1", "shown_if_not=1"])
    >>> plant_answers(world).truth.column("p_is_like_clk").null_count
    0
    """
    corpus = Corpus(world)
    simulation = Simulation(corpus)
    same_need = pa.array(_asks_again_soon(simulation), mask=~simulation.answered)
    dqa, truths = [schema("dqa").empty_table()], []
    for log in simulation.batches(_BATCH):
        dqa.append(pa.Table.from_batches([rows("dqa", log, simulation.plan, corpus.dice, corpus.shelf)]))
        plan_rows = log.requests.rows
        columns = {
            "search_idx": pa.array(simulation.plan.idx[plan_rows]),
            **truth_of_answers(log),
            "same_need": same_need.take(pa.array(plan_rows)),
        }
        truths.append(pa.table(columns).filter(pa.array(log.table == _DQA)))
    return PlantedAnswers(
        pa.concat_tables(dqa).combine_chunks(),
        pa.concat_tables(truths).combine_chunks(),
        _searches(simulation),
        corpus.writer,
    )


def planted_auc(scores: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Return the AUC that scores have in the long run for labels that are drawn with these probabilities.

    It is the probability that a random positive has a higher score than a random negative (a tie counts half), as the
    expected number of such pairs over the expected number of all pairs of a positive and a negative.

    Args:
        scores: (n,), the latent quality, or the values of any measure.
        probabilities: (n,), the probability of a positive label; NaN for answers to leave out.

    Returns:
        The AUC; NaN if there can be no positive or no negative.

    >>> planted_auc([0, 1], [0, 1])
    1.0
    >>> planted_auc([0, 1, 2], [0.5, 0.5, 0.5])
    0.5
    """
    positive = np.asarray(probabilities, float)
    is_known = ~np.isnan(positive)
    positive = positive[is_known]
    _, group = np.unique(np.asarray(scores, float)[is_known], return_inverse=True)
    both = np.bincount(group, positive * (1 - positive))  # one answer is not a pair
    positives, negatives = np.bincount(group, positive), np.bincount(group, 1 - positive)
    below = np.cumsum(negatives) - negatives
    pairs = positives.sum() * negatives.sum() - both.sum()
    won = (positives * (below + negatives / 2) - both / 2).sum()
    return float(won / pairs) if pairs > 0 else float("nan")


def _asks_again_soon(simulation: Simulation) -> Bools:
    """Return whether a search of the user soon after each search has its concept and another text."""
    plan, parts = simulation.plan, simulation.queries.parts
    searches = np.flatnonzero(plan.is_search)
    user, time_s = plan.user[searches], plan.time_s[searches]
    again = np.zeros(len(plan.is_search), bool)
    for lag in range(1, len(searches)):
        is_soon = (user[lag:] == user[:-lag]) & (time_s[lag:] - time_s[:-lag] <= SOON_S)
        if not is_soon.any():
            break
        before, after = parts[:-lag], parts[lag:]
        is_same_need = (before[:, 0] == after[:, 0]) & (before != after).any(axis=1)
        again[searches[:-lag]] |= is_soon & is_same_need
    return again


def _searches(simulation: Simulation) -> RequestColumns:
    plan, queries = simulation.plan, simulation.queries
    searches = np.flatnonzero(plan.is_search)
    n = len(searches)
    text = QueryText(simulation.corpus.lexicon)
    nothing: dict[str, Any] = dict.fromkeys(("recent", "note_idx", "position"), np.zeros(0, np.int64))
    no_lists: Ints = offsets_of(np.zeros(n, np.int64))
    return RequestColumns(
        ids=list(map(str, plan.idx[searches].tolist())),
        queries=[text.of(Query(*parts)) for parts in queries.parts.tolist()],
        is_search=np.ones(n, bool),
        user_idx=plan.user[searches],
        session_idx=plan.app_session[searches],
        source=np.where(np.isnan(queries.source), 0, queries.source).astype(np.int64),
        time_ms=plan.time_s[searches] * 1000,
        answered=simulation.answered[searches],
        recent_offsets=no_lists,
        offsets=no_lists,
        **nothing,
    )
