"""`serve`: run a preset's server in the foreground."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import Quiet, Settings
from qilin_rag.cli.signals import Interrupted

if TYPE_CHECKING:
    from qilin_rag.config.spec import RunSpec


def serve(
    llm: Annotated[str, typer.Argument(metavar="LLM", help="A preset with an engine (see: list llms), or gguf:FILE.")],
    port: Annotated[int | None, typer.Option(help="Port to listen at. [default: that of the preset's address]")] = None,
    log: Annotated[Path | None, typer.Option(help="File for the server's log. [default: in the cache folder]")] = None,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Serve a preset's model until Ctrl-C.

    Shows the server's log, and prints its address when it is ready. Runs in other terminals then find it there.

    Examples:
        qilin-rag serve qwen2.5-72b
        qilin-rag serve gguf:models/qwen2.5-7b-q4.gguf --port 8123
        qilin-rag serve qwen2.5-7b --set llm.engine.quantization=fp8
    """
    from qilin_rag.config.spec import resolve_spec

    ui.set_up_logs(quiet)
    assignments = [*(settings or []), *([f"llm.engine.port={port}"] if port else [])]
    try:
        _serve(resolve_spec({"llm": llm, "serve": True}, assignments), llm, log, quiet)
    except KeyboardInterrupt:
        raise Interrupted("the server is stopped") from None


def _serve(config: RunSpec, name: str, log: Path | None, quiet: bool) -> None:
    import time
    from urllib.parse import urlsplit

    from qilin_rag.config.run import build_llm
    from qilin_rag.core.cache import cache_dir
    from qilin_rag.core.text import slug
    from qilin_rag.llms.serving.server import POLL_S, Server, engine_of

    client = build_llm(config)
    engine = engine_of(client, config.llm_label)
    engine.check()
    path = log or cache_dir() / "servers" / f"{slug(config.llm_label)}.log"
    follower = _Follower(path, quiet)
    port = urlsplit(client.base_url).port
    with Server(engine, client.model, client.context_length, path, port, follower.show) as server:
        follower.show()
        typer.echo(server.address)
        if not quiet:
            typer.echo(f"ready; in another terminal: qilin-rag run --llm {name} --base-url {server.address}", err=True)
        while not server.has_ended:
            time.sleep(POLL_S)
            follower.show()
        raise server.ended_error("by itself")


class _Follower:
    """Shows the lines added to a log file."""

    def __init__(self, path: Path, quiet: bool) -> None:
        self._path, self._quiet = path, quiet
        self._shown = 0

    def show(self) -> None:
        """Write new lines to standard error."""
        if self._quiet:
            return
        with self._path.open("rb") as file:
            file.seek(self._shown)
            new = file.read()
        self._shown += len(new)
        sys.stderr.write(new.decode("utf-8", "replace"))
        sys.stderr.flush()
