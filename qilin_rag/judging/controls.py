"""Answers that are known to be good or bad, to see what a judge's figures are worth.

The reference must get about 1, the answer to another question and an empty one about 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from qilin_rag.core.text import has_words
from qilin_rag.core.types import NO_TOKENS, Question, Sample
from qilin_rag.judging.run_answers import Answers
from qilin_rag.pipeline.selection import other_questions

REFERENCE, OTHER, EMPTY = "reference itself", "answer to another question", "empty answer"


def answer_controls(questions: Sequence[Question], samples: Answers) -> dict[str, Answers]:
    """Return the samples of each control, in the order of the questions.

    - `reference itself`: all favoured answers of the question.
    - `answer to another question`: the run's answer to a question with another query; left out if there is none.
    - `empty answer`: nothing.
    """
    own = {sample.question_id: sample for sample in samples}
    pairs = list(zip(questions, samples, strict=True))
    controls = {REFERENCE: [saying(sample, "\n\n".join(question.references)) for question, sample in pairs]}
    if other := other_questions(questions):
        controls[OTHER] = [_instead(sample, own[other[question.id]]) for question, sample in pairs]
    return {**controls, EMPTY: [saying(sample, "", is_answered=True) for sample in samples]}


def saying(sample: Sample, text: str, is_answered: bool | None = None) -> Sample:
    """Return the sample with another text as its answer; by default only a text with words is an answer."""
    status = "ok" if (has_words(text) if is_answered is None else is_answered) else "empty"
    return sample.model_copy(update={"answer": text, "raw": text, "status": status, "usage": NO_TOKENS, "error": None})


def _instead(sample: Sample, other: Sample) -> Sample:
    return saying(sample, other.answer if other.is_answered else "")
