"""The public face: what `import qilin_rag` gives, its types, its examples, and its results in a notebook."""

from __future__ import annotations

import ast
import doctest
import html
import inspect
import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import qilin_rag as qr
from qilin_rag.core.registry import LLMS, QUERIES, RANKERS, RETRIEVERS, SCORERS
from qilin_rag.rankers.base import Ranker
from qilin_rag.reports.compare import section_of
from qilin_rag.reports.formats import format_cell, format_interval, marks, marks_of
from tests.conftest import Cli
from tests.fake_server import MODEL, FakeServer

HEAVY = {"numpy", "pandas", "pydantic", "openai", "torch", "transformers", "pyarrow", "rich", "typer", "jinja2", "yaml"}
NAMES = [name for name in qr.__all__ if name != "__version__"]


def test_importing_it_imports_nothing() -> None:
    program = "import sys; before = set(sys.modules); import qilin_rag; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert {name for name in imported if name.startswith("qilin_rag")} == {"qilin_rag"}
    assert not HEAVY & {name.partition(".")[0] for name in imported}


def test_naming_a_component_imports_no_model_library() -> None:
    program = f"import sys, qilin_rag; [getattr(qilin_rag, name) for name in {NAMES}]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "sentence_transformers", "pandas", "langchain_core"} & set(done.stdout.split())


def test_what_type_checkers_see_is_what_there_is() -> None:
    tree = ast.parse(inspect.getsource(qr))
    block, _ = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {name: f"qilin_rag.{module}" for name, module in qr._MODULES.items()}
    assert sorted(seen) == sorted(NAMES)
    assert all(inspect.getmodule(getattr(qr, name)).__name__ == module for name, module in seen.items())  # type: ignore[union-attr]
    assert set(qr.__all__) <= set(dir(qr))
    with pytest.raises(AttributeError, match="no attribute 'bm25'"):
        qr.bm25  # type: ignore[attr-defined]  # noqa: B018


def test_every_component_that_can_be_named_is_exported() -> None:
    registries = (RETRIEVERS, QUERIES, LLMS, SCORERS)
    classes = {registry.resolve(name) for registry in registries for name in registry._builtin}
    exported = {getattr(qr, name) for name in NAMES}
    assert {cls.__name__ for cls in classes - exported} == set()


@pytest.mark.parametrize("name", NAMES)
def test_examples(name: str, tmp_path: Path) -> None:
    if name == "LangChain":
        pytest.importorskip("langchain", reason="needs LangChain: pip install 'qilin-rag[langchain]'")
    _run_examples(getattr(qr, name), name, needed=name != "LLM")


@pytest.mark.parametrize("name", RANKERS._builtin)
def test_examples_of_rankers(name: str) -> None:
    _run_examples(RANKERS.resolve(name), name)


def test_example_of_a_new_ranker() -> None:
    _run_examples(Ranker, "Ranker")


def _run_examples(thing: Any, name: str, needed: bool = True) -> None:
    """Run the examples in a docstring; with `needed` there must be one."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    namespace = dict(vars(sys.modules[thing.__module__]))
    examples = doctest.DocTestParser().get_doctest(inspect.getdoc(thing) or "", namespace, name, None, 0)
    assert examples.examples or not needed, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=flags)
    said: list[str] = []
    runner.run(examples, out=said.append)
    assert not runner.failures, "".join(said)


CELLS = [
    """
import asyncio
assert asyncio.get_running_loop().is_running()
import qilin_rag as qr
none = qr.run(retriever=qr.NoRetriever(), metrics=["rouge_l"])
bm25 = qr.run(retriever=qr.BM25(k1=1.2), llm=qr.Extractive(), metrics=[qr.RougeL(), "retrieval"])
bm25""",
    "bm25.to_frame()[['question_id', 'status', 'rouge_l']]",
    "qr.score(['冷藏12小时', None], ['冷藏12小时后过滤', '92度'], metrics=['rouge_l'])",
    "qr.load_runs('runs').to_frame()[['retriever', 'metric', 'value', 'n']]",
    "qr.load_runs('runs')",
    "qr.leaderboard('runs')",
    "qr.compare(bm25, none)",
    """
class Firsts(qr.Retriever):
    def search(self, questions, notes, k):
        firsts = enumerate(notes.note_idxs[:k].tolist(), start=1)
        hits = [qr.Hit(note_idx=note_idx, score=-rank, rank=rank) for rank, note_idx in firsts]
        return [hits for _ in questions]
first = qr.run(retriever=Firsts(), metrics="rouge_l", runs_dir="own")
first""",
    """
class Firsts(qr.Retriever):
    def search(self, questions, notes, k):
        return [[] for _ in questions]
again = qr.run(retriever=Firsts(), metrics="rouge_l", runs_dir="own")
assert again.path != first.path and again.to_frame()["note_ids"].map(len).max() == 0
again""",
    "print(bm25.metrics['rouge_l'].value > none.metrics['rouge_l'].value, len(qr.leaderboard('runs').to_frame()))",
]


@pytest.mark.slow
def test_a_notebook_runs_scores_and_compares(tmp_path: Path) -> None:
    import nbformat.v4
    from nbclient import NotebookClient

    make: Any = nbformat.v4
    notebook = make.new_notebook(cells=[make.new_code_cell(cell) for cell in CELLS])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [cell.outputs for cell in notebook.cells]
    shown = [each[-1].data["text/html"] for each in outputs[:-1]]
    assert all("<table" in html for html in shown)
    assert all("rouge_l" in shown[number] for number in (0, 1, 2, 3, 4, 5, 6))
    assert "bm25 k1=1.2" in shown[5] and "won/tied/lost" in shown[6]
    [printed] = outputs[-1]
    assert printed.text == "True 8\n"
    assert not [output for each in outputs for output in each if output.output_type == "error"]


HOSTILE = "<script>alert(1)</script>"


def test_nothing_in_a_cell_is_markup(data_dir: Path) -> None:
    rows = [{"question_id": 1, "answer": HOSTILE}, {"question_id": HOSTILE, "answer": "a"}]
    made = qr.import_answers(rows, data=data_dir, name=HOSTILE, metrics="rouge_l")
    other = qr.import_answers(rows[:1], data=data_dir, name="other", metrics="rouge_l")
    manifest = other.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"other', f'"{HOSTILE}other'))
    summary = made.path / "summary.json"
    summary.write_text(summary.read_text().replace("rouge_l|tokens", f"{HOSTILE}|tokens"))
    runs = qr.load_runs("runs")
    results: list[Any] = [runs, runs[0], qr.leaderboard("runs"), qr.compare(other, other)]
    for result in results:
        assert "<script" not in result._repr_html_()
    assert any("&lt;script" in result._repr_html_() for result in results)


def test_a_notebook_shows_what_a_terminal_shows(data_dir: Path, cli: Cli) -> None:
    """The cells, marks, intervals and remarks of the tables."""
    runs = [qr.run(data=data_dir, retriever=name, metrics="rouge_l") for name in ("none", "bm25", "oracle")]
    boards = qr.leaderboard("runs")
    shown = html.unescape(re.sub("<[^>]+>", " ", boards._repr_html_()))
    for block in boards[0].blocks:
        for cell in itertools.chain(*block.cells):
            assert all(part in shown for part in (format_cell(cell), marks_of(cell), format_interval(cell)))
    assert all(line in shown for line in [*marks(boards[0]), *boards[0].notes])
    assert any(marks_of(cell) for block in boards[0].blocks for cells in block.cells for cell in cells)
    compared = qr.compare(runs[0], runs[1])
    shown = html.unescape(re.sub("<[^>]+>", " ", compared._repr_html_()))
    printed = " ".join(cli("compare", runs[0].path, runs[1].path).out.split())
    section = section_of(compared)
    assert section.lines
    for text in [*itertools.chain(*section.rows), *section.lines]:
        assert text in shown and text in printed


def test_frames(data_dir: Path) -> None:
    run = qr.run(data=data_dir, retriever="bm25", metrics=["rouge_l"], top_k=2, runs_dir="there")
    frame = run.to_frame()
    assert frame["question_id"].tolist() == ["1", "2", "3"]
    assert frame["rouge_l"].mean() == pytest.approx(run.metrics["rouge_l"].value, abs=1e-12)
    assert frame["note_ids"][0][0] == 10
    qr.import_answers(
        [{"question_id": 2, "answer": "遮阴"}], data=data_dir, name="other", runs_dir="there", metrics="rouge_l"
    )
    runs = qr.load_runs("there")
    rows = runs.to_frame().set_index(["llm", "metric"])
    assert rows.loc[("extractive", "rouge_l"), "value"] == run.metrics["rouge_l"].value
    assert rows.loc[("other (imported)", "rouge_l"), ["n", "n_unscored"]].tolist() == [1, 2]
    imported = next(run for run in runs if run.manifest.imported).to_frame()
    assert imported["rouge_l"].isna().tolist() == [True, False, True]
    assert imported["note_ids"].tolist() == [None, None, None]
    compared = qr.compare(runs[0], runs[1].path).to_frame()
    assert compared["metric"].tolist() == ["rouge_l"] and compared["n"].tolist() == [1]
    board = qr.leaderboard("there", metrics=["rouge_l"]).to_frame()
    assert set(board["value"]) == {run.metrics["rouge_l"].value for run in runs}
    assert isinstance(runs[:1], qr.RunList) and len(runs[:1]) == 1


def test_pandas_is_asked_for_where_it_is_used(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = qr.run(data=data_dir, metrics="rouge_l")
    monkeypatch.setattr("qilin_rag.core.extras.missing_modules", lambda *modules: list(modules))
    for result in (run, qr.load_runs("runs"), qr.leaderboard("runs"), qr.compare(run, run)):
        assert result._repr_html_()
        with pytest.raises(qr.UsageError, match=r"pandas, not installed here: pip install 'qilin-rag\[pandas\]'"):
            result.to_frame()


def test_wrong_calls_are_named(data_dir: Path) -> None:
    with pytest.raises(qr.UsageError, match=r"setting 'topk' does not exist; did you mean 'top_k'\?"):
        qr.run(data=data_dir, topk=3)  # type: ignore[call-arg]
    with pytest.raises(qr.UsageError, match=r"retriever\.k1"):
        qr.run(data="no-such-folder", retriever={"name": "bm25", "k1": "abc"})
    with pytest.raises(qr.UsageError, match="nowhere is not a folder of runs"):
        qr.load_runs("nowhere")


def test_failed_questions_are_counted_and_an_error_only_if_asked_for(data_dir: Path, server: FakeServer) -> None:
    server.fault = lambda n, body: "400" if "手冲水温" in body["messages"][-1]["content"][-20:] else None
    llm = qr.OpenAICompatible(model=MODEL, base_url=server.url)
    run = qr.run(data=data_dir, llm=llm, metrics="rouge_l")
    assert run.metrics["rouge_l"].n_unscored == 1
    assert run.to_frame()["status"].tolist() == ["ok", "ok", "failed"]
    with pytest.raises(qr.FailedSamplesError):
        qr.run(data=data_dir, llm=llm, metrics="rouge_l", fail_on_error=0)


def test_progress_is_one_line_that_goes_away(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qr.run(data=data_dir, metrics="rouge_l", progress=True)
    out, err = capsys.readouterr()
    assert not out and "answering: 1/3" in err and "\n" not in err
    assert err.endswith("\r") and not err.rstrip("\r").rpartition("\r")[2].strip()
    qr.run(data=data_dir, metrics="rouge_l", fresh=True)
    assert capsys.readouterr() == ("", "")


def test_runs_and_text_are_taken_where_lists_are(data_dir: Path) -> None:
    done = qr.run(data=data_dir, retriever=qr.BM25(), metrics="rouge_l,contains")
    of_run = qr.leaderboard(done, metrics="rouge_l").to_frame()
    assert of_run.equals(qr.leaderboard("runs", metrics=["rouge_l"]).to_frame())
    assert of_run["metric"].tolist() == ["rouge_l"]
