from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from qilin_rag.data import convert as module
from qilin_rag.data import load_dataset
from qilin_rag.data.encodings import find_files, read_batches
from qilin_rag.data.schema import TABLES
from tests.conftest import Cli, write_jsonl
from tests.data.qilin import write_csv, write_parquet


def all_rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    tables = {}
    for name, table in TABLES.items():
        if found := find_files(folder, name):
            batches = (batch for path in found[1] for batch in read_batches(found[0], path, table))
            tables[name] = [
                {k: v for k, v in row.items() if v is not None} for b in batches for row in b.rows.to_pylist()
            ]
    return tables


@pytest.mark.parametrize("encoding", module.WRITTEN)
def test_nothing_is_lost(tmp_path: Path, cli: Cli, encoding: str) -> None:
    source = write_csv(tmp_path / "csv")
    done = cli("data", "convert", source, "--to", encoding, "--out", tmp_path / "new" / "out")
    assert done.code == 0, done.err
    assert "notes 4, user_feat 3, dqa 5" in done.out
    assert all_rows(tmp_path / "new" / "out") == all_rows(source)
    assert load_dataset(str(tmp_path / "new" / "out")).sha256 == load_dataset(str(source)).sha256


@pytest.mark.parametrize("encoding", module.WRITTEN)
def test_the_generic_layout_with_keys_of_its_own(tmp_path: Path, data_dir: Path, cli: Cli, encoding: str) -> None:
    path = data_dir / "dqa.jsonl"
    path.write_text(
        path.read_text(encoding="utf-8").replace('"search_idx": 1,', '"search_idx": 1, "topic": "咖啡",'),
        encoding="utf-8",
    )
    assert cli("data", "convert", data_dir, "--to", encoding, "--out", tmp_path / "out").code == 0
    ours, theirs = load_dataset(str(data_dir)), load_dataset(str(tmp_path / "out"))
    assert theirs.sha256 == ours.sha256
    assert theirs.questions == ours.questions
    assert theirs.questions[0].meta == {"topic": "咖啡"}


def test_parquet_is_in_the_layout_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    monkeypatch.setattr(module, "_SHARD_ROWS", 2)
    cli("data", "convert", write_csv(tmp_path / "csv"), "--to", "parquet", "--out", "out")
    assert sorted(path.name for path in (tmp_path / "out" / "notes").iterdir())[0].startswith("train-00000-of-0000")
    assert sum(pq.read_metadata(path).num_rows for path in (tmp_path / "out" / "notes").iterdir()) == 4


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path, cli: Cli) -> None:
    source = write_parquet(tmp_path / "data")
    done = cli("data", "convert", source, "--to", "jsonl", "--out", source)
    assert done.code == 2
    assert "not empty" in done.err
    assert (
        cli("data", "convert", source, "--to", "jsonl", "--out", source / "notes" / "train-00000-of-00002.parquet").code
        == 2
    )


def test_a_defect_leaves_nothing_behind(tmp_path: Path, data_dir: Path, cli: Cli) -> None:
    with (data_dir / "dqa.jsonl").open("a", encoding="utf-8") as file:
        file.write("{\n")
    done = cli("data", "convert", data_dir, "--to", "arrow", "--out", tmp_path / "new" / "out")
    assert done.code == 2
    assert "line 4: not valid JSON" in done.err
    assert list((tmp_path / "new").iterdir()) == []


def test_stats(tmp_path: Path, cli: Cli) -> None:
    source = write_csv(tmp_path / "csv")
    figures = json.loads(cli("data", "stats", source, "--json").out)
    assert figures["table notes"] == {"rows": 4, "columns": 8}
    assert figures["notes"]["without text"] == 0
    assert figures["notes"]["title length, longest"] == 8
    answers = figures["answers"]
    assert {name: answers[name] for name in ("shown", "engaged", "liked", "content", "citation", "experience")} == {
        "shown": 4, "engaged": 3, "liked": 1, "content": 1, "citation": 1, "experience": 1
    }  # fmt: skip
    assert answers["distinct queries"] == 2
    assert answers["reference notes a question, mean"] == 2.0
    assert answers["reference notes not in the data"] == 0
    shown = cli("data", "stats", source).out
    assert "distinct queries" in shown
    assert "liked" not in cli("data", "stats", "sample").out


def test_what_ids_tell_of_clicks_is_said(tmp_path: Path, cli: Cli) -> None:
    """Pairs of a clicked note and another one in which the clicked one has the higher id, counted pair by pair."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    expected = []
    for i in range(40):
        notes, clicks = rng.integers(0, 30, 8).tolist(), rng.random(8) < 0.4
        clicked = {note for note, click in zip(notes, clicks, strict=True) if click}
        others = set(notes) - clicked
        if clicked and others:
            expected.append(np.mean([one > other for one in clicked for other in others]))
        pairs = enumerate(zip(notes, clicks, strict=True), 1)
        shown = [{"note_idx": note, "position": place, "click": int(click)} for place, (note, click) in pairs]
        rows.append({"search_idx": i, "query": "q", "search_result_details_with_idx": shown})
    write_jsonl(tmp_path / "search_test.jsonl", rows)
    figures = json.loads(cli("data", "stats", tmp_path, "--json").out)["note_idx against clicks"]
    assert figures["AUC within a request, mean"] == pytest.approx(np.mean(expected))
    assert figures["requests with a click and a result without"] == len(expected)
    assert "what it says" not in figures  # chance is within the interval
    for row in rows:
        row["search_result_details_with_idx"].append({"note_idx": 99, "position": 9, "click": 1})
    write_jsonl(tmp_path / "search_test.jsonl", rows)
    figures = json.loads(cli("data", "stats", tmp_path, "--json").out)["note_idx against clicks"]
    assert figures["AUC within a request, mean"] > 0.6 and "higher ids" in figures["what it says"]
