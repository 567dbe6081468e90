"""Print the parts into which judges took an answer apart: nuggets, claims and cited sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qilin_rag.cli import ui

if TYPE_CHECKING:
    from qilin_rag.core.judged_answers import (
        AssignedAnswer,
        CheckedAnswer,
        CheckedClaim,
        JudgedCitation,
        SupportedAnswer,
    )
    from qilin_rag.reports.judged_parts import JudgedParts

_STATED = {True: "stated", False: "not stated", None: "not judged"}


def print_parts(parts: JudgedParts) -> None:
    """Print the parts that there are, a verdict before each.

    Args:
        parts: The parts of an answer.
    """
    if parts.nuggets:
        _print_nuggets(parts.nuggets)
    if parts.claims:
        unknown = "; it is not known which notes the prompt held" if parts.claims.n_notes is None else ""
        by = f" (judged by {parts.claims.judge}{unknown})"
        _print_claims("claims of the answer", "the references", parts.claims.answer_claims, by, parts.claims)
        _print_claims("claims of the references", "the answer", parts.claims.reference_claims, by, parts.claims)
    if parts.support:
        _print_sentences(parts.support)


def _print_nuggets(assigned: AssignedAnswer) -> None:
    full, partial = (
        sum(nugget.assignment == support for nugget in assigned.nuggets) for support in ("support", "partial_support")
    )
    counts = f"{full} of {len(assigned.nuggets)} supported, {partial} in part"
    rows = [f"{nugget.assignment:<15}  {nugget.importance:<5}  {nugget.text}" for nugget in assigned.nuggets]
    _print_part(f"nuggets: {counts} (judged by {assigned.judge}, bank {assigned.bank[:8]})", rows)


def _print_claims(
    title: str, stated_by: str, claims: Sequence[CheckedClaim] | None, by: str, checked: CheckedAnswer
) -> None:
    if claims is None:
        _print_part(f"{title}: not judged", [])
        return
    n_stated = sum(claim.is_supported is True for claim in claims)
    rows = [
        f"{_STATED[claim.is_supported]:<10}  {claim.text}{f'  ({_notes(claim)})' if checked.n_notes else ''}"
        for claim in claims
    ]
    _print_part(f"{title}: {n_stated} of {len(claims)} stated by {stated_by}{by}", rows)


def _notes(claim: CheckedClaim) -> str:
    if claim.notes is None:
        return "notes: not judged"
    return f"notes: {', '.join(map(str, claim.notes)) or 'none'}"


def _print_sentences(supported: SupportedAnswer) -> None:
    citations = [citation for sentence in supported.sentences for citation in sentence.citations]
    n_cited = sum(bool(sentence.citations) for sentence in supported.sentences)
    n_full = sum(citation.support == "support" for citation in citations)
    counts = f"{n_cited} of {len(supported.sentences)} cite notes, {n_full} of {len(citations)} citations supported"
    rows = [
        f"{sentence.text}  {'  '.join(map(_cited, sentence.citations)) or 'no citation'}"
        for sentence in supported.sentences
    ]
    _print_part(f"sentences: {counts} (judged by {supported.judge})", rows)


def _cited(citation: JudgedCitation) -> str:
    verdict = "no such note" if citation.note_idx is None else citation.support or "not judged"
    return f"[{citation.number}] {verdict}"


def _print_part(title: str, rows: Sequence[str]) -> None:
    console = ui.console()
    console.print(f"\n{title}", style="bold", soft_wrap=True)
    for row in rows:
        console.print(f"  {row}", soft_wrap=True)
