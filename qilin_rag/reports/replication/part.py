"""Define a part of the replication: what it needs, how it is done, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from qilin_rag.analysis.log import Log, read_log
from qilin_rag.core.environment import source_sha256
from qilin_rag.core.extras import missing_modules
from qilin_rag.core.file_hashes import file_sha256
from qilin_rag.core.hashing import fingerprint
from qilin_rag.core.types import Frozen
from qilin_rag.data.catalogue import read_users
from qilin_rag.data.encodings import present_columns, read_batches
from qilin_rag.data.schema import REQUEST_TABLES, TABLES
from qilin_rag.data.source import Source
from qilin_rag.reports.replication.told import Told, tell

FEWEST = 100
"""The fewest requests, searches, pairs, users or questions that a figure is printed for.

The 95% interval of a share of 100 is up to 10 points wide on each side, that of ten up to 31.
"""
_SEARCHES = ("search_train", "search_test", "dqa")

State = Literal["done", "to do", "missing", "failed"]


class Choices(Frozen):
    """The choices of a user.

    Attributes:
        data: The data, as it was named.
        out: The folder that everything is written to.
        llm: The LLM of Table 11.
        first: The first test requests of Table 10 that are ranked; None for all.
        train: Whether rankers are trained on this machine.
    """

    data: str
    out: Path
    llm: str = "extractive"
    first: int | None = None
    train: bool = False


class Lack(NamedTuple):
    """Something that a part needs and that is not here, and how to get it."""

    what: Told
    advice: Told


class Workplace:
    """The data and the machine, as parts look at them; what several parts read is read once."""

    def __init__(self, choices: Choices, source: Source) -> None:
        """Name the data; nothing is read yet."""
        self.choices, self.source = choices, source
        self.tables = source.tables()
        self._n_rows: dict[str, int] = {}

    @cached_property
    def data_sha256(self) -> str:
        """Return the hash of the files of all tables."""
        return fingerprint(
            {name: [file_sha256(path) for path in self.source.files(name)[1]] for name in sorted(self.tables)}
        )

    @cached_property
    def log(self) -> Log:
        """Return all requests."""
        return read_log(self.source)

    @cached_property
    def users(self) -> Any:
        """Return the table of users; None if the data has none."""
        return read_users(self.source)

    @cached_property
    def has_gpu(self) -> bool:
        """Return whether torch sees a GPU."""
        if missing_modules("torch"):
            return False
        import torch

        return bool(torch.cuda.is_available())

    def n_rows(self, *names: str) -> int:
        """Return the number of rows in these tables; a table that does not exist has none."""
        for name in names:
            if name not in self._n_rows:
                self._n_rows[name] = self._count(name) if name in self.tables else 0
        return sum(self._n_rows[name] for name in names)

    def has_column(self, table: str, column: str) -> bool:
        """Return whether a table exists and has this column."""
        return table in self.tables and column in present_columns(*self.source.files(table), TABLES[table])

    def _count(self, name: str) -> int:
        encoding, files = self.source.files(name)
        key = [TABLES[name].key]
        return sum(len(batch.rows) for path in files for batch in read_batches(encoding, path, TABLES[name], key))

    def lacks_requests(self, kind: Literal["request", "search"]) -> list[Lack]:
        """Return what is lacking for a table over all requests, or over all searches."""
        names = REQUEST_TABLES if kind == "request" else _SEARCHES
        return [] if any(name in self.tables for name in names) else [lacks_table(*names)]

    def lacks_rows(self, n: int) -> list[Lack]:
        """Return what is lacking if the data has only `n` rows for a figure."""
        if n >= FEWEST:
            return []
        what = tell("the data has {n} rows for it, and at least {fewest} are needed", n=n, fewest=FEWEST)
        return [Lack(what, tell("take the whole data (--data hub:THUIR/Qilin), not a sample of it"))]


def lacks_table(*names: str) -> Lack:
    """Return that the data has none of these tables."""
    what = tell("the data has no table {names}", names=" / ".join(names))
    return Lack(what, tell("add it to the folder of the data, or fetch the whole data: --data hub:THUIR/Qilin"))


def lacks_modules(extra: str, *modules: str) -> list[Lack]:
    """Return which of these packages are not installed."""
    if not (missing := missing_modules(*modules)):
        return []
    return [
        Lack(
            tell("packages are not installed: {names}", names=", ".join(missing)),
            tell("pip install 'qilin-rag[{extra}]'", extra=extra),
        )
    ]


class PaperPart(NamedTuple):
    """A part of the replication.

    Attributes:
        name: Its name. `--only table-10` selects each part whose name begins with these words.
        section: The section of the page that shows it.
        lacks: Return what the data or the machine lacks for it.
        settings: Return what can change its result, beside the data and this program.
        do: Do it, or resume it, and return its result in plain types.
    """

    name: str
    section: str
    lacks: Callable[[Workplace], Sequence[Lack]]
    settings: Callable[[Workplace], dict[str, Any]]
    do: Callable[[Workplace], dict[str, Any]]

    def fingerprint(self, place: Workplace) -> str:
        """Return the fingerprint of its result."""
        identity = {"part": self.name, "data": place.data_sha256, "settings": self.settings(place)}
        return fingerprint(identity | {"program": source_sha256()})


def no_settings(place: Workplace) -> dict[str, Any]:
    """Return the settings of a part that has none."""
    return {}
