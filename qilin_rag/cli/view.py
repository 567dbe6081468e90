"""`view`: look at runs in a browser while they happen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import Quiet


def view(
    runs_dir: Annotated[
        list[Path] | None, typer.Option(help="Folder of runs to show; repeatable. [default: runs]")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; any other than loopback is open to the network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")] = 8765,
    quiet: Quiet = False,
) -> None:
    """Look at runs in a browser while they happen.

    Prints an address with a token, which the browser needs. The view only reads the runs.

    Examples:
        qilin-rag view
        qilin-rag view --runs-dir runs/examples --port 0
    """
    from qilin_rag.core.extras import require

    require("view", "starlette", "uvicorn", what="view")
    from qilin_rag.viewer.serving import is_loopback, serve
    from qilin_rag.viewer.site import site

    ui.set_up_logs(quiet)
    app = site(runs_dir or [Path("runs")])
    if not is_loopback(host):
        typer.echo(
            f"warning: whoever reaches {host} and has the address reads all runs, prompts and answers, unencrypted",
            err=True,
        )

    def ready(address: str) -> None:
        typer.echo(address)
        if not quiet:
            typer.echo("open it in a browser; Ctrl-C ends the view", err=True)

    serve(app, host, port, ready)
