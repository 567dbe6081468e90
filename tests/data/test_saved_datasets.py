"""Folders that the datasets library saved are found, as tables and as folders of tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.data import load_dataset
from qilin_rag.data.encodings import find_files
from qilin_rag.data.source import open_source
from tests.conftest import NOTES, QUESTIONS, Cli

Rows = list[dict[str, Any]]


def save_dataset(folder: Path, rows: Rows, n_shards: int = 1) -> None:
    """As `Dataset.save_to_disk` does: streams of Arrow, and two JSON files; with a cache and an old shard beside."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    names = [f"data-{i:05d}-of-{n_shards:05d}.arrow" for i in range(n_shards)]
    size = -(-len(rows) // n_shards)
    for i, name in enumerate([*names, "data-00000-of-00009.arrow", "cache-0123.arrow"]):
        part = table.slice((i % n_shards) * size, size)
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(part)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))


def save_splits(folder: Path, splits: dict[str, Rows], n_shards: int = 1) -> None:
    for name, rows in splits.items():
        save_dataset(folder / name, rows, n_shards)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))


@pytest.mark.parametrize("layout", ["a dataset a table", "a dict a table", "a dict of tables", "a dict of two splits"])
def test_every_way_of_saving_is_the_same_data(tmp_path: Path, data_dir: Path, layout: str) -> None:
    folder = tmp_path / "saved"
    match layout:
        case "a dataset a table":
            save_dataset(folder / "notes", NOTES, 2)
            save_dataset(folder / "dqa", QUESTIONS)
        case "a dict a table":
            save_splits(folder / "notes", {"train": NOTES}, 3)
            save_splits(folder / "dqa", {"train": QUESTIONS}, 2)
        case "a dict of tables":
            save_splits(folder, {"notes": NOTES, "dqa": QUESTIONS}, 2)
        case _:
            save_splits(folder / "notes", {"train": NOTES[:2], "more": NOTES[2:]})
            save_splits(folder / "dqa", {"test": QUESTIONS[1:], "dev": QUESTIONS[:1]})
    saved = load_dataset(str(folder))
    assert saved.sha256 == load_dataset(str(data_dir)).sha256
    assert len(saved.notes) == len(NOTES)
    if layout == "a dict of two splits":  # all of them, in their order
        in_order = [str(question["search_idx"]) for question in [*QUESTIONS[1:], QUESTIONS[0]]]
        assert [question.id for question in saved.questions] == in_order


def test_commands_take_them(tmp_path: Path, data_dir: Path, cli: Cli) -> None:
    save_splits(tmp_path / "saved", {"notes": NOTES, "dqa": QUESTIONS})
    first = json.loads(cli("run", "--data", data_dir, "--json").out)
    assert json.loads(cli("run", "--data", tmp_path / "saved", "--json").out)["run"] == first["run"]
    assert cli("data", "validate", tmp_path / "saved").code == 0
    assert json.loads(cli("data", "stats", tmp_path / "saved", "--json").out)["table notes"]["rows"] == len(NOTES)
    assert cli("data", "convert", tmp_path / "saved", "--to", "parquet", "--out", tmp_path / "converted").code == 0
    assert load_dataset(str(tmp_path / "converted")).sha256 == load_dataset(str(data_dir)).sha256


@pytest.mark.parametrize("is_dict", [True, False])
def test_one_saved_dataset_is_no_folder_of_tables(tmp_path: Path, is_dict: bool) -> None:
    if is_dict:
        save_splits(tmp_path / "saved", {"train": QUESTIONS})
    else:
        save_dataset(tmp_path / "saved", QUESTIONS)
    for read in (lambda: load_dataset(str(tmp_path / "saved")), lambda: open_source(str(tmp_path / "saved")).tables()):
        with pytest.raises(UsageError, match="one saved dataset: move it into a folder of tables"):
            read()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("state.json", "{", "state.json can't be read"),
        ("state.json", '{"_data_files": [{}]}', "state.json can't be read"),
        ("state.json", '{"_data_files": [{"filename": "../dqa/data-00000-of-00001.arrow"}]}', "not beside it"),
        ("state.json", '{"_data_files": [{"filename": "gone.arrow"}]}', "gone.arrow"),
        ("dataset_dict.json", '{"splits": ["/etc"]}', "not beside it"),
        ("dataset_dict.json", '{"splits": [".."]}', "not beside it"),
        ("dataset_dict.json", '{"splits": ["test"]}', "test/state.json can't be read"),
        ("dataset_dict.json", '{"splits": 1}', "not beside it"),
    ],
)
def test_what_is_damaged_or_leads_elsewhere_is_one_line(
    tmp_path: Path, data_dir: Path, name: str, content: str, message: str
) -> None:
    save_dataset(data_dir / "notes", NOTES)
    (data_dir / "notes.jsonl").unlink()
    (data_dir / "notes" / name).write_text(content)
    with pytest.raises(UsageError, match=message) as error:
        load_dataset(str(data_dir))
    assert "\n" not in str(error.value)


def test_what_the_library_itself_saves(tmp_path: Path, data_dir: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "saved"
    notes = datasets.DatasetDict({"train": datasets.Dataset.from_list(NOTES)})
    notes.save_to_disk(str(folder / "notes"), num_shards={"train": 2})
    datasets.Dataset.from_list(QUESTIONS[::-1]).select([2, 1, 0]).save_to_disk(str(folder / "dqa"))
    saved = load_dataset(str(folder))
    assert saved.sha256 == load_dataset(str(data_dir)).sha256
    assert [question.id for question in saved.questions] == [str(question["search_idx"]) for question in QUESTIONS]
    found = find_files(folder, "notes")
    assert found is not None and len(found[1]) == 2
