"""`serve`: run the server of an LLM, an embedding model or a reranker in the foreground."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import Quiet
from qilin_rag.cli.signals import Interrupted

if TYPE_CHECKING:
    from qilin_rag.config.spec import RunSpec
    from qilin_rag.llms.serving.tasks import TaskName


def serve(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="An LLM preset with an engine (see: list llms), or gguf:FILE; embed:NAME, an embedding model; or "
            "rerank:NAME, a reranker. NAME is a folder, a hub name, or gguf:FILE.",
        ),
    ],
    port: Annotated[
        int | None,
        typer.Option(help="Port to listen at. [default: that of the preset's address; embed: 8001, rerank: 8002]"),
    ] = None,
    log: Annotated[Path | None, typer.Option(help="File for the server's log. [default: in the cache folder]")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the model, whatever it is for: llm.model=NAME (as it is served), "
            "llm.engine.dtype=float32. See: list llms openai.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Serve an LLM, an embedding model or a reranker until Ctrl-C.

    Shows the server's log. When it is ready, prints its address and the command that asks it. vLLM serves folders and
    hub names, llama.cpp serves GGUF files.

    Examples:
        qilin-rag serve qwen2.5-7b --set llm.engine.quantization=fp8
        qilin-rag serve embed:BAAI/bge-m3
        qilin-rag serve rerank:gguf:models/bge-reranker-v2-m3-Q8_0.gguf --port 8123
    """
    from qilin_rag.config.spec import resolve_spec
    from qilin_rag.llms.serving.tasks import pooling_model, task_of

    ui.set_up_logs(quiet)
    assignments = [*(settings or []), *([f"llm.engine.port={port}"] if port else [])]
    task, name = task_of(model)
    llm = name if task == "generate" else pooling_model(task, name)
    try:
        _serve(resolve_spec({"llm": llm, "serve": True}, assignments), task, name, log, quiet)
    except KeyboardInterrupt:
        raise Interrupted("the server is stopped") from None


def _serve(config: RunSpec, task: TaskName, name: str, log: Path | None, quiet: bool) -> None:
    import time
    from urllib.parse import urlsplit

    from qilin_rag.config.run import build_llm
    from qilin_rag.core.cache import cache_dir
    from qilin_rag.core.text import slug
    from qilin_rag.llms.serving.server import POLL_S, Server, engine_of
    from qilin_rag.llms.serving.tasks import GENERATE, next_command, served_at, with_pooling

    client = build_llm(config)
    engine = engine_of(client, config.llm_label)
    engine.check()
    path = log or cache_dir() / "servers" / f"{slug(config.llm_label)}.log"
    follower = _Follower(path, quiet)
    port = urlsplit(client.base_url).port
    is_llm = task == "generate"
    served = GENERATE if is_llm else with_pooling(task, engine.model or client.model)
    context_length = client.context_length if is_llm else None
    with Server(engine, client.model, context_length, path, port, follower.show, served) as server:
        follower.show()
        address = served_at(task, server.address)
        typer.echo(address)
        if not quiet:
            command = (
                f"qilin-rag run --llm {name} --base-url {address}"
                if is_llm
                else next_command(task, engine.called(), client.model, address)
            )
            typer.echo(f"ready; in another terminal: {command}", err=True)
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
