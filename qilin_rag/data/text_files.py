"""Tables as text, csv and jsonl: read row by row, with checks of the file as a whole."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import counted
from qilin_rag.core.text_encodings import hint, is_wide
from qilin_rag.data.schema import Table

_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars", "，": "full-width commas", "；": "full-width semicolons"}
_MOST_NAMES = 12


class Defect(NamedTuple):
    """A defect in a table; `place` is a row (from 0) or a line (from 1) of `path`, or empty."""

    path: Path
    place: str
    column: str
    problem: str

    def __str__(self) -> str:
        where = f"{self.path}, {self.place}" if self.place else str(self.path)
        return f"{where}: {f'{self.column} ' if self.column else ''}{self.problem}"


Report = Callable[[Defect], None]


def stop(defect: Defect) -> NoReturn:
    """Report a defect by raising, for readers that use the data."""
    raise UsageError(str(defect))


def missing_columns(table: Table, present: Collection[str], needed: Collection[str]) -> list[str]:
    """Return which required columns a file or row lacks, and the unknown columns that it has instead."""
    known = names_in(table, present)
    missing = [name for name in table.required if name in needed and name not in known]
    is_generic = not any(name in present for name in table.aliases.values())
    names = {own: alias for alias, own in table.aliases.items()} if is_generic else {}
    others = [name for name in present if name not in known.values()]
    found = f"; found instead: {_listed(others)}" if others else "" if present else "; it has none at all"
    return [f"{names.get(name, name)!r} is missing{found}" for name in missing]


def names_in(table: Table, present: Collection[str]) -> dict[str, str]:
    """Return the table's columns that exist in a file, with their names there."""
    aliases = {table.aliases.get(name, name): name for name in present}
    return {name: aliases[name] for name in table.readable if name in aliases}


def double_problem(names: Sequence[str]) -> str | None:
    """Return which name occurs twice, so that its meaning is unclear; spreadsheets add columns without a name."""
    double = next((name for i, name in enumerate(names) if name and name in names[:i]), None)
    return None if double is None else f"column {double!r} occurs twice"


def _listed(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _MOST_NAMES else ""
    return ", ".join(f"{name!r:.40}" for name in names[:_MOST_NAMES]) + more


class CsvFile:
    """A csv file: its validated header, and its records."""

    def __init__(self, path: Path, delimiter: str = ",", strict: bool = False) -> None:
        """Set the path without reading; if `strict`, misplaced or open quotation marks raise csv.Error."""
        self._path = path
        self._delimiter = delimiter
        self._strict = strict

    @cached_property
    def header(self) -> list[str]:
        """Return the names of the columns."""
        csv.field_size_limit(2**31 - 1)
        with self._path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file, delimiter=self._delimiter, strict=self._strict), [])

    def problem(self) -> str | None:
        """Return why the columns can't be told apart, if so."""
        if is_wide(self._path):
            return f"not UTF-8 text{hint(self._path)}"
        for separator, name in _SEPARATORS.items():
            if len(self.header) == 1 and separator in self.header[0]:
                return f"its columns are separated by {name}; separate them by commas (found: {self.header[0]!r:.80})"
        return double_problem(self.header)

    def rows(self, report: Report, first: int = 0) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield every record after the header by column, with its number from `first`; empty lines are skipped."""
        header = self.header
        with self._path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=self._delimiter, strict=self._strict)
            next(reader, None)
            for number, cells in enumerate(reader, first):
                if not cells:
                    continue
                if len(cells) != len(header):
                    problem = f"has {counted(len(cells), 'cell')} under {counted(len(header), 'column name')}"
                    report(Defect(self._path, f"row {number}", "", problem))
                else:
                    yield number, dict(zip(header, cells, strict=True))


def json_lines(path: Path, report: Report) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield every line that is not blank, as an object."""
    if is_wide(path):
        report(Defect(path, "", "", f"not UTF-8 text{hint(path)}"))
        return
    hint_once = cache(partial(hint, path))
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                row = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
                problem = "" if isinstance(row, dict) else "expected a JSON object"
            except UnicodeDecodeError as error:
                problem = f"not UTF-8 text (byte {error.start} of the line){hint_once()}"
            except json.JSONDecodeError as error:
                problem = f"not valid JSON: {error.msg} (column {error.colno})"
            except (RecursionError, ValueError) as error:
                problem = f"not valid JSON: {error}"
            if problem:
                report(Defect(path, f"line {number}", "", problem))
            else:
                yield number, row
