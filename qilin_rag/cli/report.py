"""`report`: write runs as one HTML file to open in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import RUN_HELP, find_runs_named
from qilin_rag.core.text import counted


def report(
    run_directories: Annotated[list[Path] | None, typer.Argument(metavar="[RUN]...", help=RUN_HELP)] = None,
    runs_dir: Annotated[
        list[Path] | None,
        typer.Option(help="Report all complete runs of this folder; repeatable. [default: runs, if no RUN is named]"),
    ] = None,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("report.html"),
    images: Annotated[
        Literal["none", "embed", "link"] | None,
        typer.Option(
            help="Small copies of the notes' images: embed them in the page, or link to files in a folder beside it. "
            "[default: embed if a run sent images, else none]",
        ),
    ] = None,
) -> None:
    """Write runs as one HTML page that opens from disk.

    The page has the leaderboard, plots, and every question with its notes, prompt, answer and reference, two runs side
    by side. It embeds the images of at most 200 questions, 10 MB in all, and links to ten times as many.

    Examples:
        qilin-rag report
        qilin-rag report runs/RUN_A runs/RUN_B --out two.html
        qilin-rag report --images link
    """
    from qilin_rag.core.errors import UsageError
    from qilin_rag.core.extras import require
    from qilin_rag.reports.contents import collect, find_runs
    from qilin_rag.reports.html import images_folder, write_report

    if out.is_dir() or not out.parent.is_dir():
        reason = "it is a folder; name a file" if out.is_dir() else f"there is no folder {out.parent}; make it first"
        raise UsageError(f"--out {str(out)!r} can't be written: {reason}")
    if images == "link" and images_folder(out).exists() and not images_folder(out).is_dir():
        raise UsageError(f"--images link: {str(images_folder(out))!r} is a file; name another page with --out")
    if images not in (None, "none"):
        require("images", "PIL", what=f"--images {images}")
    ui.set_up_logs(quiet=False)
    named = find_runs_named(run_directories or [], runs_dir)
    paths = find_runs(named, runs_dir or ([] if run_directories else [Path("runs")]))
    contents = collect(paths, images, images_folder(out).name)
    write_report(contents, out)
    n_runs = sum(len(table["runs"]) for table in contents.overview["tables"])
    for remark in contents.remarks():
        typer.echo(remark, err=True)
    typer.echo(f"{out}  {out.stat().st_size / 1e6:.1f} MB, {counted(n_runs, 'run')}")
