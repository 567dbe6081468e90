"""Let an LLM judge whether the notes that an answer cites support its sentences, and score the answers by it.

A call is about one note of the prompt and a numbered batch of the sentences that cite it. Precision and recall of an
answer are unscored if the verdict on one of its batches is missing or can't be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from qilin_rag.core.judged_answers import SUPPORTED, JudgedSentence, Support, SupportedAnswer
from qilin_rag.core.types import Judgement, Note, Question, Sample, Score
from qilin_rag.judging.config import JudgeConfig, PartSettings
from qilin_rag.judging.docket import Case, Judge, why_unread
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
from qilin_rag.judging.support_controls import support_controls
from qilin_rag.judging.support_scores import (
    PRECISION,
    RECALL,
    SUPPORT_METRICS,
    UNCITED,
    split_citations,
    support_scores,
)
from qilin_rag.pipeline.forecast import Plan
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.pipeline.run_notes import read_prompt_notes
from qilin_rag.prompts.judge import SupportPrompt, load_judge_prompt
from qilin_rag.scorers.base import Remarked

VERSION = 1  # of how sentences and verdicts are read and scored
REPLIES = "support_judgements.jsonl"
MADE = {
    PRECISION: "of:citations|not given:0|nothing:unscored",
    RECALL: "of:sentences|by:best citation|nothing:0",
    UNCITED: "of:sentences|best:lowest",
}


class _Supporting:
    """A run whose citations are judged."""

    def __init__(self, path: Path, config: JudgeConfig, settings: PartSettings) -> None:
        self.path, self.settings = path, settings
        self.judge = Judge(config, load_judge_prompt(SupportPrompt, settings.language))
        self.notes: Mapping[int, Note] = {}
        self.unseen = ""

    def answers(self, directory: RunDirectory) -> RunAnswers:
        """Read the answers of the run and the notes of its prompts."""
        samples = list(directory.read_samples()[0].values())
        of_prompts = read_prompt_notes(directory, samples, self.settings.data).values()
        self.notes = {note.note_idx: note for notes in of_prompts for note in notes}
        warn_of_images(samples, f"{PRECISION} and {RECALL}")
        self.unseen = images_unseen(samples)
        return read_answers(self.judge, directory, self._cases, REPLIES, self._controls)

    def _controls(self, questions: Sequence[Question], samples: Answers) -> Mapping[str, Answers]:
        return support_controls(questions, samples, self.notes) if self.settings.controls else {}

    def _cases(self, question: Question, sample: Sample) -> list[Case]:
        sentences = self._sentences(sample)
        name = self.path.resolve().name
        return [
            Case(question, [name], {"title": note.title, "content": note.content, "sentences": batch})
            for note, batch in self._batches(sentences if isinstance(sentences, list) else [])
        ]

    def _sentences(self, sample: Sample) -> list[JudgedSentence] | str:
        """Return the sentences of an answer, not judged yet, or why it has none."""
        if not sample.is_answered:
            return sample.why_unanswered
        prompt_notes = sample.known_prompt_notes
        if prompt_notes is None:
            return "not known which notes the prompt held"
        if not self.notes.keys() >= set(prompt_notes):
            return "notes of the prompt are not in the data"
        return split_citations(sample.answer, prompt_notes) or "no sentence"

    def _batches(self, sentences: Sequence[JudgedSentence]) -> Iterator[tuple[Note, Sequence[str]]]:
        """Yield each cited note with a batch of the sentences that cite it, each text once."""
        texts: dict[int, dict[str, None]] = {}
        for sentence in sentences:
            for citation in sentence.citations:
                if citation.note_idx is not None:
                    texts.setdefault(citation.note_idx, {})[sentence.text] = None
        for note_idx, of_note in texts.items():
            for batch in in_batches(list(of_note), self.settings.per_call):
                yield self.notes[note_idx], batch

    def supported(
        self, sample: Sample, answers: RunAnswers, said: Mapping[str, Judgement], control: str = OWN
    ) -> tuple[list[JudgedSentence], str | None]:
        """Return the sentences of an answer with the verdicts, and why one of these is not known.

        Without sentences, the reason says why there are none. A limit leaves out also those that need no verdict, so
        that the figures are of the questions that it chooses.
        """
        sentences = self._sentences(sample)
        if isinstance(sentences, str):
            return [], sentences
        if sample.question_id not in answers.chosen:
            return sentences, why_unread(None)
        verdicts: dict[tuple[int, str], Support] = {}
        why = None
        for (note, batch), (judgement, shown) in zip(
            self._batches(sentences), answers.judged(sample, said, control), strict=True
        ):
            reason = why_unread(judgement)
            found = read_support(judgement.answer, len(batch), shown) if judgement and not reason else None
            if found is None:
                why = why or reason or "no verdict"
            else:
                verdicts |= {(note.note_idx, text): support for text, support in zip(batch, found, strict=True)}
        return [_with_verdicts(sentence, verdicts) for sentence in sentences], why

    def scores(self, control: str, answers: RunAnswers, said: Mapping[str, Judgement]) -> list[Score]:
        """Return the scores of the run's own answers, or of a control."""
        signatures = self._signatures(said)
        return [
            Score(
                question_id=sample.question_id,
                metric=metric,
                value=figure.value,
                reason=figure.reason,
                signature=signatures[metric],
            )
            for sample in answers.samples[control]
            for metric, figure in _figures(*self.supported(sample, answers, said, control)).items()
        ]

    def _signatures(self, said: Mapping[str, Judgement]) -> dict[str, str]:
        """Return the signature of each metric; the share of sentences without a citation needs no judge."""
        made = {metric: f"{metric}|{MADE[metric]}" for metric in (PRECISION, RECALL, UNCITED)}
        judged = {
            metric: self.judge.signature(f"{made[metric]}{self.unseen}|batch:{self.settings.per_call}", said, VERSION)
            for metric in (PRECISION, RECALL)
        }
        return {**judged, UNCITED: f"{made[UNCITED]}|v{VERSION}"}

    def lines(self, answers: RunAnswers, said: Mapping[str, Judgement]) -> Iterator[SupportedAnswer]:
        """Yield the chosen answers of the run that have sentences, with the verdicts."""
        for sample in answers.own:
            sentences, _ = self.supported(sample, answers, said)
            if sentences and sample.question_id in answers.chosen:
                yield SupportedAnswer(
                    qid=sample.question_id,
                    query=sample.query,
                    run_id=self.path.resolve().name,
                    answer_text=sample.answer,
                    judge=self.judge.label,
                    sentences=sentences,
                )


def judge_support(path: Path, config: JudgeConfig, settings: PartSettings) -> JudgedWithControls:
    """Judge the citations in the answers of a finished run, and add the scores to the run.

    Args:
        path: The run directory.
        config: The judge; `limit` bounds how many answers are judged and scored.
        settings: How notes and sentences are shown.

    Raises:
        UsageError: The notes of the prompts can't be read.
    """
    supporting = _Supporting(path, config, settings)
    return judge_with_controls(
        path, supporting.judge, supporting.answers, supporting.scores, supporting.lines, SUPPORTED
    )


def plan_support(path: Path, config: JudgeConfig, settings: PartSettings) -> Plan:
    """Plan the calls and the cost of `judge_support`; write nothing."""
    return plan_answers(path, _Supporting(path, config, settings).answers)


def _with_verdicts(sentence: JudgedSentence, verdicts: Mapping[tuple[int, str], Support]) -> JudgedSentence:
    citations = [
        citation.model_copy(update={"support": verdicts.get((citation.note_idx, sentence.text))})
        if citation.note_idx is not None
        else citation
        for citation in sentence.citations
    ]
    return sentence.model_copy(update={"citations": citations})


def _figures(sentences: Sequence[JudgedSentence], why: str | None) -> dict[str, Remarked]:
    if not sentences:
        return dict.fromkeys(SUPPORT_METRICS, Remarked(None, why))
    return support_scores(sentences, why)
