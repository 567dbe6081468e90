"""Name the forms of other tools' files, and find the one of a file by its first bytes.

A form is a module with two functions. `recognises(path, head)` returns whether a file is of this form, by its name and
up to 64 KiB of its beginning (without a byte order mark and leading white space). `read(path)` yields for each answer
its place for people (`line 3`) and a row under the names that JSONL has: `question_id` or `query`, `answer`, and if
they are known `note_ids` and `citations`; under the key `CALL` what the file tells about the call. A row that can't be
read is a UsageError with its place. Nothing in a file is executed, fetched or unpacked to disk.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat

from qilin_rag.core.text import has_words
from qilin_rag.core.types import NO_TOKENS, Figure, Frozen, Mark, Message, Status, Usage

_HERE = "qilin_rag.pipeline.import_forms"
FORMS: dict[str, str] = {
    "Every Eval Ever": f"{_HERE}.every_eval_ever",
    "logs of inspect_ai": f"{_HERE}.inspect_log",
    "samples of lm-eval": f"{_HERE}.lm_eval",
}
"""The module of each form, by what it is called in messages. The first that recognises a file reads it."""
CALL = object()
"""The key of `KnownCall` in a row; a file can't have it as the name of a column."""
Reader = Callable[[Path], Iterator[tuple[str, Mapping[Any, Any]]]]


class KnownCall(Frozen):
    """The call behind an answer, as far as a file of another tool tells; None: it does not.

    Attributes:
        raw: The text as the server sent it, thinking included.
        prompt_notes: The notes in the prompt, in its order, to which the numbers in the answer refer.
        note_scores: The scores of the notes that were found, in their order.
    """

    status: Status | None = None
    error: str | None = None
    raw: str | None = None
    messages: list[Message] | None = None
    prompt_notes: list[int] | None = None
    note_scores: list[FiniteFloat] | None = None
    model: str | None = None
    finish_reason: str | None = None
    marks: list[Mark] | None = None
    usage: Usage | None = None
    latency_s: Figure | None = None

    def fields(self, answer: str) -> dict[str, Any]:
        """Return the fields of a sample that are known; a text without words is no answer, whatever the file says."""
        known = {name: value for name, value in self if value is not None and name != "note_scores"}
        if self.status == "ok" and not has_words(answer) and self.usage != NO_TOKENS:
            del known["status"]
        elif self.status:
            known.setdefault("error", None)
        return known


def form_of(path: Path, head: bytes) -> Reader | None:
    """Return what reads this file; None if it is of no tool's form."""
    for module_name in FORMS.values():
        module = importlib.import_module(module_name)
        if module.recognises(path, head):
            read: Reader = module.read
            return read
    return None
