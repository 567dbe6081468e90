"""`doctor`: check what is installed and what a run needs."""

from __future__ import annotations

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import (
    AsJson,
    BaseUrl,
    Data,
    LlmName,
    Metrics,
    QueryStage,
    Rerank,
    RetrieverName,
    RunsDir,
    Settings,
)


def doctor(
    retriever: RetrieverName = None,
    query: QueryStage = None,
    rerank: Rerank = None,
    llm: LlmName = None,
    data: Data = None,
    metrics: Metrics = None,
    base_url: BaseUrl = None,
    runs_dir: RunsDir = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Check the installation and what a run would need.

    With the options of a run, checks its server, models and data. Downloads nothing. Exits with code 1 if the run lacks
    something that it needs.

    Examples:
        qilin-rag doctor
        qilin-rag doctor --retriever bm25 --metrics rouge_l,bertscore
        qilin-rag doctor --llm qwen2.5-72b --data data/Qilin
    """
    from qilin_rag.config.spec import resolve_spec
    from qilin_rag.pipeline.doctor import examine

    ui.set_up_logs(quiet=True)
    flags = {
        "retriever": retriever,
        "query": query,
        "rerank": rerank,
        "llm": llm,
        "data": data,
        "metrics": metrics,
        "base_url": base_url,
        "runs_dir": runs_dir,
    }
    findings = list(examine(resolve_spec(flags, settings or [])))
    if as_json:
        ui.print_json([finding._asdict() for finding in findings])
    else:
        from rich.table import Table
        from rich.text import Text

        styles = {"ok": "green", "missing": "yellow", "failed": "bold red"}
        drawn = Table(box=None, pad_edge=False, show_header=False)
        for name in ("subject", "state", "detail"):
            drawn.add_column(name, overflow="fold")
        for finding in findings:
            detail = finding.detail + (f"\n→ {finding.advice}" if finding.advice else "")
            drawn.add_row(finding.subject, Text(finding.state, style=styles[finding.state]), Text(detail))
        ui.console().print(drawn)
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)
