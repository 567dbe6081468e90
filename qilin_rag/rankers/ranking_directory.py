"""Read and write a ranking on disk: what ranked what, the figures of each request, and their means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import FiniteFloat, NonNegativeInt, PositiveInt

from qilin_rag.core.files import SCHEMA_VERSION, read_json, read_lines, validated, write_text
from qilin_rag.core.former import renewed_manifest
from qilin_rag.core.note_fields import TITLE_AND_CONTENT
from qilin_rag.core.stats import Clusters, query_clusters
from qilin_rag.core.types import Frozen, MetricSummary, MissingNotes, NoteFields
from qilin_rag.data.log_settings import LogSettings
from qilin_rag.data.requests import Split, TaskName
from qilin_rag.rankers.metrics import MEASURES, RELEASED

MANIFEST = "ranking.json"
SIGNATURES = {
    **{name: f"{measure}|as ir_measures|rel:click|ties:mean over all orders|v2" for name, measure in MEASURES.items()},
    **{
        name: f"sum of P@rank at hits up to {k} / min(clicked, {k})|rel:click|ties:mean over all orders|v2"
        for name, k in RELEASED.items()
    },
}
"""The signature of each figure."""


class RankConfig(Frozen):
    """The requests to rank: the `first` requests by id (default: all); `missing_notes` as for a run.

    `note_fields` are the fields of a note that rankers read; `log` says how requests are read.
    """

    data: str
    task: TaskName
    split: Split = "test"
    first: PositiveInt | None = None
    missing_notes: MissingNotes = "error"
    note_fields: NoteFields = TITLE_AND_CONTENT
    log: LogSettings = LogSettings()
    runs_dir: Path = Path("runs")
    fresh: bool = False


class RankedBy(Frozen):
    """A ranker: its name, all its settings, those that are not the defaults, and the folder it was read from."""

    name: str
    settings: dict[str, Any]
    changed: dict[str, Any]
    checkpoint: str | None = None


class RankingManifest(Frozen):
    """ranking.json: what ranked what."""

    schema_version: int = SCHEMA_VERSION
    state: Literal["complete", "incomplete"]
    fingerprint: str
    identity: dict[str, Any]
    config: RankConfig
    ranker: RankedBy
    label: str
    """The data, for people."""
    requests_sha256: str
    """The hash of what was ranked: requests, notes and users."""
    packages: dict[str, str]
    python: str
    git_commit: str | None
    started: str
    updated: str


class RequestFigures(Frozen):
    """A line of figures.jsonl: a request's figures, or why it has none; `slices` are the parts it is in.

    `tied`: a clicked and an unclicked candidate have the same score, so that its figures are means over orders of ties.
    """

    id: str
    query: str
    figures: dict[str, FiniteFloat] | None
    reason: str | None = None
    slices: dict[str, str] = {}
    tied: bool = False


class HangsOnTies(Frozen):
    """How much of a figure depends on ties: its mean with the worst and with the best order of them."""

    lowest: FiniteFloat
    highest: FiniteFloat


class SliceFigure(Frozen):
    """The mean of one figure over the `n` requests of a part that have one."""

    value: FiniteFloat | None
    n: NonNegativeInt
    stderr: FiniteFloat | None


class SliceSummary(Frozen):
    """One part. `of`: whether requests are divided, or the candidates of each (and ranked among themselves)."""

    slice: str
    label: str
    of: Literal["requests", "candidates"]
    n: NonNegativeInt
    figures: dict[str, SliceFigure]


class RankingSummary(Frozen):
    """summary.json: the figures over all requests with a click, and by parts.

    `ties`: by figure, if there are tied requests (`counts["tied"]` of them). `remarks` say what the figures depend on.
    """

    metrics: dict[str, MetricSummary]
    ties: dict[str, HangsOnTies] = {}
    counts: dict[str, int]
    slices: list[SliceSummary]
    remarks: list[str] = []


class RankingDirectory:
    """One ranking on disk."""

    def __init__(self, path: Path) -> None:
        """Name the directory; nothing is read yet."""
        self.path = path

    def read_manifest(self) -> RankingManifest:
        """Read the manifest; raise a UsageError if it does not exist or can't be read."""
        path = self.path / MANIFEST
        return validated(RankingManifest, path, renewed_manifest(read_json(path)))

    def read_summary(self) -> RankingSummary:
        """Read the summary."""
        return validated(RankingSummary, self.path / "summary.json", read_json(self.path / "summary.json"))

    def read_figures(self) -> list[RequestFigures]:
        """Read the figures of all requests."""
        return list(read_lines(self.path / "figures.jsonl", RequestFigures))

    def write_manifest(self, manifest: RankingManifest) -> None:
        """Replace ranking.json."""
        write_text(self.path / MANIFEST, manifest.model_dump_json(indent=2) + "\n")


def clusters_of(lines: Sequence[RequestFigures]) -> Clusters:
    """Return clusters of the same query; a request without a query (a user without history) is its own cluster."""
    return query_clusters([line.query if line.query.strip() else f"\0{line.id}" for line in lines])
