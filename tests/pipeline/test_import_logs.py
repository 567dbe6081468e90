"""Logs of inspect_ai made by hand: all versions, and zip files that mean harm."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from qilin_rag.core import zip_members
from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import Sample
from qilin_rag.core.zip_members import ZipMembers
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.imports import import_answers

HEADER: dict[str, Any] = {
    "version": 2,
    "status": "success",
    "eval": {"model": "openai/m", "task": "qa", "dataset": {"sample_ids": ["b", "a"]}},
}


def output(text: str, reason: str = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"model": "m", "choices": [{"message": message, "stop_reason": reason}], "completion": text, **more}


def sample(name: object, query: Any, text: str, epoch: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": name, "epoch": epoch, "input": query, "target": "x", "output": output(text), **more}


def log_of(path: Path, content: Mapping[str, Any], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as log:
        for name, value in content.items():
            log.writestr(name, value if isinstance(value, bytes) else json.dumps(value))
    return path


def zstd_log(path: Path, content: Mapping[str, Any]) -> Path:
    """A log as inspect_ai writes it today, whose compression Python's zipfile does not know before 3.14."""
    file, listed = io.BytesIO(), b""
    for name, value in content.items():
        raw = json.dumps(value).encode()
        packed = pyarrow.compress(raw, codec="zstd", asbytes=True)
        about = struct.pack("<HHHHHLLLHH", 63, 0, 93, 0, 33, zlib.crc32(raw), len(packed), len(raw), len(name), 0)
        at = file.tell()
        file.write(b"PK\x03\x04" + about + name.encode() + packed)
        listed += b"PK\x01\x02" + struct.pack("<H", 63) + about + struct.pack("<HHHLL", 0, 0, 0, 0, at) + name.encode()
    ends = struct.pack("<HHHHLLH", 0, 0, len(content), len(content), len(listed), file.tell(), 0)
    path.write_bytes(file.getvalue() + listed + b"PK\x05\x06" + ends)
    return path


def imported(path: Path, data: Path) -> Run:
    return import_answers(path, name="theirs", data=data, metrics="rouge_l")


def samples_of(path: Path, data: Path) -> dict[str, Sample]:
    return imported(path, data).directory.read_samples()[0]


GOLDEN = {
    "header.json": HEADER,
    "samples/a_epoch_2.json": sample("a", "冷萃咖啡怎么做", "第二次", epoch=2),
    "samples/a_epoch_1.json": sample("a", "冷萃咖啡怎么做", "粗研磨。", error=None),
    "samples/b_epoch_1.json": sample(
        "b",
        [{"role": "system", "content": "简短"}, {"role": "user", "content": [{"type": "text", "text": "多肉怎么养"}]}],
        "",
        output={"model": "m", "choices": []},
        error={"message": "no\nreply", "traceback": "", "traceback_ansi": ""},
        messages=[{"role": "system", "content": "简短"}, {"role": "user", "content": "attachment://abc"}],
        attachments={"abc": "多肉怎么养"},
    ),
    "samples/c/../c_epoch_1.json": sample(
        "c", "手冲水温", "", output=output("92", "max_tokens", time=float("nan"), usage={"input_tokens": 0})
    ),
}


@pytest.mark.parametrize("write", [log_of, zstd_log])
def test_a_log_of_version_2(write: Any, data_dir: Path, tmp_path: Path) -> None:
    run = imported(write(tmp_path / "log.eval", GOLDEN), data_dir)
    first, failed, cut = run.directory.read_samples()[0].values()
    assert (first.answer, first.status, first.model, first.finish_reason) == ("粗研磨。", "ok", "m", "stop")
    assert (failed.status, failed.error) == ("failed", "no reply")
    assert failed.messages == [{"role": "system", "content": "简短"}, {"role": "user", "content": "多肉怎么养"}]
    assert (cut.answer, cut.status, cut.finish_reason, cut.latency_s) == ("92", "truncated", "length", None)
    assert cut.usage.prompt_tokens is None and not cut.has_known_hits
    assert run.manifest.imported and [(each.n, each.what) for each in run.manifest.imported.remarks] == [
        (1, "further answers to a question, of which the first counts")
    ]
    assert not list(tmp_path.rglob("*epoch*"))  # nothing is unpacked


def test_old_and_json_logs(data_dir: Path, tmp_path: Path) -> None:
    old = sample("1", "冷萃咖啡怎么做", "粗研磨。", score={"value": "C"}, transcript={"events": [], "content": {}})
    log = {"version": 1, "status": "success", "eval": HEADER["eval"], "samples": [old], "results": {"scorer": {}}}
    for number, indent in enumerate((None, 2)):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(log, indent=indent), encoding="utf-8")
        assert samples_of(path, data_dir)["1"].answer == "粗研磨。"
    journal = {"_journal/start.json": HEADER, "samples/1_epoch_1.json": old}  # a log that was never finished
    assert samples_of(log_of(tmp_path / "begun.eval", journal), data_dir)["1"].answer == "粗研磨。"


def test_ids_of_the_tool_are_not_those_of_the_data(data_dir: Path, tmp_path: Path) -> None:
    """The samples 1, 2 and 3 are the questions 3, 1 and 2; a prompt is no query."""
    rows = [sample(1, "手冲水温", "92"), sample(2, "冷萃咖啡怎么做", "粗"), sample(3, "多肉怎么养", "断水")]
    content = {f"samples/{row['id']}_epoch_1.json": row for row in rows}
    made = samples_of(log_of(tmp_path / "log.eval", {"header.json": HEADER, **content}), data_dir)
    assert {name: each.answer for name, each in made.items()} == {"1": "粗", "2": "断水", "3": "92"}
    prompts = {"samples/2_epoch_1.json": sample(2, "笔记：…\n问题：多肉怎么养", "断水")}
    made = samples_of(log_of(tmp_path / "prompts.eval", {"header.json": HEADER, **prompts}), data_dir)
    assert made["2"].answer == "断水"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a.txt": b"x"}, "is a zip file, but not a log of inspect_ai"),
        ({"header.json": {"version": 3}}, "version 3 of inspect_ai's logs; 1 and 2 are read"),
        ({"header.json": []}, "version None of"),
        ({"header.json": HEADER}, "holds no answer"),
        ({"header.json": b'{"version": 2'}, "'header.json': not valid JSON"),
        ({"header.json": b"\xff"}, "not valid JSON"),
        ({"header.json": b"[" * 200_000}, "not valid JSON"),
        ({"header.json": HEADER, "samples/1_epoch_1.json": []}, "samples/1_epoch_1.json: not a sample of inspect_ai"),
        ({"header.json": HEADER, "samples/1_epoch_1.json": {"id": 1, "output": 5}}, "not a sample of inspect_ai"),
        ({"header.json": HEADER, "samples/1_epoch_1.json": {}}, "neither a question id nor a query"),
        (
            {
                "header.json": {**HEADER, "eval": {"metadata": {"qilin_rag": {}}}},
                "samples/1_epoch_1.json": sample("1", "q", "a", metadata={"call": {"usage": 3}}),
            },
            r"samples/1_epoch_1.json: metadata.call: usage: ",
        ),
    ],
)
def test_what_is_no_log_is_one_line(content: dict[str, Any], message: str, data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        imported(log_of(tmp_path / "log.eval", content), data_dir)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, 93])
def test_a_bomb_is_not_unpacked(
    compression: int, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_members, "MOST_MEMBER", 1 << 20)
    write = zstd_log if compression == 93 else log_of
    path = write(tmp_path / "log.eval", {"header.json": HEADER, "samples/1_epoch_1.json": ["0" * (1 << 22)]})
    assert path.stat().st_size < 1 << 16
    with pytest.raises(UsageError, match=r"unpacks to more than is read of a zip file \(1 MiB a file and 2 GiB in"):
        imported(path, data_dir)
    monkeypatch.setattr(zip_members, "MOST_TOTAL", 1000)  # no member is large, all together are
    rows = {f"samples/{at}_epoch_1.json": sample(at, "q", "a" * 400) for at in range(9)}
    with pytest.raises(UsageError, match="unpacks to more"):
        imported(write(tmp_path / "many.eval", {"header.json": HEADER, **rows}), data_dir)


def test_a_lie_about_sizes_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = log_of(tmp_path / "log.eval", {"header.json": HEADER})
    content = path.read_bytes()
    for damaged in (
        content.replace(struct.pack("<L", zlib.crc32(json.dumps(HEADER).encode())), b"\0\0\0\0"),
        content[:40] + b"\xff" * 20 + content[60:],
        content.replace(b"\x14\x00\x00\x00\x08\x00", b"\x14\x00\x00\x00\x0c\x00"),
        content.replace(b"\x14\x00\x00\x00\x08\x00", b"\x14\x00\x01\x00\x08\x00"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match="damaged"), ZipMembers(path) as log:
            log.read_json("header.json")
    for cut in (content[:-10], content[-30:], b"PK\x03\x04", b"PK\x05\x06"):
        path.write_bytes(cut)
        with pytest.raises(UsageError, match="can't be read as a zip file"):
            ZipMembers(path)
    monkeypatch.setattr(zip_members, "MOST_DIRECTORY", 1 << 10)
    with pytest.raises(UsageError, match="its list of members is too large"):
        ZipMembers(log_of(tmp_path / "many.eval", {f"{at}": at for at in range(100)}))


def test_damaged_zstd_is_one_line(data_dir: Path, tmp_path: Path) -> None:
    path = zstd_log(tmp_path / "log.eval", GOLDEN)
    content = path.read_bytes()
    path.write_bytes(content[:60] + b"\0" * 40 + content[100:])
    with pytest.raises(UsageError, match=r"'header\.json': damaged"):
        imported(path, data_dir)
