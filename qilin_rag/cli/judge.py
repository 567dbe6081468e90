"""`judge`: grade the answers of a run with an LLM, or compare runs with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.judge_measures import MEASURES, Measure, grades_of, print_judged, print_took, took
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
    PromptLanguage,
    Quiet,
    RunsDir,
    Serve,
    Settings,
    Track,
    find_runs_named,
)
from qilin_rag.cli.signals import Interrupted
from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import counted

if TYPE_CHECKING:
    from qilin_rag.judging.config import JudgeConfig, PartSettings
    from qilin_rag.judging.pairwise import Compared

PER_CALL = 10


def judge(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN [RUN]...", help=f"One run to grade, or several to compare. {RUN_HELP}")
    ],
    llm: Annotated[
        str, typer.Option(help="The judge: a preset (see: list llms), openai, gguf:FILE or langchain:SPEC.")
    ],
    claims: Annotated[
        bool, typer.Option("--claims", help="Split one run's answers and references into claims, and check each.")
    ] = False,
    support: Annotated[
        bool, typer.Option("--support", help="Check whether the notes that each sentence of one run cites support it.")
    ] = False,
    refusal: Annotated[bool, typer.Option("--refusal", help="Ask whether the answers of one run refuse.")] = False,
    controls: Annotated[
        bool, typer.Option("--controls", help="Judge answers, too, that are known to be good or bad.")
    ] = False,
    per_call: Annotated[int, typer.Option(min=1, max=100, help="The most claims or sentences a call.")] = PER_CALL,
    language: Language = PromptLanguage.zh,
    data: Annotated[
        str | None, typer.Option(help="Data with the notes of the prompts; default: what the run names.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Judge only N questions, drawn with a seed; a larger N keeps them.")
    ] = None,
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
    """Grade or compare answers with an LLM judge.

    One run: grades of correctness, completeness and faithfulness to the notes, from 1 to 5, become metrics of the run.
    --claims, --support and --refusal give other metrics in place of grades. Several runs: the judge sees every pair of
    answers in both orders, and runs get ratings. The same command resumes after a stop.

    Examples:
        qilin-rag judge runs/RUN --llm qwen-plus --dry-run
        qilin-rag judge runs/RUN --llm qwen-plus --claims --controls
        qilin-rag judge runs/RUN_A runs/RUN_B --llm qwen-plus --limit 200
    """
    from qilin_rag.judging.config import PartSettings, resolve_judge

    ui.set_up_logs(quiet or as_json)
    flags = {
        "llm": llm,
        "limit": limit,
        "concurrency": concurrency,
        "batch": batch or None,
        "base_url": base_url,
        "serve": serve or None,
        "runs_dir": runs_dir,
        "max_cost": max_cost,
        "max_tokens_total": max_tokens_total,
        "track": track or None,
        "fail_on_error": fail_on_error,
    }
    config = resolve_judge(flags, settings or [])
    runs = find_runs_named(runs, [config.runs_dir, Path("runs")])
    flagged = {"claims": claims, "support": support, "refusal": refusal}
    given = [name for name, is_given in flagged.items() if is_given]
    shown = PartSettings(per_call=per_call, language=language.value, controls=controls, data=data)
    _check_flags(given, shown, len(runs))
    if track and len(runs) > 1:
        raise UsageError("--track follows one run, and a comparison is none; leave --track out")
    measure = None
    if len(runs) == 1:
        measure = MEASURES[given[0]](runs[0], config, shown) if given else grades_of(runs[0], config)
    if dry_run:
        from qilin_rag.cli.plan import print_plan
        from qilin_rag.judging.pairwise import plan_comparison

        print_plan(measure.plan() if measure else plan_comparison(runs, config), as_json, subject="judgement")
        return
    try:
        if measure:
            _judge_by(measure, config, quiet, as_json)
        else:
            _compare(runs, config, quiet, as_json)
    except KeyboardInterrupt:
        raise Interrupted("every finished judgement is kept; the same command resumes") from None


def _check_flags(given: Sequence[str], shown: PartSettings, n_runs: int) -> None:
    """Raise a UsageError if two measures are asked for, or one of several runs, or a flag has no effect."""
    named = " and ".join(f"--{name}" for name in given)
    if len(given) > 1:
        raise UsageError(f"{named} are two measures; ask for one at a time")
    if given and n_runs > 1:
        raise UsageError(f"{named} judges one run; name one RUN, or leave {named} out to compare them")
    flags = {
        "--language": shown.language != PromptLanguage.zh,
        "--controls": shown.controls,
        "--per-call": shown.per_call != PER_CALL,
        "--data": shown.data is not None,
    }
    heeded = [] if not given else ["--language"] if given == ["refusal"] else list(flags)
    if flag := next((name for name, is_given in flags.items() if is_given and name not in heeded), None):
        measured = named or "grades and comparisons"
        others = "--claims, --support or --refusal" if flag == "--language" else "--claims or --support"
        raise UsageError(f"{flag} has no effect on {measured}; add {others}, or leave {flag} out")


def _judge_by(measure: Measure, config: JudgeConfig, quiet: bool, as_json: bool) -> None:
    with ui.progress_bars(quiet):
        judged, controls = measure.judge()
    print_judged(measure.title, judged, controls, as_json, {})
    judged.hearing.check_failures(config.fail_on_error)


def _compare(paths: list[Path], config: JudgeConfig, quiet: bool, as_json: bool) -> None:
    from qilin_rag.judging.pairwise import compare_runs

    with ui.progress_bars(quiet):
        compared = compare_runs(paths, config)
    if as_json:
        comparison = compared.comparison.model_dump(mode="json")
        ui.print_json({"path": str(compared.path), **comparison, **took(compared.hearing)})
    else:
        _print_compared(compared)
    compared.hearing.check_failures(config.fail_on_error)


def _print_compared(compared: Compared) -> None:
    """Print ratings, the best first, then pairs by the numbers of their runs, in 80 columns."""
    from rich.table import Table
    from rich.text import Text

    console, comparison = ui.console(), compared.comparison
    console.print(
        f"compared by {comparison.judge}, {counted(comparison.n_questions, 'question')}, in both orders", style="bold"
    )
    numbers = {rated.run: str(number) for number, rated in enumerate(comparison.runs, start=1)}
    ratings = Table("", box=None, pad_edge=False, header_style="bold")
    ratings.add_column("run", overflow="fold", max_width=46)
    ratings.add_column("rating", justify="right")
    ratings.add_column("95% interval", justify="right")
    for rated in sorted(comparison.runs, key=lambda rated: -rated.rating.value if rated.rating else 0.0):
        value = f"{rated.rating.value:.0f}" if rated.rating else "-"
        ci95 = rated.rating.ci95 if rated.rating else None
        interval = f"{ci95[0]:.0f} .. {ci95[1]:.0f}" if ci95 else "-"
        ratings.add_row(numbers[rated.run], Text(rated.run), value, interval)
    console.print(ratings)
    console.print()
    pairs = Table("pair", box=None, pad_edge=False, header_style="bold")
    for column in ("won", "lost", "tied", "leaning", "flipped", "unscored", "score"):
        pairs.add_column(column, justify="right")
    for pair in comparison.pairs:
        counts = (pair.won, pair.lost, pair.tied, pair.leaning, pair.flipped, sum(pair.unscored.values()))
        score = "-" if pair.score is None else f"{pair.score:.4f}"
        pairs.add_row(f"{numbers[pair.a]} : {numbers[pair.b]}", *map(str, counts), score)
    console.print(pairs)
    for line in _remarks(compared):
        console.print(line, style="yellow")
    print_took(compared.hearing)
    typer.echo(compared.path)


def _remarks(compared: Compared) -> list[str]:
    from collections import Counter

    comparison = compared.comparison
    lines = []
    if flipped := sum(pair.flipped for pair in comparison.pairs):
        first = sum(pair.flipped_to_first for pair in comparison.pairs)
        lines.append(f"flipped with the order: {flipped}, {first} of them to the answer shown first; half a win each")
    reasons: Counter[str] = Counter()
    for pair in comparison.pairs:
        reasons.update(pair.unscored)
    lines += [f"unscored, {reason}: {n}" for reason, n in sorted(reasons.items())]
    if same := sum(pair.same for pair in comparison.pairs):
        lines.append(f"tied without asking since the answers are the same: {same}")
    if comparison.n_not_shared:
        lines.append(f"left out since not all runs have them: {counted(comparison.n_not_shared, 'question')}")
    without = {rated.rating.no_interval for rated in comparison.runs if rated.rating and rated.rating.no_interval}
    lines += [f"ratings have no interval: {reason}" for reason in sorted(without)]
    if any(rated.rating is None for rated in comparison.runs):
        lines.append("no ratings: the judged pairs do not connect all runs; judge more questions (--limit)")
    return lines
