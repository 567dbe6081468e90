"""Hostile content and components: said in one line, shown without effect, or refused."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

from qilin_rag.cli import ui
from qilin_rag.config.run import RunConfig, resolve_run
from qilin_rag.config.spec import RunSpec
from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import Named
from qilin_rag.core.text import printable
from qilin_rag.core.types import Note
from qilin_rag.prompts.answer import Prompt
from qilin_rag.scorers.rouge import Rouge1
from tests.conftest import NOTES, QUESTIONS, Cli, write_jsonl

ESCAPE = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m"


def test_control_characters_do_nothing_to_the_terminal(data_dir: Path, cli: Cli) -> None:
    write_jsonl(data_dir / "notes.jsonl", [{**note, "content": ESCAPE + str(note["content"])} for note in NOTES])
    write_jsonl(data_dir / "dqa.jsonl", [{**row, "query": f"{row['query']}{ESCAPE}"} for row in QUESTIONS])
    run = cli("run", "--data", data_dir, "--retriever", "oracle").out.splitlines()[-1]
    shown = [cli("show", run).out, cli("show", run, "--question", "1").out, cli("leaderboard").out]
    shown += [cli("show", run, "--question", ESCAPE).err, cli("leaderboard", "--format", "md").out]
    assert not any(re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text) for text in shown)
    assert r"\x1b]52;c" in shown[1]


def test_what_is_printable_stays_and_colours_still_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert printable("咖啡\n\t😭 é") == "咖啡\n\t😭 é"
    monkeypatch.delenv("NO_COLOR", raising=False)
    console = ui.console()
    console.file, console._force_terminal, console._color_system = io.StringIO(), True, console._color_system
    console.print("a\x1bb", style="bold")
    assert r"a\x1bb" in console.file.getvalue()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 'a' * 10**10 }}", "can't be rendered"),
        ("{{ 10**5000 }}", "can't be rendered"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "can't be rendered"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "can't be read"),
        ("{{ query.__class__ }}", "can't be rendered"),
    ],
)
def test_hostile_templates_are_one_line(template: str, message: str) -> None:
    prompt = Prompt(name="x", language="zh", description="", with_notes=template, without_notes="x")
    with pytest.raises(UsageError, match=message):
        prompt.render("问", [Note(note_idx=0, title="", content="")])


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    (tmp_path / "bomb.yaml").write_text("\n".join([*lines, "retriever: *a29"]))
    with pytest.raises(UsageError, match="not valid YAML: its aliases stand for more than"):
        resolve_run({}, file=tmp_path / "bomb.yaml")
    (tmp_path / "anchors.yaml").write_text("metrics: {rouge_l: &same {strip_markup: false}, rouge_1: *same}")
    assert resolve_run({}, file=tmp_path / "anchors.yaml").metrics["rouge_1"] == Rouge1(strip_markup=False)


@pytest.mark.parametrize("flag", ["data", "runs_dir", "prompt", "ids"])
def test_names_that_cannot_be_written_are_one_line(cli: Cli, tmp_path: Path, flag: str) -> None:
    done = cli("run", f"--{flag.replace('_', '-')}", "bad\udcff")
    assert done.code == 2
    assert "holds a character" in done.err
    (tmp_path / "config.yaml").write_text(f'{flag}: "nul\\0byte.yaml"')
    with pytest.raises(UsageError, match="holds a character"):
        resolve_run({}, file=tmp_path / "config.yaml")


def test_an_llm_given_from_python_is_called_by_its_name() -> None:
    assert RunSpec(llm=Named(name="mine:Mine")).llm_label == "mine:Mine"
    assert RunConfig().llm_label == "extractive"


def test_one_broken_prompt_does_not_hide_the_others(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "broken.yaml").write_text("{{")
    done = cli("list", "prompts")
    assert done.code == 0
    assert "can't be used: prompts/broken.yaml" in done.out.replace(str(tmp_path) + "/", "")
    assert "concise" in done.out


@pytest.mark.parametrize(
    ("hits", "message"),
    [
        ("[Hit(note_idx=10, score=1, rank=1), Hit(note_idx=11, score=1, rank=1)]", "ranks must be 1, 2"),
        ("[Hit(note_idx=10, score=1, rank=1), Hit(note_idx=10, score=1, rank=2)]", "a note is named twice"),
        ("[Hit(note_idx=10 + i, score=1, rank=i + 1) for i in range(4)]", "4 notes, but at most 3"),
    ],
)
def test_a_retriever_that_breaks_the_rules_is_named(
    tmp_path: Path, data_dir: Path, cli: Cli, hits: str, message: str
) -> None:
    (tmp_path / "odd_hits.py").write_text(
        "from qilin_rag.retrievers import Retriever\nfrom qilin_rag.core.types import Hit\n\n"
        "class Odd(Retriever):\n    def search(self, questions, notes, k):\n"
        f"        return [{hits} for _ in questions]\n"
    )
    sys.modules.pop("odd_hits", None)
    done = cli("run", "--data", data_dir, "--retriever", "odd_hits:Odd", "--top-k", 3)
    assert done.code == 2
    assert message in done.err
