"""Check whether the answer contains a reference: for short references, a name or a number.

ROUGE of such pairs mostly measures length. The exact match of SQuAD and CMRC is too strict for answers in whole
sentences; this is its cover form, also called substring or cover exact match.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from qilin_rag.core.text import mixed_tokens
from qilin_rag.scorers.base import TextScorer


class Contains(TextScorer):
    """1 if the answer contains one of the references as a whole, else 0.

    Whole tokens are compared, each a character or a run of Latin letters and digits: `312度` does not contain `12度`.
    Other names of this measure are cover exact match and substring exact match.

    Example:
        >>> Contains().score_answers(["水温12度左右", "水温312度"], [["12度"], ["12度"]])
        [1.0, 0.0]
    """

    metric: ClassVar[str] = "contains"
    one_by_one: ClassVar[bool] = True

    def signatures(self) -> dict[str, str]:
        """Return the signature: what is stripped, normalisation, treatment of several references."""
        made = f"{self.treatment}|tok:mixed+alphanumeric|refs:any|v{self.version}"
        return {self.metric: f"contains|{made}"}

    def score_answers(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """Return 1 or 0 for each answer."""
        return [
            float(any(wanted in said for target in targets if (wanted := self._tokens(target))))
            for said, targets in zip(map(self._tokens, answers), references, strict=True)
        ]

    def _tokens(self, text: str) -> str:
        """Return the tokens to compare, without punctuation and with a space on both sides of each."""
        tokens = [token for token in mixed_tokens(self.prepare_text(text)) if token.isalnum()]
        return " ".join(["", *tokens, ""]) if tokens else ""
