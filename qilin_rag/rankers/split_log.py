"""Read the request tables of a data set, each once, and take splits of them."""

from __future__ import annotations

import logging

from qilin_rag.core.errors import UsageError
from qilin_rag.data.requests import VALIDATION_SHARE, Requests, Split, TaskName, part_of, read_table, table_of
from qilin_rag.data.schema import REQUEST_TABLES
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
        return self.table(table_of(task, "train")) if split in ("test", "dqa") else self.split(task, "train")

    def all(self) -> dict[str, Requests]:
        """Return all tables of requests by name; leave out one that can't be read, with a warning."""
        found = {}
        for name in self.source.tables():
            if name in REQUEST_TABLES:
                try:
                    found[name] = self.table(name)
                except UsageError as error:
                    logger.warning("not counted in the places in sessions: %s", error)
        return found
