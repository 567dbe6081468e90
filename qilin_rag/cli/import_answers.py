"""`import-answers`: make a run from the answers of another system."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.evaluate import print_run, record_of
from qilin_rag.cli.options import Answers, AsJson, Data, Limit, Metrics, Quiet, References, RunsDir, Seed
from qilin_rag.core.errors import UsageError


def import_answers(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="JSONL, JSON, CSV or TSV with question_id or query, answer and, if known, note_ids and citations; "
            "answers in a format of the TREC RAG track; samples of Every Eval Ever or lm-eval; or a log of inspect_ai.",
            show_default=False,
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the other system in tables.")],
    data: Data = None,
    answers: Answers = None,
    references: References = None,
    limit: Limit = None,
    seed: Seed = None,
    metrics: Metrics = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="metrics.NAME.KEY=VALUE", help="A setting of a metric (see: list metrics NAME)."),
    ] = None,
    runs_dir: RunsDir = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make a run from the answers of another system.

    The run is scored, compared, judged and reported like any other; what is not known about it stays unknown. Importing
    the same file again finds the same run. Counts, prints and keeps the lines that do not fit the data.

    Examples:
        qilin-rag import-answers answers.jsonl --name our-product
        qilin-rag import-answers answers.csv --data mine --name ours --metrics chrf
    """
    from qilin_rag.pipeline.imports import import_answers as make_run

    ui.set_up_logs(quiet or as_json)
    others = [setting for setting in settings or [] if not setting.startswith("metrics.")]
    if others:
        raise UsageError(
            f"--set {others[0]!r} is not a setting of a metric; import-answers takes --set metrics.NAME.KEY=VALUE"
        )
    with ui.progress_bars(quiet or as_json):
        made = make_run(
            file,
            name=name,
            data=data,
            runs_dir=runs_dir or Path("runs"),
            metrics=metrics,
            selection=answers,
            references=references,
            settings=settings or [],
            limit=limit,
            seed=seed,
        )
    if as_json:
        ui.print_json(record_of(made))
    else:
        print_run(made)
