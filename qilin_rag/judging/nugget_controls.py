"""Controls of nuggets: those of all judges, and an answer that repeats the nuggets of the bank.

What an answer gains by repeating the nuggets shows how far the figures can be stuffed.
"""

from __future__ import annotations

from collections.abc import Sequence

from qilin_rag.core.types import Question, Sample
from qilin_rag.judging.controls import answer_controls, saying
from qilin_rag.judging.nugget_bank import Bank
from qilin_rag.judging.run_answers import Answers

STUFFED = "stuffed with nuggets"


def nugget_controls(questions: Sequence[Question], samples: Answers, bank: Bank) -> dict[str, Answers]:
    """Return the samples of each control: those of `answer_controls`, and `stuffed with nuggets`.

    The stuffed answer is the run's answer, and behind it the nuggets of the bank.
    """
    return {**answer_controls(questions, samples), STUFFED: [_stuffed(sample, bank) for sample in samples]}


def _stuffed(sample: Sample, bank: Bank) -> Sample:
    """Return the sample with the nuggets behind its answer; one without an answer stays as it is."""
    if not sample.is_answered or sample.question_id not in bank.questions:
        return sample
    nuggets = [nugget.text for nugget in bank.questions[sample.question_id].nuggets]
    return saying(sample, "\n".join([sample.answer, *nuggets]))
