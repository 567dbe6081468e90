"""ROUGE (Lin 2004) for Chinese: rouge_score's F1, on tokens that keep Chinese.

rouge_score's own tokenizer drops every character outside a-z0-9, so a Chinese text would score 0 or by its digits.

There is one process: of 20 runs x 2,932 answers the LCS takes a second, the tokens ten, and half of these are the
references', which are kept from run to run. Starting processes would take longer than scoring a run does.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import ClassVar, Literal

from pydantic import PrivateAttr
from rapidfuzz.distance import LCSseq

from qilin_rag.core.text import mixed_tokens, words
from qilin_rag.scorers.base import TextScorer

_TOKENIZERS: dict[str, Callable[[str], Sequence[str]]] = {"mixed": mixed_tokens, "word": words}


def lcs_f1(prediction: Sequence[Hashable], target: Sequence[Hashable]) -> float:
    """F1 of the longest common subsequence, as rouge_score computes it, by rapidfuzz's bit-parallel LCS."""
    return _f1(LCSseq.similarity(prediction, target), len(prediction), len(target))


def ngram_f1(prediction: Sequence[Hashable], target: Sequence[Hashable], n: int) -> float:
    """F1 of the n-grams, each counted as often as it stands on both sides, as rouge_score computes it."""
    ours, theirs = (Counter(zip(*(tokens[i:] for i in range(n)), strict=False)) for tokens in (prediction, target))
    return _f1((ours & theirs).total(), ours.total(), theirs.total())


def _f1(n_common: int, n_prediction: int, n_target: int) -> float:
    """The harmonic mean of precision and recall (beta 1); 0 where nothing is common."""
    if not n_common:
        return 0.0
    precision, recall = n_common / n_prediction, n_common / n_target
    return 2 * precision * recall / (precision + recall)


class Rouge(TextScorer):
    """One kind of ROUGE: F1, the best over the references.

    `tokens`: `mixed` takes a run of Latin letters and digits as one token and any other character as one; `word`
    takes jieba's words.
    """

    kind: ClassVar[str]
    compared: ClassVar[str]

    tokens: Literal["mixed", "word"] = "mixed"

    _known: dict[str, tuple[str, ...]] = PrivateAttr(default_factory=dict)

    @abstractmethod
    def f1(self, prediction: Sequence[str], target: Sequence[str]) -> float:
        """How well these tokens agree; 0 where a side is empty."""

    def signatures(self) -> dict[str, str]:
        """Tokens, what is stripped, normalisation, formula, treatment of several references."""
        made = f"tokens:{self.tokens}|{self.treatment}|f1:{self.compared}|refs:max|v{self.version}"
        return {self.metric: f"{self.kind}|{made}"}

    def tokenize(self, text: str) -> Sequence[str]:
        """The tokens that are compared."""
        return _TOKENIZERS[self.tokens](self.prepare_text(text))

    def score_answers(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """The best F1 over each answer's references."""
        values = []
        for answer, targets in zip(answers, references, strict=True):
            tokens = self.tokenize(answer)
            values.append(max((self.f1(tokens, self._tokens_of(target)) for target in targets), default=0.0))
        return values

    def _tokens_of(self, reference: str) -> tuple[str, ...]:
        """Its tokens, made once for all runs that this object scores; equal tokens are one object."""
        if reference not in self._known:
            self._known[reference] = tuple(map(sys.intern, self.tokenize(reference)))
        return self._known[reference]


class RougeL(Rouge):
    """ROUGE-L (Lin 2004): F1 of the longest common subsequence, as rouge_score computes it.

    Example:
        >>> RougeL(tokens="mixed").score_answers(["冷藏12小时"], [["冷藏12小时后过滤", "92度"]])
        [0.7692307692307693]
    """

    metric: ClassVar[str] = "rouge_l"
    kind: ClassVar[str] = "rouge_l"
    compared: ClassVar[str] = "lcs"

    def f1(self, prediction: Sequence[str], target: Sequence[str]) -> float:
        """F1 of the longest common subsequence."""
        return lcs_f1(prediction, target)


class RougeN(Rouge):
    """ROUGE-N (Lin 2004): F1 of the n-grams, as rouge_score computes it; 0 below n tokens."""

    n: ClassVar[int]

    def f1(self, prediction: Sequence[str], target: Sequence[str]) -> float:
        """F1 of the n-grams."""
        return ngram_f1(prediction, target, self.n)


class Rouge1(RougeN):
    """ROUGE-1 (Lin 2004): F1 of the single tokens, as rouge_score computes it.

    Example:
        >>> Rouge1().score_answers(["水温92度"], [["92度水温"]])
        [1.0]
    """

    metric: ClassVar[str] = "rouge_1"
    kind: ClassVar[str] = "rouge_1"
    compared: ClassVar[str] = "1-grams"
    n: ClassVar[int] = 1


class Rouge2(RougeN):
    """ROUGE-2 (Lin 2004): F1 of the pairs of neighbouring tokens, as rouge_score computes it; 0 below two tokens.

    Example:
        >>> Rouge2().score_answers(["水温92度"], [["92度水温"]])
        [0.6666666666666666]
    """

    metric: ClassVar[str] = "rouge_2"
    kind: ClassVar[str] = "rouge_2"
    compared: ClassVar[str] = "2-grams"
    n: ClassVar[int] = 2
