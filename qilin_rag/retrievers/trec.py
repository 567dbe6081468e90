"""Retrieve the hits of a TREC run file, which another system wrote."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import whole_number
from qilin_rag.core.trec import read_trec, trec_id
from qilin_rag.core.types import Hit, Question
from qilin_rag.data import NoteStore
from qilin_rag.data.note_ids import text_id_number
from qilin_rag.retrievers.base import Retriever

logger = logging.getLogger(__name__)


class Trec(Retriever):
    """The first `k` hits of each question in a TREC run file; a question that is not in it gets no notes.

    Example:
        >>> import qilin_rag as qr
        >>> bm25 = qr.run(retriever=qr.BM25(), limit=20, metrics="rouge_l")
        >>> again = qr.run(retriever=qr.Trec(path=bm25.path / "run.trec"), limit=20, metrics="rouge_l")
        >>> again.metrics["rouge_l"].value == bm25.metrics["rouge_l"].value
        True
    """

    argument: ClassVar[str] = "path"
    operational: ClassVar[frozenset[str]] = frozenset({"path"})
    version: ClassVar[int] = 2
    nested: ClassVar[bool] = True

    path: Path
    """The run file: `question_id Q0 note_idx rank score tag` on each line."""

    def identity(self) -> dict[str, Any]:
        """Identify the file by its content, not its path."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise UsageError(f"{self.path} can't be read: {error.strerror or error}") from error
        return super().identity() | {"run_sha256": hashlib.sha256(content).hexdigest()}

    @property
    def reads_query(self) -> bool:
        """Return False: its hits are looked up by the id of the question."""
        return False

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """Return the hits of each question by its id."""
        run = read_trec(self.path, text_id_number if notes.has_text_ids else whole_number)
        absent = sum(trec_id(question.id) not in run for question in questions)
        if absent == len(questions) > 0:
            raise UsageError(f"{self.path} has no hits for any of the {absent} questions; is it a file for other data?")
        if absent:
            logger.warning("%s has no hits for %d of %d questions", self.path, absent, len(questions))
        return [run.get(trec_id(question.id), [])[:k] for question in questions]
