"""How `--help` looks: options in sections, examples last, plain text so that it starts fast."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

_Function = TypeVar("_Function", bound=Callable[..., Any])

_EXAMPLES = "\nExamples:\n"  # of a docstring: what follows is printed as it is, at the end of the help
_SECTIONS = {
    "Data": "data answers references missing_notes limit seed ids images images_per_note cards sample labels to task "
    "split without_history first candidates notes searches recommendations dqa users questions key synth:without "
    "minutes similarity long_click requests judges folds only",
    "Retrieval": "retriever retrievers query top_k note_fields note_order note_chars note_images image_size noise "
    "rerank rerank_depth rerank_weight engine sweep:controls",
    "Model": "llm llms prompt prompts ranker checkpoint train without concurrency batch base_url api_key_env stream "
    "serve port repeat no_cache max_cost max_tokens_total fail_on_error allow_code encoder layer",
    "Scoring": "metrics metric layers tolerance cluster_by common controls paper paper_anyway sort slices "
    "bank max_nuggets claims support refusal per_call language by criterion one_by_one",
    "Output": "name out output_format plot runs_dir runs plots log show show_all question top show:limit quiet verbose "
    "as_json label labels_dir export host view:port track trackers",
    "General": "jobs retrieved config settings fresh dry_run saved older_than yes version help",
}
_SECTION_OF = {name: section for section, names in _SECTIONS.items() for name in names.split()}
_PLACEHOLDERS = {"str": "TEXT", "path": "PATH", "int": "INTEGER", "float": "FLOAT"}
_N_UNDIVIDED = 5  # as few options need no sections
_COLUMN_CHARS = 26  # what is longer than this stands on a line of its own
_WIDTH_CHARS = 100  # at most: longer lines are hard to read


def section_of(command: str | None, option: str) -> str:
    """Return the section of a command's help that names the parameter `option`."""
    return _SECTION_OF.get(f"{command}:{option}") or _SECTION_OF[option]


class HelpCommand(TyperCommand):
    """A command whose help has sections and examples."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **_split_help(kwargs))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Name required arguments without Typer's braces."""
        return _without_braces(super().collect_usage_pieces(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then options by section."""
        _write_sections(self, ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        _write_examples(self.epilog, formatter)


class HelpGroup(TyperGroup):
    """A group of commands whose help has sections and examples."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **_split_help(kwargs))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write options by section, then the commands."""
        _write_sections(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write commands under the headings that they were added with."""
        rows: dict[str | None, list[tuple[str, str]]] = {}
        column = max(map(len, self.commands))
        for name, command in self.commands.items():
            text = command.get_short_help_str(formatter.width)
            rows.setdefault(getattr(command, "rich_help_panel", None), []).append((name.ljust(column), text))
        formatter.write("\nCommands:\n")
        for heading, commands in rows.items():
            if heading:
                formatter.write(f"\n{heading}\n")
            with formatter.indentation():
                formatter.write_dl(commands)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        _write_examples(self.epilog, formatter)


class App(typer.Typer):
    """Commands whose help has sections and examples."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(
            name=name,
            rich_markup_mode=None,  # plain help starts in half the time
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": _WIDTH_CHARS},
            **{"cls": HelpGroup, **kwargs},
        )

    def command(self, name: str | None = None, **kwargs: Any) -> Callable[[_Function], _Function]:
        """Register a function as a command; see `typer.Typer.command`."""
        return super().command(name, **{"cls": HelpCommand, **kwargs})


def _split_help(arguments: dict[str, Any]) -> dict[str, Any]:
    """Take the examples out of the help of a command, which is its docstring."""
    text, _, examples = (arguments.get("help") or "").partition(_EXAMPLES)
    return arguments | {"help": text.strip(), "epilog": examples or arguments.get("epilog")}


def _without_braces(pieces: list[str]) -> list[str]:
    return [piece.removeprefix("{").removesuffix("}") for piece in pieces]


def _write_sections(command: Any, ctx: Any, formatter: Any) -> None:
    """Write a list of names and meanings for each section, with all meanings in one column."""
    sections = dict(_sections(command, ctx))
    widths = [len(name) for rows in sections.values() for name, _ in rows]
    column = max((width for width in widths if width <= _COLUMN_CHARS), default=0)
    for section, rows in sections.items():
        with formatter.section(section):
            formatter.write_dl([(name.ljust(column), text) for name, text in rows], col_max=column)


def _sections(command: Any, ctx: Any) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield each heading with its rows: a name and a meaning."""
    arguments: list[tuple[str, str]] = []
    options: list[tuple[str, tuple[str, str]]] = []
    for parameter in command.get_params(ctx):
        if record := parameter.get_help_record(ctx):
            row = re.sub(r"<(.+)>", _placeholder, record[0]), record[1].replace("  [", " [")
            if parameter.param_type_name == "argument":
                arguments.append(row)
            else:
                options.append((parameter.name, row))
    if arguments:
        yield "Arguments", arguments
    if len(options) <= _N_UNDIVIDED:
        yield "Options", [row for _, row in options]
        return
    for section in _SECTIONS:
        if rows := [row for name, row in options if section_of(command.name, name) == section]:
            yield section, rows


def _placeholder(typer_s: re.Match[str]) -> str:
    """Return the usual placeholder of a value: `TEXT` for Typer's `<str>`, `[a|b]` for choices."""
    kind = typer_s[1].removesuffix(" range")
    return _PLACEHOLDERS.get(kind, f"[{kind}]")


def _write_examples(examples: str | None, formatter: Any) -> None:
    """Write the lines of a docstring's examples, as they are."""
    if examples:
        with formatter.section("Examples"):
            for line in examples.strip().splitlines():
                formatter.write(f"  {line.strip()}\n")
