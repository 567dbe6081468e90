"""`import-answers`: a run of answers that another system gave."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.evaluate import print_run, record_of
from qilin_rag.cli.options import Answers, AsJson, Data, Metrics, Quiet, References, RunsDir
from qilin_rag.core.errors import UsageError


def import_answers(
    file: Annotated[
        Path,
        typer.Argument(
            help="JSONL, JSON, CSV or TSV with question_id or query, answer, and if known note_ids and citations; or "
            "answers of the TREC RAG track.",
            show_default=False,
        ),
    ],
    name: Annotated[str, typer.Option(help="What the system that answered is called in tables.")],
    data: Data = None,
    answers: Answers = None,
    references: References = None,
    metrics: Metrics = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="metrics.NAME.KEY=VALUE", help="Settings of metrics (see: list metrics NAME)."),
    ] = None,
    runs_dir: RunsDir = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make a run of answers that another system gave.

    It is scored, compared, judged and reported like any run; what is not known of it stays unknown. The same file finds
    its run again. What does not fit the data is counted and said, and kept in the run.
    """
    from qilin_rag.pipeline.imports import import_answers as make_run

    ui.set_up_logs(quiet or as_json)
    others = [setting for setting in settings or [] if not setting.startswith("metrics.")]
    if others:
        raise UsageError(f"--set {others[0]}: import-answers only takes metrics.NAME.KEY=VALUE")
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
        )
    if as_json:
        ui.print_json(record_of(made))
    else:
        print_run(made)
