"""Let an LLM judge which nuggets of a bank the answers of a run hold, and score the answers by it.

The nuggets of a question are shown in batches, in the order of the bank and with numbers. An answer is unscored if the
verdict on one of its batches is missing or can't be read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import PositiveInt

from qilin_rag.core.files import read_lines
from qilin_rag.core.judged_answers import ASSIGNED, AssignedAnswer, AssignedNugget, Nugget
from qilin_rag.core.types import Frozen, Judgement, MetricSummary, Question, Sample, Score
from qilin_rag.judging.config import JudgeConfig
from qilin_rag.judging.docket import Case, Judge, why_unread
from qilin_rag.judging.nugget_bank import Bank, in_batches, read_bank
from qilin_rag.judging.nugget_controls import nugget_controls
from qilin_rag.judging.nugget_scores import NO_VITAL, NUGGET_METRICS, nugget_scores
from qilin_rag.judging.nugget_verdicts import read_support
from qilin_rag.judging.run_answers import (
    OWN,
    Answers,
    Judged,
    RunAnswers,
    judge_with_controls,
    plan_answers,
    read_answers,
)
from qilin_rag.pipeline.forecast import Plan
from qilin_rag.pipeline.run_directory import Manifest, RunDirectory
from qilin_rag.prompts.judge import NuggetAssignerPrompt, load_judge_prompt

logger = logging.getLogger(__name__)
VERSION = 1  # of how verdicts are read and scored
OWN_BANK = "the bank is by the model under test"
REPLIES = "nugget_judgements.jsonl"


class AssignerSettings(Frozen):
    """Settings of an assignment.

    Attributes:
        per_call: The most nuggets that are shown at once.
        language: The language of the prompt: zh or en.
        controls: Whether to judge controls as well (see `nugget_controls`).
    """

    per_call: PositiveInt = 10
    language: str = "zh"
    controls: bool = False


class AssignedRun(NamedTuple):
    """A run judged by nuggets, the figures of its controls by name, and the warnings about its figures."""

    judged: Judged
    bank: Bank
    controls: dict[str, dict[str, MetricSummary]]
    warnings: list[str]


class _Assigning(NamedTuple):
    judge: Judge
    path: Path
    bank: Bank
    bank_path: Path
    settings: AssignerSettings
    tested_maker: str | None

    @property
    def warnings(self) -> list[str]:
        if self.tested_maker is None:
            return []
        return [
            f"the model under test, {self.tested_maker}, has made the bank: its nuggets may favour its own answers; "
            "make the bank with another LLM (nuggets create --llm)"
        ]

    def answers(self, directory: RunDirectory) -> RunAnswers:
        self.bank.check_questions(directory.read_questions(), self.bank_path)
        return read_answers(self.judge, directory, self._cases, REPLIES, self._controls)

    def _controls(self, questions: Sequence[Question], samples: Answers) -> Mapping[str, Answers]:
        return nugget_controls(questions, samples, self.bank) if self.settings.controls else {}

    def _cases(self, question: Question, sample: Sample) -> list[Case]:
        nuggets = [nugget.text for nugget in self.nuggets(question.id)]
        name = self.path.resolve().name
        return [
            Case(question, [name], {"query": question.query, "answer": sample.answer, "nuggets": batch})
            for batch in in_batches(nuggets, self.settings.per_call)
        ]

    def nuggets(self, question_id: str) -> list[Nugget]:
        return self.bank.questions[question_id].nuggets if question_id in self.bank.questions else []

    def signature(self, metric: str, said: Mapping[str, Judgement]) -> str:
        made = f"bank:{self.bank.sha256[:8]}|maker:{self.bank.maker}|maker_prompt:{self.bank.prompts}"
        return self.judge.signature(f"{metric}|{made}|batch:{self.settings.per_call}", said, VERSION)

    def assigned(
        self, sample: Sample, answers: RunAnswers, said: Mapping[str, Judgement], control: str = OWN
    ) -> list[AssignedNugget] | str:
        """Return the nuggets of an answer with their support, or why it has none."""
        nuggets = self.nuggets(sample.question_id)
        if not sample.is_answered:
            return sample.why_unanswered
        if not nuggets:
            return "no nuggets in the bank"
        assigned: list[AssignedNugget] = []
        batches = in_batches(nuggets, self.settings.per_call)
        for batch, (judgement, shown) in zip(batches, answers.judged(sample, said, control), strict=True):
            if reason := why_unread(judgement):
                return reason
            assert judgement
            supports = read_support(judgement.answer, len(batch), shown)
            if supports is None:
                return "no verdict"
            assigned += [
                AssignedNugget(**nugget.model_dump(), assignment=support)
                for nugget, support in zip(batch, supports, strict=True)
            ]
        return assigned

    def scores(self, control: str, answers: RunAnswers, said: Mapping[str, Judgement]) -> list[Score]:
        """Return the scores of the run's own answers, or of a control."""
        signatures = {metric: self.signature(metric, said) for metric in NUGGET_METRICS}
        return [
            score.model_copy(update={"signature": signatures[score.metric]})
            for sample in answers.samples[control]
            for score in self._scores(sample.question_id, self.assigned(sample, answers, said, control))
        ]

    def _scores(self, question_id: str, assigned: list[AssignedNugget] | str) -> list[Score]:
        """Return the scores of an answer; those that need a remark have it."""
        if isinstance(assigned, str):
            return [Score(question_id=question_id, metric=name, value=None, reason=assigned) for name in NUGGET_METRICS]
        has_vital = any(nugget.importance == "vital" for nugget in assigned)
        scores = []
        for name, value in nugget_scores(assigned).items():
            remarks = [NO_VITAL] if "_vital" in name and not has_vital else []
            remarks += [OWN_BANK] if self.tested_maker else []
            scores.append(Score(question_id=question_id, metric=name, value=value, reason="; ".join(remarks) or None))
        return scores

    def lines(self, answers: RunAnswers, said: Mapping[str, Judgement]) -> Iterator[AssignedAnswer]:
        """Yield the answers of the run whose verdicts can be read, with their nuggets."""
        for sample in answers.own:
            nuggets = self.assigned(sample, answers, said)
            if not isinstance(nuggets, str):
                yield AssignedAnswer(
                    qid=sample.question_id,
                    query=sample.query,
                    run_id=self.path.resolve().name,
                    answer_text=sample.answer,
                    nuggets=nuggets,
                    bank=self.bank.sha256,
                    judge=self.judge.label,
                )


def assign_nuggets(path: Path, bank_path: Path, config: JudgeConfig, settings: AssignerSettings) -> AssignedRun:
    """Judge which nuggets the answers of a finished run hold, and add the scores to the run.

    Args:
        path: The run directory.
        bank_path: The file of the bank.
        config: The judge; `limit` bounds how many answers are judged and scored.
        settings: How the nuggets are shown.

    Raises:
        UsageError: The bank is about other questions, or can't be read.
    """
    assigning = _prepare(path, bank_path, config, settings)
    judged, controls = judge_with_controls(
        path, assigning.judge, assigning.answers, assigning.scores, assigning.lines, ASSIGNED
    )
    return AssignedRun(judged, assigning.bank, controls, assigning.warnings)


def plan_assignment(path: Path, bank_path: Path, config: JudgeConfig, settings: AssignerSettings) -> Plan:
    """Plan the calls and the cost of `assign_nuggets`; write nothing."""
    assigning = _prepare(path, bank_path, config, settings)
    return plan_answers(path, assigning.answers)


def read_assigned(path: Path) -> dict[str, AssignedAnswer]:
    """Read the last assignment of a run, by the id of the question; empty if there is none."""
    return {line.qid: line for line in read_lines(path / ASSIGNED, AssignedAnswer)}


def why_unassigned(path: Path, question_id: str | None) -> str | None:
    """Return why a question of a run has no assigned nuggets; None if it has some, or is not in the run."""
    scores = RunDirectory(path).read_scores()
    own = (score for score in scores if score.metric == NUGGET_METRICS[0] and score.question_id == question_id)
    return next((score.reason for score in own if score.value is None), None)


def _prepare(path: Path, bank_path: Path, config: JudgeConfig, settings: AssignerSettings) -> _Assigning:
    judge = Judge(config, load_judge_prompt(NuggetAssignerPrompt, settings.language))
    bank = read_bank(bank_path)
    assigning = _Assigning(judge, path, bank, bank_path, settings, _tested_maker(RunDirectory(path), bank))
    for warning in assigning.warnings:
        logger.warning(warning)
    return assigning


def _tested_maker(directory: RunDirectory, bank: Bank) -> str | None:
    """Return the name of the maker of a bank that is the model under test."""
    tested = _names_of(directory.read_manifest(), directory.read_samples()[0].values())
    made = {name for maker in bank.makers for name in (maker.llm, *maker.models)}
    return next((name for name in sorted(made) if name.casefold() in tested), None)


def _names_of(manifest: Manifest, samples: Iterable[Sample]) -> set[str]:
    """Return the names of the model under test: that of its settings, and those that its server reported."""
    configured = manifest.identity.get("llm", {})
    model = configured.get("model") if isinstance(configured, dict) else None
    names = [manifest.labels["llm"], model, *(sample.model for sample in samples)]
    return {name.casefold() for name in names if isinstance(name, str) and name}
