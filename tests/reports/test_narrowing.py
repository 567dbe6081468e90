"""The leaderboard narrowed and sorted; its LaTeX as one table; tokens, seconds and ratings below it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.core.ratings import JudgedComparison, JudgedPair, RatedRun
from qilin_rag.core.types import Usage
from qilin_rag.pipeline.run_directory import SAMPLES, RunDirectory
from qilin_rag.reports.formats import as_html, as_latex, as_markdown, as_rows
from qilin_rag.reports.leaderboard import Options, leaderboard
from qilin_rag.reports.narrowing import Narrowing, sort_rows
from qilin_rag.reports.side_tables import latency_rows, side_tables, spending_rows
from tests.conftest import Cli
from tests.fake_server import MODEL, FakeServer
from tests.reports.made_runs import make_run

FIGURES = {"llama-8b": (0.45, 0.9), "qwen-7b": (0.5, 0.6), "qwen-72b": (0.4, 0.8)}


@pytest.fixture
def board(made: Path) -> Path:
    """Three LLMs by two retrievers."""
    for llm, (none, bm25) in FIGURES.items():
        for retriever, value in (("none", none), ("bm25 k1=2.0", bm25)):
            make_run(made, f"{llm}-{retriever[:4]}", [value, value / 2], llm=llm, retriever=retriever)
    return made


def rows_of(folder: Path, sort: str | None = None, **wanted: list[str]) -> list[str]:
    [table] = leaderboard(folder, options=Options(narrowing=Narrowing(**wanted), sort=sort))
    return table.blocks[0].rows


def test_rows_are_narrowed_by_names_and_patterns(board: Path) -> None:
    assert rows_of(board) == ["llama-8b", "qwen-7b", "qwen-72b"]
    assert rows_of(board, llms=["QWEN*"]) == ["qwen-7b", "qwen-72b"]
    assert rows_of(board, llms=["qwen-7b", "llama*"]) == ["llama-8b", "qwen-7b"]
    assert rows_of(board, runs=["qwen-7b"]) == ["qwen-7b"]
    assert rows_of(board, runs=["*72b-bm25", "llama"]) == ["llama-8b", "qwen-72b"]
    for name in ("bm25", "bm25 k1=2.0", "bm*"):
        [table] = leaderboard(board, options=Options(narrowing=Narrowing(retrievers=[name], metrics=["m"])))
        assert [block.columns for block in table.blocks] == [["bm25 k1=2.0"]]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("runs", "run 'qwem' does not exist"),
        ("llms", "llm 'qwem' is not in these runs; did you mean 'qwen-7b'"),
        ("retrievers", "retriever 'qwem' is not in these runs"),
        ("prompts", "prompt 'qwem' is not in these runs; known: default"),
        ("metrics", "metric 'qwem' is not in these runs; known: m"),
    ],
)
def test_what_fits_nothing_is_an_error(board: Path, field: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        leaderboard(board, options=Options(narrowing=Narrowing(**{field: ["qwem"]})))


def test_rows_are_sorted_by_their_best_figure(board: Path) -> None:
    assert rows_of(board, sort="m") == ["llama-8b", "qwen-72b", "qwen-7b"]
    [table] = leaderboard(board, options=Options(sort="M"))
    assert [each.llm for each in table.spending] == [name for name in rows_of(board, sort="m") for _ in range(2)]
    lowest = table.blocks[0].model_copy(update={"signature": "m|best:lowest"})
    [turned] = sort_rows([table.model_copy(update={"blocks": [lowest]})], "m")
    assert turned.blocks[0].rows == ["qwen-72b", "llama-8b", "qwen-7b"]
    with pytest.raises(UsageError, match="metric 'n' is not in these tables; known: m"):
        rows_of(board, sort="n")


def test_options_of_the_command(board: Path, cli: Cli) -> None:
    command = ["leaderboard", "--runs-dir", board, "--format", "csv"]
    shown = cli(*command, "--llms", "qwen*", "--retrievers", "none", "--metrics", "m", "--sort", "m").out
    assert [row["llm"] for row in csv.DictReader(io.StringIO(shown))] == ["qwen-7b", "qwen-72b"]
    for wrong in (["--llms", ","], ["--task", "search", "--llms", "a"], ["--task", "search", "--runs", "a"]):
        assert cli(*command, *wrong).code == 2


def test_what_a_label_says_is_in_columns_of_its_own(data_dir: Path, cli: Cli) -> None:
    for more in (["--top-k", "2"], ["--top-k", "1", "--prompt", "concise"], ["--set", "note=mine"]):
        assert cli("run", "--data", data_dir, *more, "-q").code == 0
    rows = csv.DictReader(io.StringIO(cli("leaderboard", "--format", "csv", "--metrics", "rouge_l").out))
    found = {(row["row"], row["llm"], row["prompt"], row["top_k"], row["note"]) for row in rows}
    assert found == {
        ("extractive · default · top 2", "extractive", "default", "2", ""),
        ("extractive · concise · top 1", "extractive", "concise", "1", ""),
        ("extractive (mine) · default · top 5", "extractive", "default", "5", "mine"),
    }
    [table] = json.loads(cli("leaderboard", "--format", "json").out)
    assert {(each["model"], each["prompt"], each["top_k"]) for each in table["spending"]} == {
        (*row[1:3], int(row[3])) for row in found
    }


def test_answers_are_one_latex_table_of_metrics_by_retrievers(data_dir: Path, cli: Cli) -> None:
    for retriever in ("none", "bm25"):
        cli("run", "--data", data_dir, "--retriever", retriever, "--metrics", "rouge_l,chrf,retrieval", "-q")
    latex = cli("leaderboard", "--format", "latex").out
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == latex.count(r"\label{") == 2
    assert r"\multicolumn{2}{c}{rouge\_l} & \multicolumn{2}{c}{chrf} \\" in latex
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}" in latex
    assert r" & none & bm25 & none & bm25 \\" in latex.splitlines()
    assert r"\label{tab:answers}" in latex and r"\label{tab:retrieval}" in latex
    captions = [line for line in latex.splitlines() if line.startswith(r"\caption")]
    assert all(len(caption) < 200 for caption in captions)
    body = latex.partition(r"\midrule")[2].partition(r"\bottomrule")[0].strip().splitlines()
    assert [line.count(" & ") + line.startswith("& ") for line in body] == [4, 4]
    assert "% rouge_l: rouge_l|tokens" in latex


def test_a_remark_can_not_leave_its_comment(board: Path) -> None:
    [table] = leaderboard(board)
    latex = as_latex([table.model_copy(update={"notes": ["one\n\\input{x}\r\\input{y}"]})])
    assert r"% one \input{x} \input{y}" in latex.splitlines()


def test_cached_runs_show_what_they_took_at_first(data_dir: Path, server: FakeServer, cli: Cli) -> None:
    priced = "llm.price={currency: USD, prompt_per_mtok: 1000, completion_per_mtok: 1000, as_of: 2026-11}"
    command = ["run", "--data", data_dir, "--llm", "openai", "--base-url", server.url, "-q"]
    command += ["--set", f"llm.model={MODEL}", "--set", priced]
    for folder in ("first", "again"):
        assert cli(*command, "--runs-dir", folder).code == 0
    [first], [again] = (leaderboard(Path(folder)) for folder in ("first", "again"))
    _, asked = spending_rows(first)
    _, cached = spending_rows(again)
    assert cached[2:] == [f"({text.strip()})" for text in asked[2:]]
    assert "In brackets" in as_markdown([again]) and "In brackets" not in as_markdown([first])
    assert len(latency_rows(first)) == 2 and latency_rows(again) == []
    row = as_rows([again])[0]
    assert (row["n_cached"], row["completion_tokens_when_first_asked"]) == (3, 30)
    assert row["cost_when_first_asked"] == pytest.approx(first.spending[0].cost.amount)


def test_seconds_are_of_calls_that_were_made(board: Path) -> None:
    directory = RunDirectory(board / "qwen-7b-none")
    samples, _ = directory.read_samples()
    seconds = [(1.0, False), (3.0, True)]
    lines = [
        sample.model_copy(update={"latency_s": s, "cached": cached, "usage": Usage(prompt_tokens=7)})
        for sample, (s, cached) in zip(samples.values(), seconds, strict=True)
    ]
    (directory.path / SAMPLES).write_text("".join(f"{line.model_dump_json()}\n" for line in lines))
    [table] = leaderboard(board)
    assert latency_rows(table)[1:] == [["qwen-7b", "none", "1.00", "1.00", "1"]]
    [spent] = [each for each in table.spending if each.first_asked]
    assert spent.first_asked and spent.first_asked.completion_tokens is None
    assert spent.first_asked.cost.unknown


def test_ratings_of_a_judge_are_a_section(board: Path, cli: Cli) -> None:
    names = ["qwen-7b-none", "llama-8b-none"]
    pair = JudgedPair(
        a=names[0],
        b=names[1],
        won=1,
        lost=0,
        tied=0,
        leaning=0,
        flipped_to_first=1,
        flipped_to_second=0,
        same=0,
        unscored={},
        score=0.75,
    )
    comparison = JudgedComparison(
        judge="judge<b>",
        signature="s",
        n_questions=2,
        n_not_shared=0,
        pairs=[pair],
        runs=[RatedRun(run=name, rating=None) for name in names],
    )
    for name, text in (("one", comparison.model_dump_json()), ("two", "{}"), ("three", "no json")):
        (board / f"judged-{name}").mkdir()
        (board / f"judged-{name}" / "ratings.json").write_text(text)
    [table] = leaderboard(board)
    assert table.judged == [comparison]
    shares = {row[0]: row[3] for row in side_tables(table)[-1][1:]}
    assert shares == {names[0]: "75.0%", names[1]: "25.0%"}
    for text in (as_markdown([table]), as_html([table]), cli("leaderboard", "--runs-dir", board).out):
        assert "win share" in text and "75.0%" in text and "1 verdict flipped" in text
    assert "judge<b>" not in as_html([table])
    [none] = leaderboard(board, options=Options(narrowing=Narrowing(llms=["qwen-72b"])))
    assert none.judged == []
