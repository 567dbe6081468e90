"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qilin_rag.core.errors import UsageError

if TYPE_CHECKING:
    from qilin_rag.data.log_settings import LogSettings


RUN_HELP = "A run directory, or the beginning of its name or of its fingerprint."


class TaskOption(StrEnum):
    """What rankers rank."""

    search = "search"
    recommendation = "recommendation"


def find_runs_named(names: Iterable[Path], folders: Sequence[Path] | None) -> list[Path]:
    """Return the run directories that names on the command line mean (see `reports.finding.find_run`)."""
    from qilin_rag.reports.finding import find_run

    return [find_run(name, folders or ()) for name in names]


def listed(axis: str, given: str) -> list[str]:
    """The names in an option that takes several, separated by commas."""
    if names := [name.strip() for name in given.split(",") if name.strip()]:
        return names
    raise UsageError(f"--{axis} {given!r} names nothing; leave it out, or name one")


def qilin_tables(given: str | None) -> str:
    """The data of a command that needs more of Qilin than the bundled sample has."""
    if found := given or os.environ.get("QILIN_RAG_DATA"):
        return found
    raise UsageError("name the data with --data: a folder with Qilin's tables, or hub:OWNER/NAME; `synth` makes some")


def log_settings(assignments: list[str] | None) -> LogSettings:
    """Read what `--set log.KEY=VALUE` says of the way that request logs are read."""
    from qilin_rag.data.log_settings import parse_log_settings

    return parse_log_settings(assignments or [])


SetLog = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="log.KEY=VALUE",
        help="How requests are read: log.search_shift_s=28800, log.session_gap_s=1800, log.position_zero=top.",
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated metrics (see: list metrics). [default: rouge_l, and bertscore where its model is]"
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no messages below warnings.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Tracebacks of components of your own.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any setting: retriever.k1=1.2, llm.model=NAME, metrics.rouge_l.tokens=word, note=TEXT (shown beside the "
        "LLM in tables). All: list settings, list retrievers NAME, list llms NAME, list metrics NAME.",
    ),
]
RetrieverName = Annotated[
    str | None, typer.Option(help="A name (see: list retrievers) or package.module:Class. [default: bm25]")
]
Rerank = Annotated[
    Path | None,
    typer.Option(help="The folder of a trained ranker that puts the hits in its own order (crossencoder, biencoder)."),
]
RerankDepth = Annotated[int | None, typer.Option(help="Hits a question that are put in order anew. [default: 20]")]
RerankWeight = Annotated[
    float | None,
    typer.Option(help="Of the ranker's score in the new order; the rest is the retriever's. [default: 1, it alone]"),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="sample, hub:OWNER/NAME, or a folder with the tables notes and dqa as parquet, arrow, csv or jsonl. "
        "[default: $QILIN_RAG_DATA, else sample]"
    ),
]
QilinTables = Annotated[
    str | None,
    typer.Option(
        help="A folder with Qilin's tables (notes, search_train, search_test, ...), or hub:OWNER/NAME. "
        "[default: $QILIN_RAG_DATA]"
    ),
]
DataArgument = Annotated[
    str, typer.Argument(metavar="DATA", help="sample, hub:OWNER/NAME, or a folder of tables.", show_default=False)
]
Answers = Annotated[
    str | None,
    typer.Option(
        help="Which answers make a question: engaged (any feedback), liked, content, citation, experience, shown. "
        "[default: engaged]"
    ),
]
References = Annotated[
    str | None,
    typer.Option(help="own: the question's own answers; query: those to the same query as well. [default: own]"),
]
MissingNotes = Annotated[
    str | None,
    typer.Option(help="Hits that the data has no note for: error, or skip (left out and counted). [default: error]"),
]
Limit = Annotated[int | None, typer.Option(help="Only the first N questions of a seeded permutation.")]
Seed = Annotated[
    int | None,
    typer.Option(help="Draws the questions of --limit, the order of shuffled notes, and the intervals. [default: 0]"),
]
LlmName = Annotated[
    str | None,
    typer.Option(
        help="A preset (see: list llms), openai, gguf:FILE, langchain:SPEC, or package.module:Class. "
        "[default: extractive]"
    ),
]
Concurrency = Annotated[int | None, typer.Option(help="Questions asked at once. [default: 16]")]
ServeEach = Annotated[
    bool, typer.Option("--serve", help="Start the server of each preset that has one, one after another.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be asked and what it would cost; call no LLM.")]
FailOnError = Annotated[
    float | None,
    typer.Option(help="Failed or empty replies allowed before exit code 3: a share below 1, or a number. [default: 0]"),
]
Serve = Annotated[bool, typer.Option("--serve", help="Start the preset's own server, and stop it after.")]
BaseUrl = Annotated[str | None, typer.Option(help="Address of the OpenAI-compatible server.")]
Stream = Annotated[bool, typer.Option("--stream", help="Read answers as a stream, for models that need it.")]
NamedIn = Annotated[
    list[Path] | None,
    typer.Option("--runs-dir", help="Where runs are, if named by a part; may be given several times. [default: runs]"),
]
RunsDir = Annotated[Path | None, typer.Option(help="Where runs are kept. [default: runs]")]
