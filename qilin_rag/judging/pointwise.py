"""Let an LLM judge a run's answers: correctness, completeness, and faithfulness to the notes, 1 to 5 each.

A verdict that can't be read and a call that failed or came back empty are unscored, never a figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qilin_rag.core.types import SCALE, Judgement, Question, Sample, Score
from qilin_rag.judging.config import JudgeConfig
from qilin_rag.judging.docket import Case, Hearing, Judge, why_unread
from qilin_rag.judging.run_answers import (
    Judged,
    RunAnswers,
    images_unseen,
    judge_answers,
    plan_answers,
    read_answers,
    warn_of_images,
)
from qilin_rag.judging.verdicts import ASPECTS, read_score
from qilin_rag.pipeline.forecast import Plan
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.prompts.judge import PointwisePrompt, PromptValues, load_judge_prompt

_OF_NOTES = "faithfulness"  # the aspect that compares answers with notes


def judge_run(path: Path, config: JudgeConfig) -> Judged:
    """Judge the answers of a finished run, one by one, without its data.

    `config.limit` bounds how many answers are judged and scored.
    """
    judge = Judge(config, load_judge_prompt(PointwisePrompt))

    def scores_of(answers: RunAnswers, hearing: Hearing) -> list[Score]:
        signatures = {_metric(aspect): _signature(judge, aspect, answers, hearing.said) for aspect in ASPECTS}
        return [
            score.model_copy(update={"signature": signatures[score.metric]})
            for sample in answers.own
            for score in _scores(sample, answers, hearing.said)
        ]

    return judge_answers(path, judge, lambda directory: _answers(judge, directory), scores_of)


def plan_judge(path: Path, config: JudgeConfig) -> Plan:
    """Plan the calls and the cost of `judge_run`; write nothing."""
    judge = Judge(config, load_judge_prompt(PointwisePrompt))
    return plan_answers(path, lambda directory: _answers(judge, directory))


def _answers(judge: Judge, directory: RunDirectory) -> RunAnswers:
    answers = read_answers(judge, directory, lambda question, sample: [_case(directory.path, question, sample)])
    warn_of_images(answers.own, _metric(_OF_NOTES))
    return answers


def _case(path: Path, question: Question, sample: Sample) -> Case:
    """Return what the judge sees of a sample: with notes, the whole request that holds them."""
    request = "\n\n".join(message["content"] for message in sample.messages) if sample.notes_used else ""
    values: PromptValues = {
        "query": question.query,
        "references": question.references,
        "request": request,
        "answer": sample.answer,
    }
    return Case(question, [path.resolve().name], values)


def _metric(aspect: str) -> str:
    return f"judge_{aspect}"


def _signature(judge: Judge, aspect: str, answers: RunAnswers, said: Mapping[str, Judgement]) -> str:
    unseen = images_unseen(answers.own) if aspect == _OF_NOTES else ""
    return judge.signature(f"{_metric(aspect)}|{SCALE[0]}-{SCALE[1]}{unseen}", said)


def _scores(sample: Sample, answers: RunAnswers, said: Mapping[str, Judgement]) -> list[Score]:
    """Return the scores of a sample by its judgement; a score without a verdict says why."""
    judgement, shown = next(iter(answers.judged(sample, said)), (None, []))
    scores = []
    for aspect, label in ASPECTS.items():
        value = None
        if not sample.is_answered:
            reason: str | None = sample.why_unanswered
        elif aspect == _OF_NOTES and not sample.notes_used:
            is_known = sample.notes_used is not None
            reason = "no notes to be faithful to" if is_known else "not known which notes the prompt held"
        elif not (reason := why_unread(judgement)) and judgement:
            value = read_score(judgement.answer, label, shown)
            reason = "no verdict" if value is None else None
        scores.append(Score(question_id=sample.question_id, metric=_metric(aspect), value=value, reason=reason))
    return scores
