"""Write answers for people to label elsewhere, without their runs, and read their labels back.

The file for annotators has ids that name no run. A second file, the key, says which run each answer is from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Annotated, Any, NamedTuple

from pydantic import Field, ValidationError

from qilin_rag.agreement.label_rows import (
    HASH,
    ONE_OF_TWO,
    Cells,
    LabelRow,
    Row,
    annotator_of,
    check_format,
    choice_of,
    label_columns,
    ratings_of,
    read_cells,
    write_rows,
)
from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import SCHEMA_VERSION, expanded, write_text
from qilin_rag.core.hashing import json_hash
from qilin_rag.core.label_rules import DEFAULT_CRITERIA, Annotators, Criteria, answers_hash, check_criteria
from qilin_rag.core.labels import SIDES
from qilin_rag.core.text import counted
from qilin_rag.core.types import Frozen, Question
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.pipeline.selection import select_questions
from qilin_rag.reports.measured import same_questions

_CRITERION = re.compile(r"(.*)=\s*([0-9]{1,3})\s*-\s*([0-9]{1,3})\s*", re.DOTALL)


class KeyItem(Frozen):
    """The question of an item, and the runs of its answers.

    Attributes:
        question_id: The id of the question.
        query: The text of the question.
        runs: The names of the runs of answers A and B; one for a single answer.
        answers_sha256: The hash of the answers; null in keys of earlier versions.
    """

    question_id: str
    query: str
    runs: Annotated[list[str], Field(min_length=1, max_length=2)]
    answers_sha256: str | None = None


class LabelKey(Frozen):
    """The key of a blinded file.

    Attributes:
        schema_version: The version of this form.
        seed: The seed of the questions, their order and the sides.
        criteria: The lowest and highest rating by criterion.
        items: The items by id.
    """

    schema_version: int = SCHEMA_VERSION
    seed: int
    criteria: Criteria
    items: Annotated[dict[str, KeyItem], Field(min_length=1)]

    @property
    def n_sides(self) -> int:
        """The number of answers of each item."""
        return len(next(iter(self.items.values())).runs)


class Blinded(NamedTuple):
    """Items for annotators, in their order, with their key and remarks on what was left out."""

    columns: list[str]
    rows: list[Row]
    key: LabelKey
    remarks: list[str]


class Imported(NamedTuple):
    """Labels by the names of the runs, and the number of rows without a label, or with only a part of one.

    `n_changed` rows are left out: their answers are not those of the key any more, so nobody knows what was labelled.
    """

    columns: list[str]
    rows: list[Row]
    n_empty: int
    n_partial: int
    n_changed: int


def parse_criteria(given: Iterable[str]) -> Criteria:
    """Return the scales of criteria such as `fluent=1-5`.

    Args:
        given: The texts.

    Raises:
        UsageError: if one is not of this form, or is given twice.

    >>> parse_criteria(["fluent=1-5"])
    {'fluent': (1, 5)}
    """
    scales = []
    for text in given:
        if not (found := _CRITERION.fullmatch(text)):
            raise UsageError(f"criterion {text!r:.60} is not of the form fluent=1-5")
        scales.append((found[1], (int(found[2]), int(found[3]))))
        try:
            criteria = check_criteria(scales)
        except ValueError as error:
            raise UsageError(f"criterion {text!r:.60}: {error}") from None
    return criteria if scales else {}


def key_path(out: Path) -> Path:
    """Return the path of the key of a blinded file: beside it.

    >>> key_path(Path("sheet.csv")).name
    'sheet.key.json'
    """
    return out.with_suffix(".key.json")


def blind(
    paths: Sequence[Path],
    n_questions: int | None = None,
    seed: int = 0,
    criteria: Criteria | None = None,
    one_by_one: bool = False,
) -> Blinded:
    """Draw questions, and shuffle the answers of runs to them.

    A question is drawn if the runs all have it, with the same references, and answered it.

    Args:
        paths: The run directories.
        n_questions: The number of questions. Default: all.
        seed: Draws the questions, the order and the sides.
        criteria: The scales of ratings. Default: `quality` from 1 to 5 one by one, none side by side.
        one_by_one: Whether each answer is shown alone, or each two answers to a question side by side. A single run has
            its answers shown alone.

    Raises:
        UsageError: if a run is not complete, is named twice, or there is nothing to label.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError("a run is named twice; name each run once")
    n_sides = 1 if one_by_one or len(paths) == 1 else 2
    scales = criteria or (DEFAULT_CRITERIA if n_sides == 1 else {})
    names = run_names(paths)
    answered, answers, remarks = _answered(paths)
    questions = [each for each in answered if len({of_run[each.id] for of_run in answers}) >= n_sides]
    if not questions:
        raise UsageError(f"{' and '.join(map(str, paths))}: all answers are the same; there is nothing to compare")
    if n_alike := len(answered) - len(questions):
        remarks.append(f"left out: {counted(n_alike, 'question')} with the same answer in each run (ties)")
    random, items, n_same = Random(seed), [], 0
    for question in select_questions(questions, n_questions, seed):
        for places in combinations(range(len(paths)), n_sides):
            shown = [answers[place][question.id] for place in places]
            if len(set(shown)) < n_sides:
                n_same += 1
                continue
            order = random.sample(range(n_sides), n_sides)
            items.append((question, [places[side] for side in order], [shown[side] for side in order]))
    if n_same:
        remarks.append(f"left out: {counted(n_same, 'pair')} of the same answer twice (ties)")
    random.shuffle(items)
    prefix = json_hash([[question.query, shown] for question, _, shown in items], sort_keys=False, ensure_ascii=True)
    rows: list[Row] = []
    keys = {}
    sides = [side.lower() for side in SIDES[:n_sides]]
    to_fill = ["annotator", *(["choice"] if n_sides == 2 else []), *(f"{c}.{side}" for c in scales for side in sides)]
    for number, (question, of, shown) in enumerate(items, start=1):
        name = f"{prefix[:6]}-{number:0{len(str(len(items)))}}"
        keys[name] = KeyItem(
            question_id=question.id,
            query=question.query,
            runs=[names[place] for place in of],
            answers_sha256=answers_hash(shown),
        )
        about = {"id": name, "query": question.query, "references": "\n\n".join(question.references)}
        texts = {f"answer_{side}": text for side, text in zip(sides, shown, strict=True)}
        rows.append({**about, **texts, **dict.fromkeys([*to_fill, "comment"])})
    return Blinded([*rows[0]], rows, LabelKey(seed=seed, criteria=scales, items=keys), remarks)


def run_names(paths: Sequence[Path]) -> list[str]:
    """Return the name of each run, as labels have it: that of its folder, or its path if two are of the same name."""
    resolved = [path.name or path.resolve().name for path in paths]
    return [name if resolved.count(name) == 1 else str(path) for name, path in zip(resolved, paths, strict=True)]


def _answered(paths: Sequence[Path]) -> tuple[list[Question], list[dict[str, str]], list[str]]:
    """Return the questions that all runs answered, the answers of each run, and remarks on the other questions."""
    directories = [RunDirectory(path) for path in paths]
    for directory in directories:
        directory.read_complete()
    asked = [{question.id: question for question in directory.read_questions()} for directory in directories]
    ids = list(asked[0])
    for other in asked[1:]:
        same = set(same_questions(asked[0], other))
        ids = [each for each in ids if each in same]
    samples = [directory.read_samples_of(asked[0][each] for each in ids) for directory in directories]
    answered = [each for each in ids if all(of_run[each].is_answered for of_run in samples)]
    if not answered:
        raise UsageError(f"{' and '.join(map(str, paths))} answered no question in common")
    reasons = {
        "not in all runs with the same text and references": len(set().union(*asked)) - len(ids),
        "not answered by each run": len(ids) - len(answered),
    }
    remarks = [f"left out: {counted(n, 'question')}, {reason}" for reason, n in reasons.items() if n]
    answers = [{each: of_run[each].answer for each in answered} for of_run in samples]
    return [asked[0][each] for each in answered], answers, remarks


def write_blinded(blinded: Blinded, out: Path) -> Path:
    """Write the items for annotators, and the key beside them.

    Args:
        blinded: The items.
        out: The file for annotators, .csv or .jsonl.

    Returns:
        The path of the key.

    Raises:
        UsageError: if either file exists: without its key, a labelled file is lost.
    """
    check_format(out)
    key = key_path(out)
    if existing := next((path for path in (key, out) if path.exists()), None):
        raise UsageError(f"{existing} exists; name another file with --out, or move it away")
    write_text(key, json.dumps(blinded.key.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n")
    write_rows(out, blinded.columns, blinded.rows, with_mark=True)
    return key


def import_labels(paths: Sequence[Path], key_file: Path) -> Imported:
    """Read the labels in blinded files, and name their runs.

    Args:
        paths: The files, as one or several annotators filled them in. A row without an annotator is by one with the
            name of its file.
        key_file: The key.

    Raises:
        UsageError: if a row has an unknown id, a value out of range, or is there twice; the error names file and row.
    """
    key = _read_key(expanded(key_file))
    columns = label_columns(key.criteria, key.n_sides)
    expected = [name for name in columns if name == "choice" or "." in name]
    rows: list[Row] = []
    places: dict[tuple[str, str], str] = {}
    annotators = Annotators()
    n_empty = n_partial = n_changed = 0
    for path in paths:
        for place, cells in read_cells(path):
            label, name = _label(place, cells, key, annotator_of(place, cells, path, annotators)), _id(cells)
            if label.is_empty:
                n_empty += 1
                continue
            if _is_changed(cells, key.items[name]):
                n_changed += 1
                continue
            if (label.annotator, name) in places:
                before = places[label.annotator, name]
                raise UsageError(f"{place}: {label.annotator} labelled {name} before ({before}); {ONE_OF_TWO}")
            places[label.annotator, name] = place
            row = _row(label, columns, cells.get("comment"))
            n_partial += any(row[name] is None for name in expected)
            rows.append(row)
    if not rows:
        changed = f" of the answers of the key: {counted(n_changed, 'row')} with other answers" if n_changed else ""
        raise UsageError(f"{', '.join(map(str, paths))}: no row has a label{changed}")
    return Imported(columns, rows, n_empty, n_partial, n_changed)


def _id(cells: Cells) -> str:
    return str(cells.get("id")).strip()


def _is_changed(cells: Cells, item: KeyItem) -> bool:
    """Return whether the row shows other answers than the key knows; a row without its answers shows none."""
    shown = [cells.get(f"answer_{side.lower()}") for side in SIDES[: len(item.runs)]]
    texts = [str(text) for text in shown if text is not None]
    return item.answers_sha256 is not None and len(texts) == len(shown) and answers_hash(texts) != item.answers_sha256


def _read_key(path: Path) -> LabelKey:
    wanted = "name the key that agreement export wrote beside its file"
    if not path.is_file():
        raise UsageError(f"{path} is not a file; {wanted}")
    try:
        key = LabelKey.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"{path} is no key: {f'{where}: ' if where else ''}{first['msg']}; {wanted}") from error
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}") from error
    if key.schema_version != SCHEMA_VERSION:
        raise UsageError(f"{path}: schema version {key.schema_version}, this program reads {SCHEMA_VERSION}")
    return key


def _label(place: str, cells: Cells, key: LabelKey, annotator: str) -> LabelRow:
    if "id" not in cells:
        raise UsageError(f"{place}: id is missing; it has {', '.join(f'{name!r:.40}' for name in [*cells][:12])}")
    name = _id(cells)
    if name not in key.items:
        raise UsageError(f"{place}: id {name!r:.40} is not in the key; is it the key of another file?")
    item = key.items[name]
    choice = choice_of(place, cells.get("choice"))
    if choice and key.n_sides == 1:
        raise UsageError(f"{place}: there is a choice, but one answer only")
    ratings = ratings_of(place, cells, key.n_sides)
    for criterion, sides in ratings.items():
        if criterion not in key.criteria:
            raise UsageError(f"{place}: {criterion!r:.40} is no criterion of the key; it has {_listed(key.criteria)}")
        low, high = key.criteria[criterion]
        for side, value in sides.items():
            if not value.is_integer() or not low <= value <= high:
                column = f"{criterion}.{'ab'[side]}"
                raise UsageError(f"{place}: {column} is {value:g}, not a whole number from {low} to {high}")
    runs, answers = tuple(item.runs), item.answers_sha256
    return LabelRow(place, item.question_id, item.query, annotator, runs, choice, ratings, answers)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _row(label: LabelRow, columns: Sequence[str], comment: Any) -> Row:
    preferred: Mapping[str | None, str] = dict(zip(SIDES, label.runs, strict=False))
    row: dict[str, str | int | float | None] = {
        **dict.fromkeys(columns),
        "question_id": label.question_id,
        "query": label.query,
        "annotator": label.annotator,
        **{f"run_{side.lower()}": run for side, run in zip(SIDES, label.runs, strict=False)},
        "comment": None if comment is None else str(comment),
        HASH: label.answers_sha256,
    }
    if "choice" in row:
        row |= {"choice": label.choice, "preferred": preferred.get(label.choice, label.choice)}
    for criterion, sides in label.ratings.items():
        row |= {f"{criterion}.{'ab'[side]}": int(value) for side, value in sides.items()}
    return row
