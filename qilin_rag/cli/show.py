"""`show`: print the state and figures of a run, or one question in full."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qilin_rag.cli import ui
from qilin_rag.cli.options import RUN_HELP, NamedIn, find_runs_named
from qilin_rag.cli.show_parts import print_parts
from qilin_rag.core.note_fields import TITLE_AND_CONTENT, note_fields_label, recorded_note_fields

if TYPE_CHECKING:
    from qilin_rag.core.types import Judgement, MetricSummary, QueryReply, Sample, Summary
    from qilin_rag.pipeline.run_directory import Manifest, RunDirectory
    from qilin_rag.reports.run_list import State

MOST_QUESTIONS = 20
_STATES = {
    "complete": "complete",
    "incomplete": "incomplete: stopped or killed; the command that began it resumes it",
    "in use": "in use: a process is writing it",
}


def show(
    run_directory: Annotated[Path, typer.Argument(metavar="RUN", help=RUN_HELP)],
    question: Annotated[str | None, typer.Option(help="Id of a question to show in full.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Questions to list.")] = MOST_QUESTIONS,
    show_all: Annotated[bool, typer.Option("--all", help="List all questions.")] = False,
    runs_dir: NamedIn = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run or the question as JSON.")] = False,
) -> None:
    """Show a run, or one of its questions in full.

    Prints state, settings, figures, time and cost, then the questions in the order of the data. With --question, prints
    its hits, messages, answer, references, scores, judgements, nuggets, claims and cited sentences.

    Examples:
        qilin-rag show runs/RUN
        qilin-rag show runs/RUN --all
        qilin-rag show runs/RUN --question ID
    """
    from qilin_rag.core.errors import unknown_name
    from qilin_rag.pipeline.run_directory import RunDirectory

    [path] = find_runs_named([run_directory], runs_dir)
    directory = RunDirectory(path)
    manifest = directory.read_manifest()
    samples, lines = directory.read_samples()
    if question is None:
        _show_run(directory, manifest, samples, lines, as_json, None if show_all else limit)
        return
    if question not in samples:
        raise unknown_name("question", question, samples, "is not in this run")
    _show_question(directory, manifest, samples[question], lines, as_json)


def _show_question(
    directory: RunDirectory, manifest: Manifest, sample: Sample, lines: list[Sample], as_json: bool
) -> None:
    from qilin_rag.core.errors import unknown_name
    from qilin_rag.pipeline.cost import Tally
    from qilin_rag.pipeline.note_names import read_note_names
    from qilin_rag.reports.judged import judgements_of
    from qilin_rag.reports.judged_parts import NO_PARTS, read_judged_parts
    from qilin_rag.reports.run_list import figures_of

    questions = {asked.id: asked for asked in directory.read_questions()}
    if sample.question_id not in questions:
        raise unknown_name("question", sample.question_id, questions, "is not in this run")
    asked = questions[sample.question_id]
    scores = [score for score in figures_of(directory, manifest)[1] if score.question_id == asked.id]
    judgements = judgements_of(directory, {asked.id}).get(asked.id, [])
    queries = [line for line in directory.read_queries() if line.question_id == asked.id][-1:]
    parts = read_judged_parts(directory.path, [sample]).get(asked.id, NO_PARTS)
    if as_json:
        ui.print_json(
            {
                "question": asked.model_dump(mode="json"),
                "sample": sample.model_dump(mode="json"),
                **({"queries": queries[0].model_dump(mode="json")} if queries else {}),
                "scores": [score.model_dump(mode="json") for score in scores],
                "judgements": [judgement.model_dump(mode="json", exclude={"messages"}) for judgement in judgements],
                "parts": parts.as_json(),
            }
        )
        return
    console = ui.console()
    console.print(f"question {asked.id}: {asked.query}", style="bold")
    console.print(f"{manifest.labels['retriever']} + {manifest.labels['llm']}, prompt {manifest.labels['prompt']}\n")
    for line in queries:
        _print_queries(line)
    console.print(f"hits ({_say_notes(sample)})", style="bold")
    names = read_note_names(directory.path)
    for hit in sample.hits:
        mark = "*" if hit.note_idx in asked.reference_notes else " "
        console.print(f"  {hit.rank:>2} {mark} note {names.get(hit.note_idx, hit.note_idx)}  {hit.score:.4f}")
    for message in sample.messages:
        console.print(f"\n{message['role']}", style="bold")
        console.print(message["content"], soft_wrap=True)
    _print_images(sample)
    is_cut = Tally(lines).is_cut(sample)
    console.print(f"\nanswer ({_status(sample, is_cut)}{f': {sample.error}' if sample.error else ''})", style="bold")
    console.print(sample.answer, soft_wrap=True)
    for number, reference in enumerate(asked.references, start=1):
        console.print(f"\nreference {number}", style="bold")
        console.print(reference, soft_wrap=True)
    print_parts(parts)
    for judgement in judgements:
        _print_judgement(judgement)
    console.print("\nscores", style="bold")
    for score in scores:
        value = "unscored" if score.value is None else f"{score.value:.4f}"
        console.print(f"  {score.metric}  {value}{f': {score.reason}' if score.reason else ''}")


def _print_queries(line: QueryReply) -> None:
    """Print the texts that were searched beside the question, or why there are none."""
    console = ui.console()
    why = line.error if line.status == "failed" else line.alone
    console.print(f"searched as well{f': nothing ({why})' if why else ''}", style="bold")
    for text in line.texts:
        console.print(f"  {text}", soft_wrap=True)
    console.print()


def _print_images(sample: Sample) -> None:
    """Print the images that went with the last message, and why others did not."""
    from qilin_rag.core.types import LeftOut

    console = ui.console()
    if sample.images:
        console.print("\nimages", style="bold")
    for image in sample.images:
        console.print(f"  note {image.note_idx}  {image.path}  sha256 {image.sha256[:12]}", soft_wrap=True)
    if sample.images_left_out:
        console.print(str(LeftOut(images=sample.images_left_out)), style="yellow")


def _say_notes(sample: Sample) -> str:
    if not sample.has_known_hits:
        return "not known which notes were found"
    used = "not known which were" if sample.notes_used is None else f"{sample.notes_used} of {sample.notes_given} notes"
    return f"* = reference note; {used} used"


def _print_judgement(judgement: Judgement) -> None:
    console = ui.console()
    order = f"{' : '.join(judgement.runs)}, in this order; " if len(judgement.runs) > 1 else ""
    failure = f": {judgement.error}" if judgement.error else ""
    console.print(f"\njudged by {judgement.judge} ({order}{judgement.status}{failure})", style="bold", soft_wrap=True)
    console.print(judgement.answer, soft_wrap=True)


def _status(sample: Sample, is_cut: bool) -> str:
    """Write the status, and what is doubtful about the answer."""
    return ", ".join(
        [
            sample.status,
            *(["prompt cut by the server"] if is_cut else []),
            *(mark.replace("_", " ") for mark in sample.marks),
        ]
    )


def _show_run(
    directory: RunDirectory,
    manifest: Manifest,
    samples: dict[str, Sample],
    lines: list[Sample],
    as_json: bool,
    limit: int | None,
) -> None:
    from qilin_rag.pipeline.cost import calls_s, cost_of, price_of, total_cost
    from qilin_rag.pipeline.queries import use_of_run
    from qilin_rag.pipeline.scoring import summarise
    from qilin_rag.reports.run_list import figures_of, state_of

    ids = [question.id for question in directory.read_questions()] or list(samples)
    samples = {question_id: samples[question_id] for question_id in ids if question_id in samples}
    repeats = directory.read_repeats()
    summary = summarise(list(samples.values()), lines, [], repeats=repeats)
    state = state_of(directory, manifest)
    queries = use_of_run(directory, manifest.config)
    cost = total_cost(cost_of(summary, price_of(manifest)), queries, manifest.rerank)
    so_far = {"generation_s": calls_s([*lines, *repeats]), "cost": cost, "queries": queries}
    manifest = manifest.model_copy(update=so_far)
    figures, all_scores = figures_of(directory, manifest)
    scores: dict[str, dict[str, float | None]] = {}
    for score in all_scores:
        scores.setdefault(score.question_id, {})[score.metric] = score.value
    if as_json:
        ui.print_json(
            {
                "run": str(directory.path),
                "state": state,
                "manifest": manifest.model_dump(mode="json"),
                "answers": summary.model_dump(mode="json", exclude={"metrics"}),
                "figures": {name: of.model_dump(mode="json") for name, of in figures.items()},
                "scores": scores,
            }
        )
        return
    _print_facts(directory.path, manifest, state, summary)
    _print_taken(manifest, state, summary, samples)
    _print_figures(figures)
    _print_questions(ids, samples, scores, [*lines, *repeats], limit)


def _print_facts(path: Path, manifest: Manifest, state: State, summary: Summary) -> None:
    from qilin_rag.reports.run_list import describe_statuses

    counts = {status: n for status, n in summary.counts.items() if status != "questions"}
    n_asked = summary.counts["questions"]
    statuses = describe_statuses(counts) or (": all ok" if n_asked else "")
    facts = {
        "run": path,
        "state": f"{_STATES[state]}; {n_asked} of {manifest.n_questions} questions asked{statuses}",
        **manifest.labels,
        "settings": _settings(manifest.config),
        "started": manifest.started,
    }
    console = ui.console()
    for name, fact in facts.items():
        ui.print_hanging(console, str(fact), first=f"{name:<10} ")


def _settings(config: Mapping[str, Any]) -> str:
    """List the settings that determine answers, beyond those in the labels."""
    named = ["top_k", "limit", "seed", "answers", "references", "note_order", "note_chars"]
    named += ["note_images", "image_size"] if config.get("note_images") else []
    named += ["rerank_depth", "rerank_weight"] if config.get("rerank") else []
    chosen = [f"{name} {config[name]}" for name in named if config.get(name) is not None]
    if (fields := recorded_note_fields(config)) not in (None, note_fields_label(TITLE_AND_CONTENT)):
        chosen.append(f"note_fields {fields}")
    settings = {name: value for name, value in config["llm"]["settings"].items() if value is not None}
    of_llm = [f"{name} {settings[name]}" for name in ("model", "temperature", "max_tokens", "seed") if name in settings]
    return ", ".join(chosen) + (f"; llm: {', '.join(of_llm)}" if of_llm else "")


def _print_taken(manifest: Manifest, state: State, summary: Summary, samples: Mapping[str, Sample]) -> None:
    from qilin_rag.pipeline.cost import describe
    from qilin_rag.reports.took import first_asked, latency_of
    from qilin_rag.scorers.summary import doubts

    console = ui.console()
    if manifest.imported:
        for remark in manifest.imported.remarks:
            console.print(str(remark), style="yellow")
    if summary.repeats:
        console.print(str(summary.repeats))
    if left_out := str(summary.left_out):
        console.print(left_out, style="yellow")
    for line in doubts(summary):
        console.print(line, style="yellow")
    for line in describe(_without_this_session(manifest) if state == "in use" else manifest, summary):
        console.print(line)
    if first := first_asked(samples.values(), manifest):
        console.print(str(first))
    if latency := latency_of(samples.values()):
        console.print(str(latency))


def _without_this_session(manifest: Manifest) -> Manifest:
    """Leave out the times of the current session, which are recorded as if it had been killed."""
    if (times := manifest.times) is None:
        return manifest
    ended = {name: max(0, getattr(times, name) - 1) for name in ("sessions", "untimed", "cut_off")}
    return manifest.model_copy(update={"times": times.model_copy(update=ended)})


def _print_figures(figures: Mapping[str, MetricSummary]) -> None:
    console = ui.console()
    console.print()
    if figures:
        ui.print_metrics(figures)
    else:
        console.print(
            "no figures yet: a run is scored once all its questions were asked; the command that began it resumes it"
        )
    console.print()


def _print_questions(
    ids: list[str],
    samples: Mapping[str, Sample],
    scores: Mapping[str, Mapping[str, float | None]],
    lines: list[Sample],
    limit: int | None,
) -> None:
    """List the questions that were asked, in the order of the data."""
    from rich.table import Table
    from rich.text import Text

    from qilin_rag.pipeline.cost import Tally

    taken = Tally(lines)
    asked = [question_id for question_id in ids if question_id in samples]
    listed = asked[:limit]
    metrics = next((list(scores[question_id]) for question_id in listed if question_id in scores), [])
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("question", no_wrap=True, overflow="ellipsis", max_width=40)
    for column in ("status", *metrics):
        table.add_column(column, no_wrap=True)
    table.add_column("query / error", overflow="fold")
    for question_id in listed:
        sample, question_scores = samples[question_id], scores.get(question_id, {})
        figures = ["-" if (value := question_scores.get(name)) is None else f"{value:.4f}" for name in metrics]
        table.add_row(
            Text(question_id), _status(sample, taken.is_cut(sample)), *figures, Text(sample.error or sample.query)
        )
    console = ui.console()
    if listed:
        console.print(table)
    if len(listed) < len(asked):
        console.print(
            f"{len(listed)} of {len(asked)} questions asked; --all lists all, --question ID shows one in full"
        )
