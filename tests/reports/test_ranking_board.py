"""Table 10: what stands in which row, what is marked, and what is said below."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.cli.results import as_csv, board_as_text
from qilin_rag.core.errors import UsageError
from qilin_rag.core.stats import compare_all, mean_bounds
from qilin_rag.rankers.base import Ranker
from qilin_rag.rankers.bm25 import BM25
from qilin_rag.rankers.ranking_directory import RankConfig, RankedBy, RankingDirectory, RankingManifest, clusters_of
from qilin_rag.rankers.run import Ranking, rank
from qilin_rag.rankers.simple import Production, Random
from qilin_rag.reports.formats import as_html, as_json, as_latex, as_markdown, as_rows, format_cell, title
from qilin_rag.reports.ranking_board import COLUMNS, labels_of, ranking_board
from qilin_rag.synth import resolve_world, synthesize

RUNS = Path("runs")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "qilin"
    synthesize(resolve_world({"notes": 600, "searches": 500, "recommendations": 200, "dqa": 40, "users": 50}, 1), out)
    return out


def do(world: Path, ranker: Ranker, **settings: Any) -> Ranking:
    return rank(ranker, RankConfig(data=str(world), **{"task": "search", **settings}))


def figures_of(run: Ranking, figure: str) -> Any:
    return np.array([line.figures[figure] for line in run.directory.read_figures() if line.figures])


def test_rankers_by_figures_with_intervals_and_marks(world: Path) -> None:
    runs = [do(world, ranker) for ranker in (Random(), Production(), BM25(), BM25(k1=1.5))]
    [table] = ranking_board(RUNS, task="search")
    [block] = table.blocks
    assert block.columns == [
        *("MRR@10", "MRR@100", "MAP@10", "MAP@100", "nDCG@10", "Recall@10", "Precision@10"),
        *("MAP@10 (released code)", "MAP@100 (released code)"),
    ]
    assert block.rows == ["random", "production", "bm25", "bm25 k1=1.5"]
    lines = runs[0].directory.read_figures()
    clusters = clusters_of([line for line in lines if line.figures])
    assert table.n_questions == len(clusters)
    assert title(table).startswith(f"qilin, test, {len(clusters)} requests")
    for figure, column in zip(COLUMNS, range(9), strict=True):
        values = np.stack([figures_of(run, figure) for run in runs], axis=1)
        cells = [row[column] for row in block.cells]
        assert [cell.value for cell in cells if cell] == pytest.approx(values.mean(axis=0))
        expected = [interval and interval[:2] for interval, _ in mean_bounds(values, clusters)]
        assert [cell.ci95 for cell in cells if cell] == expected
        best = int(values.mean(axis=0).argmax())
        others = [i for i in range(4) if i != best]
        adjusted = compare_all(values, clusters)[best, others].tolist()
        assert [cells[i].p for i in others if cells[i]] == adjusted  # type: ignore[union-attr]
        marks: Mapping[int, bool] = {i: p > 0.05 for i, p in zip(others, adjusted, strict=True)}
        assert [cell.tied for cell in cells if cell] == [marks.get(i, False) for i in range(4)]
        assert [cell.best for cell in cells if cell] == [i == best for i in range(4)]
    assert block.detectable and 0 < block.detectable < 0.3
    assert not any("to compare with" in note for note in table.notes)


def test_other_requests_are_another_table(world: Path, tmp_path: Path) -> None:
    do(world, Random())
    do(world, Random(), first=9)
    do(world, Random(), split="validation")
    do(world, Random(), task="recommendation")
    other = tmp_path / "other"
    synthesize(resolve_world({"notes": 300, "searches": 100, "recommendations": 50, "dqa": 10, "users": 30}, 5), other)
    do(other, Random())
    tables = ranking_board(RUNS, task="search", paper_anyway=True)
    assert {table.data for table in tables} == {
        "qilin, test",
        "qilin, test (the first 9 by id)",
        "qilin, validation",
        "other, test",
    }
    assert [table.n_questions for table in tables] == sorted((table.n_questions for table in tables), reverse=True)
    [validation] = [table for table in tables if table.data == "qilin, validation"]
    assert validation.blocks[0].kinds == ["run", *["paper"] * 5]
    assert any("not of this data: requests of the split validation" in note for note in validation.notes)
    assert len(ranking_board(RUNS, task="recommendation")) == 1
    [few] = [table for table in tables if "first 9" in table.data]
    again = f"to compare with: qilin-rag rank --ranker production --task search --data {world} --first 9"
    assert again in few.notes


def test_other_candidates_are_another_table(world: Path) -> None:
    """Figures of two protocols are never beside each other, even if the candidates are the same notes."""
    shown = do(world, Random())
    shutil.copy(shown.directory.path / "run.trec", "same.trec")
    for candidates in ("recorded:bm25", "sampled:9", "trec:same.trec"):
        do(world, Random(), candidates=candidates)
    do(world, Production(), candidates="recorded:bm25")
    do(world, Random(), candidates="sampled:9", seed=4)
    tables = {table.data: table for table in ranking_board(RUNS, task="search", paper_anyway=True)}
    assert set(tables) == {
        "qilin, test",
        *(f"qilin, test, candidates {name}" for name in ("recorded:bm25", "sampled:9", "trec:same.trec")),
        "qilin, test, candidates sampled:9, seed 4",
    }
    recorded = tables["qilin, test, candidates recorded:bm25"]
    assert recorded.blocks[0].columns == [*list(COLUMNS.values())[:7], "Recall@100"]
    assert any("clicked notes are not among the candidates, and count as not found" in note for note in recorded.notes)
    assert "production: the order of the candidates by their own score" in recorded.notes
    assert any(
        "not of this data: candidates recorded:bm25, the paper ranks what was shown" in n for n in recorded.notes
    )
    sampled = tables["qilin, test, candidates sampled:9, seed 4"]
    assert sampled.blocks[0].columns[:3] == ["Hit@1", "Hit@5", "Hit@10"]
    assert "each click against the negatives" in sampled.blocks[0].signature
    assert not any("--ranker production" in note for note in sampled.notes)
    same = tables["qilin, test, candidates trec:same.trec"]
    again = f"rank --ranker production --task search --data {world} --candidates trec:same.trec"
    assert any(again in note for note in same.notes)


def test_named_figures_are_shown_with_why_one_is_missing(world: Path) -> None:
    done = do(world, Random())
    do(world, BM25())
    [table] = ranking_board(RUNS, task="search", metrics=["auc", "GAUC by user", "logloss", "recall", "ild@10"])
    [block] = table.blocks
    assert block.columns == ["Recall@10", "Recall@100", "AUC", "GAUC by user", "LogLoss", "ILD@10"]
    row = dict(zip(block.columns, block.cells[block.rows.index("random")], strict=True))
    pooled = done.summary.pooled["auc"]
    auc = row["AUC"]
    assert auc is not None and (auc.value, auc.ci95) == (pooled.value, pooled.ci95)
    assert auc.ci95 and not auc.best and not auc.tied
    assert row["LogLoss"] is None and row["ILD@10"] is not None
    why = "no LogLoss: the ranker's scores are no probabilities of a click"
    assert {f"random: {why}", f"bm25: {why}"} <= set(table.notes)
    assert "best:lowest" in block.signatures[block.columns.index("LogLoss")]
    [every] = ranking_board(RUNS, task="search", metrics=["*"])
    assert set(COLUMNS.values()) < set(every.blocks[0].columns) and "Hit@1" not in every.blocks[0].columns
    assert "tab:rankers" in as_latex([every])
    with pytest.raises(UsageError, match="'gauk' is not a figure of rankings"):
        ranking_board(RUNS, task="search", metrics=["gauk"])
    with pytest.raises(UsageError, match="no ranking of search has a figure of hit@1"):
        ranking_board(RUNS, task="search", metrics=["hit@1"])


def test_figures_that_an_old_ranking_lacks(world: Path) -> None:
    old, new = do(world, Random()), do(world, BM25())
    summary = json.loads((old.directory.path / "summary.json").read_text())
    del summary["pooled"], summary["metrics"]["recall@100"], summary["metrics"]["request_auc"]
    (old.directory.path / "summary.json").write_text(json.dumps(summary))
    lines = []
    for line in map(json.loads, (old.directory.path / "figures.jsonl").read_text().splitlines()):
        for name in ("recall@100", "request_auc"):
            (line["figures"] or {}).pop(name, None)
        lines.append(json.dumps(line) + "\n")
    (old.directory.path / "figures.jsonl").write_text("".join(lines))
    [table] = ranking_board(RUNS, task="search", metrics=["mrr@10", "recall@100", "auc"])
    of_old, of_new = table.blocks[0].cells
    assert of_old[0] is not None and of_old[1:] == [None, None]
    assert of_new[1] and of_new[2] and of_new[2].value == new.summary.pooled["auc"].value
    assert "random: no Recall@100, AUC: ranked before there was this figure (again: --fresh)" in table.notes
    assert len(ranking_board(RUNS, task="search")[0].blocks[0].columns) == 9


def test_the_papers_rows(world: Path) -> None:
    do(world, Production())
    [refused] = ranking_board(RUNS, task="search", with_paper=True)
    assert refused.blocks[0].kinds == ["run"]
    assert any("no rows of the paper" in note and "Qilin has 6,192" in note for note in refused.notes)
    [table] = ranking_board(RUNS, task="search", paper_anyway=True)
    block = table.blocks[0]
    assert block.kinds == ["run", *["paper"] * 5]
    shown = [" ".join(format_cell(cell) for cell in row) for row in block.cells[1:]]
    assert dict(zip(block.rows[1:], shown, strict=True)) == {
        "BM25 (paper, another data set)": "0.3388 0.3467 0.2399 0.3139 - - - - -",
        "BERT-bi (paper, another data set)": "0.5320 0.5359 0.3855 0.4536 - - - - -",
        "BERT-cross (paper, another data set)": "0.5336 0.5386 0.3848 0.4533 - - - - -",
        "DCN-V2 (paper, another data set)": "0.5600 0.5653 0.4014 0.4683 - - - - -",
        "VLM (paper, another data set)": "0.5523 0.5563 0.3937 0.4601 - - - - -",
    }
    assert any("looks like chance" in note and "first 1,000 test requests" in note for note in table.notes)
    do(world, Production(), task="recommendation")
    [table] = ranking_board(RUNS, task="recommendation", paper_anyway=True)
    assert [format_cell(cell) for cell in table.blocks[0].cells[-1]][:5] == [
        "0.6394",
        "0.6409",
        "0.4890",
        "0.5477",
        "-",
    ]


def test_every_format(world: Path) -> None:
    do(world, Random())
    do(world, BM25())
    tables = ranking_board(RUNS, task="search", paper_anyway=True)
    assert board_as_text(tables, to_file=True).count("\nbm25") == 1  # one table, where there is room
    assert "| random |" in as_markdown(tables) and "MAP@10 (released code)" in as_markdown(tables)
    assert r"\midrule" in as_latex(tables) and r"MRR@10" in as_latex(tables)
    assert "<th scope=row>VLM (paper, another data set)</th>" in as_html(tables)
    rows = list(csv.DictReader(io.StringIO(as_csv(as_rows(tables)))))
    [row] = [row for row in rows if row["ranker"] == "bm25" and row["metric"] == "nDCG@10"]
    assert 0 < float(row["ci95_low"]) < float(row["value"]) < float(row["ci95_high"]) < 1
    assert "retriever" not in row
    assert json.loads(json.dumps(as_json(tables)))[0]["unit"] == "requests"


def manifest(world: Path, **ranker: Any) -> RankingManifest:
    made = RankedBy(**{"name": "biencoder", "settings": {}, "changed": {}, "checkpoint": "out/a", **ranker})
    return do(world, Random()).manifest.model_copy(update={"ranker": made})


def test_trained_rankers_are_told_apart_by_what_differs(world: Path) -> None:
    def trained(fingerprint: str = "f" * 64, checkpoint: str = "out/a", **changed: Any) -> RankingManifest:
        settings = {"seed": 0, "epochs": 1, "batch_size": 32} | changed
        found = manifest(world, settings=settings, changed=changed, checkpoint=checkpoint)
        return found.model_copy(update={"fingerprint": fingerprint})

    def labels(*manifests: RankingManifest) -> list[str]:
        return labels_of([(f"run{i}", each) for i, each in enumerate(manifests)])

    assert labels(trained(epochs=2, batch_size=320)) == ["biencoder"]
    assert labels(trained(epochs=2), trained(epochs=2, seed=1)) == ["biencoder", "biencoder seed=1"]
    joint = trained(checkpoint="out/joint", epochs=2)
    assert labels(trained(epochs=2), joint) == ["biencoder · a", "biencoder · joint"]
    assert labels(trained(), trained("e" * 64)) == ["biencoder · a · ffffffff", "biencoder · a · eeeeeeee"]
    assert labels(trained(), trained())[0] == "biencoder · a · ffffffff · run0"
    bm25 = manifest(world, name="bm25", changed={"k1": 1.2}, checkpoint=None)
    assert labels(bm25, trained()) == ["bm25 k1=1.2", "biencoder"]


def test_copies_of_a_run_all_show(world: Path) -> None:
    run = do(world, Random())
    shutil.copytree(run.directory.path, RUNS / "copy")
    [table] = ranking_board(RUNS, task="search")
    assert len(set(table.blocks[0].rows)) == 2
    assert all(cell and not cell.tied for row in table.blocks[0].cells for cell in row)  # the same figures


def test_what_is_not_complete_is_named(world: Path) -> None:
    do(world, Random())
    halted = do(world, BM25()).directory
    halted.write_manifest(halted.read_manifest().model_copy(update={"state": "incomplete"}))
    cut = do(world, Production()).directory.path / "figures.jsonl"
    cut.write_text("".join(cut.read_text().splitlines(keepends=True)[:-1]))
    (RUNS / "foreign").mkdir()
    (RUNS / "foreign" / "ranking.json").write_text("{}")
    [table] = ranking_board(RUNS, RUNS / ".." / "runs", task="search")
    assert table.blocks[0].rows == ["random"]
    said = " ".join(table.notes)
    assert f"left out, incomplete: {halted.path.name}" in said
    assert "figures.jsonl has" in said and "schema version None" in said
    assert "to compare with: qilin-rag rank --ranker production" in said


def test_no_ranking_is_said(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere is not a folder of runs; begin with: qilin-rag rank"):
        ranking_board(Path("nowhere"), task="search")
    do(world, Random())
    with pytest.raises(UsageError, match="holds no complete ranking of recommendation; begin with"):
        ranking_board(RUNS, task="recommendation")


def test_requests_without_any_click_have_no_figures(world: Path) -> None:
    run = do(world, Random())
    path = run.directory.path
    bare = [line.model_copy(update={"figures": None, "reason": "no click"}) for line in run.directory.read_figures()]
    (path / "figures.jsonl").write_text("".join(f"{line.model_dump_json()}\n" for line in bare))
    [table] = ranking_board(RUNS, task="search")
    assert table.n_questions == 0 and table.blocks[0].cells == [[None] * 9]
    assert RankingDirectory(path).read_figures() == bare
