"""Keep the ids of a run's notes as the data has them, beside the run, if they are text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import write_text
from qilin_rag.core.plain_files import read_plain

if TYPE_CHECKING:
    from qilin_rag.core.types import Question, Sample
    from qilin_rag.data import NoteStore


_FILE = "note_ids.json"


def write_note_names(folder: Path, notes: NoteStore, questions: Iterable[Question], samples: Iterable[Sample]) -> None:
    """Write the text ids of a run's hits and reference notes into its folder, if any id is text."""
    if not notes.has_text_ids:
        return
    named = {note_idx for question in questions for note_idx in question.reference_notes}
    named.update(hit.note_idx for sample in samples for hit in sample.hits)
    names = notes.text_ids(sorted(named))
    text = json.dumps({str(note_idx): names[note_idx] for note_idx in sorted(names)}, ensure_ascii=False, indent=0)
    write_text(folder / _FILE, f"{text}\n")


def read_note_names(folder: Path) -> dict[int, str]:
    """Return the text of ids by number, as `write_note_names` kept it; what can't be read is left out."""
    try:
        content = json.loads(read_plain(folder / _FILE))
        return {int(number): str(name) for number, name in content.items()}
    except (OSError, UsageError, ValueError, AttributeError, RecursionError):
        return {}
