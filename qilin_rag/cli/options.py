"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Metrics = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated metrics (see: list metrics). [default: rouge_l, and bertscore where its model is]"
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no messages below warnings.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Any setting: retriever.k1=1.2, llm.model=NAME, metrics.rouge_l.tokens=word."
    ),
]
RetrieverName = Annotated[
    str | None, typer.Option(help="A name (see: list retrievers) or package.module:Class. [default: bm25]")
]
Data = Annotated[
    str | None,
    typer.Option(help="A folder with notes.jsonl and dqa.jsonl. [default: $QILIN_RAG_DATA, else sample]"),
]
Limit = Annotated[int | None, typer.Option(help="Only the first N questions of a seeded permutation.")]
