from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from rich.cells import cell_len

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import UsageError
from qilin_rag.core.stats import compare_all, detectable_difference
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.reports.cells import Cell, ResultTable, compared
from qilin_rag.reports.formats import as_html, as_latex, as_markdown, as_rows, format_cell, marks_of, title
from qilin_rag.reports.leaderboard import Options, leaderboard
from tests.conftest import Cli
from tests.reports.made_runs import make_run
from tests.scored import score_run


def do(data: Path, *overrides: str, **flags: object) -> RunDirectory:
    return run(resolve_run({"data": str(data), **flags}, overrides)).directory


@pytest.fixture
def runs(data_dir: Path) -> Path:
    for retriever in ("oracle", "none", "bm25"):
        do(data_dir, retriever=retriever)
    do(data_dir, "llm.max_chars=10", retriever="bm25")
    return Path("runs")


def test_llm_by_retriever_a_block_a_metric(data_dir: Path) -> None:
    for retriever in ("oracle", "none", "bm25"):
        do(data_dir, retriever=retriever)
    [table] = leaderboard(Path("runs"))
    assert (table.data, table.n_questions) == ("small", 3)
    assert [block.metric for block in table.blocks] == ["rouge_l", "retrieval"]
    block = table.blocks[0]
    assert (block.rows, block.columns) == (["extractive"], ["none", "bm25", "oracle"])
    values = [cell.value for cell in block.cells[0] if cell is not None and cell.value is not None]
    assert values == sorted(values)
    assert len(values) == 3
    assert [cell.best for cell in block.cells[0] if cell] == [False, False, True]


def test_rows_are_told_apart_only_as_far_as_needed(runs: Path, data_dir: Path) -> None:
    [table] = leaderboard(runs)
    assert table.blocks[0].rows == ["extractive", "extractive max_chars=10"]
    do(data_dir, retriever="oracle", prompt="concise")
    [table] = leaderboard(runs)
    assert "extractive · concise" in table.blocks[0].rows
    do(data_dir, "note_order=best_last", "note_chars=20", retriever="oracle")
    [table] = leaderboard(runs)
    assert "extractive · best_last · notes of 20 characters · default" in table.blocks[0].rows


def test_runs_that_differ_in_nothing_but_the_folder_all_show(runs: Path) -> None:
    path = next(runs.glob("small-oracle-*"))
    shutil.copytree(path, runs / "copy")
    [table] = leaderboard(runs)
    shown = {cell.run for row in table.blocks[0].cells for cell in row if cell}
    assert {"copy", path.name} <= shown


def test_the_best_of_each_column_is_marked(runs: Path) -> None:
    [table] = leaderboard(runs)
    block = table.blocks[0]
    column = block.columns.index("bm25")
    cells = [row[column] for row in block.cells if row[column] is not None]
    assert len(cells) == 2
    best = [cell for cell in cells if cell and cell.best]
    assert len(best) == 1
    assert best[0].value == max(cell.value or 0 for cell in cells if cell)


def test_nothing_is_marked_where_the_highest_is_not_the_best(data_dir: Path) -> None:
    for retriever in ("none", "oracle"):
        do(data_dir, retriever=retriever, metrics="rouge_l,length_ratio")
    [table] = leaderboard(Path("runs"))
    marked = {block.metric: [cell.best for cell in block.cells[0] if cell] for block in table.blocks}
    assert marked["rouge_l"] == [False, True]
    assert marked["length_ratio"] == [False, False]


def test_unlike_sets_of_questions_never_share_a_table(runs: Path, data_dir: Path) -> None:
    do(data_dir, retriever="oracle", prompt="concise", limit=2)
    do(Path("sample"))
    tables = leaderboard(runs)
    assert [(table.data, table.n_questions) for table in tables] == [
        ("bundled sample, not Qilin", 60),
        ("small", 3),
        ("small", 2),
    ]


def test_unlike_signatures_never_share_a_block(runs: Path, data_dir: Path) -> None:
    do(data_dir, "metrics.rouge_l.tokens=word", retriever="oracle")
    [table] = leaderboard(runs)
    rouge = [block for block in table.blocks if block.metric == "rouge_l"]
    assert len(rouge) == 2
    assert rouge[0].signature != rouge[1].signature


def test_incomplete_runs_are_left_out_and_named(runs: Path) -> None:
    path = next(runs.glob("small-oracle-*"))
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"state": "incomplete"}))
    [table] = leaderboard(runs)
    assert "oracle" not in table.blocks[0].columns
    (runs / "foreign").mkdir()
    (runs / "foreign" / "manifest.json").write_text("{}")
    [table] = leaderboard(runs)
    assert table.notes[-1] == f"left out, incomplete: {path.name}"
    assert table.notes[-2].startswith("left out, unreadable: ")


def test_no_run_is_said_with_the_next_step(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UsageError, match="begin with: qilin-rag run"):
            leaderboard(path)


def test_partly_scored_figures_say_so() -> None:
    cell = Cell(value=0.5, n=2, n_unscored=1, best=False, run="r")
    assert format_cell(cell) == "0.5000 (2/3)"
    assert format_cell(cell.model_copy(update={"value": None, "n": 0, "n_unscored": 3})) == "unscored (0/3)"
    assert format_cell(None) == "-"


def test_markdown_escapes_names(runs: Path) -> None:
    for path in runs.iterdir():
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["labels"] |= {"llm": "a|b\n<script>*", "data": "**x** $y$"}
        (path / "manifest.json").write_text(json.dumps(manifest))
    text = as_markdown(leaderboard(runs))
    assert "<script>" not in text
    assert "| a\\|b \\<script\\>\\*" in text
    assert "\\*\\*x\\*\\* \\$y\\$" in text


def test_all_formats_from_the_command_line(runs: Path, cli: Cli, tmp_path: Path) -> None:
    shown = cli("leaderboard")
    assert shown.code == 0
    assert "rouge_l" in shown.out
    assert "small, 3 questions" in shown.out
    assert "rouge_l|tokens:mixed|" in shown.out
    assert all(len(line) <= 160 for line in shown.out.splitlines())
    rows = list(csv.DictReader(cli("leaderboard", "--format", "csv").out.splitlines()))
    assert [row["retriever"] for row in rows if row["llm"]] == ["none", "bm25", "oracle", "bm25"]
    of_hits = [(row["retriever"], row["metric"]) for row in rows if not row["llm"]]
    assert of_hits == [(name, f"{m}@5") for name in ("none", "bm25", "oracle") for m in ("recall", "ndcg", "mrr")]
    [table] = json.loads(cli("leaderboard", "--format", "json").out)
    assert table["blocks"][0]["cells"][0][0]["value"] == float(rows[0]["value"])
    assert "| extractive |" in cli("leaderboard", "--format", "md").out
    assert r"\begin{tabular}{lrrr}" in cli("leaderboard", "--format", "latex").out
    assert "<!doctype html>" in cli("leaderboard", "--format", "html").out
    assert len(rows) == len(as_rows(leaderboard(runs)))
    out = tmp_path / "board.txt"
    assert cli("leaderboard", "--out", out).code == 0
    assert "\x1b" not in out.read_text(encoding="utf-8")
    missing = cli("leaderboard", "--out", tmp_path / "no" / "where.txt")
    assert (missing.code, "can't be written" in missing.err) == (2, True)


def test_a_run_of_one_name_in_two_folders_shows_twice(runs: Path) -> None:
    """A copy made elsewhere: other figures under the same name and fingerprint."""
    shutil.copytree(runs, "theirs")
    theirs = next(Path("theirs").glob("small-oracle-*"))
    summary = json.loads((theirs / "summary.json").read_text())
    summary["usage"] = {"prompt_tokens": 7, "completion_tokens": 9}
    (theirs / "summary.json").write_text(json.dumps(summary))
    [table] = leaderboard(runs, Path("theirs"))
    shown = {cell.run for row in table.blocks[0].cells for cell in row if cell}
    assert shown == {str(path.parent) for path in Path().glob("*/*/manifest.json")}
    tokens = {row["run"]: row["completion_tokens"] for row in as_rows([table])}
    assert [run for run, n in tokens.items() if n == 9] == [str(theirs)]


def test_a_folder_given_twice_is_read_once(runs: Path) -> None:
    assert leaderboard(runs, runs.resolve(), Path("runs/../runs")) == leaderboard(runs)


@pytest.mark.parametrize("output_format", ["table", "md", "csv", "json"])
def test_a_note_can_not_steer_the_terminal(output_format: str, data_dir: Path, cli: Cli) -> None:
    do(data_dir, 'note="\\e[31mred"')
    shown = cli("leaderboard", "--format", output_format).out
    assert cli("leaderboard", "--format", output_format, "--out", "board").code == 0
    for text in (shown, Path("board").read_text(encoding="utf-8")):
        assert "[31m" in text
        assert "\x1b" not in text


def test_several_folders_and_a_note_in_one_table(runs: Path, data_dir: Path, cli: Cli) -> None:
    do(data_dir, "note=recorded", "llm.max_chars=20", retriever="oracle", runs_dir=Path("kept"))
    [table] = leaderboard(runs, Path("kept"))
    assert table.blocks[0].rows == [
        "extractive",
        "extractive max_chars=10",
        "extractive max_chars=20 (recorded)",
    ]
    assert "(recorded)" in cli("leaderboard", "--runs-dir", runs, "--runs-dir", "kept").out
    assert "nowhere is not a folder" in cli("leaderboard", "--runs-dir", runs, "--runs-dir", "nowhere").err


def test_no_row_for_a_number_of_notes_that_an_llm_was_not_given(data_dir: Path) -> None:
    do(data_dir, retriever="bm25", top_k=2)
    do(data_dir, "llm.max_chars=10", retriever="bm25", top_k=10)
    for overrides in ([], ["llm.max_chars=10"], ["llm.max_chars=20"]):
        do(data_dir, *overrides, retriever="oracle")
    block = leaderboard(Path("runs"))[0].blocks[0]
    assert block.rows == ["extractive max_chars=10 · top 10", "extractive max_chars=20", "extractive · top 2"]


def test_what_does_not_depend_on_k_stands_in_each_row(data_dir: Path) -> None:
    for k in (2, 10):
        do(data_dir, retriever="bm25", top_k=k)
    do(data_dir, retriever="oracle")
    block = leaderboard(Path("runs"))[0].blocks[0]
    assert block.rows == ["extractive · top 2", "extractive · top 10"]
    assert [cell.run.split("-")[1] if cell and cell.run else None for row in block.cells for cell in row] == [
        "bm25",
        "oracle",
    ] * 2
    assert not any(cell.best for row in block.cells for cell in row[1:] if cell)  # a run is no rival of its own


N = 40


def cell_of(table: ResultTable, row: str) -> Cell:
    block = next(block for block in table.blocks if block.metric == "m")
    [cell] = [cell for cell in block.cells[block.rows.index(row)] if cell]
    return cell


def test_what_is_not_significantly_worse_than_the_best_is_tied(made: Path) -> None:
    rng = np.random.default_rng(1)
    good = rng.random(N)
    close = good - 0.02 - scipy.stats.zscore(rng.normal(0, 1, N)) * 0.2
    bad = good - rng.normal(0.3, 0.2, N)
    for name, values in {"good": good, "close": close, "bad": bad}.items():
        make_run(made, name, values.tolist())
    [table] = leaderboard(made)
    best, tied, worse = (cell_of(table, row) for row in ("good", "close", "bad"))
    assert (best.best, best.tied, best.p) == (True, False, None)
    assert (tied.best, tied.tied) == (False, True)
    assert (worse.best, worse.tied) == (False, False)
    adjusted = compare_all(np.stack([good, close, bad], axis=1))
    assert {tied.p, worse.p} <= set(adjusted[~np.isnan(adjusted)])
    assert (tied.p or 0) > 0.05 >= (worse.p or 1)
    shown = [detectable_difference(float(scipy.stats.sem(good - other)), N) for other in (close, bad)]
    block = next(block for block in table.blocks if block.metric == "m")
    assert block.detectable == pytest.approx(sum(each or 0 for each in shown) / 2, rel=1e-6)
    theirs = scipy.stats.t.interval(0.95, N - 1, good.mean(), scipy.stats.sem(good))
    assert best.ci95 == pytest.approx(theirs, abs=6e-3)
    text = as_markdown([table])
    assert f"**{best.value:.4f}**" in text
    assert f"<ins>{tied.value:.4f}</ins>" in text
    assert rf"\textbf{{{best.value:.4f}}}" in as_latex([table])
    assert rf"\underline{{{tied.value:.4f}}}" in as_latex([table])
    assert f"<b>{best.value:.4f}</b> *<" in as_html([table])
    assert f"<u>{tied.value:.4f}</u> =<" in as_html([table])


def test_runs_are_compared_on_the_questions_scored_in_both(made: Path) -> None:
    """Without its unscored questions the second run is as good on every question: not significantly worse."""
    make_run(made, "all", [0.9] * 20 + [0.1] * 20)
    make_run(made, "half", [*[None] * 20, *[0.1] * 20])
    [table] = leaderboard(made)
    half = cell_of(table, "half")
    assert half.value == pytest.approx(0.1)
    assert (half.n, half.n_unscored, half.best, half.tied, half.p) == (20, 20, False, True, 1.0)


def test_what_has_no_scored_question_in_common_is_not_compared(made: Path) -> None:
    make_run(made, "first", [*[0.9] * 20, *[None] * 20])
    make_run(made, "second", [*[None] * 20, *[0.1] * 20])
    [table] = leaderboard(made)
    for row in ("first", "second"):
        cell = cell_of(table, row)
        assert (cell.best, cell.tied, cell.p) == (False, False, None)


def test_copies_of_one_query_are_one_piece_of_evidence(made: Path) -> None:
    """Six queries, each asked seven times: one difference a query, and 6 wins have p = 2 / 64."""
    queries = [f"q{i % 6}" for i in range(42)]
    make_run(made, "a", [0.5 + 0.01 * (i % 6) for i in range(42)], queries)
    make_run(made, "b", [0.4 + 0.02 * (i % 6) for i in range(42)], queries)
    [table] = leaderboard(made)
    assert (table.n_questions, table.n_clusters) == (42, 6)
    assert "42 questions (6 distinct)" in title(table)
    assert cell_of(table, "b").p == pytest.approx(2 / 64)
    [table] = leaderboard(made, options=Options(cluster_by="user"))
    assert table.n_clusters == 21
    with pytest.raises(UsageError, match=r"'usr'.*question 0.*'user'"):
        leaderboard(made, options=Options(cluster_by="usr"))


def test_unlike_sets_of_questions_in_one_table_if_told(runs: Path, data_dir: Path) -> None:
    do(data_dir, retriever="oracle", prompt="concise", limit=2)
    path = next(runs.glob("small-none-*"))
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"state": "incomplete"}))
    (path / "scores.jsonl").unlink()
    (path / "summary.json").unlink()
    [table] = leaderboard(runs, options=Options(common=True))
    assert table.n_questions == 2
    assert table.blocks[0].columns == ["none", "bm25", "oracle"]
    assert all(cell.n == 2 for row in table.blocks[0].cells for cell in row if cell)
    assert f"{path.name} (incomplete): 2 of its 3 questions" in table.notes


def test_controls_have_rows_of_their_own(runs: Path) -> None:
    [plain] = leaderboard(runs)
    [table] = leaderboard(runs, options=Options(controls=True))
    block = table.blocks[0]
    assert block.rows == [
        "extractive",
        "extractive max_chars=10",
        "extractive max_chars=10 · equal length",
        "extractive max_chars=10 · references shuffled",
        "extractive · equal length",
        "extractive · references shuffled",
    ]
    assert block.kinds == ["run"] * 2 + ["control"] * 4
    assert block.cells[:2] == plain.blocks[0].cells  # nothing competes with a control
    shuffled, own = block.cells[5][2], block.cells[0][2]
    assert shuffled and own and shuffled.value is not None and own.value is not None
    assert shuffled.value < own.value / 2
    assert not any(cell.best or cell.tied for row in block.cells[2:] for cell in row if cell)
    assert [each.rows for each in table.blocks[1:]] == [each.rows for each in plain.blocks[1:]]


def test_the_papers_figures_stand_where_they_are_certain(runs: Path) -> None:
    [refused] = leaderboard(runs, options=Options(paper=True))
    assert "paper" not in {kind for block in refused.blocks for kind in block.kinds}
    assert any("no rows of the paper" in note and "5 notes, Qilin has 1,983,938" in note for note in refused.notes)
    [table] = leaderboard(runs, options=Options(paper_anyway=True))
    block = table.blocks[0]
    row = block.cells[block.rows.index("Qwen2.5-72B (paper, another data set)")]
    assert list(zip(block.columns, map(format_cell, row), strict=True)) == [
        ("none", "0.342"),
        ("bm25", "~0.396"),
        ("oracle", "-"),
    ]
    assert "paper" not in {kind for block in table.blocks if block.signatures for kind in block.kinds}


def test_names_end_no_table_and_begin_no_markup(runs: Path) -> None:
    for path in runs.iterdir():
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["labels"] |= {"llm": r"[a&b\end{tabular}<script>"}
        (path / "manifest.json").write_text(json.dumps(manifest))
    tables = leaderboard(runs)
    latex = as_latex(tables)
    assert latex.count(r"\end{tabular}") == len(tables[0].blocks)
    assert r"{[}a\&b\textbackslash{}end\{tabular\}\textless{}script\textgreater{}" in latex
    assert "<script>" not in as_html(tables)


def test_csv_has_the_right_types(runs: Path, cli: Cli) -> None:
    """What pandas makes of it: numbers are numbers, marks are booleans."""
    rows = list(csv.DictReader(cli("leaderboard", "--format", "csv", "--paper-anyway").out.splitlines()))
    for row in rows:
        float(row["value"])
        assert row["best"] in ("True", "False")
        assert row["n"] == ("" if row["kind"] == "paper" else "3")


def test_shuffled_references_are_of_another_query(made: Path) -> None:
    """A copy of the query has the right references: against them the control would be the figure itself."""
    make_run(made, "a", [0.5] * 6, queries=["水", "茶", "水", "水", "水", "水"])
    directory = RunDirectory(made / "a")
    questions = directory.read_questions()
    asked = [each.model_copy(update={"references": [f"about {each.query}"]}) for each in questions]
    directory.write_questions(asked)
    samples = [each.model_copy(update={"answer": f"about {each.query}"}) for each in directory.read_samples()[1]]
    (directory.path / "samples.jsonl").write_text("".join(f"{each.model_dump_json()}\n" for each in samples))
    score_run(directory.path, {"rouge_l": {}})
    block = next(
        each for each in leaderboard(made, options=Options(controls=True))[0].blocks if each.metric == "rouge_l"
    )
    cells = dict(zip(block.rows, (row[0] for row in block.cells), strict=True))
    own, shuffled = cells["a"], cells["a · references shuffled"]
    assert own and own.value == 1.0
    assert shuffled and shuffled.value is not None and shuffled.value < 1.0
    assert shuffled.n == 6


def test_copies_of_one_query_have_no_shuffled_references(made: Path) -> None:
    make_run(made, "a", [0.5] * 3, queries=["水"] * 3)
    score_run(made / "a", {"rouge_l": {}})
    [table] = leaderboard(made, options=Options(controls=True))
    assert "no row references shuffled: there is no other query" in table.notes
    assert {row for block in table.blocks for row in block.rows} == {"a", "a · equal length"}


def test_runs_without_a_question_in_common_are_named(made: Path) -> None:
    for name, ids in (("a", "123"), ("b", "12"), ("c", "3")):
        make_run(made, name, [0.5] * len(ids))
        directory = RunDirectory(made / name)
        renamed = dict(zip(map(str, range(len(ids))), ids, strict=True))
        directory.write_questions(
            [each.model_copy(update={"id": renamed[each.id]}) for each in directory.read_questions()]
        )
        directory.write_scores(
            [each.model_copy(update={"question_id": renamed[each.question_id]}) for each in directory.read_scores()]
        )
    with pytest.raises(UsageError, match="a and c have no question that all runs have"):
        leaderboard(made, options=Options(common=True))


@pytest.mark.parametrize("file_name", ["samples.jsonl", "questions.jsonl"])
def test_a_run_that_lost_a_file_is_one_line(file_name: str, made: Path, cli: Cli, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_run(made, name, [0.5, 0.6])
    whole = (made / "a" / file_name).read_text().splitlines(keepends=True)
    (made / "a" / file_name).write_text(whole[0])
    for arguments in (
        ["report", made / "a", "--out", tmp_path / "a.html"],
        ["sensitivity", made / "a", made / "b"],
        ["leaderboard", "--controls", "--runs-dir", tmp_path / "one"],
    ):
        shutil.copytree(made / "a", tmp_path / "one" / "a", dirs_exist_ok=True)
        said = cli(*arguments)
        assert (said.code, said.err.count("\n")) == (2, 1), said.err
        assert "1 questions have no sample" in said.err or "has 1 of its 2 questions" in said.err


def figures(table: ResultTable, row: str) -> dict[str, Cell | None]:
    block = table.blocks[-1]
    assert block.metric == "retrieval"
    return dict(zip(block.columns, block.cells[block.rows.index(row)], strict=True))


def test_retrieval_is_one_block_a_row_a_retriever_named_by_the_notes_asked_for(data_dir: Path) -> None:
    for k in (1, 2, 5):
        for prompt in ("default", "concise"):
            do(data_dir, retriever="bm25", top_k=k, prompt=prompt)
    do(data_dir, "llm.max_chars=10", retriever="bm25", top_k=2)
    for retriever in ("oracle", "none"):
        do(data_dir, retriever=retriever, top_k=2)
    [table] = leaderboard(Path("runs"))
    block = table.blocks[-1]
    assert block.rows == ["none", "bm25", "oracle"]
    assert block.columns == [f"{name}@{k}" for k in (1, 2, 5) for name in ("recall", "ndcg", "mrr")]
    bm25 = figures(table, "bm25")
    assert all(bm25.values())
    for k, n_runs in ((1, 2), (2, 3), (5, 2)):
        cell = bm25[f"recall@{k}"]
        assert cell and cell.run and len({cell.run, *cell.also}) == n_runs
        assert cell.value == RunDirectory(Path("runs") / cell.run).read_summary().metrics[f"recall@{k}"].value
    assert {name for name, cell in figures(table, "oracle").items() if cell} == {"recall@2", "ndcg@2", "mrr@2"}
    best = [figures(table, row)["recall@2"] for row in block.rows]
    values = [cell.value or 0 for cell in best if cell]
    assert [cell.best for cell in best if cell] == [value == max(values) for value in values] != [False] * 3
    assert not any(cell.best for name, cell in bm25.items() if cell and "@2" not in name)  # nothing to compare with
    assert sum("has no figures at 1, 5; to add them" in note for note in table.notes) == 2


def test_runs_of_one_retriever_with_other_hits_are_told_apart(data_dir: Path) -> None:
    """Somebody's copy found other notes: neither figure stands for both."""
    one = do(data_dir, retriever="bm25", top_k=2)
    other = do(data_dir, retriever="bm25", top_k=2, prompt="concise")
    lines = (other.path / "run.trec").read_text().splitlines()
    assert lines[0].split()[2] == "10"
    (other.path / "run.trec").write_text("\n".join([lines[0].replace(" 10 ", " 14 "), *lines[1:]]) + "\n")
    [table] = leaderboard(Path("runs"))
    assert table.blocks[-1].rows == [f"bm25 · {path.name}" for path in sorted([one.path, other.path])]
    assert any("other hits for 1 of 3 questions" in note for note in table.notes)
    (other.path / "run.trec").unlink()  # the samples say it as well
    assert leaderboard(Path("runs"))[0].blocks[-1].rows == ["bm25"]


def test_rankings_of_several_lengths_share_a_row_only_where_they_agree(data_dir: Path) -> None:
    Path("a.trec").write_text("1 Q0 10 1 2 t\n1 Q0 11 2 1 t\n2 Q0 12 1 1 t\n3 Q0 11 1 1 t\n")
    for k in (1, 2):
        do(data_dir, "metrics.retrieval.k=1", retriever="trec:a.trec", top_k=k)
    [table] = leaderboard(Path("runs"))
    assert len(table.blocks[-1].rows) == 1
    assert [cell and len(cell.also) for cell in table.blocks[-1].cells[0]] == [1, 1, 1]
    path = next(Path("runs").glob("*"))
    lines = (path / "run.trec").read_text().splitlines(keepends=True)
    (path / "run.trec").write_text(lines[0].replace(" 10 ", " 14 ") + "".join(lines[1:]))
    assert [row.rpartition(" · ")[2] for row in leaderboard(Path("runs"))[0].blocks[-1].rows] == ["top 1", "top 2"]


def test_the_best_of_a_row_and_of_a_column_are_told_apart(data_dir: Path) -> None:
    """What helps is read across the row, which LLM is better down the column."""
    for chars in (8, 400):
        for retriever in ("none", "random", "bm25", "oracle"):
            do(Path("sample"), f"llm.max_chars={chars}", retriever=retriever, top_k=2)
    [table] = leaderboard(Path("runs"))
    block = table.blocks[0]
    assert block.rows == ["extractive max_chars=8", "extractive max_chars=400"]
    values = np.array([[cell.value for cell in row if cell] for row in block.cells])
    for cells, figures_of_row in zip(block.cells, values, strict=True):
        in_row = [cell.in_row for cell in cells if cell and cell.in_row]
        assert [each.best for each in in_row] == [value == figures_of_row.max() for value in figures_of_row]
        gains = [cell.over_none for cell in cells[1:] if cell and cell.over_none]
        assert [each.difference for each in gains] == pytest.approx(figures_of_row[1:] - figures_of_row[0])
        assert all(each.ci95 and each.ci95[0] <= each.difference <= each.ci95[1] for each in gains)
        assert cells[0] and cells[0].over_none is None
    for place in (1, 2, 3):
        best = [row[place] for row in block.cells]
        assert [cell.best for cell in best if cell] == (values[:, place] == values[:, place].max()).tolist()
    assert [marks_of(row[3]) for row in block.cells] == ["»+", "*»+"]
    assert "»+" in as_markdown([table]) and r"$\gg$+" in as_latex([table]) and "»+" in as_html([table])
    row = next(row for row in as_rows([table]) if row["retriever"] == "bm25" and row["llm"] == block.rows[1])
    assert row["over_none"] > 0 and row["p_over_none"] < 0.05 and row["over_none_low"] > 0


def test_what_does_not_help_has_no_mark_for_it(made: Path) -> None:
    rng = np.random.default_rng(1)
    without = rng.random(N)
    changes = {
        "none": 0 * without,
        "noise": rng.normal(0, 0.05, N),
        "good": 0.2 + 0 * without,
        "bad": -0.2 + 0 * without,
    }
    for name, change in changes.items():
        make_run(made, name, (without + change).tolist(), llm="L", retriever=name)
    make_run(made, "other", without.tolist(), llm="M", retriever="none")
    [table] = leaderboard(made)
    [block] = [block for block in table.blocks if block.metric == "m"]
    shown = dict(zip(block.columns, map(marks_of, block.cells[block.rows.index("L")]), strict=True))
    assert {name: marks[-1:] for name, marks in shown.items()} == {"none": "", "noise": "", "good": "+", "bad": "-"}
    assert "»" in shown["good"]


@pytest.mark.parametrize("width", [80, 120])
def test_the_board_fits_the_terminal(width: int, data_dir: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in (1, 2, 3):
        do(data_dir, retriever="bm25", top_k=k, prompt="concise")
    for retriever in ("none", "random", "bm25", "bm25 --set", "oracle"):
        do(data_dir, *(["retriever.k1=1.25"] if " " in retriever else []), retriever=retriever.split()[0])
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    shown = cli("leaderboard").out
    assert "\x1b" not in shown
    assert max(map(cell_len, shown.splitlines())) <= width
    for name in ("recall@1", "mrr@2", "recall@5", "bm25 k1=1.25"):
        assert name in shown
    bare = re.findall(r"\.\d{3}–(\S*)", shown)
    assert bare and all(re.fullmatch(r"(1)?\.\d{3}", end) for end in bare)  # no interval is cut off


def test_a_copy_leaves_the_first_run_in_its_row(runs: Path) -> None:
    path = next(runs.glob("small-oracle-*"))
    before = leaderboard(runs)[0].blocks[0]
    shutil.copytree(path, runs / "zcopy")
    [table] = leaderboard(runs)
    assert table.blocks[0].rows == [*before.rows, "extractive · zcopy"]
    assert table.blocks[0].cells[0][2].run == path.name  # type: ignore[union-attr]
    assert f"zcopy: the configuration of {path.name}, the same figures" in table.notes


def test_questions_of_one_id_and_other_references_share_no_table(made: Path) -> None:
    for name in ("a", "b"):
        make_run(made, name, [0.5, 0.6, 0.7])
    directory = RunDirectory(made / "b")
    first, *others = directory.read_questions()
    directory.write_questions([first.model_copy(update={"references": ["another"]}), *others])
    [table] = leaderboard(made, options=Options(common=True))
    assert table.n_questions == 2
    assert any("1 of 3 questions left out" in note and "references" in note for note in table.notes)
    directory.write_questions([each.model_copy(update={"query": "another"}) for each in (first, *others)])
    with pytest.raises(UsageError, match="a and b have no question that is the same in both"):
        leaderboard(made, options=Options(common=True))


def test_the_rule_for_what_is_unscored_is_said_where_it_matters(made: Path) -> None:
    make_run(made, "all", [0.5] * 4)
    make_run(made, "half", [0.9, 0.9, None, None])
    [table] = leaderboard(made)
    assert [cell_of(table, row).best for row in ("all", "half")] == [True, False]
    assert cell_of(table, "half").value_unscored_as_zero == pytest.approx(0.45)
    assert any(note.startswith("m: ") and "counted as 0" in note for note in table.notes)
    shutil.rmtree(made / "half")
    assert not any("counted as 0" in note for note in leaderboard(made)[0].notes)


def test_a_status_that_is_new_is_counted_below(made: Path) -> None:
    make_run(made, "a", [0.5] * 3)
    directory = RunDirectory(made / "a")
    summary = directory.read_summary()
    directory.write_summary(summary.model_copy(update={"counts": {**summary.counts, "ok": 2, "strange": 1}}))
    assert "a: 1 strange of 3" in leaderboard(made)[0].notes


@pytest.mark.parametrize("last", [0.3, 0.1 + 0.2])
def test_figures_that_differ_in_the_last_bit_are_the_same(last: float, made: Path) -> None:
    """Whether a sum is rounded the other way must not make two bests of none."""
    make_run(made, "a", [0.3, 0.6, 0.9, 0.1] * 5)
    make_run(made, "b", [0.6, last, 0.1, 0.9] * 5)
    [table] = leaderboard(made)
    for row in ("a", "b"):
        cell = cell_of(table, row)
        assert (cell.best, cell.tied, cell.p) == (False, False, None)


def test_one_that_is_better_where_both_are_scored_says_what_it_left_out() -> None:
    whole = np.random.default_rng(0).random(40)
    part = np.where(np.arange(40) < 20, whole + 0.3 + np.arange(40) / 1e3, np.nan)
    cells, _pairs = compared({(0, "whole"): whole, (0, "part"): part}, [[(0, "whole"), (0, "part")]], np.arange(40))
    other = cells[(0, "part")]
    assert cells[(0, "whole")].best and other.tied
    assert other.p is not None and other.p < 0.05
    assert "better on the 20 scored in both" in str(other.untold)
