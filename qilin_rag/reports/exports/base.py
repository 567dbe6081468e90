"""Define what every export format is: settings, and a method that writes runs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from qilin_rag.core.types import Frozen
from qilin_rag.pipeline.run_directory import RunDirectory


class Exported(NamedTuple):
    """The result of an export.

    Attributes:
        counts: How much was written, by what it is: `{"topics": 3, "citations": 5}`.
        remarks: What of the runs is not in the files, or differs there: the number of times by what it is.
    """

    counts: dict[str, int]
    remarks: dict[str, int]


class ExportFormat(Frozen):
    """A format of another tool. Its fields are its settings (`--set KEY=VALUE`), each with a default.

    Attributes:
        writes_folder: Whether the export is a folder of files, and not a file.
        takes_many: Whether an export can hold several runs.
    """

    writes_folder: ClassVar[bool] = False
    takes_many: ClassVar[bool] = False

    @abstractmethod
    def write(self, runs: Sequence[RunDirectory], out: Path) -> Exported:
        """Write complete runs; equal runs give equal bytes.

        Args:
            runs: The runs; exactly one, unless the format takes many.
            out: The file to write (`core.files.write_text`, or `atomic_path` within `writing`), or an empty folder that
                gets its name once all is written (`core.files.replace_text`; an OSError may pass).

        Raises:
            UsageError: if there is nothing that the format could hold.
            QilinError: if a file can't be written.
        """
