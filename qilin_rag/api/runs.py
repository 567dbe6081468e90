"""Do runs from Python, and load existing ones."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

from qilin_rag.api.progress import shown_progress
from qilin_rag.config.run import resolve_run
from qilin_rag.core.note_fields import NoteField
from qilin_rag.core.tables import FIGURE_COLUMNS, FIGURES, as_frame, as_html, figure_cells, figure_record
from qilin_rag.core.types import AnswerSelection, MissingNotes, NoteOrder, ReferenceSelection
from qilin_rag.llms import LLM
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.run import check_failures
from qilin_rag.pipeline.run import run as run_pipeline
from qilin_rag.reports.finding import find_runs
from qilin_rag.reports.measured import read_runs
from qilin_rag.retrievers import Retriever
from qilin_rag.retrievers.query_stage import QueryStage
from qilin_rag.scorers import Scorer

if TYPE_CHECKING:
    from pandas import DataFrame

logger = logging.getLogger(__name__)


class RunSettings(TypedDict, total=False):
    """The further settings of `run`, as `qilin-rag run --help` explains them."""

    answers: AnswerSelection
    references: ReferenceSelection
    missing_notes: MissingNotes
    query: str | dict[str, Any] | QueryStage
    rerank: str | Path
    rerank_settings: Mapping[str, Any]
    rerank_depth: int
    rerank_weight: float
    top_k: int
    note_fields: str | Sequence[NoteField]
    note_order: NoteOrder
    note_chars: int
    note_images: int
    image_size: int
    base_url: str
    stream: bool
    seed: int
    limit: int
    ids: str | Path
    concurrency: int
    serve: bool
    runs_dir: str | Path
    fresh: bool
    repeat: int
    cache: bool
    note: str
    fail_on_error: float
    max_cost: float | str
    max_tokens_total: int
    track: str | Sequence[str]


def run(
    *,
    data: str | Path | None = None,
    retriever: str | Mapping[str, Any] | Retriever | None = None,
    llm: str | Mapping[str, Any] | LLM | None = None,
    prompt: str | Path | None = None,
    metrics: str | Sequence[str | Scorer] | Scorer | Mapping[str, Mapping[str, Any]] | None = None,
    progress: bool | None = None,
    **settings: Unpack[RunSettings],
) -> Run:
    """Do one run: retrieve, prompt, generate and score.

    The same call finds its run again and resumes it; no question that has an answer is asked again. Works in a
    notebook, too.

    Args:
        data: `sample`, `sample-images`, a folder, or `hub:OWNER/NAME`. Default: $QILIN_RAG_DATA, else `sample`.
        retriever: A component such as `BM25(k1=1.2)`, a name, or a mapping with `name` and settings. Default: bm25.
        llm: A component such as `OpenAICompatible(model=...)`, the name of a preset, or a mapping. Default: extractive.
        prompt: The name of a prompt, or the path of a prompt file. Default: default.
        metrics: Names, components such as `RougeL(tokens="word")`, or a mapping of names to settings. Default: rouge_l,
            and bertscore if its model is there. The retrieval metrics are always scored.
        progress: Whether a line of standard error shows how far it is. Default: in a terminal and in a notebook.
        **settings: Further settings of a run by name, such as `top_k=10`, `limit=100` or `runs_dir="runs"`.

    Returns:
        The finished run. Questions that failed are counted in its `summary`.

    Raises:
        UsageError: A setting or the data is wrong; nothing was asked.
        QilinError: The LLM is gone, or a ceiling was reached (`CeilingError`). What it answered is kept, and the same
            call resumes.
        FailedSamplesError: More questions have no answer than `fail_on_error` allows, if that is given.

    Example:
        >>> import qilin_rag as qr
        >>> run = qr.run(retriever=qr.BM25(k1=1.2), metrics=[qr.RougeL()], limit=20)
        >>> run.metrics["rouge_l"].n
        20
        >>> 0 < run.metrics["rouge_l"].value < 1
        True
    """
    given: dict[str, Any] = {
        "data": None if data is None else str(data),
        "retriever": dict(retriever) if isinstance(retriever, Mapping) else retriever,
        "llm": dict(llm) if isinstance(llm, Mapping) else llm,
        "prompt": prompt,
        "metrics": dict(metrics) if isinstance(metrics, Mapping) else metrics,
        **settings,
    }
    config = resolve_run(given)
    with shown_progress(progress):
        finished = run_pipeline(config)
    if "fail_on_error" in settings:
        check_failures(finished, config.fail_on_error)
    return finished


class RunList(Sequence[Run]):
    """The finished runs of folders, as a sequence.

    Args:
        runs: The runs, in their order.

    Example:
        >>> import qilin_rag as qr
        >>> finished = qr.run(metrics="rouge_l", limit=20)
        >>> qr.load_runs("runs")[0].path == finished.path
        True
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        """Hold the runs, in their order."""
        self._runs = tuple(runs)

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> RunList: ...
    def __getitem__(self, index: int | slice) -> Run | RunList:
        return RunList(self._runs[index]) if isinstance(index, slice) else self._runs[index]

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    def __repr__(self) -> str:
        return f"RunList({[run.path.name for run in self._runs]})"

    def to_frame(self) -> DataFrame:
        """Return the runs as a pandas DataFrame with a row for each run and metric.

        Raises:
            UsageError: pandas is not installed.
        """
        rows = [
            {
                "run": run.path.name,
                **{name: run.manifest.labels[name] for name in ("data", "retriever", "llm", "prompt")},
                "top_k": run.manifest.config["top_k"],
                "note": run.manifest.config.get("note"),
                "metric": metric,
                **figure_record(of),
                "path": str(run.path),
            }
            for run in self._runs
            for metric, of in run.metrics.items()
        ]
        return as_frame(rows, numbers=FIGURES)

    def _repr_html_(self) -> str:
        """Return the figures as an HTML table, for a notebook."""
        rows = [(run.path.name, *figure_cells(metric, of)) for run in self._runs for metric, of in run.metrics.items()]
        return as_html(("run", *FIGURE_COLUMNS), rows)


def load_runs(*folders: str | Path) -> RunList:
    """Load the finished runs of folders of runs; nothing in them is executed.

    Runs that are incomplete or unreadable are left out, and the log says so.

    Args:
        *folders: Folders of runs, or runs. Default: `runs`.

    Returns:
        The runs, ordered by path.

    Raises:
        UsageError: A folder does not exist.

    Example:
        >>> import qilin_rag as qr
        >>> runs = [qr.run(retriever=name, metrics="rouge_l", limit=20) for name in ("none", "oracle")]
        >>> [run.manifest.labels["retriever"] for run in qr.load_runs("runs")]
        ['none', 'oracle']
        >>> qr.load_runs("runs").to_frame()["metric"].tolist()
        ['recall@5', 'ndcg@5', 'mrr@5', 'rouge_l', 'recall@5', 'ndcg@5', 'mrr@5', 'rouge_l']
    """
    found, left_out = read_runs(find_runs([Path(folder) for folder in folders or ("runs",)]))
    for remark in [*left_out, *(remark for run in found for remark in run.remarks)]:
        logger.warning("%s", remark)
    return RunList([Run(run.directory, run.manifest, run.summary) for run in found])
