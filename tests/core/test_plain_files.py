"""Files of run directories are read without following, hanging or taking all memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import read_json, read_lines
from qilin_rag.core.plain_files import MOST_BYTES, is_plain, open_plain, read_plain
from qilin_rag.core.types import Score

LINE = Score(question_id="1", metric="m", value=0.5).model_dump_json()


def a_link(path: Path) -> None:
    path.with_name("target").write_text(f"{LINE}\n")
    path.symlink_to("target")


KINDS: dict[str, Callable[[Path], object]] = {
    "link": a_link,
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "pipe": lambda path: os.mkfifo(path),
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_only_plain_files_are_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    KINDS[kind](path)
    assert not is_plain(path)
    for read in (open_plain, read_plain, read_json, lambda path: list(read_lines(path, Score))):
        with pytest.raises(UsageError) as error:
            read(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_folder_that_is_reached_by_a_link_is_read(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "scores.jsonl").write_text(f"{LINE}\n")
    (tmp_path / "runs").symlink_to("disk")
    assert len(list(read_lines(tmp_path / "runs" / "scores.jsonl", Score))) == 1
    assert list(read_lines(tmp_path / "runs" / "none.jsonl", Score)) == []


def test_lines_and_files_have_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    with path.open("w") as file:
        file.write(f"{LINE}\n{LINE}\n")
        file.truncate(1 << 30)
    lines = read_lines(path, Score)
    assert len([next(lines), next(lines)]) == 2
    with pytest.raises(UsageError, match=r"line 3: longer than \d+ MB"):
        next(lines)
    with pytest.raises(UsageError, match="larger than"):
        read_json(path)


def test_a_long_line_within_the_bound_is_read(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    long = Score(question_id="x" * (MOST_BYTES // 2), metric="m", value=0.5).model_dump_json()
    path.write_text(f"{LINE}\n{long}\n{LINE}")
    assert [len(score.question_id) for score in read_lines(path, Score)] == [1, MOST_BYTES // 2, 1]


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        ([LINE, f"{LINE},{LINE}"], 2),
        ([LINE, "", LINE], 2),
        ([LINE[:-1], "}"], 1),
        ([LINE, "[]", LINE], 2),
        ([LINE] * 9_000 + ["{}"] + [LINE] * 9_000, 9_001),
    ],
)
def test_lines_are_read_one_by_one(lines: list[str], number: int, tmp_path: Path) -> None:
    """Lines are parsed many at a time, which must not join or split them."""
    path = tmp_path / "scores.jsonl"
    path.write_text("\n".join([*lines, ""]))
    found = read_lines(path, Score)
    for _ in range(number - 1):
        next(found)
    with pytest.raises(UsageError, match=f"line {number}:"):
        next(found)


@pytest.mark.parametrize(
    "content",
    ['{"a": NaN}', '{"a": -Infinity}', '{"a":' * 5_000, '{"a": ' + "[" * 200 + "]" * 200 + "}", '{"a": ' + "1" * 9_999],
    ids=lambda content: content[:15],
)
def test_what_no_writer_of_json_writes_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"manifest\.json"):
        read_json(path)
    path.write_text(json.dumps({"a": [[{"b": 10**30}]]}))
    assert read_json(path) == {"a": [[{"b": 10**30}]]}
