"""Validation of a data set: every defect with table, row and column."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import zip_longest

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qilin_rag.core.arrays import positions_in
from qilin_rag.core.note_fields import IMAGE_TEXT
from qilin_rag.core.text import BLANK_PATTERN, has_words, is_blank, query_key
from qilin_rag.data.encodings import Batch, read_batches
from qilin_rag.data.near_miss import near_miss
from qilin_rag.data.questions import NO_ANSWER, pairs_problem
from qilin_rag.data.schema import ACTIONS, ALL_TABLES, FEEDBACK, NOTES, PAIRS, Table
from qilin_rag.data.source import Source
from qilin_rag.data.text_files import Defect, Report

_SHOWN_IDS = 5


def validate(source: Source, report: Report, remark: Callable[[str], None] = lambda text: None) -> dict[str, int]:
    """Read every value of every existing table and report the defects.

    Defects are missing columns, wrong types, missing or duplicate ids, notes and users that are not in their tables,
    texts, queries and answers without readable text, feedback without an answer, positions that are missing or not a
    whole number from 0, and actions that are neither 0 nor 1.

    Args:
        source: The tables.
        report: Called with each defect.
        remark: Called with remarks that are not defects: results at position 0, tables without a row.

    Returns:
        The number of rows by table.
    """
    keys: dict[str, _Keys] = {}
    reported: set[tuple[str, str]] = set()
    n_reported = 0

    def once(defect: Defect) -> None:
        """Report a defect, unless its value had a wrong type and was read as missing."""
        nonlocal n_reported
        if defect.problem != "is missing" or (defect.place, defect.column) not in reported:
            n_reported += 1
            reported.add((defect.place, defect.column))
            report(defect)

    for name in source.tables():  # notes and users first
        table, table_keys = ALL_TABLES[name], _Keys()
        n_zero = n_with_zero = n_repeated = n_reported = 0
        seen_questions: set[tuple[str, ...]] = set()
        encoding, files = source.files(name)
        for path in files:
            reported.clear()
            for batch in read_batches(encoding, path, table, report=once):
                table_keys.add(batch, table.key)
                for row, column, problem in _problems(table, batch, keys):
                    once(Defect(path, batch.place(row), column, problem))
                at_zero = _at_position_zero(table, batch)
                questions = _questions(batch) if name == "dqa" else []
                n_repeated += len(questions) - len(set(questions) - seen_questions)
                seen_questions.update(questions)
                n_zero, n_with_zero = n_zero + len(at_zero), n_with_zero + len(np.unique(at_zero))
        if not table_keys.n_rows and not n_reported:
            remark(f"{name}: {files[0]} holds no row")
        table_keys.report_doubles(table.key, report)
        if n_repeated:
            remark(f"{name}: {n_repeated:,} rows have query and answers of another row")
        if n_zero:
            counts = f"{n_zero:,} results of {n_with_zero:,} requests"
            remark(f"{name}: {counts} are at position 0; log.position_zero={source.log.position_zero} reads them")
        keys[name] = table_keys
    if "notes" not in keys:
        hint = near_miss(source.folder, ["notes"])
        remark(f"notes: the table does not exist, so notes that rows name were not checked{hint}")
    return {name: table_keys.n_rows for name, table_keys in keys.items()}


class _Keys:
    """The key values of a table, and their places."""

    def __init__(self) -> None:
        self._batches: list[Batch] = []
        self._values: list[npt.NDArray[np.generic]] = []
        self.n_rows = 0

    def add(self, batch: Batch, key: str) -> None:
        """Remember the keys of a batch, without its other columns."""
        self.n_rows += len(batch.numbers)
        if key in batch.rows.schema.names:
            column = batch.rows.column(key)
            rows = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
            numbers = [batch.numbers[row] for row in rows.tolist()] if column.null_count else batch.numbers
            self._batches.append(batch._replace(rows=None, numbers=numbers))
            self._values.append(column.drop_null().to_numpy(zero_copy_only=False))

    @cached_property
    def values(self) -> npt.NDArray[np.generic]:
        """Return all values in the order of the rows; call this after the last batch."""
        return np.concatenate(self._values) if self._values else np.zeros(0, np.int64)

    @cached_property
    def _sorted(self) -> npt.NDArray[np.generic]:
        return np.unique(self.values)

    def hold(self, sought: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return for each of these values whether it exists."""
        return positions_in(self._sorted, sought) >= 0

    def report_doubles(self, key: str, report: Report) -> None:
        """Report one defect for each value that occurred before."""
        values = self.values
        order = np.argsort(values, kind="stable")
        again = np.flatnonzero(values[order][1:] == values[order][:-1])
        starts = np.cumsum([0, *map(len, self._values)])

        def stands(position: int) -> tuple[Batch, str]:
            i = int(np.searchsorted(starts, position, side="right")) - 1
            return self._batches[i], self._batches[i].place(int(position - starts[i]))

        for i in again.tolist():
            (first, first_place), (batch, place) = stands(order[i]), stands(order[i + 1])
            other_place = first_place if first.path == batch.path else f"{first_place} of {first.path.name}"
            report(Defect(batch.path, place, key, f"{values[order[i]]} is already on {other_place}"))


def _problems(table: Table, batch: Batch, keys: dict[str, _Keys]) -> Iterator[tuple[int, str, str]]:
    """Yield row in the batch, column and problem of values that fit their type and are wrong nevertheless."""
    columns = {name: batch.rows.column(name) for name in batch.rows.schema.names}
    for name in table.required:
        if name in columns and name not in ("note_title", "note_content"):
            yield from ((row, name, "is missing") for row in _rows(columns[name].is_null()))
    if "query" in columns:
        yield from ((row, "query", "is empty") for row in _rows(_is_blank(columns["query"])))
    if table.name == IMAGE_TEXT and "notes" in keys:
        outside = ~keys["notes"].hold(pc.fill_null(columns["note_idx"], -1).to_numpy())
        for row in np.flatnonzero(outside & columns["note_idx"].is_valid().to_numpy(zero_copy_only=False)).tolist():
            yield row, "note_idx", f"{columns['note_idx'][row]} is not in the table notes"
    if {"note_title", "note_content"} <= columns.keys():
        title, content = (pc.fill_null(columns[name], "") for name in ("note_title", "note_content"))
        no_text = pc.and_(_is_blank(title), _is_blank(content))
        yield from ((row, "note_content", "is empty, and so is the title") for row in _rows(no_text))
    if "user_idx" in columns and table.name != "user_feat" and "user_feat" in keys:
        users = columns["user_idx"]
        is_known = keys["user_feat"].hold(pc.fill_null(users, -1).to_numpy())
        for row in np.flatnonzero(~is_known & users.is_valid().to_numpy(zero_copy_only=False)).tolist():
            yield row, "user_idx", f"{users[row]} is not in the table user_feat"
    if table.name == "dqa":
        yield from _answer_problems(columns, len(batch.rows))
    for name in table.note_columns:
        if name in columns:
            yield from _list_problems(name, table, columns[name], keys.get("notes"))


def _answer_problems(columns: dict[str, pa.Array], n_rows: int) -> Iterator[tuple[int, str, str]]:
    """Yield answers that are empty, and feedback without an answer."""
    for name in FEEDBACK:
        if name in columns:
            odd = pc.invert(pc.is_in(columns[name], pa.array([-1.0, 0.0, 1.0, None])))
            yield from ((row, name, f"must be -1, 0 or 1, not {columns[name][row]}") for row in _rows(odd))
    flags = [pc.fill_null(pc.equal(columns[name], 1), False) for name in FEEDBACK if name in columns]
    for row, answer in enumerate(columns["dqa_output"].to_pylist() if "dqa_output" in columns else []):
        if answer is not None and is_blank(answer):
            yield row, "dqa_output", "is empty; it must be -1 if no answer was shown"
        elif answer is not None and not has_words(answer):
            yield row, "dqa_output", "holds markup alone"
        elif (answer is None or answer.strip() in NO_ANSWER) and any(flag[row].as_py() for flag in flags):
            yield row, "dqa_output", "is not an answer, but has feedback"
    if "dqa_output" not in columns:
        nothing = columns["answers"].is_null() if "answers" in columns else pa.array([True] * n_rows, pa.bool_())
        yield from ((row, "answers", "is missing") for row in _rows(nothing))
    for row, answers in enumerate(columns["answers"].to_pylist() if "answers" in columns else []):
        if answers is not None and not (answers and all(answer and not is_blank(answer) for answer in answers)):
            yield row, "answers", "must be a list of at least one text that is not empty"
        elif answers is not None and not all(map(has_words, answers)):
            yield row, "answers", "holds a text of markup alone"


def _list_problems(name: str, table: Table, column: pa.Array, notes: _Keys | None) -> Iterator[tuple[int, str, str]]:
    """Yield elements that are missing or malformed, and notes that do not exist."""
    parents = pc.list_parent_indices(column).to_numpy()
    items = pc.list_flatten(column)
    if column.type == PAIRS:
        if (pc.fill_null(pc.not_equal(pc.list_value_length(items), 2), True)).to_numpy(zero_copy_only=False).any():
            rows = ((row, pairs_problem(pairs)) for row, pairs in enumerate(column.to_pylist()) if pairs)
            yield from ((row, name, problem) for row, problem in rows if problem)
            return
        note_idxs = pc.list_element(items, 0)
    elif column.type == NOTES:
        note_idxs = items
    else:
        note_idxs = pc.struct_field(items, "note_idx")
        for action in ACTIONS:
            odd = pc.invert(pc.is_in(pc.struct_field(items, action), pa.array([0, 1, None])))
            yield from ((int(parents[i]), name, f"holds a {action} that is neither 0 nor 1") for i in _rows(odd))
        nowhere = np.bincount(parents[_rows(pc.struct_field(items, "position").is_null())], minlength=len(column))
        for row in np.flatnonzero(nowhere).tolist():
            yield row, name, f"holds a result without a position ({nowhere[row]})"
    yield from ((int(parents[i]), name, "holds a note_idx that is missing") for i in _rows(note_idxs.is_null()))
    if notes is not None:
        values = note_idxs.drop_null().to_numpy(zero_copy_only=False)
        owners = parents[note_idxs.is_valid().to_numpy(zero_copy_only=False)]
        outside = ~notes.hold(values)
        for row in np.unique(owners[outside]).tolist():
            missing = [int(value) for value in dict.fromkeys(values[outside & (owners == row)])]
            shown = ", ".join(map(str, missing[:_SHOWN_IDS])) + (", ..." if len(missing) > _SHOWN_IDS else "")
            yield row, name, f"names notes that are not in the table notes ({len(missing)}): {shown}"


def _questions(batch: Batch) -> list[tuple[str, ...]]:
    """Return the query in comparable form, and the answers, of each row that has both."""
    names = ("query", "answers", "dqa_output")
    there = [batch.rows.column(name).to_pylist() if name in batch.rows.schema.names else [] for name in names]
    return [
        (query_key(query), *(answers or [output]))
        for query, answers, output in zip_longest(*there)
        if query is not None and (answers or (output or "").strip() not in NO_ANSWER)
    ]


def _at_position_zero(table: Table, batch: Batch) -> npt.NDArray[np.int64]:
    """Return the row in the batch of each result at position 0."""
    name = next((name for name in table.note_columns if pa.types.is_struct(table.columns[name].value_type)), None)
    if name is None or name not in batch.rows.schema.names:
        return np.zeros(0, np.int64)
    column = batch.rows.column(name)
    is_zero = pc.fill_null(pc.equal(pc.struct_field(pc.list_flatten(column), "position"), 0), False)
    rows: npt.NDArray[np.int64] = pc.list_parent_indices(column).filter(is_zero).to_numpy().astype(np.int64)
    return rows


def _is_blank(texts: pa.Array) -> pa.Array:
    return pc.fill_null(pc.match_substring_regex(texts, BLANK_PATTERN), False)


def _rows(mask: pa.Array) -> list[int]:
    """Return the positions at which a mask is true."""
    return np.flatnonzero(pc.fill_null(mask, False).to_numpy(zero_copy_only=False)).tolist()
