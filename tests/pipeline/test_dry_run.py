"""A dry run downloads, encodes, starts and writes nothing: it says what a run does first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.types import Hit, Question
from qilin_rag.data import NoteStore
from qilin_rag.pipeline.dry_run import plan
from qilin_rag.pipeline.run import run
from qilin_rag.retrievers import IndexedRetriever
from tests.conftest import Cli

OWN = f"{__name__}:Encoder"


class Encoder(IndexedRetriever):
    """Reads all notes by a model, which no dry run may do."""

    encodes: ClassVar[bool] = True

    def write_files(self, notes: NoteStore, folder: Path) -> NoReturn:
        raise AssertionError("a dry run encodes")

    def read_files(self, folder: Path) -> NoReturn:
        raise AssertionError("a dry run reads an index")

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        return self.open_index(notes)  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, local_files_only: bool = False, **kwargs: object) -> NoReturn:
        assert local_files_only, "a dry run downloads"
        raise OSError("not kept")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refused)


@pytest.mark.parametrize(
    ("flags", "step", "calls"),
    [
        (["--retriever", OWN], "encode 5 notes by Encoder: there is no index yet", 3),
        (["--retriever", "biencoder", "--set", "retriever.model=a/b"], "model 'a/b' is not on this machine", 3),
        (
            ["--retriever", "hybrid", "--set", f"retriever.of=[bm25, '{OWN}']"],
            "encode 5 notes",
            3,
        ),
        pytest.param(
            ["--metrics", "bertscore", "--set", "metrics.bertscore.model=a/b"],
            "model 'a/b' is not on this machine",
            3,
            marks=pytest.mark.skipif(find_spec("torch") is None, reason="needs torch: pip install 'qilin-rag[neural]'"),
        ),
        (["--data", "hub:a/b"], "data 'hub:a/b' is not on this machine", None),
    ],
)
def test_it_says_what_comes_first(data_dir: Path, cli: Cli, flags: list[str], step: str, calls: int | None) -> None:
    command = ["run", "--data", data_dir, "--dry-run", *flags]
    done = cli(*command)
    assert (done.code, done.err.count("Traceback")) == (0, 0)
    assert f"first: {step}" in " ".join(done.out.split())
    [planned] = [json.loads(cli(*command, "--json").out)]
    assert (len(planned["steps"]), planned["calls"]) == (1, calls)
    assert (planned["prompt_tokens"] is None) == ("--metrics" not in flags)
    assert not Path("runs").exists() and not Path("cache").exists()


def test_a_sweep_says_it_once_and_plans_the_rest(data_dir: Path, cli: Cli) -> None:
    Path("grid.yaml").write_text("retrievers: [bm25, 'biencoder']\ntop_k: [1, 2]\n")
    done = cli(
        "sweep",
        "grid.yaml",
        "--data",
        data_dir,
        "--dry-run",
        "--retrievers",
        f"bm25,{OWN}",
    )
    assert (done.code, done.out.count("first: encode 5 notes")) == (0, 1)
    assert done.out.count("unknown") >= 2
    assert not Path("runs").exists() and not Path("cache").exists()


def test_the_index_of_words_is_as_the_runs(data_dir: Path) -> None:
    config: dict[str, Any] = {"data": str(data_dir)}
    first = plan(resolve_run(config))
    assert not Path("cache").exists()

    assert str(run(resolve_run(config)).directory.path) == first.run
    assert first.calls == 3


def test_each_run_of_a_sweep_without_its_data_is_planned(cli: Cli) -> None:
    pytest.importorskip("torch", reason="the metrics of the table need torch")
    done = cli("sweep", "table11", "--dry-run")
    assert done.code == 0, done.err
    assert "20 runs: calls unknown, prompt tokens unknown" in done.out and done.out.count("hub:THUIR/Qilin") == 1
    assert "none + gpt-4o-mini, prompt default, top 5" in done.out  # a row without a directory says which run it is


def test_what_is_unknown_of_some_runs_is_no_nought(data_dir: Path, cli: Cli) -> None:
    command = ["ablate", "--data", data_dir, "--retrievers", f"bm25,{OWN}", "--prompts", "default,concise", "--dry-run"]
    done = cli(*command)
    assert "4 runs: at most 12 calls, about 0 prompt tokens (a high estimate; unknown for 2 of 4 runs)" in done.out
    assert done.out.count("at most 3") == 2
    planned = json.loads(cli(*command, "--json").out)
    assert [plan["label"].split(" + ")[0] for plan in planned] == ["bm25", "bm25", OWN, OWN]
