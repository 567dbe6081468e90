"""Section 4 of the paper as parts: Tables 2 and 5 to 9, users, and Figure 3, from the log of requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from qilin_rag.analysis.engagement import figure3, table5
from qilin_rag.analysis.figures import FigureTable
from qilin_rag.analysis.people import demographics, table2
from qilin_rag.analysis.queries import table7, table9
from qilin_rag.analysis.transitions import table6, table8
from qilin_rag.reports.replication.part import FEWEST, Lack, PaperPart, Workplace, lacks_table, no_settings

_WHY = f"nothing to count, or fewer than {FEWEST} of them"
_KINDS = {"figure3c": "search", "figure3d": "recommendation", "figure3e": "search", "figure3f": "recommendation"}


def log_parts() -> list[PaperPart]:
    """Return the parts in the order of the paper."""
    return [
        _part("table-2", "request", lambda place: [table2(place.log, place.users)]),
        PaperPart("users", "users", _lacks_users, no_settings, _tables(_users)),
        _part("table-5", "request", lambda place: [without_thin(table5(place.log), "requests", of_all=())]),
        _part("figure-3", "request", _figure3),
        _part("table-6", "request", lambda place: [without_thin(table6(place.log), "pairs")]),
        _part("table-7", "search", lambda place: [without_thin(table7(place.log), "searches")]),
        _part("table-8", "search", lambda place: [without_thin(table8(place.log), "pairs")]),
        _part("table-9", "search", lambda place: [without_thin(table9(place.log), "searches")]),
    ]


def _part(
    name: str, kind: Literal["request", "search"], make: Callable[[Workplace], Sequence[FigureTable]]
) -> PaperPart:
    return PaperPart(name, name, lambda place: place.lacks_requests(kind), no_settings, _tables(make))


def _tables(make: Callable[[Workplace], Sequence[FigureTable]]) -> Callable[[Workplace], dict[str, Any]]:
    return lambda place: {"tables": [table.model_dump(mode="json") for table in make(place)]}


def _lacks_users(place: Workplace) -> list[Lack]:
    return [] if "user_feat" in place.tables else [lacks_table("user_feat")]


def _users(place: Workplace) -> list[FigureTable]:
    tables = demographics(place.users)
    n_users = place.n_rows("user_feat")  # groups of ages are counted beside the ages
    return [without_thin(table, "count", n_users if table.key == "users_age" else None) for table in tables]


def _figure3(place: Workplace) -> list[FigureTable]:
    n_searches = int(place.log.shown.is_search.sum())
    n_of = {"search": n_searches, "recommendation": len(place.log.shown) - n_searches}
    tables = []
    for table in figure3(place.log):
        enough = [n_of[_KINDS.get(table.key, column.name)] >= FEWEST for column in table.columns]
        values = [
            [value if is_enough else None for value, is_enough in zip(row, enough, strict=True)] for row in table.values
        ]
        tables.append(table if all(enough) else table.model_copy(update={"values": values, "why_missing": _WHY}))
    return tables


def without_thin(
    table: FigureTable, counts: str, n_all: int | None = None, of_all: Sequence[str] = ("share",)
) -> FigureTable:
    """Take out the figures that are over fewer than `FEWEST` things.

    Args:
        table: The table.
        counts: The name of its column of counts, which stay.
        n_all: The number of things in the whole table. Default: the sum of the counts.
        of_all: The columns that are over the whole table; the others are over their row.
    """
    names = [column.name for column in table.columns]
    n_of_rows = [row[names.index(counts)] or 0 for row in table.values]
    n_all = int(sum(n_of_rows)) if n_all is None else n_all
    values = [
        [
            value if column.unit == "count" or (n_all if column.name in of_all else n) >= FEWEST else None
            for column, value in zip(table.columns, row, strict=True)
        ]
        for row, n in zip(table.values, n_of_rows, strict=True)
    ]
    return table if values == table.values else table.model_copy(update={"values": values, "why_missing": _WHY})
