"""ROUGE-L for Chinese: rouge_score's LCS F1, on tokens that keep Chinese, by rapidfuzz's bit-parallel LCS.

rouge_score's own tokenizer drops every character outside a-z0-9, so a Chinese text would score 0 or by its digits.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import ClassVar, Literal

from rapidfuzz.distance import LCSseq

from qilin_rag.scorers.base import AnswerScorer
from qilin_rag.text import mixed_tokens, normalise, strip_markup, words

_TOKENIZERS: dict[str, Callable[[str], Sequence[str]]] = {"mixed": mixed_tokens, "word": words}


def lcs_f1(prediction: Sequence[Hashable], target: Sequence[Hashable]) -> float:
    """F1 of the longest common subsequence (Lin 2004, beta 1), as rouge_score computes it; 0 where a side is empty."""
    if not prediction or not target:
        return 0.0
    common = LCSseq.similarity(prediction, target)
    if not common:
        return 0.0
    precision, recall = common / len(prediction), common / len(target)
    return 2 * precision * recall / (precision + recall)


class RougeL(AnswerScorer):
    """ROUGE-L F1, the best over the references.

    `tokens`: `mixed` takes a run of Latin letters and digits as one token and any other character as one; `word`
    takes jieba's words. `strip_markup` removes citation markers and emphasis marks from both sides first.
    """

    metric: ClassVar[str] = "rouge_l"

    tokens: Literal["mixed", "word"] = "mixed"
    strip_markup: bool = True

    def signatures(self) -> dict[str, str]:
        """Tokens, what is stripped, normalisation, formula, treatment of several references."""
        stripped = "citations+emphasis" if self.strip_markup else "nothing"
        made = f"tokens:{self.tokens}|strip:{stripped}|norm:nfkc+lower|f1:lcs|refs:max|v{self.version}"
        return {self.metric: f"rouge_l|{made}"}

    def tokenize(self, text: str) -> Sequence[str]:
        """The tokens that are compared."""
        return _TOKENIZERS[self.tokens](normalise(strip_markup(text) if self.strip_markup else text))

    def score_answers(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """The best LCS F1 over each answer's references."""
        values = []
        for answer, targets in zip(answers, references, strict=True):
            tokens = self.tokenize(answer)
            values.append(max((lcs_f1(tokens, self.tokenize(target)) for target in targets), default=0.0))
        return values


class RougeLWord(RougeL):
    """ROUGE-L over jieba words."""

    metric: ClassVar[str] = "rouge_l_word"

    tokens: Literal["mixed", "word"] = "word"
