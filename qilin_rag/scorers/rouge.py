"""Compute ROUGE (Lin 2004) for Chinese: the F1 of rouge_score, on tokens that keep Chinese.

rouge_score's own tokenizer drops every character outside a-z0-9, so that a Chinese text would score 0, or by its
digits.

Everything runs in one process, since starting others would take longer than scoring a run. References are prepared once
for all runs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import ClassVar

from pydantic import PrivateAttr
from rapidfuzz.distance import LCSseq

from qilin_rag.scorers.base import TextScorer
from qilin_rag.scorers.token_strings import TOKENIZERS, TokenKind, TokenStrings


def lcs_f1(prediction: Sequence[Hashable], target: Sequence[Hashable]) -> float:
    """Return the F1 of the longest common subsequence, as rouge_score computes it, by rapidfuzz's bit-parallel LCS."""
    return _f1(LCSseq.similarity(prediction, target), len(prediction), len(target))


def ngram_f1(prediction: Sequence[Hashable], target: Sequence[Hashable], n: int) -> float:
    """Return the F1 of the n-grams, each counted as often as it is on both sides, as rouge_score computes it."""
    ours, theirs = (Counter(zip(*(tokens[i:] for i in range(n)), strict=False)) for tokens in (prediction, target))
    return _f1((ours & theirs).total(), ours.total(), theirs.total())


def _f1(n_common: int, n_prediction: int, n_target: int) -> float:
    """Return the harmonic mean of precision and recall (beta 1); 0 if nothing is common."""
    if not n_common:
        return 0.0
    precision, recall = n_common / n_prediction, n_common / n_target
    return 2 * precision * recall / (precision + recall)


class Rouge(TextScorer):
    """One kind of ROUGE: F1, the best over the references."""

    one_by_one: ClassVar[bool] = True
    kind: ClassVar[str]
    compared: ClassVar[str]

    tokens: TokenKind = "mixed"
    """The units that are compared: mixed (a run of Latin letters and digits, or any other single character), or the
    words of jieba (word).
    """

    _known: dict[str, TokenStrings] = PrivateAttr(default_factory=dict)

    @abstractmethod
    def f1(self, prediction: Sequence[str], target: Sequence[str]) -> float:
        """Return the F1 of two lists of tokens; 0 if a side is empty."""

    def signatures(self) -> dict[str, str]:
        """Return the signature: tokens, what is stripped, normalisation, formula, treatment of several references."""
        made = f"tokens:{self.tokens}|{self.treatment}|f1:{self.compared}|refs:max|v{self.version}"
        return {self.metric: f"{self.kind}|{made}"}

    def tokenize(self, text: str) -> Sequence[str]:
        """Return the tokens that are compared."""
        return TOKENIZERS[self.tokens](self.prepare_text(text))

    def score_answers(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """Return the best F1 over each answer's references."""
        self._learn(dict.fromkeys(target for targets in references for target in targets))
        texts = self.prepare_texts(answers)
        known = self._known
        pairs = [
            [(known[target].beside(text), known[target].first) for target in targets]
            for text, targets in zip(texts, references, strict=True)
        ]
        return [max((self.f1(*pair) for pair in of_answer), default=0.0) for of_answer in pairs]

    def _learn(self, references: Iterable[str]) -> None:
        """Prepare references, each once for all runs of this object."""
        known = self._known
        new = [reference for reference in references if reference not in known]
        for reference, text in zip(new, self.prepare_texts(new), strict=True):
            known[reference] = TokenStrings(text, self.tokens)


class RougeL(Rouge):
    """ROUGE-L (Lin 2004): F1 of the longest common subsequence, the best over the references.

    The formula is that of rouge_score (`rougeL`); only the tokens differ.

    Example:
        >>> RougeL(tokens="mixed").score_answers(["冷藏12小时"], [["冷藏12小时后过滤", "92度"]])
        [0.7692307692307693]
    """

    metric: ClassVar[str] = "rouge_l"
    kind: ClassVar[str] = "rouge_l"
    compared: ClassVar[str] = "lcs"

    def f1(self, prediction: Sequence[str], target: Sequence[str]) -> float:
        """Return the F1 of the longest common subsequence."""
        return lcs_f1(prediction, target)


class RougeN(Rouge):
    """ROUGE-N (Lin 2004): F1 of the n-grams, as rouge_score computes it; 0 for texts of fewer than n tokens."""

    n: ClassVar[int]

    def f1(self, prediction: Sequence[str], target: Sequence[str]) -> float:
        """Return the F1 of the n-grams."""
        return ngram_f1(prediction, target, self.n)


class Rouge1(RougeN):
    """ROUGE-1 (Lin 2004): F1 of single tokens, the best over the references.

    The formula is that of rouge_score (`rouge1`); only the tokens differ.

    Example:
        >>> Rouge1().score_answers(["水温92度"], [["92度水温"]])
        [1.0]
    """

    metric: ClassVar[str] = "rouge_1"
    kind: ClassVar[str] = "rouge_1"
    compared: ClassVar[str] = "1-grams"
    n: ClassVar[int] = 1


class Rouge2(RougeN):
    """ROUGE-2 (Lin 2004): F1 of pairs of neighbouring tokens, the best over the references.

    The formula is that of rouge_score (`rouge2`); only the tokens differ. Texts of one token score 0.

    Example:
        >>> Rouge2().score_answers(["水温92度"], [["92度水温"]])
        [0.6666666666666666]
    """

    metric: ClassVar[str] = "rouge_2"
    kind: ClassVar[str] = "rouge_2"
    compared: ClassVar[str] = "2-grams"
    n: ClassVar[int] = 2
