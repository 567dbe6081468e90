"""Read the request tables of a data set, each once, and take splits of them and the clicks in them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from qilin_rag.core.errors import UsageError
from qilin_rag.data.clicks import ClickLog
from qilin_rag.data.exposures import Bools, concat
from qilin_rag.data.requests import VALIDATION_SHARE, Requests, Split, TaskName, part_of, read_table, table_of
from qilin_rag.data.schema import REQUEST_TABLES, TRAIN_TABLES
from qilin_rag.data.source import Source

logger = logging.getLogger(__name__)


class SplitLog:
    """The request tables of a data set, each read once."""

    def __init__(self, source: Source, validation_share: float = VALIDATION_SHARE) -> None:
        """Name the data; nothing is read yet. `validation_share` of the train table is its validation split."""
        self.source = source
        self._validation_share = validation_share
        self._tables: dict[str, Requests] = {}

    def table(self, name: str) -> Requests:
        """Return all requests of a table."""
        if name not in self._tables:
            self._tables[name] = read_table(self.source, name)
        return self._tables[name]

    def split(self, task: TaskName, split: Split) -> Requests:
        """Return the requests of a split, as `read_requests` does."""
        return part_of(self.table(table_of(task, split)), split, self._validation_share)

    def before(self, task: TaskName, split: Split) -> Requests:
        """Return the train requests that are earlier than a split: all of them, or those not kept for validation."""
        return self.table(table_of(task, "train")) if split in ("test", "dqa", "last") else self.split(task, "train")

    def all(self, names: Sequence[str] = REQUEST_TABLES) -> dict[str, Requests]:
        """Return these tables of requests by name; leave out one that can't be read, with a warning."""
        found = {}
        for name in self.source.tables():
            if name in names:
                try:
                    found[name] = self.table(name)
                except UsageError as error:
                    logger.warning("not counted in places in sessions and in histories: %s", error)
        return found

    def clicks(self, tasks: Sequence[TaskName], split: Split) -> ClickLog:
        """Return the clicks of all tables for rankers that rank this split, or that are trained (split train).

        Rankers may learn from the clicks of the train tables. If the split is cut from these, as train and validation
        are, only clicks before the first validation request count, and no other table is read.
        """
        tables = self.all(TRAIN_TABLES if split in ("train", "validation") else REQUEST_TABLES)
        until = np.iinfo(np.int64).max
        if split in ("train", "validation"):
            until = min(int(self.split(task, "validation").time_ms.min()) for task in tasks)
        learns_from = [
            (table.time_ms < until) if name in TRAIN_TABLES else np.zeros(len(table), bool)
            for name, table in tables.items()
        ]
        return click_log(list(tables.values()), learns_from)


def click_log(tables: Sequence[Requests], learns_from: Sequence[Bools]) -> ClickLog:
    """Gather the clicks of request tables.

    Args:
        tables: The tables, at least one.
        learns_from: For each table, whether rankers may learn from each request, (n,).
    """
    requests = concat(list(tables))
    may_learn = np.concatenate(list(learns_from))
    request = requests.request
    rows = np.flatnonzero(requests.clicked & ((requests.user_idx >= 0) & (requests.time_ms >= 0))[request])
    order = np.lexsort((requests.tie_keys[rows], requests.time_ms[request[rows]], requests.user_idx[request[rows]]))
    rows = rows[order]
    request = request[rows]
    return ClickLog(
        user_idx=requests.user_idx[request],
        time_ms=requests.time_ms[request],
        note_idx=requests.note_idx[rows],
        is_search=requests.is_search[request],
        is_train=may_learn[request],
        query=request,
        queries=requests.queries,
    )
