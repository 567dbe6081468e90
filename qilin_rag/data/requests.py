"""Requests for search and recommendation: who asked what, the notes that were exposed, and which were clicked.

All columns, no Python object a result: the ranking tables of Qilin fit in memory this way, and rankers gather their
batches from them. A request's candidates are the notes exposed for it, each once, in the order of their ids, so that
nothing leaks the order in which the platform showed them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qilin_rag.data.encodings import Batch, Defect, present_columns, read_batches, stop
from qilin_rag.data.schema import TABLES
from qilin_rag.data.source import Source
from qilin_rag.errors import UsageError
from qilin_rag.types import Hit, Question

TaskName = Literal["search", "recommendation"]
Split = Literal["train", "validation", "test", "dqa"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
SPLITS: tuple[Split, ...] = get_args(Split)

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

BEIJING_MS = 8 * 3600 * 1000
MISSING = -1
_PER_REQUEST = ("is_search", "user_idx", "session_idx", "source", "time_ms", "answered")
_PER_CANDIDATE = ("note_idx", "clicked", "position")
_COLUMNS = ("query", "user_idx", "session_idx", "query_from_type", "recent_clicked_note_idxs", "dqa_output")


@dataclass(frozen=True)
class Requests:
    """`n` requests with `m` candidates in all; those of request i are the rows offsets[i] to offsets[i + 1].

    Shapes: `ids` and `queries` n; `offsets` and `recent_offsets` n + 1; `recent` as many as there are recent clicks,
    newest first. What is missing is -1 (`source`, `position`: 0).
    """

    ids: Sequence[str]
    queries: Sequence[str]
    is_search: Bools
    """(n,); the others are recommendations."""
    user_idx: Ints
    """(n,)"""
    session_idx: Ints
    """(n,)"""
    source: Ints
    """(n,), where the query came from, 1 to 8."""
    time_ms: Ints
    """(n,), of the first exposure, since 1970 in UTC."""
    answered: Bools
    """(n,): a direct answer was shown."""
    recent_offsets: Ints
    recent: Ints
    offsets: Ints
    note_idx: Ints
    """(m,)"""
    clicked: Bools
    """(m,)"""
    position: Ints
    """(m,), from 1; the first one, where a note was exposed twice."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_candidates(self) -> int:
        """m."""
        return len(self.note_idx)

    @cached_property
    def request(self) -> Ints:
        """The request of each candidate, (m,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @cached_property
    def n_clicked(self) -> Ints:
        """Candidates clicked, (n,)."""
        return np.bincount(self.request, self.clicked, minlength=len(self)).astype(np.int64)

    @cached_property
    def sha256(self) -> str:
        """Hash of all that is in these requests."""
        total = hashlib.sha256()
        for field in fields(self):
            value = getattr(self, field.name)
            total.update(value.tobytes() if isinstance(value, np.ndarray) else "\0".join(value).encode())
        return total.hexdigest()

    def take(self, rows: Ints | Bools) -> Requests:
        """The requests at these places, or where the mask is set."""
        chosen: Ints = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        recent_offsets, recent_at = _gather(self.recent_offsets, chosen)
        offsets, at = _gather(self.offsets, chosen)
        return Requests(
            ids=[self.ids[row] for row in chosen],
            queries=[self.queries[row] for row in chosen],
            recent_offsets=recent_offsets,
            recent=self.recent[recent_at],
            offsets=offsets,
            **{name: getattr(self, name)[chosen] for name in _PER_REQUEST},
            **{name: getattr(self, name)[at] for name in _PER_CANDIDATE},
        )

    def with_candidates(self, keep: Bools) -> Requests:
        """All requests with some of their candidates, `keep` (m,)."""
        n_kept = np.bincount(self.request, keep, minlength=len(self)).astype(np.int64)
        changed = {name: getattr(self, name)[keep] for name in _PER_CANDIDATE}
        changed["offsets"] = np.concatenate([[0], np.cumsum(n_kept)])
        return Requests(**{field.name: getattr(self, field.name) for field in fields(self)} | changed)

    def best_first(self, scores: Floats) -> Ints:
        """The candidates' rows, (m,), in the one order of hits: by request, -score, note_idx."""
        return np.lexsort((self.note_idx, -scores, self.request))

    def rankings(self, scores: Floats) -> list[list[Hit]]:
        """Each request's candidates as hits."""
        order = self.best_first(scores)
        return [
            [
                Hit(note_idx=int(self.note_idx[row]), score=float(scores[row]), rank=rank)
                for rank, row in enumerate(order[start:end], start=1)
            ]
            for start, end in zip(self.offsets[:-1], self.offsets[1:], strict=True)
        ]


def concat(parts: Sequence[Requests]) -> Requests:
    """Requests of several tables as one."""
    first, *others = parts
    if not others:
        return first
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _PER_REQUEST + _PER_CANDIDATE}
    return Requests(
        ids=[i for part in parts for i in part.ids],
        queries=[query for part in parts for query in part.queries],
        recent_offsets=_joined([part.recent_offsets for part in parts]),
        recent=np.concatenate([part.recent for part in parts]),
        offsets=_joined([part.offsets for part in parts]),
        **joined,
    )


def read_requests(source: Source, task: TaskName, split: Split, validation_share: float = 0.05) -> Requests:
    """The requests of one split.

    `validation` is the latest share of the train table by time, `train` what comes before; `dqa` are the searches of
    the table dqa. A UsageError says what the tables lack.
    """
    requests = read_table(source, table_of(task, split))
    if split in ("test", "dqa"):
        return requests
    train, validation = split_by_time(requests, validation_share)
    return train if split == "train" else validation


def table_of(task: TaskName, split: Split) -> str:
    """The table that a split is in, or is cut from."""
    if split == "dqa":
        if task != "search":
            raise UsageError("split dqa holds searches; the task recommendation has train, validation and test")
        return "dqa"
    return f"{task}_test" if split == "test" else f"{task}_train"


def split_by_time(requests: Requests, validation_share: float) -> tuple[Requests, Requests]:
    """The earlier requests and the latest share of them; requests of one time stay together, before the cut."""
    if (requests.time_ms < 0).any():
        row = int(np.flatnonzero(requests.time_ms < 0)[0])
        raise UsageError(
            f"request {requests.ids[row]} has no time, so no latest {validation_share:.0%} can be set apart"
        )
    n_earlier = round(len(requests) * (1 - validation_share))
    if not 0 < n_earlier < len(requests):
        raise UsageError(f"{len(requests)} requests are too few to set {validation_share:.0%} of them apart")
    is_later = requests.time_ms > np.sort(requests.time_ms)[n_earlier - 1]
    if not is_later.any():
        raise UsageError(f"the latest {validation_share:.0%} of the requests are all of one time")
    return requests.take(~is_later), requests.take(is_later)


def read_table(source: Source, name: str) -> Requests:
    """All requests of a table, by id; a UsageError names the first defect."""
    table = TABLES[name]
    encoding, files = source.files(name)
    there = present_columns(encoding, files, table)
    details = next(column for column in table.columns if column.endswith("_details_with_idx"))
    if details not in there:
        stop(Defect(files[0], "", "", f"column {details!r} is missing"))
    wanted = [table.key, details, *(column for column in _COLUMNS if column in there)]
    parts = [
        _columns(batch, table.key, details) for path in files for batch in read_batches(encoding, path, table, wanted)
    ]
    if not parts or not sum(map(len, parts)):
        raise UsageError(f"{files[0]} holds no request")
    requests = concat(parts)
    numbers = np.array([int(i) if i.isdecimal() else MISSING for i in requests.ids])
    order = np.lexsort((np.array(requests.ids, dtype=object).astype(str), numbers))
    ordered = requests.take(order)
    double = next((a for a, b in zip(ordered.ids, ordered.ids[1:], strict=False) if a == b), None)
    if double is not None:
        raise UsageError(f"{files[0]}: {table.key} {double} is there twice")
    return ordered


def requests_of(questions: Sequence[Question], rankings: Sequence[Sequence[Hit]]) -> Requests:
    """Questions as searches: the candidates are their hits, clicked are those that are reference notes."""
    n = len(questions)
    note_idx = np.array([hit.note_idx for hits in rankings for hit in hits], np.int64)
    relevant = [
        hit.note_idx in question.reference_notes
        for question, hits in zip(questions, rankings, strict=True)
        for hit in hits
    ]
    return _deduplicated(
        Requests(
            ids=[question.id for question in questions],
            queries=[question.query for question in questions],
            is_search=np.ones(n, bool),
            user_idx=np.full(n, MISSING),
            session_idx=np.full(n, MISSING),
            source=np.zeros(n, np.int64),
            time_ms=np.full(n, MISSING),
            answered=np.ones(n, bool),
            recent_offsets=np.zeros(n + 1, np.int64),
            recent=np.zeros(0, np.int64),
            offsets=np.concatenate([[0], np.cumsum([len(hits) for hits in rankings], dtype=np.int64)]),
            note_idx=note_idx,
            clicked=np.array(relevant, bool),
            position=np.array([hit.rank for hits in rankings for hit in hits], np.int64),
        )
    )


def _columns(batch: Batch, key: str, details: str) -> Requests:
    """The rows of one batch."""
    rows = batch.rows
    n = len(rows)

    def column(name: str, kind: pa.DataType) -> pa.Array:
        return rows.column(name) if name in rows.schema.names else pa.nulls(n, kind)

    def ints(name: str, missing: int) -> Ints:
        return _ints(column(name, pa.int64()), missing)

    for name in (key, details):
        if rows.column(name).null_count:
            stop(Defect(batch.path, batch.place(rows.column(name).is_null().index(True).as_py()), name, "is missing"))
    exposed = rows.column(details)
    items = exposed.flatten()
    offsets = _offsets(exposed)
    item = {field.name: items.field(field.name) for field in items.type}
    if item["note_idx"].null_count:
        row = int(np.searchsorted(offsets, item["note_idx"].is_null().index(True).as_py(), side="right")) - 1
        stop(Defect(batch.path, batch.place(row), details, "holds a result without note_idx"))
    is_search = details.startswith("search")
    stamps = _ints(item["search_timestamp" if is_search else "request_timestamp"], MISSING)
    recent = column("recent_clicked_note_idxs", pa.list_(pa.int64()))
    recent = pc.if_else(recent.is_null(), pa.scalar([], recent.type), recent)
    shown = pc.fill_null(column("dqa_output", pa.string()), "-1")
    return _deduplicated(
        Requests(
            ids=list(map(str, rows.column(key).to_pylist())),
            queries=pc.fill_null(column("query", pa.string()), "").to_pylist(),
            is_search=np.full(n, is_search),
            user_idx=ints("user_idx", MISSING),
            session_idx=ints("session_idx", MISSING),
            source=ints("query_from_type", 0),
            time_ms=_first(_milliseconds(stamps, is_search), offsets),
            answered=pc.invert(pc.is_in(pc.utf8_trim_whitespace(shown), pa.array(["", "-1"]))).to_numpy(False),
            recent_offsets=_offsets(recent),
            recent=_ints(recent.flatten(), MISSING),
            offsets=offsets,
            note_idx=_ints(item["note_idx"], MISSING),
            clicked=_ints(item["click"], 0) == 1,
            position=np.maximum(_ints(item["position"], 0), 0),
        )
    )


def _milliseconds(stamps: Ints, is_search: bool) -> Ints:
    """Searches are stamped with seconds of Beijing's wall clock, recommendations with true milliseconds."""
    return np.where(stamps < 0, MISSING, stamps * 1000 - BEIJING_MS if is_search else stamps)


def _first(times: Ints, offsets: Ints) -> Ints:
    """The earliest time of each request's results that is known, else -1."""
    late = np.iinfo(np.int64).max
    earliest = np.full(len(offsets) - 1, late)
    of = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    np.minimum.at(earliest, of, np.where(times < 0, late, times))
    return np.where(earliest == late, MISSING, earliest)


def _deduplicated(requests: Requests) -> Requests:
    """Each candidate once, by note_idx: clicked if it ever was, at the first position that is known."""
    far = np.iinfo(np.int64).max
    position = np.where(requests.position > 0, requests.position, far)
    order = np.lexsort((position, requests.note_idx, requests.request))
    request, note_idx = requests.request[order], requests.note_idx[order]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (request[1:] != request[:-1]) | (note_idx[1:] != note_idx[:-1])
    starts = np.flatnonzero(is_new)
    clicked = np.logical_or.reduceat(requests.clicked[order], starts) if len(starts) else requests.clicked
    first = position[order][starts]
    n_left = np.bincount(request[starts], minlength=len(requests))
    changed: dict[str, Any] = {
        "offsets": np.concatenate([[0], np.cumsum(n_left)]),
        "note_idx": note_idx[starts],
        "clicked": clicked,
        "position": np.where(first == far, 0, first),
    }
    return Requests(**{field.name: getattr(requests, field.name) for field in fields(requests)} | changed)


def _ints(array: pa.Array, missing: int) -> Ints:
    """Whole numbers of any column of numbers."""
    numbers: Ints = pc.fill_null(array.cast(pa.int64(), safe=False), missing).to_numpy(zero_copy_only=False)
    return numbers


def _offsets(lists: pa.ListArray) -> Ints:
    """Where each list begins among the values of all, and the end: (n + 1,) from 0."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _gather(offsets: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """The offsets of some lists when they follow one another, and the places of their values."""
    lengths = (offsets[1:] - offsets[:-1])[rows]
    ends = np.cumsum(lengths, dtype=np.int64)
    at = np.arange(ends[-1] if len(ends) else 0) + np.repeat(offsets[:-1][rows] - (ends - lengths), lengths)
    return np.concatenate([[0], ends]), at


def _joined(offsets: Sequence[Ints]) -> Ints:
    """Offsets of lists that follow one another."""
    lengths = np.concatenate([np.diff(each) for each in offsets])
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
