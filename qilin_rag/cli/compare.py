"""`compare`: compare two runs question by question."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import RUN_HELP, NamedIn, find_runs_named

if TYPE_CHECKING:
    from qilin_rag.reports.compare import Comparison


def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help=RUN_HELP)],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Run to compare it with.")],
    metric: Annotated[
        str | None,
        typer.Option(help="Metric to pick the questions that differ most. [default: the first that both have]"),
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="Questions to show that differ most, in each direction.")] = 5,
    cluster_by: Annotated[
        str | None, typer.Option(help="Field of the questions' meta that defines clusters. [default: the query]")
    ] = None,
    runs_dir: NamedIn = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare two runs question by question.

    Prints each metric's difference with its 95% interval and p (paired sign-flip test), wins, ties and losses, and the
    questions that differ most in each direction. Takes two rankings (folders that rank wrote) as well.

    Examples:
        qilin-rag compare runs/RUN_A runs/RUN_B
        qilin-rag compare runs/RUN_A runs/RUN_B --metric rouge_l --top 10
    """
    from qilin_rag.core.errors import UsageError
    from qilin_rag.reports import compare as report
    from qilin_rag.reports.compare_rankings import compare_rankings, is_ranking

    run_a, run_b = find_runs_named([run_a, run_b], runs_dir)
    kinds = is_ranking(run_a), is_ranking(run_b)
    if any(kinds):
        if not all(kinds):
            raise UsageError(f"{(run_b, run_a)[kinds[1]]} is not a ranking, the other one is; compare two of a kind")
        if cluster_by is not None:
            raise UsageError("--cluster-by is for runs of answers; requests of rankings are clustered by query")
        compared = compare_rankings(run_a, run_b, metric, top)
    else:
        compared = report.compare(run_a, run_b, metric, cluster_by, top)
    if as_json:
        ui.print_json(compared.model_dump(mode="json"))
    else:
        _show(compared, run_a)


def _show(compared: Comparison, run_a: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    from qilin_rag.reports.compare import section_of
    from qilin_rag.reports.measured import highest_is_best

    console = ui.console()
    section = section_of(compared)
    console.print(f"A: {compared.run_a}\nB: {compared.run_b}\n{section.title}\n")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(section.header[0], overflow="fold")
    for column in section.header[1:]:
        table.add_column(column, justify="right")
    for row in section.rows:
        table.add_row(*map(Text, row))
    console.print(table)
    for line in section.lines:
        console.print(line, style="yellow")
    signatures = {change.metric: change.signature for change in compared.metrics}
    better = "better" if highest_is_best(signatures.get(compared.moved_by, "")) else "higher"
    for name, moved in (("A", compared.better_a), ("B", compared.better_b)):
        if moved:
            console.print(f"\n{name} is {better} by {compared.moved_by} on", style="bold")
            for question in moved:
                figures_of = f"{question.value_a:.4f}  {question.value_b:.4f}"
                console.print(f"  {figures_of}  {question.question_id}  {question.query}", soft_wrap=True)
    if compared.unit == "question" and (compared.better_a or compared.better_b):
        console.print(f"\nqilin-rag show {run_a} --question ID shows a question in full", style="dim", soft_wrap=True)
