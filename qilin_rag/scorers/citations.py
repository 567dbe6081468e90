"""Compare the notes that an answer cites with the notes it was given, and with the reference notes.

Precision and recall are of sets of notes, as in retrieval. ALCE's measures of the same names (Gao et al. 2023) ask an
entailment model whether the note supports the sentence; these do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from qilin_rag.core.text import cited_numbers
from qilin_rag.core.types import Question, Sample, Score
from qilin_rag.scorers.base import Remarked, Scorer

PRECISION, RECALL, INVALID = "citation_precision", "citation_recall", "citation_invalid"


class Citations(Scorer):
    """Precision and recall of the cited notes, and the share of invalid citations.

    Number i is the i-th note of the prompt.

    - `citation_precision`: the share of the cited numbers, without duplicates, that are reference notes. A number
    without a note counts as wrong.
    - `citation_recall`: the share of the reference notes that are cited, whether they were retrieved or not.
    - `citation_invalid`: the share of all citations, with duplicates, whose number has no note.

    An answer without citations has a recall of 0, and is unscored in the other two. Numbers in reference answers are
    never used, because they count other notes.

    Example:
        >>> import qilin_rag as qr
        >>> sorted(Citations().signatures())
        ['citation_invalid', 'citation_precision', 'citation_recall']
    """

    version: ClassVar[int] = 2
    one_by_one: ClassVar[bool] = True

    def signatures(self) -> dict[str, str]:
        """Return the signatures: what is counted, how often, and what leaves an answer unscored."""
        numbers = "number:place in the prompt"
        return {
            PRECISION: f"{PRECISION}|{numbers}|of:cited, each once|not given:wrong|nothing:unscored|v{self.version}",
            RECALL: f"{RECALL}|{numbers}|of:reference notes|nothing:0|v{self.version}",
            INVALID: f"{INVALID}|{numbers}|of:citations|nothing:unscored|best:lowest|v{self.version}",
        }

    def score(self, samples: Sequence[Sample], questions: Sequence[Question]) -> list[Score]:
        """Return the three figures of each sample."""
        return [
            Score(question_id=sample.question_id, metric=metric, value=found.value, reason=found.reason)
            for sample, question in zip(samples, questions, strict=True)
            for metric, found in _figures(sample, set(question.reference_notes)).items()
        ]


def _figures(sample: Sample, wanted: set[int]) -> dict[str, Remarked]:
    notes = sample.known_prompt_notes
    if not sample.is_answered or notes is None:
        why = "not recorded which notes the prompt held" if sample.is_answered else sample.why_unanswered
        return dict.fromkeys((PRECISION, RECALL, INVALID), Remarked(None, why))
    citations = cited_numbers(sample.answer)
    valid = [number for number in citations if 1 <= number <= len(notes)]
    n_right = len(wanted & {notes[number - 1] for number in valid})
    nothing, no_reference = Remarked(None, "cites nothing"), Remarked(None, "no reference notes")
    return {
        PRECISION: (Remarked(n_right / len(set(citations))) if citations else nothing) if wanted else no_reference,
        RECALL: Remarked(n_right / len(wanted)) if wanted else no_reference,
        INVALID: Remarked((len(citations) - len(valid)) / len(citations)) if citations else nothing,
    }
