"""A labelling task: its YAML file, and the questions and answers that it shows without their runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, ValidationInfo, field_validator

from qilin_rag.config.resources import read_yaml
from qilin_rag.core.errors import UsageError, explain
from qilin_rag.core.hashing import fingerprint, json_hash
from qilin_rag.core.label_rules import DEFAULT_CRITERIA, Criteria
from qilin_rag.core.labels import SIDES, Choice, Side
from qilin_rag.core.text import counted
from qilin_rag.core.types import Frozen, Question, Sample
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.pipeline.run_notes import open_notes
from qilin_rag.pipeline.selection import select_questions
from qilin_rag.reports.finding import find_run
from qilin_rag.reports.measured import same_questions

_MOST_STEPS = 10  # each rating has a digit of the keyboard


class Shown(Frozen):
    """The things that are shown beside the answers.

    Attributes:
        references: Whether the references of the question are shown.
        notes: Whether the notes that each answer was made from are shown; they may tell retrievers apart.
    """

    references: bool = True
    notes: bool = False


class LabelTask(Frozen):
    """A labelling task, as its YAML file describes it.

    Attributes:
        name: The name of the file of labels, without `.jsonl`; default: the name of the YAML file.
        runs: One run, whose answers are rated, or two, whose answers are compared: as paths, or parts of their names.
        questions: How many questions, drawn with the seed; default: all.
        seed: The seed of the questions, their order and the sides.
        overlap: The share of the questions that every annotator gets; each of the others goes to one annotator.
        criteria: The lowest and highest rating by criterion; two runs need none, one run has `quality` from 1 to 5.
        show: What is shown beside the answers.
    """

    name: Annotated[str, Field(pattern=r"^\w[\w.-]{0,79}$")]
    runs: Annotated[list[str], Field(min_length=1, max_length=2)]
    questions: PositiveInt | None = None
    seed: NonNegativeInt = 0
    overlap: Annotated[float, Field(ge=0, le=1)] = 0.25
    criteria: Annotated[Criteria, Field(validate_default=True)] = {}
    show: Shown = Shown()

    @field_validator("criteria")
    @classmethod
    def _check_criteria(cls, criteria: dict[str, tuple[int, int]], info: ValidationInfo) -> dict[str, tuple[int, int]]:
        for name, (low, high) in criteria.items():
            if high > _MOST_STEPS or high - low >= _MOST_STEPS:
                raise ValueError(f"{name} is no scale of at most {_MOST_STEPS} steps within 0 to {_MOST_STEPS}")
        return criteria if criteria or len(info.data.get("runs", [])) != 1 else DEFAULT_CRITERIA


class Item(NamedTuple):
    """A question of a task with its answers, in the order of the task's runs."""

    question: Question
    answers: list[str]
    prompt_notes: list[list[tuple[str, str]]]
    """Title and text of the notes that each answer was made from; empty if the task does not show them."""
    is_shared: bool
    """Whether every annotator gets it."""


class OpenTask(NamedTuple):
    """A task with its questions, in the order in which they are shown."""

    settings: LabelTask
    run_names: list[str]
    items: dict[str, Item]
    sha256: str
    remarks: list[str]

    def sides(self, question_id: str, annotator: str) -> list[int]:
        """Return the places of the runs that an annotator sees as A and B: drawn for each question and annotator."""
        places = list(range(len(self.run_names)))
        return places[::-1] if _drawn(self.settings.seed, "sides", question_id, annotator) % 2 else places

    def check(self, choice: Choice | None, ratings: dict[Side, dict[str, int]]) -> None:
        """Check that a label says all that the task asks, and no more.

        Raises:
            UsageError: if the choice or a rating is missing or is not one of the task's.
        """
        shown = SIDES[: len(self.run_names)]
        if (choice is None) != (len(shown) == 1):
            raise UsageError("the choice is missing" if choice is None else "a task of one run has no choice")
        if ratings.keys() != (set(shown) if self.settings.criteria else set()):
            raise UsageError(f"expected ratings of {' and '.join(shown) if self.settings.criteria else 'nothing'}")
        for side, of_side in ratings.items():
            if of_side.keys() != self.settings.criteria.keys():
                raise UsageError(f"expected ratings of {side} by {', '.join(self.settings.criteria)}")
            for name, value in of_side.items():
                low, high = self.settings.criteria[name]
                if not low <= value <= high:
                    raise UsageError(f"{name} of {side} is {value}, not from {low} to {high}")


def read_task(given: str, runs_dirs: Sequence[Path] = ()) -> LabelTask:
    """Return the task that a YAML file describes, or that some runs are enough to describe.

    Args:
        given: The path of a YAML file, a run, or two runs with a comma between them.
        runs_dirs: Folders to look for runs in, if they are named by a part of their name.

    Raises:
        UsageError: if the file can't be read, a setting is wrong (the error names file and key), or a run is not found.
    """
    path = Path(given)
    if path.suffix not in (".yaml", ".yml"):
        runs = [name.strip() for name in given.split(",") if name.strip()]
        names = [find_run(Path(run), runs_dirs).resolve().name for run in runs]
        return _task({"name": f"labels-{fingerprint({'runs': names})[:8]}", "runs": runs}, given)
    return _task({"name": path.stem, **read_yaml(path)}, given)


def _task(content: dict[str, Any], given: str) -> LabelTask:
    try:
        return LabelTask.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{given}: {explain(error, LabelTask)}") from error


def open_task(task: LabelTask, runs_dirs: Sequence[Path] = ()) -> OpenTask:
    """Read the runs of a task, and draw its questions: answered by each run, and not the same by both.

    Args:
        task: The task.
        runs_dirs: Folders to look for runs in, if they are named by a part of their name.

    Raises:
        UsageError: if a run is incomplete, or the runs have no answered question in common.
    """
    paths = [find_run(Path(name), runs_dirs) for name in task.runs]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError(f"{paths[0]} can't be compared with itself; name two runs")
    directories = [RunDirectory(path) for path in paths]
    manifests = [directory.read_complete() for directory in directories]
    asked = [{question.id: question for question in directory.read_questions()} for directory in directories]
    ids = same_questions(asked[0], asked[-1])
    samples = [directory.read_samples_of(asked[0][each] for each in ids) for directory in directories]
    answered = [each for each in ids if all(of_run[each].is_answered for of_run in samples)]
    differing = [each for each in answered if len(samples) == 1 or len({s[each].answer for s in samples}) > 1]
    if not differing:
        raise UsageError(f"{' and '.join(map(str, paths))} answered no question in common, each in its own way")
    drawn = select_questions([asked[0][each] for each in differing], task.questions, task.seed)
    order = sorted((question.id for question in drawn), key=lambda each: _drawn(task.seed, "order", each))
    by_overlap = sorted(order, key=lambda each: _drawn(task.seed, "overlap", each))
    shared = set(by_overlap[: round(task.overlap * len(order))])
    notes, why = _notes(samples, order, manifests) if task.show.notes else ({}, "")
    if why:
        raise UsageError(f"show.notes: the texts of the notes can't be shown: {why}")
    items = {
        each: Item(
            asked[0][each],
            [of_run[each].answer for of_run in samples],
            [[notes[n] for n in of_run[each].known_prompt_notes or [] if n in notes] for of_run in samples],
            each in shared,
        )
        for each in order
    }
    names = [path.name if len({path.name for path in paths}) == len(paths) else str(path) for path in paths]
    return OpenTask(task, names, items, _hash(task, items), _remarks(asked, ids, answered, differing))


def _notes(
    samples: Sequence[dict[str, Sample]], ids: Sequence[str], manifests: Sequence[Any]
) -> tuple[dict[int, tuple[str, str]], str]:
    """Return title and text of the notes in the prompts, or why they are not there."""
    store, why = open_notes(manifests)
    if store is None:
        return {}, why
    wanted = sorted({n for of_run in samples for each in ids for n in of_run[each].known_prompt_notes or []})
    there = sorted(set(wanted) - set(store.missing(wanted)))
    return {note.note_idx: (note.title, note.content) for note in store.get(there)}, ""


def _remarks(
    asked: Sequence[dict[str, Question]], ids: Sequence[str], answered: Sequence[str], differing: Sequence[str]
) -> list[str]:
    n_asked = len(set().union(*asked))
    reasons = {
        "not in both runs with the same text and references": n_asked - len(ids),
        "not answered by each run": len(ids) - len(answered),
        "with the same answer in both runs (ties)": len(answered) - len(differing),
    }
    return [f"left out: {counted(n, 'question')}, {reason}" for reason, n in reasons.items() if n]


def _hash(task: LabelTask, items: dict[str, Item]) -> str:
    """Return the hash of all that a label depends on; where the runs are, and what they are called, is not of it."""
    shown = [[each.question.id, each.question.query, each.question.references, each.answers] for each in items.values()]
    settings = task.model_dump(mode="json", include={"seed", "overlap", "criteria", "show"})
    return json_hash({"settings": settings, "items": shown}, sort_keys=False, ensure_ascii=True)


def _drawn(seed: int, purpose: str, *parts: str) -> int:
    """Return a number that is random, and the same for the same parts."""
    return int(json_hash([seed, purpose, *parts], sort_keys=True, ensure_ascii=True)[:16], 16)
