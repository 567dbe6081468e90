"""Read and write labels by the names of the runs: rows as `view --label --export` and `agreement import` write them.

A row has the question, the annotator, the runs that were shown as A and B (A alone for ratings), the choice between
them, and ratings in columns such as `fluent.a` and `fluent.b`.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import expanded, write_text
from qilin_rag.core.label_rules import Annotators
from qilin_rag.core.labels import SIDES, Choice
from qilin_rag.core.spreadsheet import csv_text, read_back
from qilin_rag.core.text import clean, decimal_number
from qilin_rag.core.text_encodings import hint
from qilin_rag.data.text_files import CsvFile, json_lines, stop

Row = Mapping[str, str | int | float | None]
Cells = dict[str, Any]
MOST_BYTES = 2**30
"""The largest file that is read."""
CHOICES: tuple[Choice, ...] = get_args(Choice)
HASH = "answers_sha256"
"""The column of the hash of the answers that were shown (`label_rules.answers_hash`)."""
ONE_OF_TWO = "remove one of the two rows, or name their annotators apart"
_ARCHIVE = b"PK\x03\x04"
"""The first bytes of .xlsx and .ods."""
_RATING = re.compile(r"(.+)\.([ab])", re.DOTALL)
_LARGEST = 1e100
_OTHER_FILES = {
    "answer_a": "read a blinded file with agreement import first, which names the runs",
    "task_sha256": "export the labels of a task with view --label TASK --export first, which names the runs",
}
"""Columns of files of labels that do not name the runs, each with what to do."""


class LabelRow(NamedTuple):
    """A person's label of one answer, or of two.

    `runs` are the names of the runs shown as A and B, `ratings` the value of each side by criterion. `answers_sha256`
    is the hash of the answers that were shown; None in files of earlier versions.
    """

    place: str
    question_id: str
    query: str | None
    annotator: str
    runs: tuple[str, ...]
    choice: Choice | None
    ratings: dict[str, dict[int, float]]
    answers_sha256: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is said."""
        return self.choice is None and not self.ratings


def label_columns(criteria: Iterable[str], n_sides: int) -> list[str]:
    """Return the columns of a file of labels, in their order.

    Args:
        criteria: The names of what was rated.
        n_sides: 1 for ratings of single answers, 2 for answers side by side.
    """
    sides = [side.lower() for side in SIDES[:n_sides]]
    ratings = [f"{name}.{side}" for name in criteria for side in sides]
    compared = ["choice", "preferred"] if n_sides == 2 else []
    runs = [f"run_{side}" for side in sides]
    return ["question_id", "query", "annotator", *runs, *compared, *ratings, "comment", "seconds", "at", HASH]


def check_format(out: Path) -> None:
    """Check, before any work is done, that the name of a file says its format.

    Raises:
        UsageError: if it ends neither in .csv nor in .jsonl.
    """
    if out.suffix not in (".csv", ".jsonl"):
        raise UsageError(f"{out} is neither .csv nor .jsonl; the ending says what is written")


def write_rows(out: Path, columns: Sequence[str], rows: Iterable[Row], with_mark: bool = False) -> None:
    """Write rows to a .jsonl file, or else to a CSV file.

    Args:
        out: The file.
        columns: The columns, in their order.
        rows: The rows, with these columns.
        with_mark: Whether CSV begins with a byte order mark, without which Excel does not read Chinese.
    """
    if out.suffix == ".jsonl":
        lines = ({name: row[name] for name in columns} for row in rows)
        write_text(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    else:
        text = csv_text(columns, ([row[name] for name in columns] for row in rows))
        write_text(out, f"\ufeff{text}" if with_mark else text)


def read_cells(path: Path) -> Iterator[tuple[str, Cells]]:
    """Yield the place and the cells of each row of a CSV or JSONL file; empty cells are None, empty rows are skipped.

    Args:
        path: The file; its first character tells its format.

    Raises:
        UsageError: if it can't be read; the error names the line or row.
    """
    path = expanded(path)
    if not path.is_file():
        raise UsageError(f"{path} is not a file; name a CSV or JSONL file of labels")
    if path.stat().st_size > MOST_BYTES:
        raise UsageError(f"{path} is larger than {MOST_BYTES >> 30} GB; split it")
    try:
        with path.open("rb") as file:
            begin = file.read(1 << 12).removeprefix(b"\xef\xbb\xbf").lstrip()
        if begin.startswith(_ARCHIVE):
            raise UsageError(f"{path} is a workbook or an archive; save its table as CSV (UTF-8)")
        first = begin[:1]
        if first == b"[":
            raise UsageError(f"{path} is a JSON array; write one label a line (.jsonl)")
        if first == b"{":
            for number, row in json_lines(path, stop):
                if any(value not in (None, "") for value in row.values()):
                    yield f"{path}, line {number}", {n: None if value == "" else value for n, value in row.items()}
            return
        table = _open_csv(path)
        if problem := table.problem():
            raise UsageError(f"{path}: {problem}")
        for number, cells in table.rows(stop, first=2):  # as spreadsheets count, below the header
            if any(cell.strip() for cell in cells.values()):
                yield (
                    f"{path}, row {number}",
                    {read_back(name.strip()): read_back(cell.strip()) or None for name, cell in cells.items()},
                )
    except UnicodeDecodeError:
        raise UsageError(f"{path} can't be read: not UTF-8 text{hint(path)}") from None
    except (OSError, csv.Error) as error:
        raise UsageError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error


def _open_csv(path: Path) -> CsvFile:
    """Return a table with commas, or else with semicolons or tabs, which the spreadsheets of some countries write."""
    tables = [CsvFile(path, delimiter, strict=True) for delimiter in ",;\t"]
    return next((table for table in tables if len(table.header) > 1), tables[0])


def read_label_rows(paths: Sequence[Path]) -> list[LabelRow]:
    """Read labels with the names of their runs.

    Args:
        paths: CSV or JSONL files. A row without an annotator is by one with the name of its file.

    Raises:
        UsageError: if a row can't be read, or an annotator labelled the same answers twice; the error names the row.
    """
    rows: list[LabelRow] = []
    places: dict[tuple[str, str, frozenset[str], str], str] = {}
    annotators = Annotators()
    for path in paths:
        for place, cells in read_cells(path):
            row = _label_row(place, cells, annotator_of(place, cells, path, annotators))
            for aspect in [*row.ratings, *(["choice"] if row.choice else [])]:
                key = row.annotator, row.question_id, frozenset(row.runs), aspect
                if key in places:
                    raise UsageError(
                        f"{place}: {row.annotator} labelled these answers to question {row.question_id} before "
                        f"({places[key]}); {ONE_OF_TWO}"
                    )
                places[key] = place
            rows.append(row)
    if not rows:
        raise UsageError(f"{', '.join(map(str, paths))}: no label")
    return rows


def _label_row(place: str, cells: Cells, annotator: str) -> LabelRow:
    if "run_a" not in cells:
        for column, instead in _OTHER_FILES.items():
            if column in cells:
                raise UsageError(f"{place}: run_a is missing; {instead}")
    names = [f"run_{side.lower()}" for side in SIDES]
    runs = tuple(_text(place, name, cells) for name in names[: 2 if cells.get(names[1]) is not None else 1])
    if len(set(runs)) < len(runs):
        raise UsageError(f"{place}: run_a and run_b are the same run")
    choice = choice_of(place, cells.get("choice"))
    if choice and len(runs) == 1:
        raise UsageError(f"{place}: there is a choice, but no run_b")
    query = cells.get("query")
    return LabelRow(
        place,
        _text(place, "question_id", cells),
        None if query is None else str(query),
        annotator,
        runs,
        choice,
        ratings_of(place, cells, len(runs)),
        None if cells.get(HASH) is None else _text(place, HASH, cells),
    )


def annotator_of(place: str, cells: Cells, path: Path, annotators: Annotators) -> str:
    """Return the annotator of a row in the first spelling: whom its cell names, or else the name of its file.

    Args:
        place: The file and row, for the error.
        cells: The row.
        path: The file.
        annotators: The names so far.

    Raises:
        UsageError: if the cell is not text.
    """
    named = None if cells.get("annotator") is None else _text(place, "annotator", cells)
    return annotators.spelling(named or "") or annotators.spelling(path.stem)


def _text(place: str, name: str, cells: Cells) -> str:
    value = cells.get(name)
    if value is None:
        there = f"; it has {', '.join(f'{each!r:.40}' for each in [*cells][:12])}" if name not in cells else ""
        raise UsageError(f"{place}: {name} is missing{there}")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UsageError(f"{place}: {name} must be text, not {value!r:.40}")
    return clean(str(value)).strip()


def choice_of(place: str, given: object) -> Choice | None:
    """Return a choice as the label page writes it: people may type `a`, `Tie` or `both bad`.

    Args:
        place: The file and row, for the error.
        given: The cell.

    Raises:
        UsageError: if it is no choice.

    >>> choice_of("row 1", "both bad"), choice_of("row 1", None)
    ('both_bad', None)
    """
    if given is None:
        return None
    typed = re.sub(r"[\s_-]+", "_", unicodedata.normalize("NFKC", str(given)).strip()).casefold()
    for choice in CHOICES:
        if typed == choice.casefold():
            return choice
    raise UsageError(f"{place}: choice must be {', '.join(CHOICES[:-1])} or {CHOICES[-1]}, not {given!r:.40}")


def ratings_of(place: str, cells: Cells, n_sides: int) -> dict[str, dict[int, float]]:
    """Return the rating of each side, 0 for A and 1 for B, by criterion.

    Args:
        place: The file and row, for errors.
        cells: The row; its columns such as `fluent.a` are ratings.
        n_sides: How many answers the row is of.

    Raises:
        UsageError: if a rating is no number, or is of an answer that is not there.
    """
    found: dict[str, dict[int, float]] = {}
    for name, value in cells.items():
        if value is None or not (of := _RATING.fullmatch(name)):
            continue
        number = decimal_number(unicodedata.normalize("NFKC", value)) if isinstance(value, str) else value
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if number is None or not is_number or not abs(number) <= _LARGEST:
            raise UsageError(f"{place}: {name} must be a number, not {value!r:.40}")
        side = "ab".index(of[2])
        if side >= n_sides:
            raise UsageError(f"{place}: {name} rates B, but there is no run_b")
        found.setdefault(clean(of[1]), {})[side] = float(number)
    return found
