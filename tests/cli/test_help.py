"""`--help` fits the terminal, names each option in its section, and ends with examples that work."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import pytest
from typer.main import get_command

from qilin_rag.cli import app
from qilin_rag.cli.cache import CacheKind
from qilin_rag.cli.catalogue import ListKind
from qilin_rag.cli.help import _SECTION_OF, section_of
from tests.conftest import Cli


def _walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from _walk(below, (*path, name))


COMMANDS = dict(_walk(get_command(app)))
LEAVES = {path: command for path, command in COMMANDS.items() if not hasattr(command, "commands")}
EXAMPLES = [line.strip() for command in COMMANDS.values() for line in (command.epilog or "").strip().splitlines()]
NEEDS_MORE = re.compile(  # a model, a server, the hub, a file of the user's, or minutes
    r"qwen|HOST|127\.0\.0\.1|gguf:|bertscore|serve|biencoder|train |--checkpoint|hub:|\bmine\b|answers\.(jsonl|csv) --"
    r"|pairs\.jsonl|labels\.csv|grid\.yaml|--without|set data=|plots|analyze|view |batch cancel|rag track |--track"
)


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: "-".join(path) or "top")
def test_it_fits_the_terminal(path: tuple[str, ...], columns: int, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    done = cli(*path, "--help")
    assert (done.code, done.err) == (0, "")
    assert [line for line in done.out.splitlines() if len(line) > columns] == []
    for below in getattr(COMMANDS[path], "commands", {}).values():  # none is cut
        assert f"  {_first_sentence(below)}\n" in done.out


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: "-".join(path) or "top")
def test_it_begins_with_one_short_sentence(path: tuple[str, ...]) -> None:
    sentence = _first_sentence(COMMANDS[path])
    assert len(sentence) <= 60 or not path
    assert re.fullmatch(r"[A-Z][a-z]+,? [^.]+\.", sentence)
    assert sentence.split()[0] not in ("What", "Which", "Of", "Where", "The", "A")


@pytest.mark.parametrize("path", LEAVES, ids="-".join)
def test_each_option_has_a_section_and_a_meaning(path: tuple[str, ...], cli: Cli) -> None:
    out = cli(*path, "--help").out
    for option in LEAVES[path].params:
        assert option.help
        if option.param_type_name == "option":
            assert section_of(path[-1], option.name)
            assert re.findall(rf"^  (?:-\w, )?{option.opts[0]}\b(?!-)", out, re.MULTILINE)


@pytest.mark.parametrize("path", LEAVES, ids="-".join)
def test_values_are_named_in_capitals(path: tuple[str, ...], cli: Cli) -> None:
    """A placeholder is a word in capitals; only choices, and keys of --set, are written as they are typed."""
    out = cli(*path, "--help").out
    usage, *rest = re.split(r"\n\n", out)
    program, _, pieces = usage.partition("[OPTIONS]")
    assert program.split()[-len(path) :] == list(path)
    assert re.fullmatch(r"( (\[?[A-Z_|]+\]?(\.\.\.)?))*", " ".join(["", *pieces.split()]))
    named = re.findall(r"^  (?:-\w, )?--[\w-]+ (?! )(\S+)", "\n".join(rest), re.MULTILINE)
    choices, keys = r"\[[\w-]+(\|[\w-]+)*\]", r"(log\.|metrics\.NAME\.)?KEY=VALUE"
    assert [value for value in named if not re.fullmatch(rf"[A-Z]+|/|{choices}|{keys}", value)] == []


@pytest.mark.parametrize(("path", "kinds"), [(("list",), ListKind), (("cache", "clear"), CacheKind)])
def test_kinds_are_listed(path: tuple[str, ...], kinds: type[StrEnum], cli: Cli) -> None:
    arguments = cli(*path, "--help").out.partition("\nArguments:\n")[2].partition("\n\n")[0]
    assert all(kind.value in arguments for kind in kinds)


def test_sections_name_no_option_that_is_gone() -> None:
    options = {option.name for command in COMMANDS.values() for option in command.params} | {"help"}
    assert {name.rpartition(":")[2] for name in _SECTION_OF} <= options


def test_sections_are_in_the_order_of_the_work(cli: Cli) -> None:
    headings = re.findall(r"^([A-Z]\w+):$", cli("run", "--help").out, re.MULTILINE)
    assert headings == ["Data", "Retrieval", "Model", "Scoring", "Output", "General", "Examples"]
    assert re.findall(r"^([A-Z]\w+):$", cli("cache", "ls", "--help").out, re.MULTILINE) == ["Options", "Examples"]


def test_options_are_in_the_section_of_their_command(cli: Cli) -> None:
    def section(command: str, option: str) -> str:
        before = cli(command, "--help").out.partition(f"  {option}")[0]
        return str(re.findall(r"^([A-Z]\w+):$", before, re.MULTILINE)[-1])

    assert section("sweep", "--controls") == "Retrieval"
    assert section("leaderboard", "--controls") == "Scoring"
    assert section("synth", "--without") == "Data"
    assert section("train", "--without") == "Model"


@pytest.mark.parametrize("path", LEAVES, ids="-".join)
def test_it_ends_with_examples(path: tuple[str, ...], cli: Cli) -> None:
    examples = cli(*path, "--help").out.partition("\nExamples:\n")[2].splitlines()
    assert 1 <= len(examples) <= 3
    assert all(shlex.split(example)[: len(path) + 1] == ["qilin-rag", *path] for example in examples)


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_parse(example: str) -> None:
    context: Any = get_command(app).make_context("qilin-rag", shlex.split(example)[1:])
    while context._protected_args:
        arguments = [*context._protected_args, *context.args]
        name, command, rest = context.command.resolve_command(context, arguments)
        context = command.make_context(name, rest, parent=context)
    assert not context.args


@pytest.mark.slow
def test_examples_work(cli: Cli) -> None:
    """Run those that need no more than the bundled sample and a synthetic Qilin, in one folder, on two runs."""
    runs = [
        cli("run", "--limit", 3, "--retriever", retriever, "-q").out.splitlines()[-1]
        for retriever in ("oracle", "none")
    ]
    question = next(iter(json.loads(cli("show", runs[0], "--json").out)["scores"]))
    placeholders = {"runs/RUN_A": runs[0], "runs/RUN_B": runs[1], "runs/RUN": runs[0], " ID": f" {question}"}
    examples = [each for each in EXAMPLES if not NEEDS_MORE.search(each)]
    examples.sort(
        key=lambda each: (" synth " not in each, " score " in each)
    )  # rank needs the data; score changes runs
    for example in examples:
        command = example.replace("data/Qilin", "world")
        for placeholder, value in placeholders.items():
            command = command.replace(placeholder, value)
        done = cli(*shlex.split(command)[1:])
        assert done.code == 0, f"{example}\n{done.err}"
    ran = {shlex.split(example)[1] for example in examples}
    left_out = {"judge", "import-answers", "train", "serve", "analyze", "view", "track"}
    assert ran == {path[0] for path in LEAVES} - left_out


def _first_sentence(command: Any) -> str:
    return str(command.help).partition("\n")[0]
