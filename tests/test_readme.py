"""Run what the READMEs show: write their files, type their commands, compare their figures, follow their links."""

from __future__ import annotations

import json
import re
import shlex
import struct
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from qilin_rag.cli import app
from qilin_rag.cli.numbers import read_strictly
from tests.conftest import Cli
from tests.fake_server import MODEL, FakeServer

ROOT = Path(__file__).parents[1]
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md")}
ENGLISH, CHINESE = PAGES.values()  # with the same files and commands, so those of one are run
FILE = re.compile(r"^```json title=\"(.*?)\"\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CONSOLE = re.compile(r"^```console(?: title=\"(needs [^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PICTURE = re.compile(
    r'<source media="\(prefers-color-scheme: dark\)" srcset="(.*?)">\n  <img src="(.*?)".*? alt="(.*?)">'
)

both = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())


def commands(runnable: bool) -> list[list[str]]:
    """Return the commands that need nothing special, or those that do, each as its words after `qilin-rag`."""
    blocks = [block for needs, block in CONSOLE.findall(ENGLISH) if bool(needs) != runnable]
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    assert all(line.startswith("$ qilin-rag ") for line in lines), lines
    return [shlex.split(line)[2:] for line in lines]


def parse(words: list[str]) -> Any:
    """Read a command line as the program does, and do not run it; wrong options and values raise."""
    command: Any = read_strictly(get_command(app))
    context: Any = None
    name, rest = "qilin-rag", words
    while hasattr(command, "commands"):
        context = command.make_context(name, [], parent=context, resilient_parsing=True)
        name, *rest = rest
        command = command.get_command(context, name)
        assert command is not None, f"{' '.join(words)}: no command {name}"
    return command.make_context(name, rest, parent=context).params


def write_files() -> list[str]:
    """Write the page's files to the working directory, and return their names."""
    found = FILE.findall(ENGLISH)
    for name, content in found:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content, encoding="utf-8")
    return [name for name, _ in found]


@both
def test_it_is_short(page: str) -> None:
    assert len(page.splitlines()) <= 200


def test_files_and_commands(cli: Cli) -> None:
    assert write_files() == ["mine/notes.jsonl", "mine/dqa.jsonl", "answers.jsonl"]
    runnable = commands(runnable=True)
    assert [words[0] for words in runnable] == ["run", "leaderboard", "report", "ablate", "run", "import-answers"]
    for words in runnable:
        done = cli(*words)
        assert done.code == 0, f"{words}: {done.err}"
    assert json.loads(cli(*runnable[-1], "--json").out)["counts"]["ok"] == 3
    assert Path("report.html").is_file()


@both
def test_what_a_run_prints(page: str, cli: Cli) -> None:
    [shown] = [block for _, block in CONSOLE.findall(page) if block.startswith("$ qilin-rag run --retriever bm25")]
    command, expected = shown.split("\n", 1)
    printed = cli(*shlex.split(command)[2:]).out
    before, after = expected.split("...\n")  # seconds and cost
    assert printed.startswith(before) and printed.endswith(after)
    recall = re.search(r"^recall@5  (0\.\d+)", printed, re.MULTILINE)
    assert recall
    assert f" {100 * float(recall[1]):.0f}% " in page


def test_what_needs_more_is_parsed() -> None:
    run, sweep = commands(runnable=False)
    assert parse(run)["llm"] == "openai"
    assert (ROOT / "configs" / f"{parse(sweep)['config']}.yaml").is_file()
    with pytest.raises(Exception, match="--no-such-option"):
        parse([*run, "--no-such-option"])


def test_own_questions_and_endpoint(cli: Cli, server: FakeServer) -> None:
    """From the page alone to a leaderboard over three questions and one endpoint of one's own."""
    write_files()
    run, _ = commands(runnable=False)
    here = {"http://127.0.0.1:8000/v1": server.url, "llm.model=my-model": f"llm.model={MODEL}"}
    assert here.keys() <= set(run)
    done = cli(*(here.get(word, word) for word in run), "--data", "mine")
    assert done.code == 0, done.err
    assert len(server.calls) == 3
    [table] = json.loads(cli("leaderboard", "--format", "json").out)
    assert MODEL in json.dumps(table)


@both
def test_commands_in_the_text_are_commands(page: str) -> None:
    named = re.findall(r"`qilin-rag ([\w-]+)`", page)
    assert {"judge", "rank", "analyze"} <= set(named)
    known = get_command(app).commands  # type: ignore[attr-defined]
    assert set(named) <= set(known)
    targets = re.findall(r"^make ([\w-]+)", page, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@both
def test_every_metric_is_named(page: str, cli: Cli) -> None:
    known = [line.split()[0] for line in cli("list", "metrics").out.splitlines()]
    assert len(known) >= 10
    assert [name for name in known if f"`{name}`" not in page] == []


@both
def test_the_python_example(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_files()
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "README", "exec"), names)
    assert 0 < float(capsys.readouterr().out) <= 1
    for name in re.findall(r"`?\.(\w+)`?", example.split("#")[1]):
        assert hasattr(names["run"].metrics["rouge_l"], name)


@both
def test_pictures(page: str, cli: Cli) -> None:
    """Light and dark, small, as wide as a page; the figures in their descriptions are those of the recorded runs."""
    pictures = PICTURE.findall(page)
    assert len(pictures) == 2
    for dark, light, _ in pictures:
        assert dark.replace("dark", "light") == light
        for name in (dark, light):
            png = (ROOT / name).read_bytes()
            assert len(png) < 150_000
            assert struct.unpack(">I", png[16:20])[0] == pytest.approx(1400, abs=10)
    examples = ROOT / "runs" / "examples"
    [row, *_] = re.findall(r"^qwen2\.5-coder-1\.5b.*", cli("leaderboard", "--runs-dir", examples).out, re.MULTILINE)
    figures = re.compile(r"0\.\d{4}")
    assert figures.findall(pictures[0][2]) == figures.findall(row)
    [oracle] = examples.glob("sample-oracle-*")
    shown = json.loads(cli("show", oracle, "--question", "40", "--json").out)
    [rouge_l] = [score["value"] for score in shown["scores"] if score["metric"] == "rouge_l"]
    assert figures.findall(pictures[1][2]) == [f"{rouge_l:.4f}"]
    assert shown["question"]["query"] in pictures[1][2]


@both
def test_links_and_labels(page: str) -> None:
    links = [*re.findall(r"\]\((?!https?://)([^)#]+)\)", page), *re.findall(r'(?:src|srcset)="(.*?)"', page)]
    assert len(links) > 30
    missing = [link for link in links if not (ROOT / link).exists()]
    assert missing == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    labels = dict(re.findall(r"\[!\[(\w+|许可证)[:：] ?(.*?)\]\(docs/images/badge", page))
    assert list(labels.values()) == [".ci/run", project["license"], f"{project['requires-python'].removeprefix('>=')}+"]
    for name, value in zip(("ci", "licence", "python"), labels.values(), strict=True):
        assert f">{value}</text>" in (ROOT / "docs" / "images" / f"badge-{name}.svg").read_text(encoding="utf-8")


def test_both_say_the_same() -> None:
    assert CONSOLE.findall(ENGLISH) == CONSOLE.findall(CHINESE)
    assert FILE.findall(ENGLISH) == FILE.findall(CHINESE)
    figures = re.compile(r"\d+\.\d+|#\d+|\d+%")
    assert figures.findall(ENGLISH) == figures.findall(CHINESE)
