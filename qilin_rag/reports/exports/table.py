"""Name the export formats, and write runs in the one that is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from qilin_rag.core.errors import UsageError, explain, unknown_name

if TYPE_CHECKING:
    from qilin_rag.reports.exports.base import Exported, ExportFormat


class Format(NamedTuple):
    """An export format: what it is for the help, and its lazy `"module:Class"`."""

    description: str
    path: str


_HERE = "qilin_rag.reports.exports"
FORMATS = {
    "trec-rag": Format("the TREC RAG track of 2024, JSON Lines with a topic each", f"{_HERE}.trec_rag:TrecRag2024"),
    "trec-rag-2025": Format("that of 2025", f"{_HERE}.trec_rag_later:TrecRag2025"),
    "trec-rag-2026": Format("that of 2026", f"{_HERE}.trec_rag_later:TrecRag2026"),
    "every-eval-ever": Format(
        "the datastore of Every Eval Ever 0.3.0, a folder with figures and answers of one run or several",
        f"{_HERE}.every_eval_ever:EveryEvalEver",
    ),
    "hf-eval-results": Format(
        "a YAML file for .eval_results/ of a model repository on the Hugging Face hub, with figures only",
        f"{_HERE}.hf_eval_results:HfEvalResults",
    ),
    "inspect": Format("a log of inspect_ai, for inspect view", f"{_HERE}.inspect_log:InspectLog"),
    "lm-eval": Format("results and samples of lm-eval, a folder", f"{_HERE}.lm_eval:LmEval"),
}


def export_format(name: str, assignments: Iterable[str] = ()) -> ExportFormat:
    """Return the format of this name, with the settings of `KEY=VALUE` assignments.

    Raises:
        UsageError: if the name or a setting does not exist, or a value is not valid.
    """
    from pydantic import ValidationError

    from qilin_rag.config.overrides import parse_overrides

    if name not in FORMATS:
        raise unknown_name("format", name, FORMATS)
    module, _, class_name = FORMATS[name].path.partition(":")
    cls: type[ExportFormat] = getattr(importlib.import_module(module), class_name)
    settings = {}
    for path, value in parse_overrides(assignments, lambda path: cls):
        key = ".".join(path)
        if key not in cls.model_fields:
            raise unknown_name("setting", key, cls.model_fields, f"is not one of the format {name}")
        settings[key] = value
    try:
        return cls(**settings)
    except ValidationError as error:
        raise UsageError(f"format {name}: {explain(error, cls)}") from error


def export_runs(made: ExportFormat, paths: Sequence[Path], out: Path) -> Exported:
    """Write complete runs to a file that may exist, or to a folder that is new or empty.

    Raises:
        UsageError: if a run is incomplete, the format takes one run only, or `out` can't be written.
    """
    from qilin_rag.core.files import check_out, new_folder
    from qilin_rag.pipeline.run_directory import RunDirectory

    if len(paths) > 1 and not made.takes_many:
        raise UsageError(f"{len(paths)} runs are named, and this format holds one; export each to a file of its own")
    runs = [RunDirectory(path) for path in paths]
    if not made.writes_folder:
        check_out(out)
    for run in runs:
        run.read_complete()
    if not made.writes_folder:
        return made.write(runs, out)
    with new_folder(out) as folder:
        return made.write(runs, folder)
