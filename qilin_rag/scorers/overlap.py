"""Compute BLEU and chrF for Chinese by sacreBLEU (Post 2018), whose own signature is recorded.

Each answer gets a sentence-level value, and the figure of a run is their mean. Do not compare it with corpus BLEU or
corpus chrF, which add up the counts of all answers before they divide.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from qilin_rag.scorers.base import TextScorer

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric

_VARIABLE = -1  # sacreBLEU's word for a number of references that varies


class SacreBleu(TextScorer):
    """A metric of sacreBLEU for each sentence, from 0 to 1 (sacreBLEU's own scale ends at 100)."""

    one_by_one: ClassVar[bool] = True

    @abstractmethod
    def build(self) -> Metric:
        """Return the metric as sacreBLEU configures it."""

    def signatures(self) -> dict[str, str]:
        """Return the signature: level, scale, treatment of texts, and sacreBLEU's own signature."""
        metric = self.build()
        metric.num_refs = _VARIABLE
        made = f"level:sentence, mean|scale:0-1|{self.treatment}|{metric.get_signature()}"
        return {self.metric: f"{self.metric}|{made}|v{self.version}"}

    def score_answers(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """Return the value of each answer; 0 if a side is empty.

        Empty references are ignored: for BLEU an empty one would be the closest in length to a short answer, which
        would then count as long enough.
        """
        metric = self.build()
        values = []
        for answer, targets in zip(answers, references, strict=True):
            texts = [text for target in targets if (text := self.prepare_text(target).strip())]
            found = metric.sentence_score(self.prepare_text(answer), texts).score if texts else 0.0
            values.append(min(found / 100, 1.0))  # sacreBLEU gives equal texts 100.00000000000004
        return values


class Bleu(SacreBleu):
    """Sentence BLEU (Papineni et al. 2002) by sacreBLEU: characters, exponential smoothing, effective order.

    With several references, each n-gram counts up to its number in the reference that has most of it, and the length is
    compared with the closest one. Values are from 0 to 1.

    Example:
        >>> [round(value, 3) for value in Bleu().score_answers(["水温92度"], [["水温92度"]])]
        [1.0]
    """

    metric: ClassVar[str] = "bleu"

    def build(self) -> Metric:
        """Return BLEU of up to 4-grams, or of up to the answer's length if it is shorter."""
        from sacrebleu import BLEU

        return BLEU(tokenize="zh", smooth_method="exp", effective_order=True)


class ChrF(SacreBleu):
    """Sentence chrF2 (Popović 2015) by sacreBLEU: F2 of the 1- to 6-grams of characters, the best over references.

    Values are from 0 to 1.

    Example:
        >>> [round(value, 3) for value in ChrF().score_answers(["水温92度"], [["水温92度"]])]
        [1.0]
    """

    metric: ClassVar[str] = "chrf"

    def build(self) -> Metric:
        """Return chrF2, sacreBLEU's default."""
        from sacrebleu import CHRF

        return CHRF()
