"""Describe in the manifest an imported run: which system answered, and what of its file could not be used."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt

from qilin_rag.core.types import AnswerSelection, Frozen, ReferenceSelection

UNKNOWN: Literal["unknown"] = "unknown"
"""How labels and settings say that nobody told."""


class ImportRemark(Frozen):
    """A kind of answers that could not be used as they are.

    Attributes:
        n: The number of these answers.
        what: What was not used of them.
        first: The first of them, with its place.
    """

    n: PositiveInt
    what: str
    first: str

    def __str__(self) -> str:
        return f"{self.what}: {self.n:,}; the first: {self.first}"


class ImportRecord(Frozen):
    """The system that answered, the hash of all that it gave, and from where it was read.

    `source` is the name of the file, or null for rows in memory. `rows` counts the answers in it, also those that are
    not used.
    """

    name: str
    sha256: str
    source: str | None = None
    rows: NonNegativeInt
    remarks: list[ImportRemark] = []


class UnknownComponent(Frozen):
    """A retriever or an LLM of which nothing is known."""

    name: Literal["unknown"] = UNKNOWN
    settings: dict[str, None] = {}


class ImportSettings(Frozen):
    """The configuration of such a run, under the names that a `RunSpec` has: what is not known is null or `unknown`.

    `top_k` is the most notes that came with an answer; null if none came with any.
    """

    data: str
    answers: AnswerSelection = "engaged"
    references: ReferenceSelection = "own"
    retriever: UnknownComponent = UnknownComponent()
    llm: UnknownComponent = UnknownComponent()
    llm_label: str
    prompt: Literal["unknown"] = UNKNOWN
    top_k: PositiveInt | None = None
    note_fields: None = None
    note_order: None = None
    note_chars: None = None
    note_images: Literal[0] = 0
    metrics: dict[str, dict[str, Any]] = {}
    optional_metrics: list[str] = []
    seed: NonNegativeInt = 0
    limit: PositiveInt | None = None
    ids: None = None
    note: Literal[""] = ""
