"""Answers as judges took them apart: nuggets, claims and cited sentences; lines of files in a run directory."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict

from qilin_rag.core.text import has_words
from qilin_rag.core.types import Frozen

Importance = Literal["vital", "okay"]
Support = Literal["support", "partial_support", "not_support"]
ASSIGNED, CHECKED, SUPPORTED = "nuggets.jsonl", "claims.jsonl", "support.jsonl"


def one_line(text: Any) -> Any:
    """Return a text without line breaks, which nobody can number; a text without words is an error."""
    if isinstance(text, str) and not has_words(text):
        raise ValueError("a nugget without text")
    return " ".join(text.split()) if isinstance(text, str) else text


class Nugget(Frozen):
    """A fact that a good answer must hold (`vital`) or may hold (`okay`).

    Attributes:
        text: The fact.
        importance: `vital` or `okay`.
        provenance: The sources that hold it, as `answer 1` or `note 12`; empty if they are not known.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    text: Annotated[str, BeforeValidator(one_line)]
    importance: Importance
    provenance: list[str] = []


class AssignedNugget(Nugget):
    """A nugget, and how far an answer supports it.

    Attributes:
        assignment: `support`, `partial_support` or `not_support`.
    """

    assignment: Support


class JudgedAnswer(Frozen):
    """An answer that a judge took apart.

    Attributes:
        qid: The id of the question.
        query: The text of the question.
        run_id: The name of the run directory.
        answer_text: The answer.
        judge: The name of the judge.
    """

    qid: str
    query: str
    run_id: str
    answer_text: str
    judge: str


class AssignedAnswer(JudgedAnswer):
    """An answer with its nuggets: a line of nuggets.jsonl, in the form of nuggetizer.

    Attributes:
        nuggets: The nuggets of the question, each with its assignment.
        bank: The hash of the bank.
    """

    nuggets: list[AssignedNugget]
    bank: str


class CheckedClaim(Frozen):
    """A claim, and which texts state it; null if the verdict is missing or can't be read.

    Attributes:
        text: The claim.
        is_supported: Whether the references state a claim of the answer, or the answer a claim of the references.
        notes: The numbers of the notes in the prompt that state it, from 1.
    """

    text: str
    is_supported: bool | None
    notes: list[int] | None


class CheckedAnswer(JudgedAnswer):
    """An answer and its references, split into claims: a line of claims.jsonl.

    Attributes:
        answer_claims: The claims of the answer; null if they can't be read.
        reference_claims: The claims of the references; null if they can't be read.
        n_notes: The number of notes in the prompt; null if it is not known.
    """

    answer_claims: list[CheckedClaim] | None
    reference_claims: list[CheckedClaim] | None
    n_notes: int | None


class JudgedCitation(Frozen):
    """A note that a sentence cites, and how far it supports the sentence.

    Attributes:
        number: The number that the answer names.
        note_idx: The id of the note; null if no note of the prompt has that number.
        support: `support`, `partial_support` or `not_support`; null if the verdict is missing or can't be read.
    """

    number: int
    note_idx: int | None
    support: Support | None


class JudgedSentence(Frozen):
    """A sentence of an answer with the notes that it cites.

    Attributes:
        text: The sentence, without markers.
        citations: The notes that it cites, each once.
    """

    text: str
    citations: list[JudgedCitation]


class SupportedAnswer(JudgedAnswer):
    """An answer with its sentences and their citations: a line of support.jsonl.

    Attributes:
        sentences: The sentences in their order.
    """

    sentences: list[JudgedSentence]
