"""Let an LLM judge whether the answers of a run refuse their questions: the counterpart of the metric `refusal`.

A verdict that can't be read and a call that failed or came back empty are unscored, never a figure.
"""

from __future__ import annotations

from pathlib import Path

from qilin_rag.core.types import Question, Sample, Score
from qilin_rag.judging.config import JudgeConfig
from qilin_rag.judging.docket import Case, Hearing, Judge, why_unread
from qilin_rag.judging.run_answers import Judged, RunAnswers, judge_answers, plan_answers, read_answers
from qilin_rag.judging.verdicts import read_refusal
from qilin_rag.pipeline.forecast import Plan
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.prompts.judge import RefusalPrompt, load_judge_prompt

VERSION = 1  # of how verdicts are read
JUDGE_REFUSAL = "judge_refusal"
METRIC = f"{JUDGE_REFUSAL}|partly answered:0|best:depends on the notes"
REPLIES = "refusal_judgements.jsonl"


def judge_refusals(path: Path, config: JudgeConfig, language: str = "zh") -> Judged:
    """Judge which answers of a finished run refuse their questions, and add `judge_refusal` to the run.

    Args:
        path: The run directory.
        config: The judge; `limit` bounds how many answers are judged and scored.
        language: The language of the prompt: zh or en.
    """
    judge = Judge(config, load_judge_prompt(RefusalPrompt, language))

    def scores_of(answers: RunAnswers, hearing: Hearing) -> list[Score]:
        signature = judge.signature(METRIC, hearing.said, VERSION)
        return [_score(sample, answers, hearing, signature) for sample in answers.own]

    return judge_answers(path, judge, lambda directory: _answers(judge, directory), scores_of)


def plan_refusals(path: Path, config: JudgeConfig, language: str = "zh") -> Plan:
    """Plan the calls and the cost of `judge_refusals`; write nothing."""
    judge = Judge(config, load_judge_prompt(RefusalPrompt, language))
    return plan_answers(path, lambda directory: _answers(judge, directory))


def _answers(judge: Judge, directory: RunDirectory) -> RunAnswers:
    name = directory.path.resolve().name

    def case(question: Question, sample: Sample) -> Case:
        return Case(question, [name], {"query": question.query, "answer": sample.answer})

    return read_answers(judge, directory, lambda question, sample: [case(question, sample)], REPLIES)


def _score(sample: Sample, answers: RunAnswers, hearing: Hearing, signature: str) -> Score:
    """Return 1 for a refusal and 0 for an answer; a score without a verdict says why."""
    judgement, shown = next(answers.judged(sample, hearing.said), (None, []))
    value, reason = None, why_unread(judgement) if sample.is_answered else sample.why_unanswered
    if judgement and not reason:
        value = read_refusal(judgement.answer, shown)
        reason = "no verdict" if value is None else None
    return Score(
        question_id=sample.question_id,
        metric=JUDGE_REFUSAL,
        value=None if value is None else float(value),
        reason=reason,
        signature=signature,
    )
