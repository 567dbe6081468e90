"""The texts of notes as prompts and retrievers read them: composed of the fields that a setting names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qilin_rag.core.arrays import positions_in
from qilin_rag.core.note_fields import IMAGE_TEXT, NoteField
from qilin_rag.data.arrow_arrays import without_nulls
from qilin_rag.data.encodings import read_batches
from qilin_rag.data.schema import ALL_TABLES, Table
from qilin_rag.data.text_files import Defect, stop

Ids = npt.NDArray[np.int64]


class NoteTexts:
    """Composes the title and content of notes from their fields.

    The text of the images is added to the content, on a line of its own. A field that is not read is empty.
    """

    def __init__(self, fields: Sequence[NoteField], encoding: str = "", files: Sequence[Path] = ()) -> None:
        """Set the fields, and the files of the table image_text; without files it is a column of the notes.

        Raises:
            UsageError: if a row of the table has a defect.
        """
        self._fields = fields
        self._note_idxs, self._texts = _read(encoding, files)

    def compose(self, rows: pa.RecordBatch) -> list[pa.Array]:
        """Return title and content of these notes, whose `note_idx`, `note_title` and `note_content` are not null."""
        title, content = rows.column("note_title"), rows.column("note_content")
        empty = pa.array([""] * len(rows), pa.string())
        content = content if "content" in self._fields else empty
        if "image_text" in self._fields:
            import pyarrow.compute as pc

            image_text = self._of(rows)
            has_both = pc.and_(pc.not_equal(content, ""), pc.not_equal(image_text, ""))
            between = pc.if_else(has_both, "\n", "")
            content = pc.binary_join_element_wise(content, between, image_text, "")
        return [title if "title" in self._fields else empty, content]

    def _of(self, rows: pa.RecordBatch) -> pa.Array:
        """Return what the images of these notes say; empty if nothing is known of them."""
        if IMAGE_TEXT in rows.schema.names:
            return without_nulls(rows.column(IMAGE_TEXT))
        places = positions_in(self._note_idxs, rows.column("note_idx").to_numpy())
        found = self._texts.take(pa.array(places, mask=places < 0))
        return without_nulls(found).cast(pa.string())


def _read(encoding: str, files: Sequence[Path]) -> tuple[Ids, pa.LargeStringArray]:
    """Return the ids of the table image_text, rising, and the text of each."""
    table = ALL_TABLES[IMAGE_TEXT]
    ids, texts = [np.zeros(0, np.int64)], [pa.array([], pa.large_string())]
    for path in files:
        for batch in read_batches(encoding, path, table):
            if (missing := batch.rows.column("note_idx").is_null()).true_count:
                stop(Defect(path, batch.place(missing.index(True).as_py()), "note_idx", "is missing"))
            ids.append(batch.rows.column("note_idx").to_numpy().copy())
            texts.append(batch.rows.column(IMAGE_TEXT).cast(pa.large_string()))
    note_idxs = np.concatenate(ids)
    refuse_doubles(note_idxs, encoding, files, table)
    order = np.argsort(note_idxs)
    return note_idxs[order], pa.concat_arrays(texts).take(pa.array(order))


def refuse_doubles(note_idxs: Ids, encoding: str, files: Sequence[Path], table: Table) -> None:
    """Raise a UsageError that names both places of a duplicate id."""
    ids, counts = np.unique(note_idxs, return_counts=True)
    if not (counts > 1).any():
        return
    double = int(ids[counts > 1][0])
    first, again = (each for each, _ in zip(_places(double, encoding, files, table), range(2), strict=False))
    first_place = first[1] if first[0] == again[0] else f"{first[1]} of {first[0].name}"
    stop(Defect(*again, "note_idx", f"{double} is already on {first_place}"))


def _places(note_idx: int, encoding: str, files: Sequence[Path], table: Table) -> Iterator[tuple[Path, str]]:
    """Yield the file and the place of each row with this id."""
    for path in files:
        for batch in read_batches(encoding, path, table, ["note_idx"]):
            for row in np.flatnonzero(batch.rows.column(0).to_numpy() == note_idx).tolist():
                yield path, batch.place(row)
