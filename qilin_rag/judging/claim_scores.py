"""Score an answer by its claims and those of its references, with the definitions of RAGChecker (arXiv 2408.08067).

A claim of the answer is right if the references state it. A note is relevant if it states a claim of the references.
RAGChecker's `claim_recall`, which is about the notes, is `context_recall` here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from qilin_rag.core.judged_answers import CheckedClaim

NO_CLAIMS = "the answer makes no claim"
NO_REFERENCE_CLAIMS = "the references make no claim"
NO_NOTES = "no notes in the prompt"
NOTHING_IN_NOTES = "no claim of the references is in the notes"
OF_REFERENCES = ("claim_precision", "claim_recall", "claim_f1")
OF_NOTES = (
    "context_precision",
    "context_recall",
    "context_utilization",
    "faithfulness",
    "hallucination",
    "noise_sensitivity_irrelevant",
    "noise_sensitivity_relevant",
    "self_knowledge",
)
CLAIM_METRICS = (*OF_REFERENCES, *OF_NOTES)
BEST: Mapping[str, str] = {
    "hallucination": "lowest",
    "noise_sensitivity_irrelevant": "lowest",
    "noise_sensitivity_relevant": "lowest",
    "self_knowledge": "depends on the notes",
}
"""The metrics whose highest value is not the best."""


class Figure(NamedTuple):
    """A figure of one answer; without a value, `remark` says why, and with one, it may qualify it."""

    value: float | None
    remark: str | None = None


class _Known(NamedTuple):
    """The verdicts about an answer, each list None if one of its verdicts is not known.

    Attributes:
        right: Whether the references state each claim of the answer.
        found: Whether the answer states each claim of the references.
        notes: The notes that state each claim of the answer.
        reference_notes: The notes that state each claim of the references.
    """

    right: list[bool] | None
    found: list[bool] | None
    notes: list[set[int]] | None
    reference_notes: list[set[int]] | None


def claim_scores(
    answer: Sequence[CheckedClaim] | None, references: Sequence[CheckedClaim] | None, n_notes: int | None, why: str
) -> dict[str, Figure]:
    """Return the figures of one answer by metric.

    - `claim_precision`, `claim_recall`, `claim_f1`: the share of the answer's claims that the references state, of the
    references' claims that the answer states, and their harmonic mean.
    - `context_recall`, `context_precision`: the share of the references' claims that some note states, and of the notes
    that are relevant.
    - `context_utilization`: of the references' claims that the notes state, the share that the answer states.
    - `faithfulness`: the share of the answer's claims that some note states.
    - `noise_sensitivity_relevant`, `noise_sensitivity_irrelevant`: the share of the answer's claims that are wrong and
    in a relevant note, or in irrelevant ones only.
    - `hallucination`, `self_knowledge`: the share of the answer's claims that no note states and that are wrong, or
    right.

    As in RAGChecker, the figures of an answer without claims are 0; so is `context_utilization` if the notes state
    nothing of the references. Unlike there, a figure has no value if there are no notes, or no claims of references,
    that it is about.

    Args:
        answer: The claims of the answer; None if they are not known.
        references: The claims of the references; None if they are not known.
        n_notes: The number of notes in the prompt; None if it is not known.
        why: The reason for figures without a value since a verdict is not known.

    >>> right = CheckedClaim(text="a", is_supported=True, notes=[1])
    >>> wrong = CheckedClaim(text="b", is_supported=False, notes=[])
    >>> figures = claim_scores([right, wrong], [right], 2, "no verdict")
    >>> figures["claim_precision"].value, figures["hallucination"].value, figures["context_precision"].value
    (0.5, 0.5, 0.5)
    """
    known = _Known(_verdicts(answer), _verdicts(references), _notes(answer), _notes(references))
    figures = {**_by_references(known), **_by_notes(known, n_notes or 0)}
    unknown = Figure(None, why)
    made = {name: unknown if figures[name] is None else figures[name] for name in CLAIM_METRICS}
    if references is not None and not references:
        without = (name for name in CLAIM_METRICS if name != "faithfulness")
        made |= dict.fromkeys(without, Figure(None, NO_REFERENCE_CLAIMS))
    if n_notes is None:
        made |= dict.fromkeys(OF_NOTES, Figure(None, "not known which notes the prompt held"))
    elif not n_notes:
        made |= dict.fromkeys(OF_NOTES, Figure(None, NO_NOTES))
    return {name: figure for name, figure in made.items() if figure is not None}


def _by_references(known: _Known) -> dict[str, Figure | None]:
    precision, recall = _of_answer(known.right), _share(known.found)
    f1 = None
    if precision is not None and recall is not None:
        assert precision.value is not None and recall.value is not None
        total = precision.value + recall.value
        f1 = Figure(2 * precision.value * recall.value / total if total else 0.0, precision.remark)
    return {"claim_precision": precision, "claim_recall": recall, "claim_f1": f1}


def _by_notes(known: _Known, n_notes: int) -> dict[str, Figure | None]:
    right, found, notes, reference_notes = known
    made: dict[str, Figure | None] = dict.fromkeys(OF_NOTES)
    if notes is not None:
        made["faithfulness"] = _of_answer([bool(its) for its in notes])
    if reference_notes is not None:
        relevant = set[int]().union(*reference_notes)
        made["context_recall"] = _share([bool(its) for its in reference_notes])
        made["context_precision"] = Figure(len(relevant) / n_notes) if n_notes else None
        if found is not None:
            used = [is_found for is_found, its in zip(found, reference_notes, strict=True) if its]
            made["context_utilization"] = _share(used) if used else Figure(0.0, NOTHING_IN_NOTES)
    if right is not None and notes is not None:
        pairs = list(zip(right, notes, strict=True))
        made["hallucination"] = _of_answer([not is_right and not its for is_right, its in pairs])
        made["self_knowledge"] = _of_answer([is_right and not its for is_right, its in pairs])
        if reference_notes is not None:
            made["noise_sensitivity_relevant"] = _of_answer(
                [not is_right and bool(its & relevant) for is_right, its in pairs]
            )
            made["noise_sensitivity_irrelevant"] = _of_answer(
                [not is_right and bool(its) and not its & relevant for is_right, its in pairs]
            )
    return made


def _verdicts(claims: Iterable[CheckedClaim] | None) -> list[bool] | None:
    if claims is None:
        return None
    verdicts = [claim.is_supported for claim in claims]
    known = [verdict for verdict in verdicts if verdict is not None]
    return known if len(known) == len(verdicts) else None


def _notes(claims: Iterable[CheckedClaim] | None) -> list[set[int]] | None:
    if claims is None:
        return None
    notes = [claim.notes for claim in claims]
    known = [set(its) for its in notes if its is not None]
    return known if len(known) == len(notes) else None


def _share(verdicts: Sequence[bool] | None) -> Figure | None:
    return None if verdicts is None else Figure(sum(verdicts) / len(verdicts) if verdicts else 0.0)


def _of_answer(verdicts: Sequence[bool] | None) -> Figure | None:
    """Return the share of the answer's claims; 0 with a remark if it makes none."""
    return Figure(0.0, NO_CLAIMS) if verdicts is not None and not verdicts else _share(verdicts)
