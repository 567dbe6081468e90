"""Data folders, covers, tables and figures of strangers: read with one line or refused with one."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qilin_rag.core.errors import UsageError
from qilin_rag.core.spreadsheet import csv_text, defused, read_back
from qilin_rag.data.source import open_source
from qilin_rag.judging.safety_labels import read_labels
from qilin_rag.prompts.answer import load_prompt
from tests.conftest import Cli, Outcome
from tests.hostile.conftest import Scene

PAGE = Path(__file__).parents[2] / "qilin_rag/reports/page"


def pipe(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["notes.jsonl", "notes.parquet", "notes/notes-00000-of-00001.jsonl", "notes/x.arrow"])
def test_a_table_in_a_pipe_is_not_waited_for(name: str, data_dir: Path, cli: Cli) -> None:
    (data_dir / "notes.jsonl").unlink()
    pipe(data_dir / name)
    done = cli("run", "--data", data_dir, "-q")
    assert (done.code, done.err.count("\n")) == (2, 1), done.err


def test_a_device_is_no_table(data_dir: Path) -> None:
    (data_dir / "notes.jsonl").unlink()
    (data_dir / "notes.jsonl").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="table notes does not exist"):
        open_source(str(data_dir)).files("notes")


def test_a_preset_or_a_prompt_in_a_pipe_is_not_waited_for(own_folder: Path, cli: Cli) -> None:
    pipe(own_folder / "configs/llms/slow.yaml")
    pipe(own_folder / "prompts/slow.yaml")
    assert "slow" not in cli("list", "llms").out + cli("list", "prompts").out
    with pytest.raises(UsageError, match="plain file"):
        load_prompt("prompts/slow.yaml")


@pytest.mark.parametrize(
    "line",
    ["[" * 100_000, '{"search_idx": ' + "9" * 5000 + "}", '{"a":' * 5000 + "1" + "}" * 5000, '{"search_idx": 1e400}'],
    ids=["deep list", "5000 digits", "deep object", "infinite"],
)
def test_lines_that_no_reader_can_hold(line: str, data_dir: Path, cli: Cli) -> None:
    with (data_dir / "dqa.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    done = cli("run", "--data", data_dir, "-q")
    assert (done.code, done.err.count("\n")) == (2, 1), done.err[:500]
    assert "dqa.jsonl, line 4" in done.err


FORMULAS = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "＝1",
    "＋1",
    "－1+1",
    "＠x",
    " =1",
    "\u200b=1",
]
FORMULAS += ["\r=1", "'=1", '"=1', "\ufeff=1", "\n=1", "”＝1", "\u3000@x", "=", "-", "- item", "\x00=1", "\u202e=1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_defused_and_can_be_read_back(text: str) -> None:
    [[_], [cell]] = csv.reader(io.StringIO(csv_text(["x"], [[text]]), newline=""))
    assert cell.startswith("'")
    assert read_back(cell) == text.replace("\0", "").replace("\r", "\n")


@pytest.mark.parametrize("value", [-0.12, -1, 0, 1e-9, "-0.12", "+1", "-1e-05", "bm25", "'tis", "a=b", "1-2", ""])
def test_numbers_and_plain_texts_stay(value: object) -> None:
    assert list(csv.reader(io.StringIO(csv_text(["x", "y"], [[value, 1]]))))[1] == [str(value), "1"]


@given(st.text())
def test_what_is_defused_can_be_read_back(text: str) -> None:
    text = text.replace("\0", "")
    assert read_back(defused(text)) == text


@pytest.mark.parametrize("command", ["leaderboard", "leaderboard --controls"])
def test_tables_of_runs_hold_no_formula(command: str, scene: Scene, cli: Cli) -> None:
    for name in ("llm", "retriever", "prompt", "data"):
        scene.change("labels", name, to=f'=HYPERLINK("https://llm.evil.example","{name}")')
    scene.change("config", "llm_label", to="=1+1")
    done = cli(*command.split(), "--format", "csv")
    assert done.code == 0, done.err
    cells = [cell for row in csv.reader(io.StringIO(done.out)) for cell in row]
    assert any("HYPERLINK" in cell for cell in cells)
    assert not [cell for cell in cells if cell.startswith("=")]


def test_labels_that_were_defused_are_read(own_folder: Path) -> None:
    class Notes:
        def missing(self, note_idxs: list[int]) -> list[int]:
            return []

    (own_folder / "l.csv").write_text(csv_text(["note_idx", "label"], [[1, "=x"], [2, "safe"]]), encoding="utf-8")
    labels: Any = read_labels(own_folder / "l.csv", {"=x"}, Notes())  # type: ignore[arg-type]
    assert [(label.note_idx, set(label.found)) for label in labels] == [(1, {"=x"}), (2, set())]


def rewrite(path: Path, change: Callable[[Any], None]) -> None:
    """Change each JSON document of a file."""
    documents = path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text("utf-8")]
    changed = [json.loads(document) for document in documents]
    for document in changed:
        change(document)
    path.write_text("".join(f"{json.dumps(document)}\n" for document in changed), encoding="utf-8")


def put(*path: str, value: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


NUMBERS = {
    "a score of 1e308": ("scores.jsonl", put("value", value=1e308)),
    "a score of -1e308": ("scores.jsonl", put("value", value=-1e308)),
    "a score of NaN": ("scores.jsonl", put("value", value=float("nan"))),
    "a score of 1e-320": ("scores.jsonl", put("value", value=1e-320)),
    "a mean of 1e308": ("summary.json", put("metrics", "rouge_l", "value", value=1e308)),
    "an infinite interval": ("summary.json", put("metrics", "rouge_l", "ci95", value=[0, float("inf")])),
    "10**30 questions": ("summary.json", put("metrics", "rouge_l", "n", value=10**30)),
    "10**400 tokens": ("samples.jsonl", put("usage", "prompt_tokens", value=10**400)),
    "1e308 seconds": ("samples.jsonl", put("latency_s", value=1e308)),
    "more notes used than given": ("samples.jsonl", put("notes_used", value=10**30)),
    "a run of the year 99999": ("manifest.json", put("started", value="99999-12-31T00:00:00+00:00")),
    "top_k of 10**30": ("manifest.json", put("identity", "top_k", value=10**30)),
    "top_k that is a text": ("manifest.json", put("identity", "top_k", value="x")),
    "no retriever": ("manifest.json", put("identity", value={})),
    "an LLM that is a list": ("manifest.json", put("config", "llm", value=[])),
    "settings that are a list": ("manifest.json", put("config", "llm", "settings", value=[])),
    "metrics that are a number": ("manifest.json", put("config", "metrics", value=10**39)),
    "a price that is a number": ("manifest.json", put("config", "llm", "settings", "price", value=2**63)),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_odd_figures_are_read_or_refused_with_one_line(name: str, scene: Scene, cli: Cli) -> None:
    file, change = NUMBERS[name]
    rewrite(scene.run / file, change)

    def harmless(done: Outcome) -> None:
        assert done.code in (0, 2), done.err
        assert done.err.count("\n") <= 2, done.err
        assert "Warning" not in done.err

    harmless(cli("leaderboard", "--format", "csv"))
    harmless(cli("leaderboard", "--controls"))
    harmless(cli("show", scene.run))
    as_json = cli("leaderboard", "--format", "json")
    harmless(as_json)
    assert not {"NaN", "Infinity"} & set(as_json.out.replace(",", " ").split())
    report = cli("report", scene.run, "--out", "report.html")
    harmless(report)
    assert Path("report.html").exists() == (report.code == 0)


def test_changes_of_direction_do_nothing_to_the_terminal(scene: Scene, cli: Cli) -> None:
    scene.change("labels", "llm", to="abc\u202e\u2066def\x1b[2J")
    for done in (cli("leaderboard"), cli("show", scene.run), cli("report", scene.run, "--out", "r.html")):
        assert not {"\u202e", "\u2066", "\x1b"} & set(done.out + done.err)


TICKS = """
const vm = require("vm"), fs = require("fs");
const page = vm.createContext({});
const source = fs.readFileSync(process.argv[1], "utf8").replace(/^export /gm, "");
vm.runInContext(source + ";this.page = { ticks, range, fraction, tickText };", page);
const { ticks, range, fraction, tickText } = page.page;
const found = JSON.parse(process.argv[2]).map((values) => {
  const [low, high] = range(values);
  const { list, decimals } = ticks(low, high, 8);
  const raw = ticks(Math.min(...values), Math.max(...values), 8).list.length;
  const texts = list.map((value) => tickText(value, decimals));
  return { low, high, raw, texts, at: values.map((value) => fraction(value, low, high)) };
});
console.log(JSON.stringify(found));
"""


def test_axes_of_any_range_have_a_few_ticks() -> None:
    """The page's own script, run by Node: ranges of one value, of a last bit, of the smallest and largest numbers."""
    node = next((path for path in ("/usr/bin/node", "/usr/local/bin/node") if Path(path).exists()), None)
    if node is None:
        pytest.skip("needs Node")
    after = sys.float_info.epsilon
    ranges = [[0.3, 0.3 + after / 4], [0.0], [0.0, 0.0], [1.0, 1.0 + after], [-1.0, -1.0 - after], [5e-324, 1e-323]]
    ranges += [[1e-320, 1.0], [-1.7e308, 1.7e308], [1e308], [1e16, 1e16 + 2], [-5.0, -2.0], [0.1, 0.5], [0.0, 1e-13]]
    ranges += [[1e100, 1e100 * (1 + after)], [1e20, 2e20], [-1e-300, 1e-300], [1 / 3, 1 / 3 + 1e-17], [0.2, 0.2000002]]
    done = subprocess.run(
        [node, "-e", TICKS, str(PAGE / "axes.js"), json.dumps(ranges)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    for values, axis in zip(ranges, json.loads(done.stdout), strict=True):
        assert 2 <= len(axis["texts"]) <= 17, values
        assert axis["raw"] <= 17
        assert len(set(axis["texts"])) == len(axis["texts"]), values
        assert all(len(text) <= 12 for text in axis["texts"])
        assert axis["low"] < axis["high"]
        assert all(0 < at < 1 for at in axis["at"]), (values, axis)


Image = pytest.importorskip("PIL.Image", reason="needs pillow: pip install 'qilin-rag[images]'")
SVG = '<?xml version="1.0"?><!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>'


@pytest.mark.parametrize(
    ("name", "state"),
    [
        *(("../outside.png", "OUTSIDE"), ("link.png", "OUTSIDE"), ("/etc/passwd", "OUTSIDE"), ("~/x.png", "MISSING")),
        *(("http://127.0.0.1:9/x.png", "MISSING"), ("file:///etc/passwd", "MISSING"), ("pipe.png", "MISSING")),
        *(("zero.png", "OUTSIDE"), ("x.svg", "DAMAGED"), ("half.png", "DAMAGED"), ("folder.png", "MISSING")),
        *(("a\0b.png", "OUTSIDE"), ("x" * 5000, "MISSING"), ("bmp.png", "DAMAGED"), ("huge.png", "TOO_LARGE")),
        *(("link", "OUTSIDE"), ("./../outside.png", "OUTSIDE"), ("..\\outside.png", "MISSING"), (" ", "MISSING")),
    ],
)
def test_a_cover_is_read_from_the_data_alone(name: str, state: str, data_dir: Path, own_folder: Path) -> None:
    from qilin_rag.data.catalogue import open_catalogue
    from qilin_rag.data.covers import Covers
    from tests.rankers.test_covers import png_header

    Image.new("RGB", (40, 30)).save(own_folder / "outside.png")
    (data_dir / "link.png").symlink_to(own_folder / "outside.png")
    (data_dir / "link").symlink_to("/etc")
    (data_dir / "zero.png").symlink_to("/dev/zero")
    pipe(data_dir / "pipe.png")
    (data_dir / "folder.png").mkdir()
    (data_dir / "x.svg").write_text(SVG, encoding="utf-8")
    Image.new("RGB", (400, 300), (1, 2, 3)).save(data_dir / "whole.png")
    (data_dir / "half.png").write_bytes((data_dir / "whole.png").read_bytes()[:200])
    Image.new("P", (40, 30)).save(data_dir / "bmp.png", "bmp")
    (data_dir / "huge.png").write_bytes(png_header(60_000, 60_000))
    row = {"note_idx": 1, "title": "t", "content": "c", "image_path": [name]}
    (data_dir / "notes.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    covers = Covers(open_catalogue(open_source(str(data_dir))), lambda width, height: True)
    assert covers.read(1) is None
    assert [found.name for found, n in covers.counts().items() if n] == [state]
