"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qilin_rag.core.errors import UsageError
from qilin_rag.core.note_fields import TITLE_AND_CONTENT, NoteField, read_note_fields

if TYPE_CHECKING:
    from qilin_rag.data.log_settings import LogSettings


RUN_HELP = "A run directory, or the beginning of its name or fingerprint."


class TaskOption(StrEnum):
    """Tasks of rankers."""

    search = "search"
    recommendation = "recommendation"


class PromptLanguage(StrEnum):
    """Languages of a judge's prompts."""

    zh = "zh"
    en = "en"


Language = Annotated[PromptLanguage, typer.Option(help="Language of the prompt.")]


def find_runs_named(names: Iterable[Path], folders: Sequence[Path] | None) -> list[Path]:
    """Return the run directories that the names mean (see `reports.finding.find_run`)."""
    from qilin_rag.reports.finding import find_run

    return [find_run(name, folders or ()) for name in names]


def listed(axis: str, given: str) -> list[str]:
    """Split the value of the option `--axis` at commas; UsageError if it names nothing."""
    if names := [name.strip() for name in given.split(",") if name.strip()]:
        return names
    raise UsageError(f"--{axis} {given!r} names nothing; name at least one, or leave --{axis} out")


def note_fields_of(given: str | None) -> tuple[NoteField, ...]:
    """Return the fields that `--note-fields` names; UsageError if it names none, or one that does not exist."""
    try:
        return TITLE_AND_CONTENT if given is None else read_note_fields(given)
    except ValueError as error:
        raise UsageError(f"--note-fields: {error}") from error


def qilin_tables(given: str | None) -> str:
    """Return the data that was named; UsageError if none was, since the bundled sample lacks these tables."""
    if named := given or os.environ.get("QILIN_RAG_DATA"):
        return named
    raise UsageError(
        "no data is named; name the data with --data FOLDER or --data hub:OWNER/NAME (qilin-rag synth makes some)"
    )


def log_settings(assignments: list[str] | None) -> LogSettings:
    """Parse `--set log.KEY=VALUE`, which says how to read request logs."""
    from qilin_rag.data.log_settings import parse_log_settings

    return parse_log_settings(assignments or [])


SetLog = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="log.KEY=VALUE",
        help="How to read requests: log.search_shift_s=28800, log.session_gap_s=1800, log.position_zero=top.",
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        help="Metrics, separated by commas (see: list metrics). [default: rouge_l, and bertscore if its model is here]"
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks of your own components.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any setting: retriever.k1=1.2, llm.model=NAME, metrics.rouge_l.tokens=word, note=TEXT (shown beside the "
        "LLM in tables). See: list settings, list retrievers NAME, list llms NAME, list metrics NAME.",
    ),
]
RetrieverName = Annotated[
    str | None, typer.Option(help="A retriever (see: list retrievers), or package.module:Class. [default: bm25]")
]
QueryStage = Annotated[
    str | None,
    typer.Option(
        metavar="STAGE",
        help="What an LLM writes for each question, to search with as well: rewrite, hyde or multi (see: list "
        "queries). Its LLM, if not the run's own: --set query.llm=PRESET. [default: none]",
    ),
]
Rerank = Annotated[
    str | None,
    typer.Option(
        metavar="RERANKER",
        help="What reorders the hits: a pretrained reranker (BAAI/bge-reranker-v2-m3, or its folder), the address of a "
        "served one (http://HOST/v1/rerank), an LLM (llm:PRESET), or a folder that train wrote. Its settings: --set "
        "rerank.KEY=VALUE (see: list rankers pretrained, list rankers served, list rankers llm).",
    ),
]
RerankDepth = Annotated[int | None, typer.Option(help="Hits of each question to reorder. [default: 20]")]
RerankWeight = Annotated[
    float | None,
    typer.Option(help="Weight of the ranker's score, 0 to 1; the rest is the retriever's. [default: 1]"),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="sample, hub:OWNER/NAME, or a folder with the tables notes and dqa as parquet, arrow, csv or jsonl. "
        "[default: $QILIN_RAG_DATA, or sample]"
    ),
]
QilinTables = Annotated[
    str | None,
    typer.Option(
        help="A folder with Qilin's tables (notes, search_train and others), or hub:OWNER/NAME. "
        "[default: $QILIN_RAG_DATA]"
    ),
]
DataArgument = Annotated[
    str, typer.Argument(metavar="DATA", help="sample, hub:OWNER/NAME, or a folder of tables.", show_default=False)
]
Answers = Annotated[
    str | None,
    typer.Option(
        help="Answers that make a question: engaged (any feedback), liked, content, citation, experience, shown. "
        "[default: engaged]"
    ),
]
References = Annotated[
    str | None,
    typer.Option(help="own: the answers of the question; query: also those to the same query. [default: own]"),
]
MissingNotes = Annotated[
    str | None,
    typer.Option(help="Hits whose note is not in the data: error, or skip (leave out and count). [default: error]"),
]
NoteFields = Annotated[
    str | None,
    typer.Option(
        help="Fields of a note to read, separated by commas: title, content, image_text (see: data ocr). "
        "[default: title,content]"
    ),
]
NoteImages = Annotated[
    int | None,
    typer.Option(
        help="Images of each note to send with its text, the cover first, to an LLM that reads images. [default: 0]"
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(metavar="PX", help="Longer side of images, in pixels; larger ones are shrunk. [default: 1024]"),
]
Limit = Annotated[int | None, typer.Option(help="Only N questions, drawn with --seed; a larger N keeps them.")]
Seed = Annotated[
    int | None,
    typer.Option(help="Seed of --limit, of shuffled notes and of the intervals. [default: 0]"),
]
LlmName = Annotated[
    str | None,
    typer.Option(
        help="An LLM or preset (see: list llms), openai, gguf:FILE, langchain:SPEC, or package.module:Class. "
        "[default: extractive]"
    ),
]
Concurrency = Annotated[int | None, typer.Option(help="Requests in flight at the same time. [default: 16]")]
Batch = Annotated[
    bool,
    typer.Option("--batch", help="Ask by the service's batch API: within a day, at a lower price. The command waits."),
]
ServeEach = Annotated[bool, typer.Option("--serve", help="Start the server of each preset that has one, in turn.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the calls and what they would cost; call no LLM.")]
FailOnError = Annotated[
    float | None,
    typer.Option(
        help="Failed or empty replies to accept before exit code 3: a share below 1, or a number. [default: 0]"
    ),
]
MaxCost = Annotated[
    str | None,
    typer.Option(
        metavar="AMOUNT",
        help="Stop before the LLM calls cost more, in all sessions together: 5 or 5USD. Exit code 4; a higher one "
        "resumes.",
    ),
]
MaxTokensTotal = Annotated[
    int | None,
    typer.Option(metavar="N", help="Stop before the LLM calls take more tokens of prompts and answers."),
]
Serve = Annotated[bool, typer.Option("--serve", help="Start the preset's own server, and stop it at the end.")]
BaseUrl = Annotated[str | None, typer.Option(help="Address of an OpenAI-compatible server.")]
Stream = Annotated[bool, typer.Option("--stream", help="Read answers as a stream, for models that require it.")]
NamedIn = Annotated[
    list[Path] | None,
    typer.Option("--runs-dir", help="Folder to look for runs in, if named by a part; repeatable. [default: runs]"),
]
Track = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TRACKER",
        help="Tracker that gets the figures at the end: mlflow, trackio, wandb, or package.module:Class; repeatable.",
    ),
]
RunsDir = Annotated[Path | None, typer.Option(help="Folder to keep runs in. [default: runs]")]
