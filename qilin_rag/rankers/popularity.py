"""Rank by clicks of the train log: how often a note was clicked, and with which notes.

Both count only clicks that are earlier than the request, so that no click of the future is read whatever the split.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import PositiveInt

from qilin_rag.core.arrays import ranges
from qilin_rag.core.errors import UsageError
from qilin_rag.core.progress import stage
from qilin_rag.core.text import counted
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.clicks import ClickLog, Kind, histories, rows_before
from qilin_rag.data.exposures import Ints
from qilin_rag.data.requests import Floats, Requests
from qilin_rag.rankers.base import Ranker


class Popularity(Ranker):
    """The number of clicks on the note in train before the request, by all users.

    Example:
        >>> Popularity(clicks_of="search").changed()
        {'clicks_of': 'search'}
    """

    reads_clicks: ClassVar[bool] = True

    clicks_of: Kind = "both"
    """The clicks that count: those of search, of recommendation, or both."""

    def score(self, requests: Requests, catalogue: Catalogue) -> Floats:
        """Return the number of clicks."""
        log = _of_train(catalogue.need_clicks("popularity"), self.clicks_of, "popularity")
        order = np.lexsort((log.time_ms, log.note_idx))
        starts, ends = rows_before(
            log.note_idx[order], log.time_ms[order], requests.note_idx, requests.time_ms[requests.request]
        )
        scores: Floats = (ends - starts).astype(np.float32)
        return scores


class ItemToItem(Ranker):
    """How often the note was clicked by the users who clicked the notes of the history: item-based nearest neighbours.

    The score is the sum, over the different notes of the history, of the cosine between the sets of users who clicked
    the two notes in train before the request: n_both / sqrt(n_one * n_other) (Sarwar et al. 2001; Deshpande and Karypis
    2004). A note that nobody had clicked has the score 0.

    Example:
        >>> ItemToItem(history_length=20).changed()
        {'history_length': 20}
    """

    reads_clicks: ClassVar[bool] = True

    history_length: PositiveInt = 50
    """The most clicks of a history, the latest ones."""
    clicks_of: Kind = "both"
    """The clicks that count, in histories and in train: those of search, of recommendation, or both."""

    def score(self, requests: Requests, catalogue: Catalogue) -> Floats:
        """Return the sum of cosines."""
        log = catalogue.need_clicks("item-to-item")
        past = histories(requests, log, self.history_length, self.clicks_of)
        note, time, user, n_users = _first_clicks(_of_train(log, self.clicks_of, "item-to-item"))
        of_past = np.repeat(np.arange(len(requests)), np.diff(past.offsets))
        pairs = np.unique(np.stack([of_past, past.note_idx]), axis=1)  # each note of a history once
        bounds = np.searchsorted(pairs[0], np.arange(len(requests) + 1))
        liked_from, liked_to = rows_before(note, time, pairs[1], requests.time_ms[pairs[0]])
        from_, to = rows_before(note, time, requests.note_idx, requests.time_ms[requests.request])
        scores: Floats = np.zeros(requests.n_candidates, np.float32)
        weights = np.zeros(n_users)
        with stage("item-to-item", len(requests)) as advance:
            for i in range(len(requests)):
                liked = slice(bounds[i], bounds[i + 1])
                n_liked = liked_to[liked] - liked_from[liked]
                users = user[ranges(liked_from[liked], n_liked)]
                np.add.at(weights, users, np.repeat(1 / np.sqrt(np.maximum(n_liked, 1)), n_liked))
                asked = slice(requests.offsets[i], requests.offsets[i + 1])
                n_asked = to[asked] - from_[asked]
                of_candidate = np.repeat(np.arange(len(n_asked)), n_asked)
                found = weights[user[ranges(from_[asked], n_asked)]]
                sums = np.bincount(of_candidate, found, minlength=len(n_asked))
                scores[asked] = sums / np.sqrt(np.maximum(n_asked, 1))
                weights[users] = 0
                advance()
        return scores


def _of_train(log: ClickLog, kind: Kind, what: str) -> ClickLog:
    """Return the clicks of train; raise a UsageError if there are none."""
    is_counted = log.is_train & log.kinds(kind)
    if not is_counted.any():
        kinds = "" if kind == "both" else f" in a {kind}"
        raise UsageError(
            f"{what} counts the clicks of train, and none of the {counted(len(log), 'click')} of the data is in train"
            f"{kinds}; add the train tables, or choose other clicks (ranker.clicks_of)"
        )
    return log.take(is_counted)


def _first_clicks(log: ClickLog) -> tuple[Ints, Ints, Ints, int]:
    """Return note, time and user (numbered from 0) of each user's first click on each note, and the number of users.

    They are in the order of notes, then of time.
    """
    names, user = np.unique(log.user_idx, return_inverse=True)
    order = np.lexsort((log.time_ms, user, log.note_idx))
    note, user, time = log.note_idx[order], user[order], log.time_ms[order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = (note[1:] != note[:-1]) | (user[1:] != user[:-1])
    note, user, time = note[is_first], user[is_first], time[is_first]
    order = np.lexsort((time, note))
    return note[order], time[order], user[order], len(names)
