"""`agreement RUN...` is `agreement runs RUN...`, and a word that is neither a command nor a run is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.agreement.labelled import BM25, ORACLE, preferring, rouge_of_examples
from tests.conftest import Cli, write_jsonl


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "labels.jsonl", preferring(rouge_of_examples(), BM25, ORACLE)[:10])


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of two runs."""
    for path in (BM25, ORACLE):
        shutil.copytree(path, tmp_path / "runs" / path.name)
    return tmp_path / "runs"


def test_the_word_runs_may_be_left_out(labels: Path, runs: Path, cli: Cli) -> None:
    words = ("--labels", labels, "--json")
    expected = cli("agreement", "runs", BM25, ORACLE, *words)
    parts, here = ("sample-bm25", ORACLE.name[-8:]), ("--runs-dir", runs)
    for typed in (
        (BM25, ORACLE, *words),
        (*words, BM25, ORACLE),
        (f"--labels={labels}", "--json", BM25, ORACLE),
        (*parts, *words, *here),
        (*parts, *words, f"--runs-dir={runs}"),
    ):
        assert cli("agreement", *typed) == expected, typed
    assert expected.code == 0 and cli("agreement", BM25, "--help").out == cli("agreement", "runs", "--help").out


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("rnus", "did you mean 'runs'?"),
        ("calibrat", "did you mean 'calibrate'?"),
        ("pairs.jsonl", "did you mean 'pairs'?"),
        ("zzz", "known: calibrate, export, import, pairs, qilin, runs"),
        ("runs/absent", "runs/absent is not a finished run directory"),
        ("sample", "sample may be any of 2 runs"),
    ],
)
def test_a_word_that_is_neither_is_named(
    word: str, said: str, labels: Path, runs: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs.parent)
    Path("pairs.jsonl").write_text("", encoding="utf-8")
    done = cli("agreement", word, BM25, "--labels", labels)
    assert (done.code, done.out) == (2, "")
    [line] = done.err.splitlines()
    assert word in line and said in line


def test_other_options_stay_those_of_the_group(cli: Cli) -> None:
    assert cli("agreement", "--help").out == cli("agreement").err
    assert "agreement RUN... --labels FILE" in " ".join(cli("agreement", "--help").out.split())
    done = cli("agreement", "--lables", "x")
    assert done.code == 2 and "--lables" in done.err
