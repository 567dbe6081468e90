"""All figures of the paper's section 4 for one data set, as tables beside its printed values."""

from __future__ import annotations

from collections.abc import Sequence

from qilin_rag.analysis.engagement import figure3, table5
from qilin_rag.analysis.figures import FigureTable
from qilin_rag.analysis.log import read_log
from qilin_rag.analysis.people import demographics, table2
from qilin_rag.analysis.queries import table7, table9
from qilin_rag.analysis.transitions import table6, table8
from qilin_rag.data.catalogue import read_users
from qilin_rag.data.source import Source


def analyse(source: Source) -> list[FigureTable]:
    """Return Tables 2 and 5 to 9, demographics, and Figure 3."""
    log, users = read_log(source), read_users(source)
    tables = [table2(log, users), *demographics(users), table5(log), *figure3(log)]
    return [*tables, table6(log), table7(log), table8(log), table9(log)]


def n_items(tables: Sequence[FigureTable]) -> int:
    """Return the number of notes in Table 2; 0 if the data has none."""
    [table2] = [table for table in tables if table.key == "table2"]
    return int(table2.values[table2.rows.index("items")][0] or 0)
