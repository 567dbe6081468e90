"""`nuggets`: make banks of facts, judge which of them answers hold, and show both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.help import App
from qilin_rag.cli.judge_measures import print_judged, print_took, took
from qilin_rag.cli.options import (
    RUN_HELP,
    AsJson,
    BaseUrl,
    Batch,
    Concurrency,
    DryRun,
    FailOnError,
    Language,
    MaxCost,
    MaxTokensTotal,
    NamedIn,
    PromptLanguage,
    Quiet,
    RunsDir,
    Serve,
    Settings,
    Track,
    find_runs_named,
)
from qilin_rag.cli.signals import Interrupted
from qilin_rag.core.errors import UsageError, unknown_name
from qilin_rag.core.text import counted

if TYPE_CHECKING:
    from qilin_rag.core.judged_answers import AssignedAnswer, AssignedNugget, Nugget
    from qilin_rag.judging.nugget_assigner import AssignedRun
    from qilin_rag.judging.nugget_bank import BankedQuestion
    from qilin_rag.judging.nugget_maker import MadeBank, SourcedQuestions

app = App("nuggets", help="Make nugget banks, and score answers by them.", no_args_is_help=True)


Limit = Annotated[int | None, typer.Option(help="Only N questions, drawn with a seed; a larger N keeps them.")]


@app.command()
def create(
    llm: Annotated[
        str, typer.Option(help="The maker: a preset (see: list llms), openai, gguf:FILE or langchain:SPEC.")
    ],
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help=f"The questions of a run. {RUN_HELP}")] = None,
    data: Annotated[
        str | None, typer.Option(help="The questions of data: sample, hub:OWNER/NAME, or a folder of tables.")
    ] = None,
    notes: Annotated[bool, typer.Option("--notes", help="Make nuggets from the reference notes, too.")] = False,
    max_nuggets: Annotated[int, typer.Option(min=1, help="The most nuggets of a question.")] = 20,
    per_call: Annotated[int, typer.Option(min=1, max=100, help="The most answers and notes a call.")] = 10,
    language: Language = PromptLanguage.zh,
    limit: Limit = None,
    concurrency: Concurrency = None,
    batch: Batch = False,
    base_url: BaseUrl = None,
    serve: Serve = False,
    runs_dir: RunsDir = None,
    settings: Settings = None,
    fail_on_error: FailOnError = None,
    dry_run: DryRun = False,
    max_cost: MaxCost = None,
    max_tokens_total: MaxTokensTotal = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make a bank of nuggets with an LLM.

    Takes short facts from the favoured answers of each question, each vital or okay, and writes them into a file that
    you can edit. The same command resumes after a stop.

    Examples:
        qilin-rag nuggets create --data sample --llm gpt-4o-mini --dry-run
        qilin-rag nuggets create runs/RUN --llm qwen-plus
        qilin-rag nuggets create --data sample --notes --llm qwen-plus
    """
    from qilin_rag.judging.config import resolve_judge
    from qilin_rag.judging.nugget_maker import MakerSettings, make_bank, plan_bank

    ui.set_up_logs(quiet or as_json)
    flags = _asking(llm, limit, concurrency, batch, base_url, serve, runs_dir, fail_on_error)
    flags |= {"max_cost": max_cost, "max_tokens_total": max_tokens_total}
    config = resolve_judge(flags, settings or [], "nuggets create")
    given = _sources(run, data, notes, [config.runs_dir, Path("runs")])
    how = MakerSettings(max_nuggets=max_nuggets, per_call=per_call, language=language.value)
    if dry_run:
        from qilin_rag.cli.plan import print_plan

        print_plan(plan_bank(given, config, how), as_json, subject="prompt")
        return
    try:
        with ui.progress_bars(quiet):
            made = make_bank(given, config, how)
    except KeyboardInterrupt:
        raise Interrupted("every finished reply is kept; the same command resumes") from None
    _print_made(made, as_json)
    made.hearing.check_failures(config.fail_on_error)


@app.command()
def assign(
    run: Annotated[Path, typer.Argument(metavar="RUN", help=RUN_HELP)],
    bank: Annotated[Path, typer.Option(help="The file of a bank (see: nuggets create).")],
    llm: Annotated[
        str, typer.Option(help="The judge: a preset (see: list llms), openai, gguf:FILE or langchain:SPEC.")
    ],
    controls: Annotated[
        bool,
        typer.Option(
            "--controls",
            help="Judge controls, too: the reference itself, an answer to another question, an answer stuffed with "
            "the nuggets, an empty one.",
        ),
    ] = False,
    per_call: Annotated[int, typer.Option(min=1, max=100, help="The most nuggets a call.")] = 10,
    language: Language = PromptLanguage.zh,
    limit: Limit = None,
    concurrency: Concurrency = None,
    batch: Batch = False,
    base_url: BaseUrl = None,
    serve: Serve = False,
    runs_dir: RunsDir = None,
    track: Track = None,
    settings: Settings = None,
    fail_on_error: FailOnError = None,
    dry_run: DryRun = False,
    max_cost: MaxCost = None,
    max_tokens_total: MaxTokensTotal = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Judge which nuggets of a bank the answers of a run hold.

    nugget_all, nugget_strict_all, nugget_vital, nugget_strict_vital and nugget_weighted become metrics of the run. The
    same command resumes after a stop.

    Examples:
        qilin-rag nuggets assign runs/RUN --bank BANK.jsonl --llm qwen-plus --dry-run
        qilin-rag nuggets assign runs/RUN --bank BANK.jsonl --llm qwen-plus --controls
    """
    from qilin_rag.judging.config import resolve_judge
    from qilin_rag.judging.nugget_assigner import AssignerSettings, assign_nuggets, plan_assignment

    ui.set_up_logs(quiet or as_json)
    flags = _asking(llm, limit, concurrency, batch, base_url, serve, runs_dir, fail_on_error)
    flags |= {"max_cost": max_cost, "max_tokens_total": max_tokens_total, "track": track or None}
    config = resolve_judge(flags, settings or [], "nuggets assign")
    [path] = find_runs_named([run], [config.runs_dir, Path("runs")])
    how = AssignerSettings(per_call=per_call, language=language.value, controls=controls)
    if dry_run:
        from qilin_rag.cli.plan import print_plan

        print_plan(plan_assignment(path, bank, config, how), as_json, subject="judgement")
        return
    try:
        with ui.progress_bars(quiet):
            assigned = assign_nuggets(path, bank, config, how)
    except KeyboardInterrupt:
        raise Interrupted("every finished judgement is kept; the same command resumes") from None
    _print_assigned(assigned, as_json)
    assigned.judged.hearing.check_failures(config.fail_on_error)


@app.command()
def show(
    source: Annotated[Path, typer.Argument(metavar="BANK|RUN", help=f"The file of a bank, or a run. {RUN_HELP}")],
    question: Annotated[str | None, typer.Option(help="Id of a question to show in full.")] = None,
    runs_dir: NamedIn = None,
    as_json: AsJson = False,
) -> None:
    """Show a bank, or which nuggets the answers of a run hold.

    Lists the questions. With --question, prints its nuggets, and for a run also its answer and what it holds.

    Examples:
        qilin-rag nuggets show runs/nuggets-sample-qwen-plus-HASH/bank-HASH.jsonl
    """
    from qilin_rag.judging.nugget_assigner import read_assigned, why_unassigned
    from qilin_rag.judging.nugget_bank import read_bank

    reason = None
    if source.is_file():
        bank = read_bank(source)
        lines: dict[str, BankedQuestion | AssignedAnswer] = dict(bank.questions)
        title = f"bank {bank.sha256[:8]}, made by {bank.maker}"
    else:
        [path] = find_runs_named([source], runs_dir)
        assigned = read_assigned(path)
        if not assigned:
            raise UsageError(f"{path} has no assigned nuggets; qilin-rag nuggets assign {path} --bank FILE makes them")
        first = next(iter(assigned.values()))
        lines, title = dict(assigned), f"{first.run_id}: bank {first.bank[:8]}, judged by {first.judge}"
        reason = why_unassigned(path, question)
    if question is not None and question not in lines:
        raise unknown_name("question", question, lines, f"has no nuggets here{f' ({reason})' if reason else ''}")
    chosen = list(lines.values()) if question is None else [lines[question]]
    if as_json:
        ui.print_json([line.model_dump(mode="json") for line in chosen])
        return
    ui.console().print(title, style="bold")
    for line in chosen:
        _print_question(line, in_full=question is not None)


def _asking(
    llm: str,
    limit: int | None,
    concurrency: int | None,
    batch: bool,
    base_url: str | None,
    serve: bool,
    runs_dir: Path | None,
    fail_on_error: float | None,
) -> dict[str, Any]:
    return {
        "llm": llm,
        "limit": limit,
        "concurrency": concurrency,
        "batch": batch or None,
        "base_url": base_url,
        "serve": serve or None,
        "runs_dir": runs_dir,
        "fail_on_error": fail_on_error,
    }


def _sources(run: Path | None, data: str | None, notes: bool, folders: list[Path]) -> SourcedQuestions:
    from qilin_rag.judging.nugget_maker import sources_of_data, sources_of_run

    if (run is None) == (data is None):
        raise UsageError("name either a RUN or --data, whose questions get nuggets")
    if data is not None:
        return sources_of_data(data, notes)
    if notes:
        raise UsageError("--notes needs the data of the notes: name it with --data instead of RUN")
    assert run
    return sources_of_run(find_runs_named([run], folders)[0])


def _print_made(made: MadeBank, as_json: bool) -> None:
    lines = made.bank.questions.values()
    vital, okay = (
        sum(nugget.importance == importance for line in lines for nugget in line.nuggets)
        for importance in ("vital", "okay")
    )
    if as_json:
        counts = {"questions": len(lines), "vital": vital, "okay": okay, "without_nuggets": made.unmade}
        ui.print_json({"bank": str(made.path), "maker": made.maker, **counts, **took(made.hearing)})
        return
    console = ui.console()
    title = f"bank of {counted(len(lines), 'question')} by {made.maker}: {vital} vital, {okay} okay"
    console.print(title, style="bold")
    for reason, n in made.unmade.items():
        console.print(f"without nuggets, {reason}: {n}", style="yellow")
    print_took(made.hearing)
    typer.echo(made.path)


def _print_assigned(assigned: AssignedRun, as_json: bool) -> None:
    bank = assigned.bank
    title = f"nuggets of bank {bank.sha256[:8]} (made by {bank.maker})"
    made = {"bank": bank.sha256, "maker": bank.maker, "warnings": assigned.warnings}
    print_judged(title, assigned.judged, assigned.controls, as_json, made)


def _print_question(line: BankedQuestion | AssignedAnswer, in_full: bool) -> None:
    console = ui.console()
    vital = sum(nugget.importance == "vital" for nugget in line.nuggets)
    edited = ", edited" if getattr(line, "is_edited", False) else ""
    counts = f"{vital} vital, {len(line.nuggets) - vital} okay{edited}"
    console.print(f"{line.qid}  {line.query}  ({counts})", soft_wrap=True)
    if not in_full:
        return
    if answer := getattr(line, "answer_text", ""):
        console.print(answer, soft_wrap=True)
    for number, nugget in enumerate(line.nuggets, start=1):
        console.print(f"  {number:>2}  {_described(nugget)}", soft_wrap=True)


def _described(nugget: Nugget | AssignedNugget) -> str:
    support = getattr(nugget, "assignment", "")
    origin = f"  ({', '.join(nugget.provenance)})" if nugget.provenance else ""
    return f"{nugget.importance:<5}  {f'{support:<15}  ' if support else ''}{nugget.text}{origin}"
