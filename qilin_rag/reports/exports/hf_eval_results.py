"""Export the figures of a run for `.eval_results/` of a model repository on the Hugging Face hub.

A file is a YAML list of results: the task of a benchmark and one value. It has no place for intervals, counts or
answers, so `notes` names them in words. The format is that of the hub's documentation (hub/eval-results) and of
huggingface_hub's `EvalResultEntry`, whose parser the tests run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import StringConstraints

from qilin_rag.core.errors import UsageError, unknown_name
from qilin_rag.core.files import write_text
from qilin_rag.core.text import clean
from qilin_rag.core.types import MetricSummary
from qilin_rag.pipeline.run_directory import Manifest, RunDirectory
from qilin_rag.reports.exports.base import Exported, ExportFormat
from qilin_rag.reports.exports.json_lines import without_addresses

_HUB = "hub:"
_VALUE_DIGITS = 4


class HfEvalResults(ExportFormat):
    """The file of a model repository's `.eval_results/`."""

    dataset_id: Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    """The benchmark on the hub, OWNER/NAME. Default: that of the run's data, if it is from the hub."""
    metric: str | None = None
    """The only figure to export. Default: all of the run."""
    task_id: Annotated[str, StringConstraints(min_length=1)] | None = None
    """The task as the benchmark's eval.yaml names it; needs one figure. Default: the name of the figure."""
    source_url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$")] | None = None
    """Address of a page about the run."""

    def write(self, runs: Sequence[RunDirectory], out: Path) -> Exported:
        """Write the figures to the file `out`."""
        [run] = runs
        manifest = run.read_complete()
        figures = run.read_summary_of_scores().metrics
        if self.metric is not None and self.metric not in figures:
            raise unknown_name("metric", self.metric, figures, "is not in this run")
        chosen = {name: figure for name, figure in figures.items() if self.metric in (None, name)}
        if self.task_id is not None and len(chosen) != 1:
            raise UsageError(f"task_id is of one figure, and the run has {len(chosen)}; name one: --set metric=NAME")
        entries = list(self._entries(self._dataset(run.path, manifest), manifest, chosen))
        if not entries:
            raise UsageError(f"{run.path} has no figure to export")
        write_text(out, yaml.safe_dump(entries, allow_unicode=True, sort_keys=False, width=120))
        n_left_out = len(chosen) - len(entries)
        remarks = {"figures without a value are left out": n_left_out} if n_left_out else {}
        return Exported({"figures": len(entries)}, remarks)

    def _dataset(self, path: Path, manifest: Manifest) -> str:
        named = manifest.config.get("data")
        if self.dataset_id:
            return self.dataset_id
        if isinstance(named, str) and named.startswith(_HUB):
            return clean(named.removeprefix(_HUB))
        raise UsageError(f"{path}: its data is not from the hub; name the benchmark: --set dataset_id=OWNER/NAME")

    def _entries(self, dataset: str, manifest: Manifest, figures: dict[str, MetricSummary]) -> Iterator[dict[str, Any]]:
        for name, figure in figures.items():
            if figure.value is None:
                continue
            yield {
                "dataset": {"id": dataset, "task_id": self.task_id or name},
                "value": figure.value,
                # Nobody knows when an imported system answered.
                **({} if manifest.imported else {"date": manifest.updated}),
                **({"source": {"url": self.source_url}} if self.source_url else {}),
                "notes": without_addresses(clean(_notes(name, manifest, figure))),
            }


def _notes(name: str, manifest: Manifest, figure: MetricSummary) -> str:
    """Say what the format has no field for: the system, the interval, the number of questions and the signature."""
    labels = manifest.labels
    parts = [f"retriever {labels['retriever']}", f"prompt {labels['prompt']}"]
    if figure.ci95 is not None:
        low, high = (f"{bound:.{_VALUE_DIGITS}f}" for bound in figure.ci95)
        method = f" ({figure.ci95_method})" if figure.ci95_method else ""
        parts.append(f"95% interval {low} to {high}{method}")
    parts.append(f"{figure.n} of {figure.n + figure.n_unscored} questions scored")
    return "; ".join([*parts, f"qilin_rag {name}: {figure.signature}"])
