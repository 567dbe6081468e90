"""Whether the answer contains a reference: for short reference answers, a name or a number, where ROUGE counts length.

SQuAD's and CMRC's exact match is too strict for answers in whole sentences; this is its cover form, also known as
substring or cover exact match.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from qilin_rag.scorers.base import AnswerScorer
from qilin_rag.text import normalise, strip_markup


def _letters_and_digits(text: str) -> str:
    """What is compared: neither markup nor punctuation nor white space."""
    return "".join(char for char in normalise(strip_markup(text)) if char.isalnum())


class Contains(AnswerScorer):
    """1 where the answer contains one of the references whole, else 0; letters and digits alone are compared."""

    metric: ClassVar[str] = "contains"

    def signatures(self) -> dict[str, str]:
        """What is stripped, normalisation, treatment of several references."""
        made = f"strip:citations+emphasis|norm:nfkc+lower+alphanumeric|refs:any|v{self.version}"
        return {self.metric: f"contains|{made}"}

    def score_answers(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """1 or 0 for each answer."""
        return [
            float(any(wanted in said for target in targets if (wanted := _letters_and_digits(target))))
            for said, targets in zip(map(_letters_and_digits, answers), references, strict=True)
        ]
