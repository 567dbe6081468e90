"""Which notes an answer cites: against the notes it was given, and the reference notes.

Precision and recall of sets of notes, as in retrieval. ALCE's measures of the same names (Gao et al. 2023) ask an
entailment model whether the note supports the sentence; these don't.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from qilin_rag.core.text import cited_numbers
from qilin_rag.core.types import Question, Sample, Score
from qilin_rag.scorers.base import Remarked, Scorer

PRECISION, RECALL, INVALID = "citation_precision", "citation_recall", "citation_invalid"


class Citations(Scorer):
    """Precision and recall of the notes cited, against the reference notes; citations of notes that were not given.

    Number i names the i-th note of the prompt. Precision: of the numbers cited, each counted once, the share that names
    a reference note; one that names no given note is wrong. Recall: the share of the reference notes that is cited,
    retrieved or not. Invalid: of all citations, repeats included, the share that names no given note.

    An answer that cites nothing has a recall of 0, and neither of the others. Numbers in reference answers are never
    used: they count other notes.

    Example:
        >>> import qilin_rag as qr
        >>> sorted(Citations().signatures())
        ['citation_invalid', 'citation_precision', 'citation_recall']
    """

    version: ClassVar[int] = 2

    def signatures(self) -> dict[str, str]:
        """What is counted, how often, and what leaves an answer unscored."""
        numbers = "number:place in the prompt"
        return {
            PRECISION: f"{PRECISION}|{numbers}|of:cited, each once|not given:wrong|nothing:unscored|v{self.version}",
            RECALL: f"{RECALL}|{numbers}|of:reference notes|nothing:0|v{self.version}",
            INVALID: f"{INVALID}|{numbers}|of:citations|nothing:unscored|best:lowest|v{self.version}",
        }

    def score(self, samples: Sequence[Sample], questions: Sequence[Question]) -> list[Score]:
        """The three figures of each sample."""
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
