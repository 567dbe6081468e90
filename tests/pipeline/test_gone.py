"""Names of earlier versions: one line says what to write now, and runs that hold them are read and kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.pipeline.run import run
from qilin_rag.reports.leaderboard import leaderboard
from tests.conftest import Cli

WORDS = "is gone; write rouge_l with metrics.rouge_l.tokens=word"
HNSW = "set retriever.faiss=ivf, or flat (retriever.faiss)"
EF_SEARCH = "is gone; write retriever.faiss=ivf and retriever.n_probe"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--metrics", "rouge_l_word"], WORDS),
        (["--metrics", "rouge_l,rouge_l_word"], WORDS),
        (["--set", "metrics.rouge_l_word.simplify=true"], WORDS),
        (["--config", "mine.yaml"], WORDS),
        (["--retriever", "biencoder", "--set", "retriever.faiss=hnsw"], HNSW),
        (["--retriever", "biencoder", "--set", "retriever.ef_search=64"], EF_SEARCH),
        (["--retriever", "biencoder", "--set", "retriever.faiss=ivf", "--set", "retriever.ef_search=64"], EF_SEARCH),
    ],
)
def test_what_is_gone_is_one_line_with_what_to_write(cli: Cli, arguments: list[str], said: str) -> None:
    Path("mine.yaml").write_text("metrics: {rouge_l_word: {strip_markup: false}}\n")
    done = cli("run", "--data", "sample", "--llm", "extractive", *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert said in done.err
    assert not Path("runs").exists()


def test_a_grid_and_score_say_it_as_well(cli: Cli, data_dir: Path) -> None:
    Path("grid.yaml").write_text(f"data: {data_dir}\nllms: [extractive]\nretrievers: [none]\nmetrics: [rouge_l_word]\n")
    done = cli("sweep", "grid.yaml")
    assert done.code == 2 and WORDS in done.err
    path = _run(data_dir)
    done = cli("score", path, "--metrics", "rouge_l_word")
    assert done.code == 2 and WORDS in done.err


def test_a_run_that_holds_an_earlier_name_is_read_kept_and_repeated(cli: Cli, data_dir: Path) -> None:
    path = _run(data_dir, "chrf,rouge_1")
    for name in ("manifest.json", "scores.jsonl", "summary.json"):
        text = (path / name).read_text(encoding="utf-8")
        (path / name).write_text(text.replace('"rouge_1"', '"rouge_l_word"'), encoding="utf-8")
    before = json.loads((path / "summary.json").read_text())["metrics"]["rouge_l_word"]
    [table] = leaderboard(Path("runs"))
    assert "rouge_l_word" in {block.metric for block in table.blocks}
    done = cli("score", path, "--metrics", "contains", "--json")
    assert json.loads(done.out)["metrics"]["rouge_l_word"]["value"] == before["value"]
    done = cli("reproduce", path)
    assert done.code == 0, done.err
    assert "rouge_l_word: gone since, not made again" in " ".join(done.out.split())


def _run(data_dir: Path, metrics: str = "rouge_l") -> Path:
    settings = {"data": str(data_dir), "llm": "extractive", "retriever": "none", "metrics": metrics}
    return run(resolve_run(settings)).directory.path
