"""All requests of a data set in one log: by user and time, with their sessions of both kinds."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from qilin_rag.core.arrays import positions_in
from qilin_rag.core.errors import UsageError
from qilin_rag.data.clock import check_clock
from qilin_rag.data.encodings import present_columns, read_batches
from qilin_rag.data.exposures import MISSING, Bools, Exposures, Ints, concat, read_exposures
from qilin_rag.data.log_settings import LogSettings
from qilin_rag.data.schema import REQUEST_TABLES, TABLES
from qilin_rag.data.sessions import Sessions, app_sessions, pause_sessions
from qilin_rag.data.source import Source

IMAGE_TEXT, VIDEO = 1, 2


class NoteFacts(NamedTuple):
    """Facts of each note, (n_notes,).

    Attributes:
        note_idx: The ids, ascending.
        note_type: 1 image-text, 2 video, 0 unknown.
        n_images: The number of images.
    """

    note_idx: Ints
    note_type: Ints
    n_images: Ints

    def types_of(self, note_idxs: Ints) -> Ints:
        """Return the types of these notes; 0 for one that the data lacks."""
        at = positions_in(self.note_idx, note_idxs)
        return np.append(self.note_type, 0)[at]  # the last value is for missing notes


class Log:
    """Requests by user and time, and their outcomes.

    Attributes:
        shown: All requests; those without user or time come last.
        is_dqa: Whether each request is a row of the table dqa, (n,).
        note_type: The type of each result's note, (m,).
        settings: How the tables were read.
        clock: The evidence for the assumed clock of searches.
    """

    def __init__(
        self,
        shown: Exposures,
        is_dqa: Bools,
        notes: NoteFacts,
        settings: LogSettings | None = None,
        clock: str = "",
    ) -> None:
        self.shown, self.is_dqa, self.notes = shown, is_dqa, notes
        self.settings, self.clock = settings or LogSettings(), clock
        self.note_type = notes.types_of(shown.note_idx)

    def taken(self, rows: Ints) -> Log:
        """Return a log of these requests alone."""
        return Log(self.shown.take(rows), self.is_dqa[rows], self.notes, self.settings, self.clock)

    @cached_property
    def app_sessions(self) -> Sessions:
        """Return the sessions of the app."""
        return app_sessions(self.shown, [self.shown])

    @cached_property
    def pause_sessions(self) -> Sessions:
        """Return the sessions that end with a user's pause, searches and recommendations together."""
        return pause_sessions(self.shown, [self.shown], self.settings.session_gap_s)

    @cached_property
    def clicked(self) -> Bools:
        """Return whether each result was clicked, (m,)."""
        return self.shown.actions[:, 0]

    @cached_property
    def n_results(self) -> Ints:
        """Return the number of results of each request, (n,)."""
        return np.diff(self.shown.offsets)

    @cached_property
    def n_clicks(self) -> Ints:
        """Return the number of clicks of each request, (n,)."""
        return np.bincount(self.shown.request, self.clicked, minlength=len(self.shown)).astype(np.int64)

    @cached_property
    def depth(self) -> Ints:
        """Return the largest position of each request, (n,); -1 if none is known."""
        deepest = np.full(len(self.shown), MISSING)
        np.maximum.at(deepest, self.shown.request, self.shown.position)
        return deepest

    @cached_property
    def first_click(self) -> Ints:
        """Return the smallest clicked position of each request, (n,); -1 if none is known."""
        far = np.iinfo(np.int64).max
        first = np.full(len(self.shown), far)
        has_place = self.clicked & (self.shown.position >= 0)
        np.minimum.at(first, self.shown.request[has_place], self.shown.position[has_place])
        return np.where(first == far, MISSING, first)


def read_log(source: Source) -> Log:
    """Return the log of all existing request tables.

    Raises:
        UsageError: if there is none.
    """
    names = [name for name in REQUEST_TABLES if name in source.tables()]
    if not names:
        raise UsageError(f"data {str(source.folder)!r} has none of the tables {', '.join(REQUEST_TABLES)}")
    parts = [read_exposures(source, name) for name in names]
    is_dqa = np.concatenate([np.full(len(part), name == "dqa") for name, part in zip(names, parts, strict=True)])
    shown = concat(parts)
    order = _time_order(shown)
    clock = check_clock(dict(zip(names, parts, strict=True)), source.log).sentence()
    return Log(shown.take(order), is_dqa[order], read_note_facts(source), source.log, clock)


def read_note_facts(source: Source) -> NoteFacts:
    """Return types and numbers of images of all notes, streamed; empty if there is no table of notes."""
    if "notes" not in source.tables():
        return NoteFacts(*(np.zeros(0, np.int64) for _ in NoteFacts._fields))
    encoding, files = source.files("notes")
    present = set(present_columns(encoding, files, TABLES["notes"]))
    names = [name for name in ("note_idx", "note_type", "image_path") if name in present]
    columns: list[tuple[Ints, ...]] = []
    for path in files:
        for batch in read_batches(encoding, path, TABLES["notes"], names):
            rows = {name: batch.rows.column(name) for name in batch.rows.schema.names}
            zeros = np.zeros(len(batch.rows), np.int64)
            kind = pc.fill_null(rows["note_type"], 0).to_numpy(zero_copy_only=False) if "note_type" in rows else zeros
            images = pc.list_value_length(rows["image_path"]) if "image_path" in rows else None
            n_images = zeros if images is None else pc.fill_null(images, 0).to_numpy(zero_copy_only=False)
            note_idx = rows["note_idx"].to_numpy(zero_copy_only=False)
            columns.append((note_idx, kind.astype(np.int64), n_images.astype(np.int64)))
    if not columns:
        return NoteFacts(*(np.zeros(0, np.int64) for _ in NoteFacts._fields))
    joined = [np.concatenate(values) for values in zip(*columns, strict=True)]
    order = np.argsort(joined[0], kind="stable")
    return NoteFacts(*(values[order] for values in joined))


def _time_order(shown: Exposures) -> Ints:
    """Return the order by user and time, equal times by kind and id; requests without user or time come last."""
    unknown = (shown.user_idx < 0) | (shown.time_ms < 0)
    return np.lexsort((shown.id_numbers(), shown.is_search, shown.time_ms, shown.user_idx, unknown))
