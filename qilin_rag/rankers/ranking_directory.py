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
from qilin_rag.rankers.differences import SliceDifference
from qilin_rag.rankers.diversity import COVERAGE, ILD, K
from qilin_rag.rankers.metrics import MEASURES, RELEASED
from qilin_rag.rankers.placements import HITS, REQUEST_AUC, SAMPLED_MRR, SAMPLED_NDCG

MANIFEST = "ranking.json"
_TIES = "ties:mean over all orders"
_ONE_CLICK = "each click among the negatives alone, mean by request"
_TAXONOMY = "taxonomy1_id,taxonomy2_id,taxonomy3_id"
SIGNATURES = {
    **{name: f"{measure}|as ir_measures|rel:click|{_TIES}|v2" for name, measure in MEASURES.items()},
    **{
        name: f"sum of P@rank at hits up to {k} / min(clicked, {k})|rel:click|{_TIES}|v2"
        for name, k in RELEASED.items()
    },
    REQUEST_AUC: "AUC of a request|rel:click|ties:one half|v1",
    ILD: f"mean distance of pairs up to {K}|{_TAXONOMY}|{_TIES}|v1",
    COVERAGE: f"taxonomy1_id up to {K} / among candidates|{_TIES}|v1",
    **{name: f"Success@{k}|{_ONE_CLICK}|{_TIES}|v1" for name, k in HITS.items()},
    **{name: f"nDCG@{k}|{_ONE_CLICK}|{_TIES}|v1" for name, k in SAMPLED_NDCG.items()},
    **{name: f"RR@{k}|{_ONE_CLICK}|{_TIES}|v1" for name, k in SAMPLED_MRR.items()},
}
"""The signature of each figure of a request."""
POOLED_SIGNATURES = {
    "auc": "AUC of all candidates|rel:click|ties:one half|v1",
    "gauc_request": "AUC of requests, weighted by candidates|rel:click|ties:one half|v1",
    "gauc_user": "AUC of users, weighted by candidates|rel:click|ties:one half|v1",
    "logloss": "mean of -ln p(what happened), p = sigmoid(score)|rel:click|best:lowest|v1",
    "calibration": "sum of sigmoid(score) / clicks|rel:click|v1",
}
"""The signature of each figure of the whole set."""


class RankConfig(Frozen):
    """The requests to rank: the `first` requests by id (default: all); `missing_notes` as for a run.

    `candidates` are the notes to rank (see `candidates.parse_candidates`), drawn with `seed` if they are sampled.
    `note_fields` are the fields of a note that rankers read; `log` says how requests are read.
    """

    data: str
    task: TaskName
    split: Split = "test"
    first: PositiveInt | None = None
    candidates: str = "exposed"
    seed: NonNegativeInt = 0
    missing_notes: MissingNotes = "error"
    note_fields: NoteFields = TITLE_AND_CONTENT
    log: LogSettings = LogSettings()
    runs_dir: Path = Path("runs")
    fresh: bool = False

    @property
    def of_candidates(self) -> str:
        """Name the candidates for people, with the seed if it is not the default; empty for those shown."""
        if self.candidates == "exposed":
            return ""
        return f"candidates {self.candidates}" + (f", seed {self.seed}" if self.seed else "")


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
    """One part. `of`: what is divided.

    `requests`; the `candidates` of each, ranked among themselves; or, for sampled candidates, the `clicked` ones, each
    ranked against all negatives.
    """

    slice: str
    label: str
    of: Literal["requests", "candidates", "clicked"]
    n: NonNegativeInt
    figures: dict[str, SliceFigure]


class PooledFigure(Frozen):
    """A figure of the whole set of requests, which is not a mean over them.

    Attributes:
        value: The figure; null if there is none.
        n: The number of requests or users that it is of.
        unit: What `n` counts: requests or users.
        left_out: Those that it is not of, and why.
        stderr: By influence values (see `pooled`), as `ci95`; repeated queries count as one cluster.
        ci95: The 95% interval, low and high.
        no_interval: The reason why there is no interval.
        missing: The reason why there is no figure.
        signature: How the figure is made.
    """

    value: FiniteFloat | None = None
    n: NonNegativeInt = 0
    unit: str = "requests"
    left_out: str | None = None
    stderr: FiniteFloat | None = None
    ci95: tuple[FiniteFloat, FiniteFloat] | None = None
    no_interval: str | None = None
    missing: str | None = None
    signature: str


class RankingSummary(Frozen):
    """summary.json: the figures over all requests with a click, those of the whole set, and those of parts.

    `pooled`: by figure, those that are no means over requests. `ties`: by figure, if there are tied requests
    (`counts["tied"]` of them). `remarks` say what the figures depend on.
    """

    metrics: dict[str, MetricSummary]
    pooled: dict[str, PooledFigure] = {}
    ties: dict[str, HangsOnTies] = {}
    counts: dict[str, int]
    slices: list[SliceSummary]
    differences: list[SliceDifference] = []
    """The differences between requests with an answer and those without, if there are both."""
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


def why_missing(summary: RankingSummary) -> dict[str, str]:
    """Return why a ranking has no value of a figure, for each of its figures that has none."""
    unscored = {name: of for name, of in summary.metrics.items() if not of.n and of.reasons}
    found = {name: max(of.reasons.items(), key=lambda item: item[1])[0] for name, of in unscored.items()}
    return found | {name: of.missing for name, of in summary.pooled.items() if of.missing}


def clusters_of(lines: Sequence[RequestFigures]) -> Clusters:
    """Return clusters of the same query; a request without a query (a user without history) is its own cluster."""
    return query_clusters([line.query if line.query.strip() else f"\0{line.id}" for line in lines])
