"""`synth`: write a synthetic Qilin of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import AsJson, Quiet


def synth(
    out: Annotated[Path, typer.Option(help="New folder to write.")],
    notes: Annotated[int | None, typer.Option(help="Number of notes. [default: 20000]")] = None,
    searches: Annotated[
        int | None, typer.Option(help="Number of searches, those of dqa included. [default: 2000]")
    ] = None,
    recommendations: Annotated[int | None, typer.Option(help="Number of recommendations. [default: 3000]")] = None,
    dqa: Annotated[int | None, typer.Option(help="Number of rows of dqa. [default: 250]")] = None,
    users: Annotated[int | None, typer.Option(help="Number of users. [default: 500]")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed; the same seed and settings give the same bytes. [default: 0]")
    ] = None,
    images: Annotated[
        bool, typer.Option("--images", help="Also write the covers of all notes that users saw.")
    ] = False,
    cards: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Share of notes with two images or more whose second one is a text card: facts that no text tells, "
            "and that answers repeat. Implies --images, and needs Pillow and the font of mplfonts. [default: 0]",
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CAUSE",
            help="Cause to switch off, repeatable. Of clicks: topical, lexical, synonym, cover, taste, source, "
            "popularity, position, fatigue, factoid, answer. Of feedback on answers: quality, length_bias. Of another "
            "search: re_search.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings, such as the world.yaml that it writes.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as causes.taste=2 or search.depth=15."),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a synthetic Qilin with known causes of clicks.

    Writes all seven tables, truth.parquet with the causes of clicks and feedback, and README.md with the model.

    Examples:
        qilin-rag synth --out world --notes 300 --searches 60 --dqa 20 --users 30
        qilin-rag synth --out flat --without position --without taste --seed 7
        qilin-rag synth --out judged --set quality=3 --without length_bias
    """
    from qilin_rag.synth import resolve_world, synthesize

    ui.set_up_logs(quiet or as_json)
    counts = {"notes": notes, "searches": searches, "recommendations": recommendations, "dqa": dqa, "users": users}
    share = [] if cards is None else [f"cards={cards!r}"]
    world = resolve_world(counts, seed, without or [], [*share, *(settings or [])], config)
    with ui.progress_bars(quiet or as_json):
        written = synthesize(world, out, images or bool(cards))
    if as_json:
        ui.print_json({"out": str(out), "rows": written})
        return
    if not quiet:
        ui.console().print(", ".join(f"{name} {n:,}" for name, n in written.items()))
    typer.echo(out)
