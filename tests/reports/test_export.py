from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import UsageError
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.reports.exports.base import Exported
from qilin_rag.reports.exports.table import export_format, export_runs
from qilin_rag.reports.exports.trec_rag import TrecRagAnswer
from tests.conftest import Cli, write_jsonl
from tests.fake_server import MODEL, FakeServer

GOOD: dict[str, Any] = {
    "run_id": "r",
    "topic_id": "1",
    "topic": "How?",
    "references": ["10", "11"],
    "response_length": 4,
    "answer": [{"text": "Ｃoffee first．", "citations": [1, 0]}, {"text": "Then　water.", "citations": []}],
}
# What Ragnarök's check_trec_rag24_gen calls an error of a line (its own collection's document ids aside), then what it
# warns of and mends: the change to a good line that brings it about.
ERRORS: list[dict[str, Any]] = [
    *({field: None} for field in GOOD),
    {"references": ["10", "10"]},
    {"references": [str(i) for i in range(21)]},
    {"answer": [{"text": "a b c d", "citations": [2]}]},
    {"answer": [{"text": "a b c d", "citations": [-1]}]},
]
WARNINGS: list[dict[str, Any]] = [
    {"answer": [{"text": "a b c d", "citations": [0, 0]}]},
    {"response_length": 5},
    {"response_length": 401, "answer": [{"text": "a " * 400 + "b", "citations": []}]},
]
NO_SENTENCES: list[dict[str, Any]] = [{"response_length": 0, "answer": []}]


def test_a_good_line_is_valid() -> None:
    assert TrecRagAnswer(**GOOD).model_dump() == GOOD
    assert TrecRagAnswer(**GOOD | {"references": [str(i) for i in range(20)]})
    assert TrecRagAnswer(**GOOD | {"response_length": 400, "answer": [{"text": "a " * 399 + "b", "citations": []}]})


@pytest.mark.parametrize("change", [*ERRORS, *WARNINGS, *NO_SENTENCES], ids=str)
def test_what_the_tracks_check_complains_about_is_refused(change: dict[str, Any]) -> None:
    line = {field: value for field, value in (GOOD | change).items() if value is not None}
    with pytest.raises(ValidationError):
        TrecRagAnswer(**line)


def asked(data: Path, server: FakeServer, *overrides: str, **flags: Any) -> Path:
    given = {"data": str(data), "llm": "openai", "base_url": server.url, "prompt": "cite", "metrics": "rouge_l"}
    return run(resolve_run({**given, **flags}, [f"llm.model={MODEL}", *overrides])).directory.path


def exported_to(path: Path, out: Path) -> Exported:
    return export_runs(export_format("trec-rag"), [path], out)


def lines_of(out: Path) -> list[dict[str, Any]]:
    """The lines, each of which the format must accept as it stands in the file."""
    text = out.read_text(encoding="utf-8")
    return [TrecRagAnswer.model_validate_json(line).model_dump() for line in text.splitlines()]


def test_citations_are_places_in_the_notes_given(data_dir: Path, server: FakeServer, cli: Cli, tmp_path: Path) -> None:
    server.answer = lambda body: "**遮阴**[第2篇](#)。换盆，晾根[2][1][1]。[9]"
    path = asked(data_dir, server, retriever="oracle")
    out = tmp_path / "answers.jsonl"
    done = cli("export", path, "--format", "trec-rag", "--out", out)
    assert done.code == 0
    line = next(line for line in lines_of(out) if line["topic_id"] == "2")
    assert line == {
        "run_id": path.name,
        "topic_id": "2",
        "topic": "多肉怎么养",
        "references": ["12", "13"],
        "response_length": 2,
        "answer": [{"text": "遮阴。", "citations": [1]}, {"text": "换盆，晾根。", "citations": [1, 0]}],
    }
    assert [line["references"] for line in lines_of(out) if line["topic_id"] != "2"] == [["10"], ["11"]]
    # one note each: [1] stays; [2] twice and [9] go, and of the third question [9] alone
    assert done.out.splitlines() == [
        f"{out}: 3 topics, 5 citations",
        "7 citations of notes that were not given are dropped",
    ]


def test_a_note_that_the_budget_left_out_is_no_reference(tmp_path: Path, server: FakeServer) -> None:
    data = tmp_path / "budget"
    data.mkdir()
    notes = [{"note_idx": i, "title": f"咖啡{i}", "content": text} for i, text in enumerate(("短", "长" * 3000, "末"))]
    write_jsonl(data / "notes.jsonl", notes)
    write_jsonl(
        data / "dqa.jsonl",
        [{"search_idx": 1, "query": "咖啡", "answers": ["短"], "ref_note_idx_list": [0, 1, 2]}],
    )
    server.answer = lambda body: "先[1]。后[2]。无[3]。"
    path = asked(data, server, "llm.context_length=2500", retriever="oracle")
    [sample] = RunDirectory(path).read_samples()[0].values()
    assert (sample.notes_given, sample.notes_used) == (3, 2)
    exported = exported_to(path, tmp_path / "out.jsonl")
    [line] = lines_of(tmp_path / "out.jsonl")
    assert line["references"] == ["0", "2"]
    assert [sentence["citations"] for sentence in line["answer"]] == [[0], [1], []]
    assert exported.remarks == {"citations of notes that were not given are dropped": 1}
    samples = path / "samples.jsonl"  # as an older version wrote it
    samples.write_text(samples.read_text(encoding="utf-8").replace(',"prompt_notes":[0,2]', ""), encoding="utf-8")
    with pytest.raises(UsageError, match="question 1: not recorded which notes the prompt held"):
        exported_to(path, tmp_path / "out.jsonl")


def test_questions_without_an_answer_have_no_line(data_dir: Path, server: FakeServer, tmp_path: Path) -> None:
    ways = {"冷萃": "overflow", "手冲": "filtered"}

    def fault(n: int, body: dict[str, Any]) -> str | None:
        return next(
            (ways[word] for word in ways if word in body["messages"][-1]["content"].rpartition("问题")[2]), None
        )

    server.fault = fault
    out = tmp_path / "out.jsonl"
    exported = exported_to(asked(data_dir, server), out)
    assert [line["topic_id"] for line in lines_of(out)] == ["2"]
    assert exported.remarks == {"failed questions have no line": 1, "filtered questions have no line": 1}


def test_nothing_to_export_is_an_error(data_dir: Path, server: FakeServer, tmp_path: Path) -> None:
    server.answer = lambda body: "[1]"
    with pytest.raises(UsageError, match="no answer to export"):
        exported_to(asked(data_dir, server), tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_long_answers_are_cut_as_the_tracks_check_does(data_dir: Path, server: FakeServer, tmp_path: Path) -> None:
    server.answer = lambda body: "\n".join(["five words in a line"] * 81)
    exported = exported_to(asked(data_dir, server), tmp_path / "out.jsonl")
    assert {(line["response_length"], len(line["answer"])) for line in lines_of(tmp_path / "out.jsonl")} == {(400, 80)}
    assert exported.remarks == {"answers are cut to 400 words": 3}


def test_long_chinese_answers_are_kept_and_counted(data_dir: Path, server: FakeServer, tmp_path: Path) -> None:
    server.answer = lambda body: "咖啡机怎么清洗。" * 101  # four words (and an end mark) a sentence
    exported = exported_to(asked(data_dir, server), tmp_path / "out.jsonl")
    assert {line["response_length"] for line in lines_of(tmp_path / "out.jsonl")} == {101}
    [(remark, n)] = exported.remarks.items()
    assert (n, "more than 400 words if Chinese is cut into words" in remark) == (3, True)


def test_of_more_than_twenty_notes_the_cited_are_references(tmp_path: Path, server: FakeServer) -> None:
    data = tmp_path / "many"
    data.mkdir()
    write_jsonl(data / "notes.jsonl", [{"note_idx": i, "title": f"笔记{i}", "content": "文"} for i in range(30)])
    asks = [{"query": "问 题\t一", "answers": ["文"], "ref_note_idx_list": list(range(30))}]
    write_jsonl(data / "dqa.jsonl", [{"search_idx": 1, **asks[0]}, {"search_idx": 2, **asks[0], "query": "问题二"}])

    def answer(body: dict[str, Any]) -> str:
        return (
            "甲[30]，乙[4]。"
            if "题二" not in body["messages"][-1]["content"]
            else "".join(f"[{i}]" for i in range(1, 31)) + "丙"
        )

    server.answer = answer
    out = tmp_path / "out.jsonl"
    exported = exported_to(asked(data, server, retriever="oracle"), out)
    few, many = sorted(lines_of(out), key=lambda line: str(line["topic_id"]))
    assert (few["topic"], few["references"], few["answer"][0]["citations"]) == ("问 题 一", ["3", "29"], [1, 0])
    assert many["references"] == [str(i) for i in range(20)]
    assert many["answer"] == [{"text": "丙", "citations": list(range(20))}]
    assert exported.remarks == {"citations are dropped of answers that cite more than 20 notes": 10}


def test_wrong_use_is_one_line(data_dir: Path, cli: Cli, tmp_path: Path) -> None:
    path = Path(cli("run", "--data", data_dir, "-q").out.splitlines()[-1])
    missing = cli("export", path, "--format", "trec-rag", "--out", tmp_path / "no" / "where")
    assert (missing.code, missing.err.count("\n")) == (2, 1)
    assert cli("export", tmp_path, "--format", "trec-rag", "--out", tmp_path / "o").code == 2
    assert cli("export", path, "--format", "trec", "--out", tmp_path / "o").code == 2
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    (path / "manifest.json").write_text(json.dumps(manifest | {"state": "incomplete"}), encoding="utf-8")
    unfinished = cli("export", path, "--format", "trec-rag", "--out", tmp_path / "o")
    assert (unfinished.code, "is incomplete; finish it" in unfinished.err) == (2, True)
