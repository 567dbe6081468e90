"""Features of notes and users, for rankers to look up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from qilin_rag.core.errors import UsageError
from qilin_rag.core.note_fields import TITLE_AND_CONTENT, NoteField
from qilin_rag.data.clicks import ClickLog
from qilin_rag.data.encodings import read_batches
from qilin_rag.data.notes import NoteStore, open_notes_of
from qilin_rag.data.schema import TABLES
from qilin_rag.data.source import Source


class Catalogue(NamedTuple):
    """The features of notes and users.

    Attributes:
        notes: The notes, which know the folder of their images.
        users: The table user_feat by user_idx; None if the data has none.
        clicks: The clicks of all users, for rankers that read histories (`Ranker.reads_clicks`).
    """

    notes: NoteStore
    users: pa.Table | None = None
    clicks: ClickLog | None = None

    def need_users(self, what: str) -> pa.Table:
        """Return the users; raise UsageError if the data has none."""
        if self.users is None:
            raise UsageError(f"{what} needs the table user_feat, which the data does not have")
        return self.users

    def need_clicks(self, what: str) -> ClickLog:
        """Return the clicks; raise UsageError if there are none."""
        if self.clicks is None:
            raise UsageError(f"{what} reads clicks before a request; give a catalogue with `clicks` (SplitLog.clicks)")
        return self.clicks


def open_catalogue(source: Source, note_fields: Sequence[NoteField] = TITLE_AND_CONTENT) -> Catalogue:
    """Return the notes (with the text of these fields) and users of a source."""
    return Catalogue(open_notes_of(source, note_fields), read_users(source))


def read_users(source: Source) -> pa.Table | None:
    """Return the table user_feat by user_idx; None if it does not exist or has no rows."""
    if "user_feat" not in source.tables():
        return None
    table = TABLES["user_feat"]
    encoding, files = source.files("user_feat")
    batches = [batch.rows for path in files for batch in read_batches(encoding, path, table)]
    if not any(map(len, batches)):
        return None
    users = pa.concat_tables([pa.Table.from_batches([batch]) for batch in batches], promote_options="default")
    return users.sort_by("user_idx")
