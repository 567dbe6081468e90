"""The toy sample against an independent reading of its CSV; one data set in every encoding."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.core.note_fields import IMAGE_TEXT
from qilin_rag.data.encodings import find_files, read_batches
from qilin_rag.data.requests import read_table
from qilin_rag.data.schema import TABLES
from qilin_rag.data.source import open_source

EMBEDDINGS = ("note_embedding", "question_embedding")
PAIRS = ("bm25_results", "dpr_results")


def independent(text: str, column: str) -> Any:
    """A CSV cell by regular expressions and JSON alone."""
    if column.endswith("details_with_idx"):
        as_json = re.sub(r"\}\s*\{", "},{", text).replace("'", '"').replace("nan", "NaN")
        return [{key: None if value != value else value for key, value in item.items()} for item in json.loads(as_json)]
    if column in PAIRS:
        return [[float(x) for x in pair.split(",")] for pair in re.findall(r"array\(\[([^\]]*)\]\)", text)]
    if column == "image_path":
        return re.findall(r"'([^']*)'", text)
    if text.startswith("["):
        return [float(x) for x in text.strip("[]").split()]
    return text


def same(ours: Any, theirs: Any, column: str) -> bool:
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(same(a, b, column) for a, b in zip(ours, theirs, strict=True))
    if isinstance(theirs, dict):
        return set(ours) == set(theirs) and all(same(ours[key], theirs[key], column) for key in theirs)
    if isinstance(ours, int | float):
        return math.isclose(ours, float(theirs), rel_tol=1e-6 if column in EMBEDDINGS else 0)
    return bool(ours == theirs)


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    found = find_files(folder, name)
    assert found
    return [
        row
        for path in found[1]
        for batch in read_batches(found[0], path, TABLES[name])
        for row in batch.rows.to_pylist()
    ]


@pytest.mark.parametrize("name", [name for name in TABLES if name != IMAGE_TEXT])
def test_every_field_of_the_toy_tables(shared: Path, name: str) -> None:
    csv.field_size_limit(sys.maxsize)
    with (shared / "data" / "qilin_toy" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        expected = list(csv.DictReader(file))
    rows = rows_of(shared / "data" / "qilin_toy", name)
    assert len(rows) == len(expected) == 10
    for ours, theirs in zip(rows, expected, strict=True):
        assert ours.keys() - {"extra"} == theirs.keys()
        for column, text in theirs.items():
            assert same(ours[column], independent(text, column), column), (column, ours[column], text)


@pytest.mark.parametrize("name", ["dqa", "search_test", "recommendation_test"])
def test_clicks_are_the_released_relevance(shared: Path, name: str) -> None:
    released: dict[int, set[int]] = {}
    with (shared / "data" / "qilin_qrels" / f"{name.replace('_', '.')}.qrels.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            released.setdefault(int(row["qid"]), set()).add(int(row["pid"]))
    requests = read_table(open_source(str(shared / "data" / "qilin_toy")), name)
    clicked: dict[str, set[int]] = {request: set() for request in requests.ids}
    for at in requests.clicked.nonzero()[0]:
        clicked[requests.ids[requests.request[at]]].add(int(requests.note_idx[at]))
    key = "request_idx" if name == "recommendation_test" else "search_idx"
    ids = [str(row[key]) for row in rows_of(shared / "data" / "qilin_toy", name)]
    assert [clicked[request] for request in ids] == [released.get(i, set()) for i in range(10)]
    assert any(len(note_idxs) > 1 for note_idxs in clicked.values())
