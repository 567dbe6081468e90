"""Compare the length of answer and reference: most overlap metrics fall for answers that are too long or too short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from qilin_rag.core.text import mixed_tokens
from qilin_rag.scorers.base import Remarked, TextScorer


class LengthRatio(TextScorer):
    """Tokens of the answer divided by those of the reference that is closest in length.

    The closest reference is BLEU's (Papineni et al. 2002), the shorter one on a tie. Empty references are ignored; an
    answer without other references is unscored.

    Example:
        >>> LengthRatio().score_answers(["水温92度"], [["92度"]])
        [Remarked(value=2.0, reason=None)]
    """

    metric: ClassVar[str] = "length_ratio"
    one_by_one: ClassVar[bool] = True

    def signatures(self) -> dict[str, str]:
        """Return the signature: tokens, what is stripped, normalisation, treatment of several references."""
        made = f"tokens:mixed|{self.treatment}|answer/reference|refs:closest|best:1|v{self.version}"
        return {self.metric: f"length_ratio|{made}"}

    def n_tokens(self, text: str) -> int:
        """Return the number of tokens that are compared."""
        return len(mixed_tokens(self.prepare_text(text)))

    def score_answers(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[Remarked]:
        """Return the ratio of each answer."""
        return [
            self._ratio(self.n_tokens(answer), [n for target in targets if (n := self.n_tokens(target))])
            for answer, targets in zip(answers, references, strict=True)
        ]

    def _ratio(self, n_answer: int, n_targets: Sequence[int]) -> Remarked:
        if not n_targets:
            return Remarked(None, "empty reference")
        return Remarked(n_answer / min(n_targets, key=lambda n: (abs(n - n_answer), n)))
