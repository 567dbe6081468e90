"""Let an LLM make a nugget bank: the facts in the favoured answers of each question, merged and without duplicates.

The sources of a question are shown in batches. The LLM merges facts of the same meaning within a batch; facts of
several batches are one if they have the same words. A question with an unreadable reply has no nuggets, and is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.hashing import fingerprint
from qilin_rag.core.judged_answers import Nugget
from qilin_rag.core.text import has_words, query_key, slug, strip_markup
from qilin_rag.core.types import Frozen, Judgement, Question
from qilin_rag.data import load_dataset
from qilin_rag.data.dataset import hash_questions
from qilin_rag.judging.config import JudgeConfig
from qilin_rag.judging.docket import Case, Docket, Hearing, Judge, hear, plan_hearing, why_unread
from qilin_rag.judging.nugget_bank import Bank, BankedQuestion, BankMaker, in_batches, read_bank, write_bank
from qilin_rag.judging.nugget_verdicts import Fact, read_facts
from qilin_rag.pipeline.forecast import Plan
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.pipeline.selection import select_questions
from qilin_rag.prompts.judge import NuggetMakerPrompt, load_judge_prompt

VERSION = 2  # of how facts are read and merged
_FULL_STOPS = "。.!;"  # in normalised text


class MakerSettings(Frozen):
    """Settings of a bank.

    Attributes:
        max_nuggets: The most nuggets of a question.
        per_call: The most sources that are shown at once.
        language: The language of the prompt: zh or en.
    """

    max_nuggets: int = 20
    per_call: int = 10
    language: str = "zh"


class SourceText(NamedTuple):
    """A text that nuggets are made from, and its name in their provenance."""

    name: str
    text: str


class SourcedQuestions(NamedTuple):
    """The questions that nuggets are made for, and the sources of each by its id; `kind` says which texts they are."""

    label: str
    questions: Sequence[Question]
    sources: Mapping[str, Sequence[SourceText]]
    kind: str


class MadeBank(NamedTuple):
    """A bank, its file, and the number of questions without nuggets by reason."""

    path: Path
    bank: Bank
    unmade: dict[str, int]
    maker: str
    hearing: Hearing


def sources_of_run(path: Path) -> SourcedQuestions:
    """Return the questions of a run, and their favoured answers."""
    directory = RunDirectory(path)
    label = directory.read_manifest().labels["data"]
    questions = directory.read_questions()
    return SourcedQuestions(label, questions, {each.id: _answers(each) for each in questions}, "answers")


def sources_of_data(name: str, with_notes: bool = False) -> SourcedQuestions:
    """Return the questions of data, and their favoured answers; with their reference notes, if wanted."""
    dataset = load_dataset(name)
    questions = dataset.askable
    if not with_notes:
        return SourcedQuestions(dataset.name, questions, {each.id: _answers(each) for each in questions}, "answers")
    missing = set(dataset.notes.missing([idx for question in questions for idx in question.reference_notes]))
    sources = {}
    for question in questions:
        there = [idx for idx in dict.fromkeys(question.reference_notes) if idx not in missing]
        notes = [SourceText(f"note {note.note_idx}", note.text) for note in dataset.notes.get(there)]
        sources[question.id] = [*_answers(question), *notes]
    return SourcedQuestions(dataset.name, questions, sources, "answers and notes")


def make_bank(given: SourcedQuestions, config: JudgeConfig, settings: MakerSettings) -> MadeBank:
    """Make a bank in a folder of `config.runs_dir`; the same questions, LLM and settings resume there.

    `config.limit` takes the first of a seeded permutation of the questions.

    Raises:
        QilinError: No question has nuggets.
    """
    making = _Making(given, config, settings)
    with making.docket.directory.locked():
        hearing = hear(making.docket)
        lines, unmade = making.lines(hearing.said)
        if not lines:
            hearing.check_failures(config.fail_on_error)
            reasons = ", ".join(f"{reason} ({n})" for reason, n in unmade.items())
            raise QilinError(f"no question has nuggets: {reasons}; the replies: {hearing.path}")
        path = write_bank(making.docket.directory.path, lines)
    return MadeBank(path, read_bank(path), unmade, making.judge.label, hearing)


def plan_bank(given: SourcedQuestions, config: JudgeConfig, settings: MakerSettings) -> Plan:
    """Plan the calls and the cost of `make_bank`; write nothing."""
    return plan_hearing(_Making(given, config, settings).docket)


class _Making:
    """A bank that is made: the batches of sources of each chosen question, and their keys."""

    def __init__(self, given: SourcedQuestions, config: JudgeConfig, settings: MakerSettings) -> None:
        self.given, self.settings = given, settings
        self.judge = Judge(config, load_judge_prompt(NuggetMakerPrompt, settings.language))
        self.question_set = hash_questions(given.questions)
        self.chosen = select_questions(given.questions, config.limit, config.seed)
        if not self.chosen:
            raise UsageError(f"{given.label} has no questions to make nuggets for")
        self.batches = {each.id: in_batches(given.sources[each.id], settings.per_call) for each in self.chosen}
        cases = {each.id: [self._case(each, batch) for batch in self.batches[each.id]] for each in self.chosen}
        self.keys = {qid: [self.judge.key(case) for case in of_question] for qid, of_question in cases.items()}
        by_key = {key: case for qid, keys in self.keys.items() for key, case in zip(keys, cases[qid], strict=True)}
        self.docket = Docket(self.judge, by_key, set(by_key), RunDirectory(config.runs_dir / self._folder()))

    def _folder(self) -> str:
        identity = {
            "maker": self.judge.sha256,
            "questions": self.question_set,
            "sources": self.given.kind,
            "settings": {**self.settings.model_dump(exclude={"per_call"}), "batch": self.settings.per_call},
            "version": VERSION,
        }
        names = ("nuggets", slug(self.given.label), slug(self.judge.config.llm_label), fingerprint(identity)[:8])
        return "-".join(names)

    def _case(self, question: Question, batch: Sequence[SourceText]) -> Case:
        sources = [source.text for source in batch]
        return Case(question, [], {"query": question.query, "sources": sources, "limit": self.settings.max_nuggets})

    def lines(self, said: Mapping[str, Judgement]) -> tuple[list[BankedQuestion], dict[str, int]]:
        """Return the lines of the bank, and the number of questions without nuggets by reason."""
        lines, unmade = [], Counter[str]()
        for question in self.chosen:
            nuggets = self._nuggets(question, said)
            if isinstance(nuggets, str):
                unmade[nuggets] += 1
            else:
                made_by = self._maker(question, said)
                lines.append(BankedQuestion(qid=question.id, query=question.query, nuggets=nuggets, made_by=made_by))
        return lines, dict(sorted(unmade.items()))

    def _nuggets(self, question: Question, said: Mapping[str, Judgement]) -> list[Nugget] | str:
        """Return the nuggets of a question, or why it has none."""
        found: list[tuple[Fact, list[str]]] = []
        if not self.keys[question.id]:
            return "no favoured answer"
        for key, batch in zip(self.keys[question.id], self.batches[question.id], strict=True):
            judgement = said.get(key)
            if reason := why_unread(judgement):
                return reason
            assert judgement
            shown = [*self.docket.cases[key].shown, self.judge.prompts[0].user]  # whose example is no fact
            facts = read_facts(judgement.answer, len(batch), shown)
            if facts is None:
                return "unreadable reply"
            found += [(fact, [batch[number - 1].name for number in fact.sources]) for fact in facts]
        return merge_facts(found)[: self.settings.max_nuggets] or "no facts"

    def _maker(self, question: Question, said: Mapping[str, Judgement]) -> BankMaker:
        models = {said[key].model for key in self.keys[question.id]}
        return BankMaker(
            llm=self.judge.label,
            models=sorted(filter(None, models)),
            settings=self.judge.sha256,
            prompt=self.judge.prompts[0].sha256,
            sources=self.given.kind,
            max_nuggets=self.settings.max_nuggets,
            question_set=self.question_set,
        )


def merge_facts(found: Iterable[tuple[Fact, Sequence[str]]]) -> list[Nugget]:
    """Merge facts with the same words into nuggets, the vital ones first; a nugget is vital if one of its facts is.

    Args:
        found: Facts, and the names of the sources of each.

    >>> one = Fact("水温92度", "okay", [1]), ["answer 1"]
    >>> two = Fact("水温 92 度。", "vital", [1]), ["answer 2"]
    >>> merge_facts([one, two])
    [Nugget(text='水温92度', importance='vital', provenance=['answer 1', 'answer 2'])]
    """
    merged: dict[str, Nugget] = {}
    for fact, names in found:
        key = query_key(fact.text).rstrip(_FULL_STOPS)
        earlier = merged.get(key, Nugget(text=fact.text, importance=fact.importance))
        provenance = list(dict.fromkeys([*earlier.provenance, *names]))
        importance = "vital" if "vital" in (earlier.importance, fact.importance) else "okay"
        merged[key] = earlier.model_copy(update={"importance": importance, "provenance": provenance})
    return sorted(merged.values(), key=lambda nugget: nugget.importance != "vital")


def _answers(question: Question) -> list[SourceText]:
    """Return the favoured answers of a question without markup, each once."""
    texts = dict.fromkeys(strip_markup(text).strip() for text in question.references if has_words(text))
    return [SourceText(f"answer {number}", text) for number, text in enumerate(texts, start=1)]
