"""Readers type what the pages show: every command is run, or is marked and parsed by the real command line.

Commands stand in fenced blocks of the kind `console`, each behind `$ `; the lines behind one are what it prints, with
`...` for anything. A block with the title "needs a model" (a GPU, the hub, ...) is parsed alone. The blocks of one page
run in order in one empty folder, with the files that it shows (blocks whose title is a file's name) and its Python.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.main import get_command

from qilin_rag.cli import app
from qilin_rag.cli.numbers import read_strictly
from qilin_rag.config.run import resolve_run
from tests.conftest import Cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "README.zh.md") if (ROOT / name).is_file()]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
EXTRA_MODULES = {"images": "PIL", "langchain": "langchain_core", "pandas": "pandas"}
EXTRAS = {f"needs qilin-rag[{extra}]": module for extra, module in EXTRA_MODULES.items()}
"""What needs an extra is run where the extra is installed."""
LONG = ("prompt-ablation", "train-a-ranker")

BLOCK = re.compile(r"^( *)(`{3,})(\w+)([^\n`]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
TITLE = re.compile(r'title="([^"]*)"')
FILE = re.compile(r"[\w./-]+\.\w+")
NAMED_BEFORE = re.compile(r"`([\w./-]+\.\w+)`[^\n]*:\n\n$")
MENTIONED = re.compile(r"`((?:python -m qilin_rag|qilin-rag) [^`]+)`")
SHELL = {"cat", "cp", "head", "ls", "mkdir", "mv", "rm", "wc"}
ELSEWHERE = SHELL | {"accelerate", "cd", "curl", "docker", "export", "git", "make", "pip", "python", "ray", "source"}
ELSEWHERE |= {"inspect", "ssh", "torchrun"}


class Block(NamedTuple):
    """A fenced block: its kind, its title, and its lines."""

    kind: str
    title: str
    body: str

    @property
    def needs(self) -> bool:
        """Whether its commands need what a test does not have."""
        return self.title.startswith("needs ")

    @property
    def file(self) -> str | None:
        """The file that the block shows."""
        return self.title if FILE.fullmatch(self.title) else None


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = []
    for found in BLOCK.finditer(text):
        indent, _, kind, rest, body = found.groups()
        title = TITLE.search(rest) or NAMED_BEFORE.search(text[: found.start()])
        lines = [line.removeprefix(indent) for line in body.splitlines()]
        blocks.append(Block(kind, title[1] if title else "", "\n".join(lines) + "\n"))
    return blocks


def mentioned(page: str) -> list[str]:
    """The commands in the sentences of a page, without outlines such as `clear [KIND]`."""
    text = BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
    return [" ".join(found.split()) for found in MENTIONED.findall(text) if "[" not in found]


class Command(NamedTuple):
    """A command as it is typed, with the lines that the page shows behind it."""

    line: str
    shown: list[str]


def commands_in(block: Block) -> list[Command]:
    """The commands of a block: all that is behind `$ ` in a console, every line of a script."""
    if block.kind not in ("console", "bash", "sh", "shell"):
        return []
    commands: list[Command] = []
    lines = iter(block.body.splitlines())
    for line in lines:
        if block.kind == "console" and not line.startswith("$ "):
            assert commands, f"output before any command: {line!r}"
            commands[-1].shown.append(line)
            continue
        typed = line.removeprefix("$ ")
        while typed.endswith("\\"):
            typed = typed[:-1] + next(lines).strip()
        commands.append(Command(typed, []))
    return commands


def simple_commands(line: str) -> Iterator[list[str]]:
    """The words of each command of a shell line: those between `|`, `;` and `&`, without comments and redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word in (";", "|", "&", "&&"):
            while words and (words[0] == "do" or re.fullmatch(r"[A-Z_]+=.*", words[0])):
                words = words[1:]
            if words and words[0] not in ("for", "done"):
                yield words
            words = []
        else:
            words.append(word)


def ours(words: Sequence[str]) -> list[str] | None:
    """The arguments of a command of ours, or None."""
    if "qilin_rag" in words and words[words.index("qilin_rag") - 1] == "-m":
        return list(words[words.index("qilin_rag") + 1 :])
    if "qilin-rag" in words[:1]:
        return list(words[1:])
    return None


@cache
def command_line() -> Any:
    return read_strictly(get_command(app))


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """Have the real command line read these arguments, and run nothing; what it read, with the command's name."""
    if any(each in ("--help", "-h", "--version") for each in arguments):
        arguments = [each for each in arguments if each not in ("--help", "-h", "--version")]
        if not arguments:
            return {}
    command = command_line()
    context = command.make_context("qilin-rag", list(arguments))
    while hasattr(command, "commands") and (rest := [*context._protected_args, *context.args]):
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    return {"command": context.command_path, **context.params}


def check_names(read: dict[str, Any]) -> None:
    """A run of these arguments has the components and settings that they name."""
    if read.get("command", "").split()[-1:] == ["run"] and not _is_unknown(read):
        keys: tuple[str, ...] = ("retriever", "query", "llm", "data", "prompt", "metrics", "top_k", "base_url", "serve")
        settings = read["settings"] or []
        if any(setting.startswith("rerank.") for setting in settings):  # a folder that train wrote may not be here
            keys += ("rerank",)
        resolve_run({key: read[key] or None for key in keys}, settings)


def _is_unknown(read: dict[str, Any]) -> bool:
    """Whether what is named is LangChain's, which may not be installed, or a variable of the shell."""
    return str(read["llm"]).startswith("langchain:") or "$" in f"{read['llm']} {read['retriever']}"


def check_elsewhere(words: Sequence[str]) -> None:
    """A command of others is a known one; targets of make and scripts of ours are there."""
    assert words[0] in ELSEWHERE or words[0].endswith(("/python", "/pip")), f"unknown command: {shlex.join(words)}"
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= {*targets, "vllm-env", "llamacpp-env"}
    if words[0] == "python" and words[1].startswith("benchmarks/"):
        assert (ROOT / words[1]).is_file(), f"{words[1]} does not exist"


def pattern_of(shown: Sequence[str]) -> re.Pattern[str]:
    """What matches a text that holds these lines; `...` stands for anything."""
    lines = "\n".join(shown).strip("\n").split("\n")
    parts = [
        r"(?:.*\n)??" if line.strip() == "..." else ".*?".join(map(re.escape, line.rstrip().split("..."))) + r"[ ]*\n"
        for line in lines
    ]
    return re.compile("^" + "".join(parts), re.MULTILINE | re.DOTALL)


def check_line(line: str, is_whole: bool = True) -> None:
    """All that a line would do is there; of a command that a sentence mentions, arguments may be missing."""
    for words in simple_commands(line):
        arguments = ours(words)
        if arguments is None:
            check_elsewhere(words)
            continue
        try:
            check_names(parse(arguments))
        except Exception as error:
            if is_whole or type(error).__name__ != "MissingParameter":
                pytest.fail(f"{line}\n{error}")


def write_files(blocks: Sequence[Block]) -> None:
    for block in blocks:
        if block.file:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.body, encoding="utf-8")


@pytest.mark.parametrize("page", NAMES)
def test_every_command_is_one_that_is_there(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    blocks = blocks_of(page)
    write_files(blocks)
    for block in blocks:
        is_script = block.kind != "console" and commands_in(block)
        assert not is_script or block.needs or page.startswith("README"), f"use a console, or mark it: {block.body}"
        for command in commands_in(block):
            check_line(command.line)
    for line in mentioned(page):
        check_line(line, is_whole=False)


def run_command(command: Command, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what a reader would, and look whether it prints what the page shows."""
    [words] = simple_commands(command.line)
    arguments = ours(words)
    should_fail = any(line.startswith(("error:", "Error:")) for line in command.shown)
    if words[0] == "export":
        name, _, value = words[1].partition("=")
        monkeypatch.setenv(name, value)
        return
    if arguments is not None:
        code, out, err = cli(*arguments)
    else:
        assert words[0] in SHELL or words[0] == "python", f"mark it, it can't be run here: {command.line}"
        program = [sys.executable, *words[1:]] if words[0] == "python" else words
        done = subprocess.run(program, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        code, out, err = done.returncode, done.stdout, done.stderr
    assert (code != 0) == should_fail, f"{command.line}: exit code {code}\n{err}"
    if "".join(command.shown).strip():
        texts = ["\n".join(line.rstrip() for line in text.splitlines()) + "\n" for text in (out, err, err + out)]
        pattern = pattern_of(command.shown)
        assert any(map(pattern.search, texts)), f"{command.line} prints something else:\n{err}{out}"


def run_page(blocks: Sequence[Block], cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        if block.needs and not find_spec(EXTRAS.get(block.title, "no_such_module")):
            continue
        if block.file:
            write_files([block])
        elif block.kind == "console":
            for command in commands_in(block):
                run_command(command, cli, monkeypatch)
        elif block.kind == "python":
            exec(compile(block.body, "page", "exec"), namespace)
        elif block.kind == "pycon":
            test = doctest.DocTestParser().get_doctest(block.body, namespace, "page", None, None)
            said: list[str] = []
            failed = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append, clear_globs=False)
            assert not failed.failed, "".join(said)
            namespace = test.globs


def marked(page: str) -> Any:
    """Long pages, and the Chinese ones, whose commands are those of the English ones, are run among the slow tests."""
    is_slow = page.startswith("docs/zh/") or Path(page).stem in LONG
    return pytest.param(page, marks=pytest.mark.slow) if is_slow else page


@pytest.mark.parametrize("page", [marked(page) for page in NAMES])
def test_what_a_page_shows_happens(page: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = blocks_of(page)
    if any("runs/examples" in block.body for block in blocks):
        shutil.copytree(ROOT / "runs" / "examples", "runs/examples")
    run_page(blocks, cli, monkeypatch)


def block(*lines: str, kind: str = "console", title: str = "") -> Block:
    return Block(kind, title, "\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "typed",
    [
        "qilin-rag ruin",
        "qilin-rag run --topk 3",
        "python -m qilin_rag leaderboard --format pdf",
        "qilin-rag data validat sample",
        "qilin-rag run --llm gpt-4o-minu",
        "qilin-rag run --set retriever.k3=1",
        "QILIN_RAG_CACHE=c qilin-rag run --metrics rouge_9 &",
    ],
)
def test_a_wrong_command_is_found(typed: str) -> None:
    [command] = commands_in(block(f"$ {typed}", title="needs a model"))
    [words] = simple_commands(command.line)
    arguments = ours(words)
    assert arguments is not None
    with pytest.raises(Exception, match=r"ruin|topk|pdf|validat|gpt-4o-minu|k3|rouge_9"):
        check_names(parse(arguments))


def test_lines_are_joined_and_split_as_a_shell_does() -> None:
    [command] = commands_in(
        block("$ torchrun --nproc_per_node 4 -m qilin_rag train biencoder \\", "    --out bi # four")
    )
    [words] = simple_commands(command.line)
    assert ours(words) == ["train", "biencoder", "--out", "bi"]
    assert list(simple_commands("cd x && qilin-rag list llms | head -3")) == [
        ["cd", "x"],
        ["qilin-rag", "list", "llms"],
        ["head", "-3"],
    ]


@pytest.mark.parametrize(
    ("shown", "agrees"),
    [
        (["recall@5  0.6833 ..."], True),
        (["recall@5  0.6833  0.5643 .. 0.7910   60/60"], True),
        (["metric ...", "...", "rouge_l   0.3371 ..."], True),
        (["recall@5  0.6834 ..."], False),
        (["rouge_l ...", "recall@5 ..."], False),
    ],
)
def test_what_is_shown_is_compared(shown: list[str], agrees: bool, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    page = [block("$ qilin-rag run --retriever bm25", *shown)]
    if agrees:
        run_page(page, cli, monkeypatch)
    else:
        with pytest.raises(AssertionError, match="prints something else"):
            run_page(page, cli, monkeypatch)
