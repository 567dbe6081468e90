"""Name the notes that a request is to rank: those that were shown, recorded, sampled, or found by a retriever.

All but the shown ones keep the clicks of the request and replace what is ranked. Clicked notes that are not among
recorded or found candidates count as not found. A note that was not shown could not be clicked, so that figures of
different candidates are never compared.
"""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from qilin_rag.core.arrays import sorted_runs
from qilin_rag.core.errors import UsageError, unknown_name
from qilin_rag.core.files import expanded
from qilin_rag.core.progress import stage
from qilin_rag.core.text import whole_number
from qilin_rag.core.ties import text_hashes
from qilin_rag.core.trec import read_trec, trec_id
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.exposures import MISSING, Ints
from qilin_rag.data.note_ids import text_id_number
from qilin_rag.data.questions import RECORDED
from qilin_rag.data.recorded import read_recorded
from qilin_rag.data.requests import Requests, Split, TaskName, table_of
from qilin_rag.rankers.split_log import SplitLog

logger = logging.getLogger(__name__)

EXPOSED = "exposed"
WEIGHTINGS = ("uniform", "popularity")
_RECORDED = tuple(f"recorded:{name}" for name in RECORDED.values())
_FORMS = (EXPOSED, *_RECORDED, "sampled:N", "sampled:N:popularity", "trec:FILE")
_BLOCK = 256  # draws at a time


class AskedRequests(NamedTuple):
    """The requests of a split as they were shown, and the data that they are from."""

    requests: Requests
    task: TaskName
    split: Split
    log: SplitLog
    catalogue: Catalogue


class Candidates(ABC):
    """A way to choose candidates.

    Attributes:
        name: Its name, as `--candidates` takes it.
        is_shown: Whether candidates are the notes that were shown, so that each could be clicked.
        is_ordered: Whether `position` is the order that they came in.
        counts_unfound: Whether clicked notes that are no candidates count as not found.
        is_sampled: Whether each clicked note is ranked against the others alone.
    """

    is_shown: ClassVar[bool] = False
    is_ordered: ClassVar[bool] = True
    counts_unfound: ClassVar[bool] = True
    is_sampled: ClassVar[bool] = False

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def find(self, asked: AskedRequests) -> Requests:
        """Return all requests with these candidates; notes that the data lacks may be among them."""

    def identity(self, asked: Requests) -> dict[str, Any]:
        """Return what an identity has to hold beside the candidates themselves: the clicks that they may lack."""
        clicks = zip(asked.request[asked.clicked].tolist(), asked.note_idx[asked.clicked].tolist(), strict=True)
        lines = "\n".join(sorted(f"{asked.ids[request]} {note_idx}" for request, note_idx in clicks))
        return {"name": self.name, "clicks": hashlib.sha256(lines.encode()).hexdigest()}


class ShownCandidates(Candidates):
    """The notes that the user was shown."""

    is_shown = True
    counts_unfound = False

    def find(self, asked: AskedRequests) -> Requests:
        """Return the requests as they are."""
        return asked.requests

    def identity(self, asked: Requests) -> dict[str, Any]:
        """Return nothing: these are the default."""
        return {}


class RecordedCandidates(Candidates):
    """The best notes that Qilin records for each request, by `bm25` or `dpr`; `position` is their order by score."""

    def __init__(self, results: str) -> None:
        super().__init__(f"recorded:{results}")
        self._results = results

    def find(self, asked: AskedRequests) -> Requests:
        """Raise a UsageError if the table or a request has no such results."""
        table = table_of(asked.task, asked.split)
        return _with_scored(asked.requests, read_recorded(asked.log.source, table, self._results, asked.requests.ids))


class FoundCandidates(Candidates):
    """The notes that a TREC run holds for each request; `position` is their order by score."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"trec:{path.name}")
        self._path = path

    def identity(self, asked: Requests) -> dict[str, Any]:
        """Leave out the name of the file: its notes are part of the requests."""
        return super().identity(asked) | {"name": "trec"}

    def find(self, asked: AskedRequests) -> Requests:
        """Raise a UsageError if the file can't be read, or is of other requests."""
        notes, ids = asked.catalogue.notes, asked.requests.ids
        run = read_trec(expanded(self._path), text_id_number if notes.has_text_ids else whole_number)
        rankings = [{hit.note_idx: hit.score for hit in run.get(trec_id(request), ())} for request in ids]
        n_absent = sum(not ranking for ranking in rankings)
        if n_absent == len(rankings):
            raise UsageError(
                f"{self._path} has no notes for any of the {n_absent:,} requests; is it of another task or split?"
            )
        if n_absent:
            logger.warning("%s has no notes for %d of %d requests", self._path, n_absent, len(rankings))
        return _with_scored(asked.requests, rankings)


class SampledCandidates(Candidates):
    """The clicked notes of each request, and `n` notes of the data that were not clicked in it.

    Negatives are drawn one by one from the notes in order of their ids, until there are `n` different ones. Each note
    has the same chance, or (`popularity`) a chance in proportion to its clicks in train. Each request has its own
    generator of numpy, seeded by [seed, hash of the request's id] (`ties.text_hashes`), so that the same request has
    the same negatives whatever else is ranked. A request without a click has no candidates.
    """

    is_ordered = False
    counts_unfound = False
    is_sampled = True

    def __init__(self, n: int, by: str, seed: int) -> None:
        super().__init__(f"sampled:{n}" + (f":{by}" if by != WEIGHTINGS[0] else ""))
        self._n, self._by, self._seed = n, by, seed

    def identity(self, asked: Requests) -> dict[str, Any]:
        """Return the settings; the drawn notes are part of the requests."""
        return {"name": self.name, "seed": self._seed}

    def find(self, asked: AskedRequests) -> Requests:
        """Raise a UsageError if there are too few notes, or no train table to count clicks in."""
        requests = asked.requests
        pool, until = self._pool(asked)
        rows = np.split(np.arange(requests.n_candidates), requests.offsets[1:-1])
        lengths, note_idx, clicked = np.zeros(len(requests), np.int64), [], []
        with stage("sample candidates", len(requests)) as advance:
            for i, (request_hash, of_request) in enumerate(zip(text_hashes(requests.ids), rows, strict=True)):
                hits = requests.note_idx[of_request][requests.clicked[of_request]]
                if len(hits):
                    n_others = len(pool) - int(np.isin(hits, pool).sum())
                    if n_others < self._n:
                        raise UsageError(
                            f"candidates {self.name}: request {requests.ids[i]} has only {n_others:,} notes to draw "
                            "from, so take a smaller N"
                        )
                    random = np.random.default_rng([self._seed, int(request_hash)])
                    drawn = _draw(random, pool, until, self._n, set(hits.tolist()))
                    lengths[i] = len(hits) + self._n
                    note_idx += [hits, drawn]
                    clicked += [np.ones(len(hits), bool), np.zeros(self._n, bool)]
                advance()
        if not note_idx:
            raise UsageError(f"candidates {self.name}: none of the {len(requests):,} requests has a click")
        notes = np.concatenate(note_idx)
        return requests.with_results(lengths, notes, np.concatenate(clicked), np.full(len(notes), MISSING))

    def _pool(self, asked: AskedRequests) -> tuple[Ints, Ints]:
        """Return the notes to draw from in order of their ids, and their cumulated weights."""
        if self._by == "uniform":
            pool = np.sort(asked.catalogue.notes.note_idxs)
            return pool, np.arange(1, len(pool) + 1)
        train = asked.log.before(asked.task, asked.split)
        pool, n_clicks = np.unique(train.note_idx[train.clicked], return_counts=True)
        is_there = ~np.isin(pool, asked.catalogue.notes.missing(pool))
        return pool[is_there], np.cumsum(n_clicks[is_there])


def parse_candidates(given: str, seed: int = 0) -> Candidates:
    """Return the candidates that a name means; `seed` is that of sampled ones.

    Raises:
        UsageError: The name is of none.
    """
    kind, _, rest = given.partition(":")
    if kind == "corpus":
        raise UsageError(
            "candidates 'corpus': all notes are searched by `qilin-rag retrieve --task search|recommendation`; what it "
            "writes can be ranked anew by --candidates trec:FILE"
        )
    if given == EXPOSED:
        return ShownCandidates(EXPOSED)
    if given in _RECORDED:
        return RecordedCandidates(rest)
    if kind == "trec" and rest:
        return FoundCandidates(Path(rest))
    if kind == "sampled":
        number, _, by = rest.partition(":")
        n = whole_number(number)
        if not n or (by or WEIGHTINGS[0]) not in WEIGHTINGS:
            raise UsageError(
                f"candidates {given!r}: it must be sampled:N or sampled:N:popularity with a number N of negatives from "
                "1, such as sampled:99"
            )
        return SampledCandidates(n, by or WEIGHTINGS[0], seed)
    if expanded(given).is_file():
        raise UsageError(f"candidates {given!r} is a file; write trec:{given}")
    raise unknown_name("candidates", given, _FORMS)


def _with_scored(requests: Requests, rankings: Sequence[Mapping[int, float]]) -> Requests:
    """Return requests with these notes; `position` is 1 plus the number of notes with a higher score."""
    lengths = np.array([len(ranking) for ranking in rankings], np.int64)
    request = np.repeat(np.arange(len(requests)), lengths)
    note_idx = np.array([note for ranking in rankings for note in ranking], np.int64)
    scores = np.array([score for ranking in rankings for score in ranking.values()], np.float64)
    order, is_new = sorted_runs(request, -scores)
    starts = np.flatnonzero(is_new)[np.cumsum(is_new) - 1]
    position = np.zeros(len(order), np.int64)
    position[order] = starts - (np.cumsum(lengths) - lengths)[request[order]] + 1
    clicks = requests.note_idx[requests.clicked]
    notes, code = np.unique(np.concatenate([clicks, note_idx]), return_inverse=True)
    pairs = np.concatenate([requests.request[requests.clicked], request]) * len(notes) + code
    is_clicked = np.isin(pairs[len(clicks) :], pairs[: len(clicks)])
    return requests.with_results(lengths, note_idx, is_clicked, position)


def _draw(random: np.random.Generator, pool: Ints, until: Ints, n: int, barred: set[int]) -> Ints:
    """Draw `n` different notes of the pool that are not barred, each draw by the weights; `until` are their sums."""
    drawn: dict[int, None] = {}
    while True:
        places = until.searchsorted(random.integers(until[-1], size=_BLOCK), side="right")
        for note in pool[places].tolist():
            if note not in barred:
                drawn[note] = None
                if len(drawn) == n:
                    return np.array(list(drawn), np.int64)
