from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.data import Dataset, load_dataset
from qilin_rag.retrievers.bm25.retriever import BM25
from tests.conftest import Cli, write_jsonl


@pytest.fixture
def small(data_dir: Path) -> Dataset:
    return load_dataset(str(data_dir))


@pytest.fixture
def folder(small: Dataset, tmp_path: Path) -> Path:
    BM25().write_index(small.notes, tmp_path / "index")
    return tmp_path / "index"


def test_a_named_index_is_searched_and_never_built(
    small: Dataset, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BM25, "write_files", lambda self, notes, folder: pytest.fail("built"))
    named = BM25(index=folder)
    hits = named.search(small.questions, small.notes, 5)
    assert named.identity() == BM25().identity()
    assert not (tmp_path / "cache").exists()
    monkeypatch.undo()
    assert BM25().search(small.questions, small.notes, 5) == hits


def test_an_index_that_does_not_fit_is_refused_with_what_differs(small: Dataset, data_dir: Path, folder: Path) -> None:
    for retriever, difference in (
        (BM25(index=folder, analyzer="char"), "analyzer: word there, char here"),
        (BM25(index=folder, k1=1.2, b=1), "k1: 0.9 there, 1.2 here; b: 0.4 there, 1.0 here"),
    ):
        with pytest.raises(UsageError, match=f"index does not fit: {difference};"):
            retriever.search(small.questions, small.notes, 5)
    lines = (data_dir / "notes.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (data_dir / "notes.jsonl").write_text("".join(reversed(lines)), encoding="utf-8")
    with pytest.raises(UsageError, match="made for the same notes in another order"):
        BM25(index=folder).search(small.questions, load_dataset(str(data_dir)).notes, 5)
    write_jsonl(data_dir / "notes.jsonl", [{"note_idx": 77, "title": "", "content": "冷萃"}])
    with pytest.raises(UsageError, match="made for another corpus"):
        BM25(index=folder).search(small.questions, load_dataset(str(data_dir)).notes, 5)


def test_an_index_of_other_package_versions_is_refused(small: Dataset, folder: Path) -> None:
    manifest = json.loads((folder / "qilin_rag.json").read_text())
    manifest["packages"]["rjieba"] = "0.0.1"
    (folder / "qilin_rag.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=r"rjieba: 0\.0\.1 there, "):
        BM25(index=folder).search(small.questions, small.notes, 5)


@pytest.mark.parametrize("name", ["qilin_rag.json", "rows.npy", "terms.npy"])
@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"files": {}}'])
def test_a_damaged_named_index_is_refused_with_the_command_that_makes_it(
    small: Dataset, folder: Path, name: str, content: str | None
) -> None:
    (folder / name).unlink() if content is None else (folder / name).write_text(content)
    with pytest.raises(UsageError) as caught:
        BM25(k1=0.9, index=folder).search(small.questions, small.notes, 5)
    assert "damaged" in str(caught.value) or "does not fit" in str(caught.value)
    assert f"qilin-rag index bm25 --data DATA --out {folder}" in str(caught.value)
    if (folder / "qilin_rag.json").exists():
        BM25().write_index(small.notes, folder)
        assert BM25(index=folder).search(small.questions, small.notes, 5) == BM25().search(
            small.questions, small.notes, 5
        )


@pytest.mark.parametrize(
    ("files", "why"),
    [({}, "its build has not ended"), ({"../thesis.txt": {"n_bytes": 1}}, "is not the name of a file")],
)
def test_a_manifest_vouches_for_files_of_its_folder(
    small: Dataset, folder: Path, files: dict[str, object], why: str
) -> None:
    manifest = json.loads((folder / "qilin_rag.json").read_text())
    (folder / "qilin_rag.json").write_text(json.dumps(manifest | {"files": files}))
    with pytest.raises(UsageError, match=why):
        BM25(index=folder).search(small.questions, small.notes, 5)


def test_the_command_names_the_settings(small: Dataset) -> None:
    command = (
        "qilin-rag index bm25 --data DATA --out 'my index' --set retriever.k1=1.2 --set retriever.analyzer=cjk-bigram"
    )
    with pytest.raises(UsageError, match=f"make it with: {re.escape(command)}$"):
        BM25(k1=1.2, analyzer="cjk-bigram", index=Path("my index")).search(small.questions, small.notes, 5)


def test_only_an_index_is_replaced_and_in_one_step(
    small: Dataset, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    BM25().write_index(small.notes, mine)  # an empty folder is filled
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    for path in (tmp_path / "other", tmp_path / "other" / "thesis.txt"):
        with pytest.raises(UsageError, match="is not an index"):
            BM25().write_index(small.notes, path)
    assert (tmp_path / "other" / "thesis.txt").read_text() == "years of work"
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match=r"holds thesis.txt, which is not part of the index"):
        BM25().write_index(small.notes, folder)
    (folder / "thesis.txt").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fails(self: BM25, notes: object, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(BM25, "write_files", fails)
    with pytest.raises(QilinError, match="can't be written: No space left on device"):
        BM25(k1=1.2).write_index(small.notes, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    monkeypatch.undo()
    BM25(k1=1.2).write_index(small.notes, folder)
    BM25(k1=1.2, index=folder).search(small.questions, small.notes, 5)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_command(data_dir: Path, cli: Cli) -> None:
    done = cli("index", "bm25", "--data", data_dir, "--set", "retriever.analyzer=char", "--out", "a/b")
    assert (done.code, done.out) == (0, "bm25 index of 5 notes, 0.0 MB\na/b\n")
    written = json.loads(cli("index", "bm25", "--data", data_dir, "--out", "c", "--json").out)
    assert (written["out"], written["n_notes"]) == ("c", 5)
    assert written["n_bytes"] == sum(path.stat().st_size for path in Path("c").iterdir())
    command = ["run", "--data", data_dir, "--retriever", "bm25"]
    plain = json.loads(cli(*command, "--json").out)
    assert json.loads(cli(*command, "--set", "retriever.index=c", "--json").out) == plain
    refused = cli("retrieve", "--data", data_dir, "--set", "retriever.index=a/b", "--out", "x.trec")
    assert (refused.code, refused.err.count("\n"), "char there, word here" in refused.err) == (2, 1, True)
    none = cli("index", "oracle", "--data", data_dir, "--out", "d")
    assert (none.code, none.err.count("\n"), "retriever oracle has no index" in none.err) == (2, 1, True)
    assert "bm25" in none.err and "biencoder" in none.err
    (data_dir / "notes.jsonl").write_text("")
    assert "no note to index" in cli("index", "bm25", "--data", data_dir, "--out", "d").err
    assert not Path("d").exists()


def test_a_biencoder_without_its_packages_comes_with_the_pip_line(
    data_dir: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    monkeypatch.setattr("qilin_rag.core.extras.find_spec", lambda module: None)
    settings = ["--retriever", "biencoder", "--set", "retriever.model=model"]
    for command in (["index", "biencoder", *settings[2:], "--out", "x"], ["retrieve", *settings, "--out", "x.trec"]):
        done = cli(*command, "--data", data_dir)
        assert done.code == 2
        assert (
            "needs torch, sentence_transformers, faiss, not installed here: pip install 'qilin-rag[neural]'" in done.err
        )
