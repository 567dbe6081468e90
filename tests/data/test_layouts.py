"""One data set, five layouts: the same notes, questions, fingerprint and figures."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.data import load_dataset, notes
from qilin_rag.data.encodings import find_files
from tests.conftest import Cli
from tests.data.qilin import LAYOUTS, TABLES, columns, write_csv, write_jsonl, write_parquet


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return LAYOUTS[request.param](tmp_path / request.param)


@pytest.fixture
def kept_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small corpora are converted in memory; this makes them large."""
    monkeypatch.setattr(notes, "_LARGEST_IN_MEMORY_BYTES", 0)


def test_every_layout_says_the_same(layout: Path, tmp_path: Path) -> None:
    reference, data = load_dataset(str(write_jsonl(tmp_path / "reference"))), load_dataset(str(layout))
    assert data.sha256 == reference.sha256
    assert data.notes.sha256 == reference.notes.sha256
    assert sorted(data.questions, key=lambda q: q.id) == sorted(reference.questions, key=lambda q: q.id)
    assert sorted(data.notes, key=lambda n: n.note_idx) == data.notes.get([3, 4, 5, 6])
    assert [note.title for note in data.notes.get([6, 3])] == ["特斯拉, 摄像头", "灌香肠"]


def test_all_fields_of_a_note_by_random_access(layout: Path) -> None:
    store = load_dataset(str(layout)).notes
    assert set(store.columns) == set(TABLES["notes"][0])
    rows = store.read([6, 3, 6]).to_pylist()
    expected = [TABLES["notes"][i] for i in (3, 0, 3)]
    assert rows == expected
    assert store.read([5], ["image_path", "note_idx"]).to_pylist() == [
        {"image_path": ["image/a.jpg", "image/b.jpg"], "note_idx": 5}
    ]
    assert store.read([]).num_rows == 0
    with pytest.raises(UsageError, match="no note 99"):
        store.read([99])


def test_the_same_run_whatever_the_layout(layout: Path, tmp_path: Path, cli: Cli) -> None:
    reference = write_csv(tmp_path / "reference")
    first, second = (
        json.loads(cli("run", "--data", data, "--runs-dir", tmp_path / data.name, "--json").out)
        for data in (reference, layout)
    )
    assert first.pop("run").rpartition("-")[2] == second.pop("run").rpartition("-")[2]
    assert first.pop("times").keys() == second.pop("times").keys()
    assert first == second


def test_a_large_corpus_is_converted_once_and_memory_mapped(
    layout: Path, kept_on_disk: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_dataset(str(layout))
    [kept] = (tmp_path / "cache" / "notes").iterdir()
    monkeypatch.setattr(notes, "_convert", lambda *_: pytest.fail("converted again"))
    second = load_dataset(str(layout))
    assert first.sha256 == second.sha256
    assert list(first.notes) == list(second.notes)
    assert sorted(path.name for path in kept.iterdir()) == ["note_idxs.npy", "notes.arrow", "sha256.npy"]


@pytest.mark.parametrize("name", ["notes.arrow", "note_idxs.npy", "sha256.npy"])
def test_a_damaged_conversion_is_made_again(
    name: str, kept_on_disk: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layout = write_parquet(tmp_path / "data")
    first = load_dataset(str(layout)).sha256
    [folder] = (tmp_path / "cache" / "notes").iterdir()
    kept = folder / name
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING, "qilin_rag"):
        assert load_dataset(str(layout)).sha256 == first
    assert "is damaged" in caplog.text
    assert kept.read_bytes() == whole


def test_a_changed_file_is_converted_again(kept_on_disk: None, tmp_path: Path) -> None:
    folder = write_jsonl(tmp_path / "data")
    first = load_dataset(str(folder)).sha256
    path = folder / "notes.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("灌香肠", "灌腊肠"), encoding="utf-8")
    assert load_dataset(str(folder)).sha256 != first


def test_a_cache_that_cannot_be_written_is_one_line(
    kept_on_disk: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QILIN_RAG_CACHE", str(tmp_path / "file"))
    with pytest.raises(QilinError, match=r"can't be converted in .*QILIN_RAG_CACHE"):
        load_dataset(str(write_parquet(tmp_path / "data")))


def test_optional_columns_may_be_absent(tmp_path: Path) -> None:
    lean = columns(TABLES, "notes", ["imp_num", "image_path", "note_type", "taxonomy1_id", "note_embedding"])
    lean = columns(
        lean, "dqa", ["bm25_results", "dpr_results", "query_from_type", "recent_clicked_note_idxs", "session_idx"]
    )
    data = load_dataset(str(write_parquet(tmp_path / "lean", lean)))
    assert data.questions[0].recorded == {}
    assert data.notes.columns == ["note_idx", "note_title", "note_content"]
    full = load_dataset(str(write_parquet(tmp_path / "full")))
    assert data.notes.sha256 == full.notes.sha256
    assert data.sha256 != full.sha256  # recorded results are part of what a run may rest on


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("notes", "note_content", "notes.*column 'note_content' is missing"),
        ("dqa", "query", "dqa.*column 'query' is missing"),
        ("dqa", "search_idx", "dqa.*column 'search_idx' is missing"),
        ("dqa", "dqa_output", "dqa.*key 'answers' is missing"),
    ],
)
def test_a_missing_column_is_named(tmp_path: Path, name: str, column: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_dataset(str(write_parquet(tmp_path / "data", columns(TABLES, name, [column]))))


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "data", {"notes": TABLES["notes"]})
    with pytest.raises(UsageError, match=r"table dqa .*; looked for dqa\.parquet, \.arrow"):
        load_dataset(str(folder))
    assert find_files(folder, "dqa") is None


@pytest.mark.parametrize("encoding", ["parquet", "arrow", "csv"])
def test_a_file_that_is_not_what_its_name_says_is_one_line(tmp_path: Path, encoding: str) -> None:
    folder = write_jsonl(tmp_path / "data", {"dqa": TABLES["dqa"]})
    (folder / f"notes.{encoding}").write_bytes(b"no table at all \xff")
    with pytest.raises(UsageError, match=rf"notes\.{encoding}: can't be read"):
        load_dataset(str(folder))


def test_notes_of_many_groups_over_shards(tmp_path: Path, kept_on_disk: None) -> None:
    rows = [
        {"note_idx": 7 * i % 1009, "note_title": f"t{i}", "note_content": f"c{i}", "imp_num": float(i)}
        for i in range(1009)
    ]
    store = load_dataset(str(write_parquet(tmp_path / "data", {**TABLES, "notes": rows}))).notes
    assert len(list(store)) == len(store) == 1009
    wanted = [7 * i % 1009 for i in (1008, 0, 255, 256, 504, 505, 511, 512, 0)]
    assert [note.title for note in store.get(wanted)] == [
        "t1008",
        "t0",
        "t255",
        "t256",
        "t504",
        "t505",
        "t511",
        "t512",
        "t0",
    ]
    assert store.read(wanted, ["imp_num"]).column(0).to_pylist() == [1008, 0, 255, 256, 504, 505, 511, 512, 0]
    assert [note.note_idx for note in store] == store.note_idxs.tolist()
    titles = [note.title for note in store]
    for start, stop in ((0, 0), (0, 256), (200, 600), (1000, 1009), (0, 1009)):
        texts = store.texts(start, stop)
        assert texts.column("note_title").to_pylist() == titles[start:stop]
        assert texts.column("note_content").to_pylist() == [f"c{title[1:]}" for title in titles[start:stop]]
    assert store.missing([2000, 5, 2000, -1]) == [-1, 2000]
    with pytest.raises(UsageError, match="the notes have no column 'title'; they have note_idx"):
        store.read([1], ["title"])
