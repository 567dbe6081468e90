"""What a component is known by: kind, name, version and settings, wherever its module lies; and how it was before."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from qilin_rag.core.former import former, renewed, renewed_manifest
from qilin_rag.core.hashing import fingerprint
from qilin_rag.core.registry import ENGINES, HOOKS, LLMS, QUERIES, RANKERS, RETRIEVERS, SCORERS, Registry
from qilin_rag.data import load_dataset
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.retrievers import IndexedRetriever
from qilin_rag.retrievers.bm25.retriever import BM25
from tests.conftest import Cli
from tests.fake_server import MODEL, FakeServer

RUN = ("run", "--llm", "extractive", "--metrics", "rouge_l", "--quiet")


def move(monkeypatch: pytest.MonkeyPatch, table: Registry[Any], name: str) -> None:
    """Have a component of ours in another module, as the table says."""
    cls = table.resolve(name)
    module = ModuleType("qilin_rag_moved")
    setattr(module, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(table._builtin, name, f"{module.__name__}:{cls.__name__}")
    monkeypatch.setattr(cls, "__module__", module.__name__)


SETTINGS: dict[str, dict[str, Any]] = {
    "hybrid": {"of": ["bm25", "random"]},
    "openai": {"model": "m", "base_url": "http://127.0.0.1:1/v1"},
    "langchain": {"spec": "openai:m"},
    "trec": {"path": "a.trec"},
    "recorded": {"results": "bm25"},
    "served": {"url": "http://127.0.0.1:1/rerank"},
    "llm": {"llm": "qwen2.5-72b"},
}


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (table, name)
        for table in (RETRIEVERS, QUERIES, LLMS, ENGINES, RANKERS, SCORERS, HOOKS)
        for name in table.table()
        if name
        not in ("langchain", "biencoder", "history", "multivector", "sparse", "pretrained")  # which need what they name
    ],
)
def test_a_moved_component_is_what_it_was(table: Registry[Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.trec").write_text("1 Q0 2 1 1.0 run\n")
    component = table.create(name, SETTINGS.get(name, {}))
    before = component.identity()
    assert before["component"] == f"{table.kind}/{name}"
    move(monkeypatch, table, name)
    assert table.create(name, SETTINGS.get(name, {})).identity() == before
    monkeypatch.setattr(type(component), "version", component.version + 1)
    assert component.identity() == {**before, "version": before["version"] + 1}


def test_a_moved_retriever_finds_its_run_and_its_index(
    data_dir: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (*RUN, "--data", data_dir, "--retriever", "bm25")
    assert cli(*command).code == 0
    notes = load_dataset(str(data_dir)).notes
    [run], [index] = Path("runs").iterdir(), Path("cache/indexes").iterdir()
    move(monkeypatch, RETRIEVERS, "bm25")
    monkeypatch.setattr(IndexedRetriever, "write_files", None)
    retriever = RETRIEVERS.create("bm25", {})
    assert retriever.has_index(notes) and not BM25(k1=3).has_index(notes)
    assert cli(*command).code == 0
    assert (list(Path("runs").iterdir()), list(Path("cache/indexes").iterdir())) == ([run], [index])
    monkeypatch.setattr(BM25, "version", BM25.version + 1)
    assert not RETRIEVERS.create("bm25", {}).has_index(notes)


def test_code_of_others_is_known_by_its_path_and_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from qilin_rag.retrievers.bm25.retriever import BM25\n\nclass Mine(BM25):\n    pass\n"
    Path("own_bm25.py").write_text(source)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    identity = RETRIEVERS.create("own_bm25:Mine", {}).identity()
    assert identity["class"] == "own_bm25:Mine" and len(identity["source_sha256"]) == 64
    assert "component" not in identity
    sys.modules.pop("own_bm25")


def test_what_was_written_down_before_is_read_as_now() -> None:
    part = {"class": "qilin_rag.retrievers.bm25:BM25", "version": 1, "k1": 0.9}
    before = {"retriever": {"class": "qilin_rag.retrievers.hybrid:Hybrid", "of": [part]}, "other": {"class": "mine:M"}}
    now = renewed(before)
    assert now["retriever"]["component"] == "retriever/hybrid"
    assert now["retriever"]["of"] == [{"component": "retriever/bm25", "version": 1, "k1": 0.9}]
    assert now["other"] == {"class": "mine:M"}
    assert (former(now), renewed(now)) == (before, now)
    every = {f"{table.kind}/{name}" for table in (RETRIEVERS, LLMS, ENGINES, RANKERS) for name in table.table()}
    every -= {
        "retriever/history",
        "retriever/mixed",
        "retriever/multivector",
        "retriever/sparse",
        "retriever/unanswerable",
    }  # new since
    every -= {"ranker/pretrained", "ranker/served", "ranker/llm"}
    every -= {"ranker/popularity", "ranker/item-to-item", "ranker/sasrec"}
    assert {former({"component": name}).get("class", name).count(":") for name in every} == {1}


def put_back(path: Path) -> None:
    """Make a run directory what an older version would have written, in its own folder."""
    content = json.loads((path / "manifest.json").read_text())
    identity = former(content["identity"])
    content |= {"identity": identity, "fingerprint": fingerprint(identity)}
    (path / "manifest.json").write_text(json.dumps(content))
    path.rename(path.with_name(f"{path.name[:-8]}{content['fingerprint'][:8]}"))


def test_a_run_of_an_older_version_goes_on_and_is_not_made_twice(data_dir: Path, cli: Cli) -> None:
    command = (*RUN, "--data", data_dir, "--retriever", "bm25")
    assert cli(*command, "--limit", 1).code == 0
    now = cli("leaderboard", "--format", "json").out
    put_back(next(Path("runs").iterdir()))
    assert cli("leaderboard", "--format", "json").out.count("rouge_l") == now.count("rouge_l")
    [old] = Path("runs").iterdir()
    for _ in range(2):
        assert cli(*command).code == 0
        assert list(Path("runs").iterdir()) == [old]
    assert json.loads((old / "manifest.json").read_text())["n_questions"] == 3


def test_judgements_of_an_older_version_are_not_asked_for_again(
    data_dir: Path, cli: Cli, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli(*RUN, "--data", data_dir, "--retriever", "bm25").code == 0
    [run] = Path("runs").iterdir()
    server.answer = lambda body: "很好。\n\n正确性：4\n完整性：3\n忠实性：5"
    judge = ("judge", run, "--llm", "openai", "--base-url", server.url, f"--set=llm.model={MODEL}")
    with monkeypatch.context() as older:
        older.setattr("qilin_rag.judging.docket.fingerprint", lambda identity: fingerprint(former(identity)))
        assert cli(*judge).code == 0
    n_asked = len(server.calls)
    assert n_asked >= 3
    Path("cache/responses.sqlite").unlink()
    assert cli(*judge).code == 0
    assert len(server.calls) == n_asked


def test_a_field_with_a_former_name_is_read() -> None:
    """Times counted `sittings` until they counted `sessions`; the bundled runs still do."""
    [path] = (Path(__file__).parents[2] / "runs" / "examples").glob("sample-none-*")
    written = json.loads((path / "manifest.json").read_text())["times"]
    times = RunDirectory(path).read_manifest().times
    assert times is not None and times.sessions == written["sittings"] == 2
    for damaged in ({"times": None}, {"times": [1]}, {}):
        assert renewed_manifest(damaged) == damaged


def test_a_setting_that_is_gone_is_in_the_former_identity_alone() -> None:
    whole = {
        "class": "qilin_rag.retrievers.biencoder:BiEncoder",
        "version": 3,
        "n_probe": None,
        "ef_search": None,
    }
    assert renewed(whole) == {"component": "retriever/biencoder", "version": 3, "n_probe": None}
    assert former(renewed(whole)) == whole
    of_an_index = {"component": "retriever/biencoder", "version": 4, "model": "m"}
    assert "ef_search" not in former(of_an_index)
    by_a_graph = whole | {"ef_search": 64}
    assert renewed(by_a_graph)["ef_search"] == 64
