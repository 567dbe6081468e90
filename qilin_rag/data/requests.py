"""Requests for search and recommendation: the user, the query, the exposed notes, and which were clicked.

All data is in columns, without a Python object per result: the ranking tables of Qilin fit in memory this way, and
rankers gather their batches from the columns. A request's candidates are the notes exposed for it, each once, ordered
by hash (`ties`). A ranker therefore sees neither the order in which the platform showed them nor the order of their
ids, which reveals the clicked ones in Qilin.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qilin_rag.core.errors import UsageError
from qilin_rag.core.note_fields import IMAGE_TEXT, TITLE_AND_CONTENT, note_fields_label
from qilin_rag.core.text import counted
from qilin_rag.core.ties import Hashes, text_hashes, tie_keys
from qilin_rag.core.types import Hit, Question
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.exposures import MISSING, Bools, Ints, RequestColumns, offsets_of, read_exposures
from qilin_rag.data.source import Source

TaskName = Literal["search", "recommendation"]
ByAnswer = Literal["answered", "unanswered"]
Split = Literal["train", "validation", "test", "dqa", "answered", "unanswered", "last"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
VALIDATION_SHARE = 0.05
HISTORY = "recent_clicked_note_idxs"
"""The key of a request's history in the `meta` of its question: the notes clicked before, newest first."""
LATEST_OF_DQA = 0.2
"""The latest share of the table dqa, which the splits answered and unanswered rank; the earlier rest is to train on."""

Floats = npt.NDArray[np.float32]

_PER_CANDIDATE = ("note_idx", "clicked", "position")
_UNREAD = (
    "note_idx",
    "note_title",
    "note_content",
    IMAGE_TEXT,
    "note_embedding",
)  # part of the hash of the notes, or unused
_ROWS_HASHED = 65_536  # notes hashed at a time


@dataclass(frozen=True)
class Requests(RequestColumns):
    """Requests whose results are their candidates: each note once, in the order of `tie_keys`."""

    clicked: Bools
    """(m,); `position` is the first one if a note was exposed twice."""

    @property
    def n_candidates(self) -> int:
        """Return the number of candidates, m."""
        return len(self.note_idx)

    @cached_property
    def n_clicked(self) -> Ints:
        """Return the number of clicked candidates of each request, (n,)."""
        return np.bincount(self.request, self.clicked, minlength=len(self)).astype(np.int64)

    @cached_property
    def sha256(self) -> str:
        """Return the hash of everything in these requests."""
        total = hashlib.sha256()
        for field in fields(self):
            value = getattr(self, field.name)
            total.update(value.tobytes() if isinstance(value, np.ndarray) else "\0".join(value).encode())
        return total.hexdigest()

    def with_candidates(self, keep: Bools) -> Requests:
        """Return all requests with the candidates for which `keep` (m,) is true."""
        n_kept = np.bincount(self.request, keep, minlength=len(self)).astype(np.int64)
        changed = {name: getattr(self, name)[keep] for name in _PER_CANDIDATE}
        changed["offsets"] = offsets_of(n_kept)
        return Requests(**{field.name: getattr(self, field.name) for field in fields(self)} | changed)

    def with_results(self, lengths: Ints, note_idx: Ints, clicked: Bools, position: Ints) -> Requests:
        """Return all requests with other candidates, each once and in the order of `tie_keys`.

        Args:
            lengths: (n,): the number of results of each request.
            note_idx: The results of all requests, by request, (sum of lengths,).
            clicked: Whether each counts as clicked.
            position: The place that each came in, -1 if there is none.
        """
        columns = {"offsets": offsets_of(lengths), "note_idx": note_idx, "clicked": clicked, "position": position}
        return _deduplicated(Requests(**{field.name: getattr(self, field.name) for field in fields(self)} | columns))

    @cached_property
    def tie_keys(self) -> Hashes:
        """Return the ascending order of equal scores: a hash of request and note for each candidate, (m,)."""
        return tie_keys(text_hashes(self.ids)[self.request], self.note_idx)

    def best_first(self, scores: Floats) -> Ints:
        """Return the candidates' rows, (m,), by request, falling score, and hash if scores tie."""
        return np.lexsort((self.tie_keys, -scores, self.request))

    def rankings(self, scores: Floats) -> list[list[Hit]]:
        """Return each request's candidates as hits."""
        order = self.best_first(scores)
        return [
            [
                Hit(note_idx=int(self.note_idx[row]), score=float(scores[row]), rank=rank)
                for rank, row in enumerate(order[start:end], start=1)
            ]
            for start, end in zip(self.offsets[:-1], self.offsets[1:], strict=True)
        ]


def read_requests(source: Source, task: TaskName, split: Split, validation_share: float = VALIDATION_SHARE) -> Requests:
    """Return the requests of one split.

    `validation` is the latest share of the train table by time, `train` the earlier rest; `dqa` are the searches of the
    table dqa, `answered` the latest of these that were shown an answer, `unanswered` the others of the same time.
    `last` is each user's last request of the test table with a click.

    Raises:
        UsageError: if a table does not exist or lacks a column.
    """
    return part_of(read_table(source, table_of(task, split)), split, validation_share)


def part_of(table: Requests, split: Split, validation_share: float = VALIDATION_SHARE) -> Requests:
    """Return the requests of a split from the table that holds it (see `table_of`)."""
    if split in ("test", "dqa"):
        return table
    if split == "answered" or split == "unanswered":
        return _with_answer(split_by_time(table, LATEST_OF_DQA)[1], split)
    if split == "last":
        return last_of_users(table)
    return split_by_time(table, validation_share)[split == "validation"]


def earlier_by_answer(dqa: Requests, kind: ByAnswer) -> Requests:
    """Return the searches of the table dqa to train on: those before all that the splits of both kinds rank."""
    return _with_answer(split_by_time(dqa, LATEST_OF_DQA)[0], kind)


def _with_answer(requests: Requests, kind: ByAnswer) -> Requests:
    chosen = requests.take(requests.answered == (kind == "answered"))
    if not len(chosen):
        raise UsageError(f"none of {counted(len(requests), 'search')} of the table dqa is {kind}")
    return chosen


def table_of(task: TaskName, split: Split) -> str:
    """Return the table that holds a split."""
    if split in ("dqa", *get_args(ByAnswer)):
        if task != "search":
            raise UsageError(f"split {split} holds searches; the task recommendation has train, validation and test")
        return "dqa"
    return f"{task}_test" if split in ("test", "last") else f"{task}_train"


def split_by_time(requests: Requests, validation_share: float) -> tuple[Requests, Requests]:
    """Return the earlier requests and the latest share; requests of the same time all go to the earlier ones."""
    if (requests.time_ms < 0).any():
        row = int(np.flatnonzero(requests.time_ms < 0)[0])
        raise UsageError(
            f"request {requests.ids[row]} has no time, so the latest {validation_share:.0%} can't be set apart"
        )
    n_earlier = round(len(requests) * (1 - validation_share))
    if not 0 < n_earlier < len(requests):
        raise UsageError(f"{counted(len(requests), 'request')}: too few to set {validation_share:.0%} of them apart")
    is_later = requests.time_ms > np.sort(requests.time_ms)[n_earlier - 1]
    if not is_later.any():
        raise UsageError(f"the latest {validation_share:.0%} of the requests are all of one time")
    return requests.take(~is_later), requests.take(is_later)


def last_of_users(requests: Requests) -> Requests:
    """Return the last request of each user that has a click; one without user or time is none.

    Of requests of the same time it is the first one by a hash of the id.
    """
    rows = np.flatnonzero((requests.user_idx >= 0) & (requests.time_ms >= 0) & (requests.n_clicked > 0))
    if not len(rows):
        raise UsageError(f"none of {counted(len(requests), 'request')} has a user, a time and a click")
    hashed = text_hashes([requests.ids[row] for row in rows.tolist()])
    order = rows[np.lexsort((hashed, -requests.time_ms[rows], requests.user_idx[rows]))]
    _, first = np.unique(requests.user_idx[order], return_index=True)
    return requests.take(np.sort(order[first]))


def content_sha256(requests: Requests, catalogue: Catalogue) -> str:
    """Return the hash of everything that a ranker may read: requests, notes and users.

    All notes count with their own title and content, whichever fields are read, and the notes of the requests with
    their other columns, too. Images count by path.
    """
    notes = catalogue.notes
    named_notes = np.union1d(requests.note_idx, requests.recent)
    present = np.setdiff1d(named_notes, notes.missing(named_notes))
    columns = [name for name in notes.columns if name not in _UNREAD]
    total = hashlib.sha256(f"{requests.sha256} {notes.data_sha256}".encode())
    for start in range(0, len(present) if columns else 0, _ROWS_HASHED):
        _hash_table(total, notes.read(present[start : start + _ROWS_HASHED], columns))
    if catalogue.users is not None:
        _hash_table(total, catalogue.users)
    return total.hexdigest()


def fields_read(catalogue: Catalogue) -> dict[str, str]:
    """Return what an identity says of the fields that are read: nothing of the default, else also their hash."""
    fields = catalogue.notes.fields
    if fields == TITLE_AND_CONTENT:
        return {}
    return {"note_fields": note_fields_label(fields), "note_texts": catalogue.notes.sha256}


def _hash_table(total: hashlib._Hash, table: pa.Table) -> None:
    for name, column in sorted(zip(table.column_names, table.columns, strict=True), key=lambda pair: pair[0]):
        if column.null_count == len(column):
            continue  # encodings that leave out missing values do not have an empty column
        if pa.types.is_floating(column.type):
            values = column.to_numpy().astype(np.float64).tobytes()
        elif pa.types.is_integer(column.type) and not column.null_count:
            values = column.to_numpy().astype(np.int64).tobytes()
        else:
            values = json.dumps(column.to_pylist(), ensure_ascii=False).encode()
        total.update(f"{name} {len(values)} ".encode() + values)


def read_table(source: Source, name: str) -> Requests:
    """Return all requests of a table, by id; a UsageError names the first defect."""
    shown = read_exposures(source, name)
    if not len(shown):
        raise UsageError(f"{source.files(name)[1][0]} holds no request")
    requests = _deduplicated(
        Requests(
            clicked=shown.actions[:, 0],
            **{field.name: getattr(shown, field.name) for field in fields(Requests) if field.name != "clicked"},
        )
    )
    return requests.take(np.lexsort((np.array(requests.ids), requests.id_numbers())))


def requests_of(questions: Sequence[Question], rankings: Sequence[Sequence[Hit]]) -> Requests:
    """Return questions as searches: their hits are the candidates, and reference notes count as clicked."""
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
            offsets=offsets_of(np.array([len(hits) for hits in rankings], np.int64)),
            note_idx=note_idx,
            clicked=np.array(relevant, bool),
            position=np.array([hit.rank for hits in rankings for hit in hits], np.int64),
        )
    )


def questions_of(requests: Requests) -> list[Question]:
    """Return requests as questions: clicked notes count as reference notes, and `meta` has the history (`HISTORY`)."""
    return [
        Question(
            id=requests.ids[row],
            query=requests.queries[row],
            references=[],
            reference_notes=requests.note_idx[start:end][requests.clicked[start:end]].tolist(),
            meta={HISTORY: [note for note in requests.recent[first:last].tolist() if note != MISSING]},
        )
        for row, (start, end, first, last) in enumerate(
            zip(
                *(requests.offsets[:-1], requests.offsets[1:]),
                *(requests.recent_offsets[:-1], requests.recent_offsets[1:]),
                strict=True,
            )
        )
    ]


def _deduplicated(requests: Requests) -> Requests:
    """Keep each candidate once, by `tie_keys`: clicked if it ever was, at the first known position."""
    far = np.iinfo(np.int64).max
    position = np.where(requests.position >= 0, requests.position, far)
    order = np.lexsort((position, requests.note_idx, requests.request))
    request, note_idx = requests.request[order], requests.note_idx[order]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (request[1:] != request[:-1]) | (note_idx[1:] != note_idx[:-1])
    starts = np.flatnonzero(is_new)
    clicked = np.logical_or.reduceat(requests.clicked[order], starts) if len(starts) else requests.clicked
    first = position[order][starts]
    n_left = np.bincount(request[starts], minlength=len(requests))
    hashed = tie_keys(text_hashes(requests.ids)[request[starts]], note_idx[starts])
    by_hash = np.lexsort((hashed, request[starts]))
    changed: dict[str, Any] = {
        "offsets": offsets_of(n_left),
        "note_idx": note_idx[starts][by_hash],
        "clicked": clicked[by_hash],
        "position": np.where(first == far, MISSING, first)[by_hash],
    }
    return Requests(**{field.name: getattr(requests, field.name) for field in fields(requests)} | changed)
