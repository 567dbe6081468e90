"""`view`: look at runs in a browser while they happen, or let people label their answers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import Quiet
from qilin_rag.core.errors import UsageError

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from qilin_rag.viewer.labels import LabelStore

logger = logging.getLogger(__name__)


def view(
    runs_dir: Annotated[
        list[Path] | None, typer.Option(help="Folder of runs to show; repeatable. [default: runs]")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="Ask people for labels, and do not say which run an answer is from: a YAML file of a task, or RUN,RUN "
            "to compare two runs, or RUN to rate one.",
        ),
    ] = None,
    labels_dir: Annotated[Path | None, typer.Option(help="Folder of labels. [default: labels]")] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Write the labels of --label with the names of the runs (.csv or .jsonl), and serve nothing."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; any other than loopback is open to the network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")] = 8765,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Show small copies of the images of a question's notes.")
    ] = True,
    quiet: Quiet = False,
) -> None:
    """Look at runs in a browser while they happen, or label them.

    Prints an address with a token, which the browser needs. The view only reads the runs. With --label it shows the
    answers of a task for people to label, and nothing else.

    Examples:
        qilin-rag view --runs-dir runs/examples --port 0
        qilin-rag view --label runs/RUN_A,runs/RUN_B
        qilin-rag view --label task.yaml --export labels.csv
    """
    from qilin_rag.core.extras import require

    if label is None and (export or labels_dir):
        raise UsageError(f"{'--export' if export else '--labels-dir'} needs --label TASK")
    require("view", "starlette", "uvicorn", what="view")
    ui.set_up_logs(quiet)
    if label is None:
        from qilin_rag.viewer.site import site

        _serve(site(runs_dir or [Path("runs")], images), "reads all runs, prompts and answers", host, port, quiet)
        return
    if export:
        _export(export, label, labels_dir, runs_dir)
        return
    from qilin_rag.viewer.label_page import label_site

    store = _open_labels(label, labels_dir, runs_dir)
    _serve(label_site(store), "reads the answers of this task and labels them", host, port, quiet)


def _serve(app: Starlette, what: str, host: str, port: int, quiet: bool) -> None:
    """Serve until Ctrl-C, and say where."""
    from qilin_rag.viewer.serving import is_loopback, serve

    if not is_loopback(host):
        typer.echo(f"warning: whoever reaches {host} and has the address {what}, unencrypted", err=True)

    def ready(address: str) -> None:
        typer.echo(address)
        if not quiet:
            typer.echo("open it in a browser; Ctrl-C ends the view", err=True)

    serve(app, host, port, ready)


def _open_labels(label: str, labels_dir: Path | None, runs_dir: list[Path] | None) -> LabelStore:
    """Read a task, its runs and its labels, and say what will be labelled."""
    from qilin_rag.core.text import counted
    from qilin_rag.viewer.label_task import open_task, read_task
    from qilin_rag.viewer.labels import LabelStore

    task = open_task(read_task(label, runs_dir or ()), runs_dir or ())
    store = LabelStore(task, labels_dir or Path("labels"))
    n_shared = sum(item.is_shared for item in task.items.values())
    logger.info(
        "%s, %d of them for every annotator; labels: %s", counted(len(task.items), "question"), n_shared, store.path
    )
    for remark in task.remarks:
        logger.info(remark)
    return store


def _export(out: Path, label: str, labels_dir: Path | None, runs_dir: list[Path] | None) -> None:
    """Write the labels, and say how many they are."""
    from qilin_rag.agreement.label_rows import check_format
    from qilin_rag.core.text import counted
    from qilin_rag.viewer.label_export import export_labels

    check_format(out)
    store = _open_labels(label, labels_dir, runs_dir)
    labels = store.labels()
    export_labels(store.task, labels, out)
    annotators = counted(len({label.annotator for label in labels}), "annotator")
    ui.console().print(f"{out}: {counted(len(labels), 'label')} by {annotators}")
