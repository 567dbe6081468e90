"""Answers that are known to be good or bad, to see what the figures of nuggets are worth.

The reference must get about 1, the answer to another question and an empty one about 0. What an answer gains by
repeating the nuggets of the bank shows how far the figures can be stuffed.
"""

from __future__ import annotations

from collections.abc import Sequence

from qilin_rag.core.text import has_words
from qilin_rag.core.types import NO_TOKENS, Question, Sample
from qilin_rag.judging.nugget_bank import Bank
from qilin_rag.judging.run_answers import Answers
from qilin_rag.pipeline.selection import other_questions

REFERENCE, STUFFED = "reference itself", "stuffed with nuggets"
OTHER, EMPTY = "answer to another question", "empty answer"


def nugget_controls(questions: Sequence[Question], samples: Answers, bank: Bank) -> dict[str, Answers]:
    """Return the samples of each control, in the order of the questions.

    - `reference itself`: all favoured answers of the question.
    - `answer to another question`: the run's answer to a question with another query; left out if there is none.
    - `stuffed with nuggets`: the run's answer, and behind it the nuggets of the bank.
    - `empty answer`: nothing.
    """
    own = {sample.question_id: sample for sample in samples}
    pairs = list(zip(questions, samples, strict=True))
    controls = {REFERENCE: [_saying(sample, "\n\n".join(question.references)) for question, sample in pairs]}
    if other := other_questions(questions):
        controls[OTHER] = [_instead(sample, own[other[question.id]]) for question, sample in pairs]
    controls[STUFFED] = [_stuffed(sample, bank) for sample in samples]
    controls[EMPTY] = [_saying(sample, "", is_answered=True) for sample in samples]
    return controls


def _saying(sample: Sample, text: str, is_answered: bool | None = None) -> Sample:
    """Return the sample with another text as its answer; by default only a text with words is an answer."""
    status = "ok" if (has_words(text) if is_answered is None else is_answered) else "empty"
    return sample.model_copy(update={"answer": text, "raw": text, "status": status, "usage": NO_TOKENS, "error": None})


def _instead(sample: Sample, other: Sample) -> Sample:
    return _saying(sample, other.answer) if other.is_answered else _saying(sample, "")


def _stuffed(sample: Sample, bank: Bank) -> Sample:
    """Return the sample with the nuggets behind its answer; one without an answer stays as it is."""
    if not sample.is_answered or sample.question_id not in bank.questions:
        return sample
    nuggets = [nugget.text for nugget in bank.questions[sample.question_id].nuggets]
    return _saying(sample, "\n".join([sample.answer, *nuggets]))
