"""What the README shows is run as it stands: its files are written, its commands typed, its figures compared."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import Cli

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
FILE = re.compile(r"`([\w/]+\.(?:jsonl|yaml|py))`(?: \(.*\))?:\n\n```\w+\n(.*?)```", re.DOTALL)
COMMANDS = re.findall(r"^\$ python -m qilin_rag (.*)$", README, re.MULTILINE)


@pytest.fixture
def written() -> list[str]:
    """The README's files, in the working directory."""
    found = FILE.findall(README)
    for name, content in found:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content, encoding="utf-8")
    return [name for name, _ in found]


def test_files_and_commands(written: list[str], cli: Cli) -> None:
    assert written == ["grid.yaml", "mine/notes.jsonl", "mine/dqa.jsonl", "prompts/steps.yaml", "mine_rag.py"]
    assert len(COMMANDS) >= 11
    for command in COMMANDS:
        done = cli(*shlex.split(command))
        assert done.code == 0, f"{command}: {done.err}"
    last = cli(*shlex.split(COMMANDS[-1]), "--json")
    assert json.loads(last.out)["metrics"]["length"]["n"] == 1


def test_the_example_of_lists(capsys: pytest.CaptureFixture[str]) -> None:
    [example] = re.findall(r"^Lists need no run.*?```python\n(.*?)```", README, re.DOTALL | re.MULTILINE)
    exec(compile(example, "README.md", "exec"), {})
    assert re.fullmatch(r"0\.\d+ None \[0\.\d+\]\n", capsys.readouterr().out)


def test_the_forms_of_answers_from_elsewhere(written: list[str], cli: Cli) -> None:
    [block] = re.findall(r"Three forms are read.*?```text\n(.*?)```", README, re.DOTALL | re.MULTILINE)
    lines, header, cells, track = (re.split(r"\s{2,}", line)[0] for line in block.splitlines())
    for content in (lines, f"{header}\n{cells}", track):
        Path("given").write_text(f"{content}\n", encoding="utf-8")
        done = cli("import-answers", "given", "--data", "mine", "--name", "p", "--json")
        assert json.loads(done.out)["counts"]["ok"] == 1, done.err


def test_the_python_example(written: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    [example] = re.findall(r"From Python.*?```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    assert 0 < float(capsys.readouterr().out) <= 1


def test_the_langchain_example(written: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("langchain_core", reason="needs LangChain: pip install 'qilin-rag[langchain]'")
    [example] = re.findall(r"^The other way.*?```python\n(.*?)```", README, re.DOTALL | re.MULTILINE)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out == "手冲咖啡 水温92度。\n"


def test_the_printed_figures_are_those_of_the_demo(cli: Cli) -> None:
    shown = {}
    for retriever in ("none", "bm25", "oracle"):
        metrics = json.loads(cli("run", "--data", "sample", "--retriever", retriever, "--json").out)["metrics"]
        shown[retriever] = {name: f"{metrics[name]['value']:.4f}" for name in ("rouge_l", "recall@5")}
    rows = [re.findall(r"[\d.]+", row) for row in re.findall(r"^\| extractive \|(.*)$", README, re.MULTILINE)]
    assert rows == [[shown[r][metric] for r in ("none", "bm25", "oracle")] for metric in ("rouge_l", "recall@5")]


def test_the_printed_ablation_is_what_the_command_prints(cli: Cli) -> None:
    [command] = [command for command in COMMANDS if "--note-chars whole,100" in command]
    [report] = json.loads(cli(*shlex.split(command), "--json").out)
    levels = [level for factor in report["factors"] for level in factor["systems"][0]["levels"]]
    shown = [f"{level['difference']:+.4f}" for level in levels if level["difference"] is not None]
    [row] = re.findall(r"^\| 5 notes, best first.*\n.*\n\|(.*)$", README, re.MULTILINE)
    assert re.findall(r"[-+]?\d\.\d+", row) == [f"{levels[0]['value']:.4f}", *shown]


def test_the_tree_is_the_tree() -> None:
    """Every module the design section names is there, and every one that is there is named."""
    tree = README.split("```\nqilin_rag/")[1].split("```")[0]
    package = Path(__file__).parents[1] / "qilin_rag"
    top = {path.name for path in package.iterdir() if not path.name.startswith("_")} - {"py.typed"}
    assert top == {name.rstrip("/") for name in re.findall(r"\b(\w+(?:\.py|/))", tree)}
