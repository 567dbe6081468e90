"""The verifiers of the TREC RAG tracks of 2025 and 2026 take what is exported, and it imports back equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.imports import import_answers
from tests.conftest import Cli, write_jsonl
from tests.fake_server import FakeServer
from tests.reports.exchanged import METRICS, exported_to, json_lines, odd_run, track_findings
from tests.reports.hostile import hostile_run

IDS = {"rag25": "msmarco_v2.1_doc_00_{}#1_2", "rag26": "shard_00000_{}"}
TRACKS = [("trec-rag-2025", "rag25"), ("trec-rag-2026", "rag26")]


def errors_of(path: Path, track: str, monkeypatch: pytest.MonkeyPatch, run: Path) -> list[str]:
    """The verifiers' errors, after our ids of notes were written as ids of the track's collection."""
    questions = [json.loads(line) for line in (run / "questions.jsonl").read_text(encoding="utf-8").split("\n") if line]
    lines = [
        {**line, "references": [IDS[track].format(each) for each in line["references"]]} for line in json_lines(path)
    ]
    of_track = write_jsonl(path.with_suffix(".of-track.jsonl"), lines)
    found = track_findings(of_track, track, monkeypatch, {each["id"]: each["query"] for each in questions})
    return [each.message for each in found if each.severity == "error"]


@pytest.fixture
def own(tmp_path: Path, server: FakeServer) -> Run:
    return odd_run(tmp_path, server)


@pytest.mark.parametrize(("name", "track"), TRACKS)
def test_the_verifiers_take_every_kind_of_answer(
    own: Run, name: str, track: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = exported_to(name, tmp_path / "out.jsonl", own.path)
    lines = {line["metadata"]["narrative_id"]: line for line in json_lines(tmp_path / "out.jsonl")}
    assert list(lines) == [str(i) for i in range(8)] and done.counts["topics"] == 8
    assert [name for name, line in lines.items() if not line["answer"]] == ["3", "6", "7"]
    empty = {remark: n for remark, n in done.remarks.items() if "empty answer" in remark}
    assert empty == {f"{status} questions have an empty answer": 1 for status in ("empty", "failed", "filtered")}
    assert lines["0"]["metadata"]["narrative"] == "平常的 问题\u30000"  # as it is: the track compares it
    assert lines["1"]["answer"] == [
        {"text": "92度。", "citations": [0]},
        {"text": '"引号"，\\反斜杠', "citations": []},
    ]
    assert errors_of(tmp_path / "out.jsonl", track, monkeypatch, own.path) == []
    left = track_findings(tmp_path / "out.jsonl", track, monkeypatch, {})
    assert left and all("doc-id" in each.message for each in left if each.severity == "error")  # our ids are numbers


@pytest.mark.parametrize(("name", "track"), TRACKS)
def test_what_was_imported_and_exported_again_is_equal(own: Run, name: str, track: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"run_id": "one", "team_id": "us"} | ({"run_desc": "ours"} if track == "rag26" else {})
    first = exported_to(name, tmp_path / "first.jsonl", own.path, **given)
    back = import_answers(tmp_path / "first.jsonl", name="other", data=tmp_path / "odd", metrics=METRICS)
    again = exported_to(name, tmp_path / "again.jsonl", back.path, **given)
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "first.jsonl").read_bytes()
    assert again.counts == first.counts
    for metric in ("rouge_l", "contains", "citation_recall", "citation_precision"):
        assert back.metrics[metric].value == own.metrics[metric].value, metric


def test_limits_are_those_of_the_tracks(tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tests.reports.exchanged.SAID", {"平常": "\n".join(["five words in a line"] * 300) + "[1][2][3]"}
    )
    own = odd_run(tmp_path, server)
    exported_to("trec-rag-2025", tmp_path / "5.jsonl", own.path)
    exported_to("trec-rag-2026", tmp_path / "6.jsonl", own.path)
    for file, track, n in (("5.jsonl", "rag25", 80), ("6.jsonl", "rag26", 204)):
        [line] = json_lines(tmp_path / file)
        assert len(line["answer"]) == n
        assert errors_of(tmp_path / file, track, monkeypatch, own.path) == []


def test_references_and_citations_are_cut_and_counted(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "notes.jsonl", [{"note_idx": i, "title": "t", "content": "c"} for i in range(130)])
    row = {"search_idx": 1, "query": "问", "answers": ["答"], "ref_note_idx_list": [1]}
    write_jsonl(tmp_path / "dqa.jsonl", [row])
    answer = "答[1][2][3][4]。又[99]。"
    rows = [{"question_id": 1, "answer": answer, "note_ids": list(range(130))}]
    made = import_answers(rows, name="other", data=tmp_path, metrics="rouge_l")
    done = exported_to("trec-rag-2025", tmp_path / "5.jsonl", made.path)
    [line] = json_lines(tmp_path / "5.jsonl")
    assert line["references"] == ["0", "1", "2", "3", "98"] and done.counts["citations"] == 5
    done = exported_to("trec-rag-2026", tmp_path / "6.jsonl", made.path)
    [line] = json_lines(tmp_path / "6.jsonl")
    assert len(line["references"]) == 130 and [each["citations"] for each in line["answer"]] == [[0, 1, 2], [98]]
    assert done.remarks == {"citations are dropped of sentences with more than 3": 1}
    assert len(line["metadata"]["run_id"]) <= 20 and line["metadata"]["run_desc"]


def test_a_hostile_run_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hostile_run()
    for name, track in TRACKS:
        exported_to(name, tmp_path / f"{track}.jsonl", path)
        assert errors_of(tmp_path / f"{track}.jsonl", track, monkeypatch, path) == []


def test_wrong_use_is_one_line(own: Run, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out.jsonl"
    for setting, said in (
        ("run_id=has a space", "run_id"),
        ("run_id=.hidden", "run_id"),
        (f"run_id={'x' * 21}", "run_id"),
        ("team_id= ", "team_id"),
        ("team=x", "did you mean 'team_id'"),
        ("run_desc", "expected key=value"),
    ):
        done = cli("export", own.path, "--format", "trec-rag-2026", "--out", out, "--set", setting)
        assert (done.code, done.err.count("\n"), said in done.err) == (2, 1, True), done.err
    assert not out.exists()
    rows = [{"question_id": "0", "answer": ""}]
    nothing = import_answers(rows, name="none", data=tmp_path / "odd", metrics="rouge_l")
    for name, _ in TRACKS:
        with pytest.raises(UsageError, match="no answer to export"):
            exported_to(name, out, nothing.path)
    assert not out.exists()
