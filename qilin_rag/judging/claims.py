"""Let an LLM split answers and references into claims, and judge which texts state each of them.

The claims of the answer are looked for in the references, those of the references in the answer, and all of them in
each note of the prompt: one text and a batch of claims a call. A figure is unscored if a verdict that it needs is
missing or can't be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from qilin_rag.core.judged_answers import CHECKED, CheckedAnswer, CheckedClaim
from qilin_rag.core.text import is_blank, sentences, strip_markup
from qilin_rag.core.types import Judgement, Note, Question, Sample, Score
from qilin_rag.judging.claim_scores import BEST, CLAIM_METRICS, OF_NOTES, Figure, claim_scores
from qilin_rag.judging.claim_verdicts import read_claims, without_repeats
from qilin_rag.judging.config import JudgeConfig, PartSettings
from qilin_rag.judging.controls import answer_controls
from qilin_rag.judging.docket import Case, Judge, hear, why_unread
from qilin_rag.judging.nugget_bank import in_batches
from qilin_rag.judging.nugget_verdicts import read_support
from qilin_rag.judging.run_answers import (
    OWN,
    Answers,
    JudgedWithControls,
    RunAnswers,
    images_unseen,
    judge_with_controls,
    plan_answers,
    read_answers,
    warn_of_images,
)
from qilin_rag.pipeline.forecast import Plan
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.pipeline.run_notes import read_prompt_notes
from qilin_rag.prompts.judge import ClaimCheckerPrompt, ClaimSplitterPrompt, load_judge_prompt

VERSION = 1  # of how claims and verdicts are read and scored
REPLIES = "claim_judgements.jsonl"
METRIC = {
    name: f"{name}|RAGChecker|claims of:answer+references{f'|best:{BEST[name]}' if name in BEST else ''}"
    for name in CLAIM_METRICS
}
"""The beginning of each metric's signature."""
FORESEEN = "the judge splits texts into claims; until then the plan counts a sentence as a claim"


class _Split(NamedTuple):
    """The claims of an answer and of its references; each None if they are not known, and why not."""

    answer: list[str] | None
    references: list[str] | None
    why: str | None

    @property
    def claims(self) -> list[str]:
        return [*(self.answer or []), *(self.references or [])]


class _Check(NamedTuple):
    """A batch of claims, by their places, that is looked for in texts: references, the answer, or a note by number."""

    where: str | int
    texts: Sequence[str]
    places: Sequence[int]


_REFERENCES, _ANSWER = "references", "answer"


class _Claiming:
    """A run whose claims are judged."""

    def __init__(self, path: Path, config: JudgeConfig, settings: PartSettings) -> None:
        self.path, self.settings = path, settings
        self.splitter = load_judge_prompt(ClaimSplitterPrompt, settings.language)
        self.checker = load_judge_prompt(ClaimCheckerPrompt, settings.language)
        self.judge = Judge(config, self.splitter, self.checker)
        self.questions: dict[str, Question] = {}
        self._plain = cache(lambda text: strip_markup(text).strip())  # each text is looked at many times
        self.notes: Mapping[str, list[Note]] = {}
        self.unseen = ""

    def split(self, directory: RunDirectory) -> RunAnswers:
        """Read the answers of the run, with the cases that split each."""
        self.questions = {question.id: question for question in directory.read_questions()}
        samples = list(directory.read_samples()[0].values())
        self.notes = read_prompt_notes(directory, samples, self.settings.data)
        warn_of_images(samples, ", ".join(OF_NOTES))
        self.unseen = images_unseen(samples)
        return read_answers(self.judge, directory, self._splits, REPLIES, self._controls)

    def checked(self, directory: RunDirectory, said: Mapping[str, Judgement], foresee: bool = False) -> RunAnswers:
        """Read the answers again, with the cases that check the claims in these judgements."""

        def cases(question: Question, sample: Sample) -> list[Case]:
            splits = self._splits(question, sample)
            checks = self._checks(sample, self._claims(sample, said, foresee))
            return [*splits, *(self._check_case(sample, check, claims) for check, claims in checks)]

        return read_answers(self.judge, directory, cases, REPLIES, self._controls)

    def _controls(self, questions: Sequence[Question], samples: Answers) -> Mapping[str, Answers]:
        return answer_controls(questions, samples) if self.settings.controls else {}

    def _answer_texts(self, sample: Sample) -> list[str]:
        return self._with_words([sample.answer])

    def _reference_texts(self, question: Question) -> list[str]:
        return self._with_words(question.references)

    def _with_words(self, texts: Sequence[str]) -> list[str]:
        """Return the texts without markup and repeats, those of them that have words."""
        return [text for text in dict.fromkeys(map(self._plain, texts)) if not is_blank(text)]

    def _splits(self, question: Question, sample: Sample) -> list[Case]:
        """Return the cases that split the answer and the references, those of them that have words."""
        both = (self._answer_texts(sample), self._reference_texts(question))
        return [self._split_case(question, texts) for texts in both if texts]

    def _split_case(self, question: Question, texts: Sequence[str]) -> Case:
        values = {"query": question.query, "sources": texts}
        return Case(question, [self.path.resolve().name], values, self.splitter)

    def _claims(self, sample: Sample, said: Mapping[str, Judgement], foresee: bool = False) -> _Split:
        question = self.questions[sample.question_id]
        answer, why = self._claims_of(question, self._answer_texts(sample), said, foresee)
        references, why_references = self._claims_of(question, self._reference_texts(question), said, foresee)
        return _Split(answer, references, why or why_references)

    def _claims_of(
        self, question: Question, texts: Sequence[str], said: Mapping[str, Judgement], foresee: bool
    ) -> tuple[list[str] | None, str | None]:
        """Return the claims of texts, or None and why they are not known; a plan foresees each sentence as a claim."""
        if not texts:
            return [], None
        case = self._split_case(question, texts)
        judgement = said.get(self.judge.key(case))
        if foresee and (judgement is None or not judgement.is_settled):
            return without_repeats(sentence for text in texts for sentence in sentences(text)), None
        if reason := why_unread(judgement):
            return None, reason
        assert judgement
        claims = read_claims(judgement.answer, [*case.shown, self.splitter.user])  # its example is no claim
        return claims, "no verdict" if claims is None else None

    def _checks(self, sample: Sample, split: _Split) -> Iterator[tuple[_Check, list[str]]]:
        """Yield the checks of an answer, each with its claims."""
        question = self.questions[sample.question_id]
        n_own, n_claims = len(split.answer or []), len(split.claims)
        searched: list[tuple[str | int, Sequence[str], range]] = [
            (_REFERENCES, self._reference_texts(question), range(n_own if split.references != [] else 0)),
            (_ANSWER, self._answer_texts(sample), range(n_own, n_claims)),
        ]
        for number, note in enumerate(self.notes.get(sample.question_id, []), start=1):
            searched.append((number, [f"{note.title}\n{note.content}"], range(n_claims)))
        for where, texts, places in searched:
            for batch in in_batches(places, self.settings.per_call) if texts else []:
                yield _Check(where, texts, batch), [split.claims[place] for place in batch]

    def _check_case(self, sample: Sample, check: _Check, claims: Sequence[str]) -> Case:
        values = {"query": sample.query, "sources": check.texts, "claims": claims}
        return Case(self.questions[sample.question_id], [self.path.resolve().name], values, self.checker)

    def signature(self, metric: str, said: Mapping[str, Judgement]) -> str:
        unseen = self.unseen if metric in OF_NOTES else ""
        return self.judge.signature(f"{METRIC[metric]}{unseen}|batch:{self.settings.per_call}", said, VERSION)

    def answer(
        self, sample: Sample, answers: RunAnswers, said: Mapping[str, Judgement], control: str = OWN
    ) -> _Checked:
        """Return an answer with its claims, and why a verdict is not known."""
        split = self._claims(sample, said)
        n_splits = len(self._splits(self.questions[sample.question_id], sample))
        verdicts, why = self._verdicts(sample, split, list(answers.judged(sample, said, control))[n_splits:])
        notes = self.notes.get(sample.question_id)
        numbers = None if notes is None else range(1, len(notes) + 1)

        def claim(place: int, where: str) -> CheckedClaim:
            known = None if numbers is None else [verdicts.get((number, place)) for number in numbers]
            stated = None if known is None or None in known else [n for n, is_in in enumerate(known, start=1) if is_in]
            return CheckedClaim(text=split.claims[place], is_supported=verdicts.get((where, place)), notes=stated)

        n_own = len(split.answer or [])
        return _Checked(
            None if split.answer is None else [claim(place, _REFERENCES) for place in range(n_own)],
            None if split.references is None else [claim(place, _ANSWER) for place in range(n_own, len(split.claims))],
            None if notes is None else len(notes),
            split.why or why or "no verdict",
        )

    def _verdicts(
        self, sample: Sample, split: _Split, heard: Sequence[tuple[Judgement | None, list[str]]]
    ) -> tuple[dict[tuple[str | int, int], bool], str | None]:
        """Return which texts state which claims, both by their places, and why a verdict is not known.

        Args:
            sample: The answer.
            split: Its claims.
            heard: The judgement of each check, and all texts that the judge was shown with it.
        """
        verdicts: dict[tuple[str | int, int], bool] = {}
        if not self._answer_texts(sample):  # an empty answer states nothing
            verdicts = {(_ANSWER, place): False for place in range(len(split.claims))}
        why = None
        for (check, _), (judgement, shown) in zip(self._checks(sample, split), heard, strict=True):
            reason = why_unread(judgement)
            n_asked = len(check.places)
            found = read_support(judgement.answer, n_asked, shown, partial=False) if judgement and not reason else None
            if found is None:
                why = why or reason or "no verdict"
            else:
                are_stated = (support == "support" for support in found)
                verdicts |= {(check.where, place): is_in for place, is_in in zip(check.places, are_stated, strict=True)}
        return verdicts, why

    def scores(self, control: str, answers: RunAnswers, said: Mapping[str, Judgement]) -> list[Score]:
        """Return the scores of the run's own answers, or of a control."""
        signatures = {metric: self.signature(metric, said) for metric in CLAIM_METRICS}
        return [
            Score(
                question_id=sample.question_id,
                metric=metric,
                value=figure.value,
                reason=figure.remark,
                signature=signatures[metric],
            )
            for sample in answers.samples[control]
            for metric, figure in self._figures(sample, answers, said, control).items()
        ]

    def _figures(
        self, sample: Sample, answers: RunAnswers, said: Mapping[str, Judgement], control: str
    ) -> dict[str, Figure]:
        if not sample.is_answered:
            return dict.fromkeys(CLAIM_METRICS, Figure(None, sample.why_unanswered))
        if sample.question_id not in answers.chosen:  # also not an empty answer, which needs no verdict
            return dict.fromkeys(CLAIM_METRICS, Figure(None, why_unread(None)))
        return claim_scores(*self.answer(sample, answers, said, control))

    def lines(self, answers: RunAnswers, said: Mapping[str, Judgement]) -> Iterator[CheckedAnswer]:
        """Yield the chosen answers of the run that were split, with their claims."""
        for sample in answers.own:
            if not sample.is_answered or sample.question_id not in answers.chosen:
                continue
            checked = self.answer(sample, answers, said)
            if checked.answer is not None or checked.references is not None:
                yield CheckedAnswer(
                    qid=sample.question_id,
                    query=sample.query,
                    run_id=self.path.resolve().name,
                    answer_text=sample.answer,
                    judge=self.judge.label,
                    answer_claims=checked.answer,
                    reference_claims=checked.references,
                    n_notes=checked.n_notes,
                )


class _Checked(NamedTuple):
    """The arguments of `claim_scores`."""

    answer: list[CheckedClaim] | None
    references: list[CheckedClaim] | None
    n_notes: int | None
    why: str


def judge_claims(path: Path, config: JudgeConfig, settings: PartSettings) -> JudgedWithControls:
    """Judge the claims of the answers of a finished run, and add the scores to the run.

    Args:
        path: The run directory.
        config: The judge; `limit` bounds how many answers are judged and scored.
        settings: How the claims are shown.

    Raises:
        UsageError: The notes of the prompts can't be read.
    """
    claiming = _Claiming(path, config, settings)

    def answers_of(directory: RunDirectory) -> RunAnswers:
        splits = claiming.split(directory).docket
        answers = claiming.checked(directory, hear(splits).said)
        return answers._replace(docket=answers.docket._replace(heard=splits.wanted))  # a failed split has no checks

    return judge_with_controls(path, claiming.judge, answers_of, claiming.scores, claiming.lines, CHECKED)


def plan_claims(path: Path, config: JudgeConfig, settings: PartSettings) -> Plan:
    """Plan the calls and the cost of `judge_claims`; write nothing.

    A text that was not split yet counts with its sentences as claims.
    """
    claiming = _Claiming(path, config, settings)
    left: list[str] = []

    def answers_of(directory: RunDirectory) -> RunAnswers:
        docket = claiming.split(directory).docket
        left.extend(docket.left())
        return claiming.checked(directory, docket.said(), foresee=True)

    plan = plan_answers(path, answers_of)
    return plan.model_copy(update={"steps": [FORESEEN]}) if left else plan
