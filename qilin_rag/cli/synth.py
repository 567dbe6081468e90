"""`synth`: a synthetic Qilin, of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import AsJson, Quiet


def synth(
    out: Annotated[Path, typer.Option(help="A new folder to write.")],
    notes: Annotated[int | None, typer.Option(help="Notes. [default: 20000]")] = None,
    searches: Annotated[int | None, typer.Option(help="Searches, those of dqa included. [default: 2000]")] = None,
    recommendations: Annotated[int | None, typer.Option(help="Recommendations. [default: 3000]")] = None,
    dqa: Annotated[int | None, typer.Option(help="Rows of dqa. [default: 250]")] = None,
    users: Annotated[int | None, typer.Option(help="Users. [default: 500]")] = None,
    seed: Annotated[
        int | None, typer.Option(help="The same seed and settings are the same bytes. [default: 0]")
    ] = None,
    images: Annotated[bool, typer.Option("--images", help="Also the covers of all notes that are shown.")] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CAUSE",
            help="Take one cause of clicks away, and leave all else as it is: topical, lexical, synonym, cover, taste, "
            "source, popularity, position, fatigue, factoid, answer.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A YAML file of settings, such as the world.yaml written.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting: causes.taste=2, search.depth=15."),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a synthetic Qilin with known causes of clicks.

    All seven tables, truth.parquet with what caused each click, and README.md with the model in formulas.
    """
    from qilin_rag.synth import resolve_world, synthesize

    ui.set_up_logs(quiet or as_json)
    counts = {"notes": notes, "searches": searches, "recommendations": recommendations, "dqa": dqa, "users": users}
    world = resolve_world(counts, seed, without or [], settings or [], config)
    with ui.progress_bars(quiet or as_json):
        written = synthesize(world, out, images)
    if as_json:
        ui.print_json({"out": str(out), "rows": written})
        return
    if not quiet:
        typer.echo(", ".join(f"{name} {n:,}" for name, n in written.items()))
    typer.echo(out)
