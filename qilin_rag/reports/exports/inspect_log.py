"""Export a run as a log of inspect_ai: a `.eval` file, which is a zip of JSON files (format version 2).

The format is that of inspect_ai's `log/_recorders/eval.py`: `header.json` with settings and figures, a file a sample
and epoch, short forms of all samples for lists, and scores by metric. A metric without a value for a question has no
score there, since inspect_ai would say NaN.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import atomic_path, writing
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.reports.exports.base import Exported, ExportFormat
from qilin_rag.reports.exports.inspect_header import header_of
from qilin_rag.reports.exports.inspect_samples import reduced, samples_of, short_form
from qilin_rag.reports.exports.json_lines import as_json
from qilin_rag.reports.exports.run_content import RunContent

_NO_TIME = (1980, 1, 1, 0, 0, 0)


class InspectLog(ExportFormat):
    """Export a run as a log that `inspect view` shows."""

    def write(self, runs: Sequence[RunDirectory], out: Path) -> Exported:
        """Write the zip file `out`, one sample after another."""
        [directory] = runs
        if out.exists() and not out.is_file():
            raise UsageError(f"{out} is not a plain file, which a log must be")
        content = RunContent(directory)
        n_epochs = max((epoch for epoch, *_ in content.repeats()), default=1)
        header = header_of(content, n_epochs)
        n_written, n_failed = 0, 0
        with writing(out), atomic_path(out) as temporary, zipfile.ZipFile(temporary, "x") as log:
            _put(log, "_journal/start.json", {name: header[name] for name in ("version", "eval", "plan")})
            for sample in samples_of(content):
                _put(log, f"samples/{sample['id']}_epoch_{sample['epoch']}.json", sample)
                n_written += 1
                n_failed += "error" in sample
            header["results"] |= {"total_samples": n_written, "completed_samples": n_written - n_failed}
            _put_list(log, "summaries.json", map(short_form, samples_of(content)))
            _put_list(log, "reductions.json", (reduced(content, metric) for metric in content.summary.metrics))
            _put(log, "header.json", header)
        figures = content.summary.metrics.values()
        n_unscored = sum(figure.n_unscored for figure in figures)
        remarks = {"scores without a value are not in the log": n_unscored} if n_unscored else {}
        return Exported({"samples": n_written, "metrics": len(figures)}, remarks)


def _put(log: zipfile.ZipFile, name: str, value: Any) -> None:
    log.writestr(_member(name), as_json(value).encode(), zipfile.ZIP_DEFLATED)


def _put_list(log: zipfile.ZipFile, name: str, values: Iterable[Any]) -> None:
    with log.open(_member(name), "w", force_zip64=True) as file:
        before = "["
        for value in values:
            file.write((before + as_json(value)).encode())
            before = ","
        file.write(b"[]" if before == "[" else b"]")


def _member(name: str) -> zipfile.ZipInfo:
    """Return an entry without a time of its own, so that equal runs give equal files."""
    member = zipfile.ZipInfo(name, _NO_TIME)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = 0o644 << 16
    member.create_system = 3
    return member
