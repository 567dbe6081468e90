"""Tables of comma-separated values in which a spreadsheet finds no formula, whatever the texts hold."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from qilin_rag.core.text import clean, decimal_number, skip_unseen

_BEGINS_FORMULA = frozenset("=+-@＝＋－＠﹦﹢﹣﹫\t\r")
_QUOTES = "'\"`‘’“”＇＂"


def csv_text(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Write a header and rows; numbers stay numbers, and texts are defused."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_written(cell) for cell in row] for row in (header, *rows))
    return text.getvalue()


def csv_of_records(records: Sequence[Mapping[str, object]]) -> str:
    """Write flat records with a header of all their names; what a record lacks is empty."""
    names = list(dict.fromkeys(name for record in records for name in record))
    return csv_text(names, ([record.get(name) for name in names] for record in records))


def _written(cell: object) -> object:
    if cell is None or isinstance(cell, int | float):
        return cell
    return defused(str(cell).replace("\r\n", "\n").replace("\r", "\n"))  # the csv writer does not quote a \r


def defused(text: str) -> str:
    """Put an apostrophe before a text that a spreadsheet would calculate; `read_back` removes it.

    >>> defused("=1+1"), defused("-0.12"), defused("－cmd"), defused("bm25")
    ("'=1+1", '-0.12', "'－cmd", 'bm25')
    """
    text = clean(text.replace("\0", ""))
    return f"'{text}" if _is_formula(text) else text


def read_back(cell: str) -> str:
    """Return the text that was defused.

    >>> read_back(defused("=1+1")), read_back("'tis"), read_back(defused("'=1"))
    ('=1+1', "'tis", "'=1")
    """
    return cell[1:] if cell.startswith("'") and _is_formula(cell[1:]) else cell


def _is_formula(text: str) -> bool:
    """Return whether a formula begins after quotes, white space and invisible characters; a number is not one."""
    if decimal_number(text) is not None:
        return False
    start = 0
    while start < len(text) and text[start] not in _BEGINS_FORMULA:
        after = start + 1 if text[start] in _QUOTES else skip_unseen(text, start)
        if after == start:
            return False
        start = after
    return start < len(text)
