"""Answers of another system as a run: the same figures from every form of file, nothing lost, nothing made up."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import Question, Sample
from qilin_rag.data import load_dataset
from qilin_rag.pipeline import import_rows
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.imports import import_answers
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.pipeline.score_lists import score
from qilin_rag.reports.exports.base import Exported
from qilin_rag.reports.exports.table import export_format, export_runs
from tests.conftest import NOTES, QUESTIONS, Cli, write_jsonl
from tests.fake_server import MODEL, FakeServer

ANSWERS = [
    {"question_id": 1, "answer": "粗研磨，冷藏12小时[1]。", "note_ids": [10, 11]},
    {"question_id": 2, "answer": "夏天断水[2]。", "note_ids": [13, 12]},
    {"question_id": 3, "answer": "92度", "note_ids": []},
]


def imported(answers: Any, data: Path | str, **given: Any) -> Run:
    return import_answers(answers, **{"name": "our-product", "data": data, "metrics": "rouge_l", **given})


def exported_to(path: Path, out: Path) -> Exported:
    return export_runs(export_format("trec-rag"), [path], out)


def samples_of(made: Run) -> dict[str, Sample]:
    return made.directory.read_samples()[0]


def figures(made: Run) -> dict[str, Any]:
    return {name: of.model_dump() for name, of in made.summary.metrics.items()}


def remarks(made: Run) -> dict[str, tuple[int, str]]:
    assert made.manifest.imported
    return {remark.what: (remark.n, remark.first) for remark in made.manifest.imported.remarks}


def as_csv(path: Path, rows: Sequence[Mapping[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_trec(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Each answer as one sentence without citations, in the form of the track of 2024."""
    lines = [
        {
            "run_id": "r",
            "topic_id": str(row["question_id"]),
            "topic": "",
            "references": [],
            "response_length": 1,
            "answer": [{"text": row["answer"], "citations": []}],
        }
        for row in rows
    ]
    return write_jsonl(path, lines)


def answers_to(questions: Sequence[Question]) -> list[dict[str, Any]]:
    """What some system might say: parts of references, each cut elsewhere."""
    return [
        {"question_id": question.id, "answer": question.references[-1][: 12 + number % 40].strip()}
        for number, question in enumerate(questions)
    ]


def check_forms(folder: Path, data: Path | str, rows: list[dict[str, Any]], forms: Sequence[str]) -> None:
    questions = load_dataset(str(data)).questions
    answered = {question.id: question for question in questions}
    asked = [answered[row["question_id"]] for row in rows]
    expected = score(
        [row["answer"] for row in rows],
        [question.references for question in asked],
        ["rouge_l", "contains"],
        queries=[question.query for question in asked],
    )
    of_form = {
        "jsonl": write_jsonl(folder / "a.jsonl", rows),
        "csv": as_csv(folder / "a.csv", rows),
        "tsv": as_csv(folder / "a.tsv", rows, "\t"),
        "trec": as_trec(folder / "t.jsonl", rows),
        "rows": rows,
        "frame": pd.DataFrame(rows),
    }
    for form in forms:
        made = imported(of_form[form], data, name=form, metrics="rouge_l,contains")
        assert made.summary.counts["ok"] == len(rows), form
        values = {(of.metric, of.question_id): of.value for of in made.directory.read_scores()}
        for metric, of in expected.metrics.items():
            assert [values[metric, row["question_id"]] for row in rows] == expected.values[metric], form
            found = made.summary.metrics[metric]
            assert (found.value, found.n, found.ci95, found.signature) == (of.value, of.n, of.ci95, of.signature), form


def test_every_form_of_file_has_the_scores_of_the_lists(tmp_path: Path) -> None:
    rows = answers_to(load_dataset("sample").questions)[5:45]
    check_forms(tmp_path, "sample", rows, ["jsonl", "csv", "tsv", "trec", "rows", "frame"])


@pytest.mark.slow
def test_three_hundred_answers_over_real_text(shared: Path, tmp_path: Path) -> None:
    data = shared / "data" / "cmrc_dqa"
    rows = answers_to(load_dataset(str(data)).questions)[:300]
    check_forms(tmp_path, data, rows, ["jsonl", "csv", "trec"])


def test_a_run_and_the_import_of_its_answers_have_the_same_figures() -> None:
    config = resolve_run({"data": "sample", "retriever": "bm25", "metrics": "rouge_l,contains,citations"})
    own = run(config)
    rows = [
        {"question_id": name, "answer": sample.answer, "note_ids": [hit.note_idx for hit in sample.hits]}
        for name, sample in samples_of(own).items()
    ]
    assert figures(imported(rows, "sample", metrics="rouge_l,contains,citations")) == figures(own)


def test_a_limit_takes_the_questions_of_a_run_with_it(tmp_path: Path, cli: Cli) -> None:
    rows = answers_to(load_dataset("sample").questions)
    whole = imported(rows, "sample")
    part = imported(rows, "sample", limit=7, seed=3)
    same = run(resolve_run({"data": "sample", "metrics": "rouge_l", "limit": 7, "seed": 3}))
    assert part.directory.read_questions() == same.directory.read_questions()
    assert part.manifest.n_questions == 7 and part.manifest.data_defects == same.manifest.data_defects
    assert part.directory.path != whole.directory.path  # of other questions: neither takes the place of the other
    assert remarks(part) == {}
    assert part.directory.read_manifest().config["limit"] == 7
    assert imported(rows, "sample", limit=7, seed=3).directory.path == part.directory.path
    assert imported(rows, "sample", limit=1000).directory.path == whole.directory.path
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    done = cli("import-answers", file, "--name", "other", "--limit", "7", "--seed", "3", "--json")
    assert json.loads(done.out)["counts"]["questions"] == 7


def test_an_export_imports_back_to_the_same_scores(data_dir: Path, server: FakeServer, tmp_path: Path) -> None:
    said = {
        "冷萃": "**先**粗研磨[第1篇](#)。\n\n- 加水800毫升[1][2]\n- [2]元的豆子也行！Cold brew\nis best [3]",
        "多肉": "夏天断水？是。[1]天热遮阴；[2][1]个别除外。\nKeep dry! Water [2] once",
        "手冲": "92度。[1]\n元旦也行。",
    }
    server.answer = lambda body: next(
        text for word, text in said.items() if word in body["messages"][-1]["content"][-20:]
    )
    metrics = "rouge_l,rouge_2,contains,length_ratio,citations,chrf"
    given = {"data": str(data_dir), "retriever": "random", "prompt": "cite", "metrics": metrics}
    own = run(resolve_run({**given, "llm": "openai", "base_url": server.url}, [f"llm.model={MODEL}"]))
    exported = exported_to(own.directory.path, tmp_path / "out.jsonl")
    assert exported.counts["citations"] == 7 and not exported.remarks
    back = imported(tmp_path / "out.jsonl", data_dir, metrics=metrics)
    assert figures(back) == figures(own)
    again = exported_to(back.directory.path, tmp_path / "again.jsonl")
    assert again == exported
    lines = [
        [json.loads(line) | {"run_id": ""} for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (tmp_path / "out.jsonl", tmp_path / "again.jsonl")
    ]
    assert lines[0] == lines[1]


def test_what_does_not_fit_is_counted_said_and_kept(data_dir: Path, cli: Cli, tmp_path: Path) -> None:
    rows = [
        {"question_id": "7", "answer": "x"},
        {"question_id": 1, "answer": "粗研磨", "note_ids": [99, 10, 10, 98], "cost": 3},
        {"question_id": "8", "answer": "y"},
        {"question_id": 1, "answer": "别的"},
        {"question_id": 2, "answer": " \u200b**[1]**"},
    ]
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    done = cli("import-answers", file, "--data", data_dir, "--name", "p", "--metrics", "rouge_l", "--json")
    assert done.code == 0
    record = json.loads(done.out)
    assert record["imported"]["rows"] == 5
    kept = [(remark["n"], remark["first"]) for remark in record["imported"]["remarks"]]
    assert kept == [
        (2, "'7' (line 1)"),
        (1, "'1' (line 4)"),
        (2, "99 of '1' (line 2)"),
        (1, "'1' (line 2)"),
        (1, "'2' (line 5)"),
        (1, "'3'"),
    ]
    for n, first in kept:
        assert any(line.endswith(f": {n}; the first: {first}") for line in done.err.splitlines())
    assert record["counts"] == {"questions": 3, "ok": 1, "failed": 1, "filtered": 0, "truncated": 0, "empty": 1}
    samples = RunDirectory(Path(record["run"])).read_samples()[0]
    assert samples["1"].answer == "粗研磨"
    assert ([hit.note_idx for hit in samples["1"].hits], samples["1"].notes_missing) == ([10], 2)
    assert record["metrics"]["rouge_l"]["n"] == 1
    told = cli("import-answers", file, "--data", data_dir, "--name", "p", "--metrics", "rouge_l")
    assert "not read: cost" in told.err and told.out.splitlines()[-1] == record["run"]
    shown = [cli("show", record["run"]).out, cli("leaderboard").out]
    assert all(" ".join(text.split()).count("'7' (line 1)") == 1 for text in shown)


def test_what_is_not_known_is_null_and_not_nothing(data_dir: Path, cli: Cli) -> None:
    rows = [{key: row[key] for key in ("question_id", "answer")} for row in ANSWERS]
    made = imported(rows, data_dir)
    manifest = json.loads((made.directory.path / "manifest.json").read_text())
    assert [manifest[name] for name in ("generation_s", "times")] == [None, None]
    assert (manifest["config"]["top_k"], manifest["identity"]["top_k"]) == (None, None)
    named = [manifest["config"][part]["name"] for part in ("retriever", "llm")]
    assert {*named, manifest["config"]["prompt"], manifest["labels"]["retriever"], manifest["labels"]["prompt"]} == {
        "unknown"
    }
    assert manifest["cost"]["amount"] is None and "3 answers" in manifest["cost"]["unknown"]
    assert made.summary.uncounted == 3 and made.summary.usage.prompt_tokens is None
    for sample in samples_of(made).values():
        unknown = (sample.model, sample.latency_s, sample.notes_given, sample.notes_used, sample.prompt_notes)
        assert unknown == (None, None, None, None, None)
    assert made.summary.metrics["recall@5"].reasons == {"not known which notes were found": 3}
    shown = json.loads(cli("show", made.directory.path, "--json").out)
    assert (shown["manifest"]["generation_s"], shown["manifest"]["cost"]["amount"]) == (None, None)
    text = cli("show", made.directory.path).out
    assert "unknown" in text and "0.0 s" not in text and "no cost" not in text
    assert "not known which notes" in cli("show", made.directory.path, "--question", "1").out
    [table] = json.loads(cli("leaderboard", "--format", "json").out)
    [spent] = table["spending"]
    assert [spent[name] for name in ("prompt_tokens", "top_k", "note_order", "latency")] == [None] * 4


def test_known_notes_are_ranked_and_no_figure_is_of_more(data_dir: Path) -> None:
    made = imported(ANSWERS, data_dir, metrics="rouge_l,citations")
    assert made.summary.metrics["recall@2"].value == pytest.approx(2 / 3)
    assert made.summary.metrics["mrr@2"].value == pytest.approx(2 / 3)
    assert made.summary.metrics["citation_precision"].value == 1
    assert made.manifest.identity["top_k"] == 2
    assert samples_of(made)["3"].has_known_hits and not samples_of(made)["3"].hits


def test_the_same_answers_find_their_run(data_dir: Path, tmp_path: Path) -> None:
    first = imported(ANSWERS, data_dir, metrics="rouge_l")
    before = (first.directory.path / "samples.jsonl").stat().st_mtime_ns
    for form in (write_jsonl(tmp_path / "a.jsonl", ANSWERS), as_csv(tmp_path / "a.csv", ANSWERS)):
        again = imported(form, data_dir, metrics="contains")
        assert again.directory.path == first.directory.path
        assert {"rouge_l", "contains"} <= again.summary.metrics.keys()
    assert (first.directory.path / "samples.jsonl").stat().st_mtime_ns == before
    other = [{**ANSWERS[0], "answer": "别的"}, *ANSWERS[1:]]
    paths = {first.directory.path, imported(other, data_dir).directory.path}
    paths.add(imported(ANSWERS, data_dir, name="another").directory.path)
    paths.add(imported(ANSWERS[:2], data_dir).directory.path)
    assert len(paths) == 4


def test_an_import_that_is_killed_is_never_read_as_whole(
    data_dir: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ended before each of the renames that put a file in its place."""
    whole = imported(ANSWERS, data_dir, runs_dir=tmp_path / "whole")
    names = ("samples.jsonl", "scores.jsonl", "questions.jsonl", "run.trec")
    replace = Path.replace
    for last in range(20):
        left = last

        def ending(path: Path, target: Path) -> Path:
            nonlocal left
            if not left:
                raise KeyboardInterrupt
            left -= 1
            return replace(path, target)

        runs = tmp_path / f"killed{last}"
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", ending)
            try:
                imported(ANSWERS, data_dir, runs_dir=runs)
            except KeyboardInterrupt:
                pass
            else:
                break
        for manifest in runs.glob("*/manifest.json"):
            assert json.loads(manifest.read_text())["state"] == "incomplete"
        assert cli("leaderboard", "--runs-dir", runs).code == 2
        again = imported(ANSWERS, data_dir, runs_dir=runs)
        assert figures(again) == figures(whole)
        for name in names:
            files = [(made.directory.path / name).read_text() for made in (again, whole)]
            assert files[0] == files[1]
    assert last > 5


def test_an_imported_run_is_read_by_every_command(data_dir: Path, cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    own = run(resolve_run({"data": str(data_dir), "retriever": "oracle", "metrics": "rouge_l"})).directory.path
    path = imported(ANSWERS, data_dir).directory.path
    bare = imported([{"query": "手冲水温", "answer": "92度[1]"}], data_dir, name="bare").directory.path
    board = cli("leaderboard").out
    assert "our-product (imported)" in board and "unknown (our-product)" in board and "extractive · " not in board
    assert cli("compare", path, own).code == cli("compare", bare, path).code == 0
    assert cli("list", "runs").out.count("complete, 3 questions") == 3
    assert cli("score", path, bare, "--metrics", "contains").code == 0
    assert cli("sensitivity", path, own).code == 0
    assert cli("report", "--out", tmp_path / "report.html").code == 0
    out = tmp_path / "bare.jsonl"
    assert "1 answers have no references" in cli("export", bare, "--format", "trec-rag", "--out", out).out
    assert json.loads(out.read_text(encoding="utf-8"))["references"] == []
    refused = cli("reproduce", path)
    assert refused.code == 2 and "our-product" in refused.err
    server.answer = lambda body: "好。\n\n正确性：4\n完整性：3\n忠实性：5"
    judged = ("judge", path, "--llm", "openai", "--base-url", server.url, f"--set=llm.model={MODEL}", "--json")
    assert cli(*judged).code == 0
    metrics = RunDirectory(path).read_summary().metrics
    assert metrics["judge_correctness"].value == 4
    assert metrics["judge_faithfulness"].reasons == {"not known which notes the prompt held": 3}


def by_query(*rows: tuple[str, str]) -> list[dict[str, str]]:
    return [{"query": query, "answer": answer} for query, answer in rows]


def test_answers_are_matched_by_query_where_there_is_no_id(data_dir: Path) -> None:
    write_jsonl(data_dir / "dqa.jsonl", [*QUESTIONS, {**QUESTIONS[2], "search_idx": 4}])
    made = imported(by_query(("冷萃咖啡怎么做 ", "a"), ("手冲水温", "b"), ("没有", "c")), data_dir)
    assert {name: sample.answer for name, sample in samples_of(made).items()} == {"1": "a", "2": "", "3": "b", "4": "b"}
    assert sorted(remarks(made).values()) == [(1, "'2'"), (1, "'4'"), (1, "'没有' (row 2)")]
    made = imported(by_query(("手冲水温", "a"), ("手冲水温", "b"), ("手冲水温", "c")), data_dir)
    assert [samples_of(made)[name].answer for name in "34"] == ["a", "b"]
    assert (1, "'手冲水温' (row 2)") in remarks(made).values()


def test_ids_are_read_as_tables_and_exports_write_them(data_dir: Path) -> None:
    write_jsonl(data_dir / "dqa.jsonl", [*QUESTIONS, {**QUESTIONS[2], "search_idx": "a b"}])
    rows = [(1.0, "a"), (" 2 ", "b"), ("3.0", "c"), ("a%20b", "d")]
    made = imported([{"id": name, "answer": answer} for name, answer in rows], data_dir)
    assert [sample.answer for sample in samples_of(made).values()] == ["a", "b", "c", "d"]
    assert not remarks(made)


def test_answers_to_other_queries_are_not_taken_for_these(data_dir: Path) -> None:
    rows = [{"question_id": number, "query": "别的", "answer": "a"} for number in (1, 2)]
    with pytest.raises(UsageError, match=r"another query.*'1' \(row 0\)"):
        imported(rows, data_dir)
    made = imported([*rows, {"question_id": 3, "query": "手冲  水温", "answer": "a"}], data_dir)
    assert remarks(made)["answers that come with another query than the question of their id"][0] == 2
    with pytest.raises(UsageError, match=r"none of 1 answer is to a question.*'9'"):
        imported([{"question_id": 9, "answer": "a"}], data_dir)


@pytest.mark.parametrize(
    ("row", "answer", "numbered"),
    [
        ({"answer": "遮阴。", "note_ids": [13, 12], "citations": [12]}, "遮阴。[2]", [13, 12]),
        ({"answer": "遮阴。", "note_ids": [13], "citations": [12, 12]}, "遮阴。[2]", [13, 12]),
        ({"answer": "遮阴。", "citations": [12, 13]}, "遮阴。[1][2]", [12, 13]),
        ({"answer": "遮阴[2]。", "citations": [12, 13]}, "遮阴[2]。", [12, 13]),
        ({"answer": "遮阴[2]。", "note_ids": [13, 12], "citations": [13]}, "遮阴[2]。", [13, 12]),
        ({"answer": "遮阴。", "note_ids": [13], "citations": []}, "遮阴。", [13]),
        ({"answer": "遮阴[1]。", "note_ids": [99, 12]}, "遮阴[1]。", [99, 12]),
    ],
)
def test_citations_become_markers_that_count_the_notes(
    data_dir: Path, row: dict[str, Any], answer: str, numbered: list[int]
) -> None:
    made = imported([{"question_id": 2, **row}], data_dir, metrics="rouge_l,citations")
    sample = samples_of(made)["2"]
    assert (sample.answer, sample.raw, sample.prompt_notes) == (answer, row["answer"], numbered)
    assert sample.has_known_hits == ("note_ids" in row)
    references = load_dataset(str(data_dir)).questions[1].references
    [exact] = score([row["answer"]], [references], ["rouge_l"]).values["rouge_l"]
    assert made.summary.metrics["rouge_l"].value == exact


def test_lines_of_the_track_of_2025(data_dir: Path, tmp_path: Path) -> None:
    def line(name: str, *sentences: tuple[str, Any]) -> dict[str, Any]:
        answer = [{"text": text, "citations": citations} for text, citations in sentences]
        about = {"team_id": "t", "run_id": "r", "type": "automatic", "narrative_id": name, "narrative": ""}
        return {"metadata": about, "references": ["13", "12", "n#1"], "answer": answer}

    rows = [line("2", ("遮阴。", [1]), ("[9]断水", ["12", "n#1"]), ("Keep it", {"13": 0.5}), ("dry", None)), line("1")]
    made = imported(write_jsonl(tmp_path / "rag25.jsonl", rows), data_dir, metrics="rouge_l,citations")
    sample = samples_of(made)["2"]
    assert (sample.answer, sample.raw) == ("遮阴。[2]断水[2][3]\nKeep it[1]\ndry", "遮阴。断水\nKeep it\ndry")
    assert [hit.note_idx for hit in sample.hits] == [13, 12]
    assert samples_of(made)["1"].status == "empty"
    many = [{**line("2", ("a", [120, 3])), "references": list(map(str, range(130)))}]
    assert (1, "'2' (row 0)") in remarks(imported(many, data_dir)).values()


BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "holds no answer"),
    "header only": (b"question_id,answer\n", "holds no answer"),
    "half a line": (b'{"question_id": 1, "answer": "a"}\n{"question_id": 2, "ans', "line 2"),
    "no object": (b'{"question_id": 1, "answer": "a"}\n[1]\n', "line 2"),
    "list of texts": (b'["a"]', "item 0"),
    "bad list": (b'[{"answer": ', "not valid JSON"),
    "deep": (b'{"question_id": 1, "answer": ' + b"[" * 100_000, "not valid JSON"),
    "no answer": (b'{"question_id": 1, "text": "a"}', "no column answer.*'text'"),
    "no question": (b"answer,model\na,b\n", "no column question_id.*'model'"),
    "empty question": (b'{"question_id": " ", "answer": "a"}', "neither a question id nor a query"),
    "number": (b'{"question_id": 1, "answer": 3.5}', "line 1: answer must be text"),
    "infinite": (b'{"question_id": 1e999, "answer": "a"}', "question_id must be"),
    "truth": (b'{"question_id": true, "answer": "a"}', "question_id must be"),
    "long number": (b'{"question_id": ' + b"9" * 5000 + b', "answer": "a"}', "not valid JSON"),
    "query": (b'{"query": ["q"], "answer": "a"}', "query must be text"),
    "note text": (b'{"question_id": 1, "answer": "a", "note_ids": "10"}', "note_ids must be a list"),
    "note NaN": (b'{"question_id": 1, "answer": "a", "note_ids": [10, NaN]}', r"note_ids\[1\] must be the id"),
    "note infinite": (b'{"question_id": 1, "answer": "a", "note_ids": [Infinity]}', r"note_ids\[0\]"),
    "note below 0": (b'{"question_id": 1, "answer": "a", "note_ids": [-1]}', r"note_ids\[0\]"),
    "note of 2^63": (b'{"question_id": 1, "answer": "a", "note_ids": [9223372036854775808]}', r"note_ids\[0\]"),
    "note fraction": (b'{"question_id": 1, "answer": "a", "note_ids": [1.5]}', r"note_ids\[0\]"),
    "note truth": (b'{"question_id": 1, "answer": "a", "note_ids": [true]}', r"note_ids\[0\]"),
    "cell": (b"question_id,answer,note_ids\n1,a,\"[__import__('os').getcwd()]\"\n", "row 0: note_ids must be a list"),
    "cell escape": (b"question_id,answer,note_ids\n1,a,\"['\\x']\"\n", "row 0: note_ids must be a list"),
    "cells": (b"question_id,answer\n1,a,b\n", "row 0.*3 cells"),
    "open quotation mark": (b'question_id,answer\n1,a\n2,"b\n', "unexpected end of data"),
    "blank": (b" \n\n", "holds no answer"),
    "semicolons": (b"question_id;answer\n1;a\n", "semicolons"),
    "column twice": (b"question_id,answer,answer\n1,a,b\n", "'answer' occurs twice"),
    "sentence": (b'{"topic_id": "1", "references": [], "answer": ["a"]}', r"answer\[0\] must be an object"),
    "citation": (b'{"topic_id": "1", "references": ["10"], "answer": [{"text": "a", "citations": [1]}]}', "cites 1"),
    "citations": (b'{"topic_id": "1", "references": [], "answer": [{"text": "a", "citations": 1}]}', "must be a list"),
    "references": (b'{"topic_id": "1", "references": "10", "answer": []}', "references must be a list"),
    "gbk": ('{"question_id": 1, "answer": "冷萃咖啡怎么做的"}'.encode("gbk"), "iconv -f GB18030"),
    "gbk table": ("question_id,answer\n1,冷萃咖啡怎么做的\n".encode("gbk"), "iconv -f GB18030"),
    "utf-16": ('{"question_id": 1, "answer": "冷萃"}'.encode("utf-16"), "UTF-16"),
    "bytes": (bytes(range(256)), "not UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_can_not_be_used_is_one_line(name: str, data_dir: Path, cli: Cli, tmp_path: Path) -> None:
    content, says = BAD[name]
    file = tmp_path / "given"
    file.write_bytes(content)
    done = cli("import-answers", file, "--data", data_dir, "--name", "p")
    assert done.code == 2 and not done.out
    assert re.search(says, done.err), done.err
    assert len(done.err.splitlines()) == 1
    assert not Path("runs").exists()


def test_what_is_no_file_of_answers_is_not_opened(
    data_dir: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(import_rows, "MOST_BYTES", 2**30)
    for name, says in (("pipe", "plain file"), ("absent", "does not exist"), (".", "plain file")):
        done = cli("import-answers", tmp_path / name, "--data", data_dir, "--name", "p")
        assert done.code == 2 and says in done.err
    with (tmp_path / "huge.jsonl").open("wb") as file:
        file.truncate(2**30 + 1)  # a hole: it takes no space
    done = cli("import-answers", tmp_path / "huge.jsonl", "--data", data_dir, "--name", "p")
    assert done.code == 2 and "1.0 GiB" in done.err


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x1b[2J", "x" * 61, "\udc80", "a\u202eb"])
def test_a_name_can_be_printed(name: str, data_dir: Path) -> None:
    with pytest.raises(UsageError, match="give the system a name"):
        imported(ANSWERS, data_dir, name=name)


@pytest.mark.parametrize("name", ["../../up", "a/b", "我们的 产品", ".hidden"])
def test_a_name_stays_in_the_folder_of_runs(name: str, data_dir: Path, tmp_path: Path) -> None:
    made = imported(ANSWERS, data_dir, name=name, runs_dir=tmp_path / "here")
    assert made.directory.path.parent == tmp_path / "here"
    assert made.manifest.labels["llm"] == f"{name} (imported)"


@pytest.mark.parametrize("answers", [3, {"question_id": 1}, b"x", [1], ["a"], None])
def test_other_things_than_answers_are_refused(answers: Any, data_dir: Path) -> None:
    with pytest.raises(UsageError, match="answers"):
        imported(answers, data_dir)


def test_hostile_answers_do_nothing(data_dir: Path, cli: Cli, tmp_path: Path) -> None:
    evil = "\x1b]0;x\x07=HYPERLINK(1)<script>alert(1)</script>\ud800\u202e[1](https://evil.example/x)"
    rows = [
        {"question_id": 1, "answer": evil, "note_ids": ["x\x1b[2J" + "y" * 9000]},
        {"question_id": evil, "answer": "a"},
    ]
    made = imported(rows, data_dir)
    path = made.directory.path
    shown = [cli("show", path), cli("show", path, "--question", "1"), cli("leaderboard"), cli("compare", path, path)]
    for done in shown:
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", done.out + done.err)
    assert cli("report", path, "--out", tmp_path / "report.html").code == 0
    assert "<script>alert(1)" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def spoil(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["config"].update(base_url="https://evil.example"),
        lambda manifest: manifest["config"]["llm"].update(name="openai"),
        lambda manifest: manifest["config"]["llm"]["settings"].update(price=1),
        lambda manifest: manifest["config"].update(top_k="all"),
        lambda manifest: manifest["imported"].update(rows=-1),
        lambda manifest: manifest["imported"].update(remarks=[{"n": 1}]),
    ],
)
def test_a_strangers_manifest_is_read_strictly(change: Callable[[Any], Any], data_dir: Path, cli: Cli) -> None:
    path = imported(ANSWERS, data_dir).directory.path
    spoil(path, change)
    done = cli("show", path)
    assert done.code == 2 and len(done.err.splitlines()) == 1


def test_text_ids_of_notes_are_read_as_the_data_has_them(tmp_path: Path, cli: Cli) -> None:
    data = tmp_path / "named"
    data.mkdir()
    write_jsonl(data / "notes.jsonl", [{**note, "note_idx": f"n-{note['note_idx']}"} for note in NOTES])
    cited = [[f"n-{number}" for number in row["ref_note_idx_list"]] for row in QUESTIONS]  # type: ignore[attr-defined]
    rows = [{**row, "ref_note_idx_list": its} for row, its in zip(QUESTIONS, cited, strict=True)]
    write_jsonl(data / "dqa.jsonl", rows)
    answers = [{"question_id": 2, "answer": "遮阴", "note_ids": ["n-12", "n-13"]}]
    made = imported(as_csv(tmp_path / "a.csv", [{**answers[0], "note_ids": "n-12 n-13"}]), data)
    assert made.summary.metrics["recall@2"].value == 1
    assert "note n-12" in cli("show", made.directory.path, "--question", "2").out


def test_lists_in_cells(data_dir: Path, tmp_path: Path) -> None:
    for number, cell in enumerate(("12;13", "12, 13", "[12 13]", '["12", "13"]', "12|13")):
        file = as_csv(tmp_path / "a.csv", [{"question_id": 2, "answer": f"遮阴{number}", "note_ids": cell}])
        made = imported(file, data_dir)
        assert [hit.note_idx for hit in samples_of(made)["2"].hits] == [12, 13]
    empty = imported(as_csv(tmp_path / "b.csv", [{"question_id": 2, "answer": "x", "note_ids": ""}]), data_dir)
    assert not samples_of(empty)["2"].has_known_hits


def test_blank_lines_are_no_rows(data_dir: Path, tmp_path: Path) -> None:
    for name, content in (
        ("a.csv", "question_id,answer\r\n\r\n1,a\r\n\r\n"),
        ("a.jsonl", '\ufeff{"question_id": 1, "answer": "a"}\n\n'),
    ):
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
        made = imported(tmp_path / name, data_dir)
        assert samples_of(made)["1"].answer == "a" and list(remarks(made).values()) == [(2, "'2'")]


def test_missing_values_of_a_frame_are_none(data_dir: Path) -> None:
    frame = pd.DataFrame({"question_id": [1, 2, None], "query": [None, None, "手冲水温"], "answer": ["a", pd.NA, "c"]})
    made = imported(frame, data_dir)
    assert [sample.status for sample in samples_of(made).values()] == ["ok", "empty", "ok"]


@pytest.mark.parametrize(
    ("metrics", "settings", "says"),
    [
        ("rouge", (), "did you mean"),
        ("rouge_l", ("retriever.k1=1",), "k1"),
        (["rouge_l"], ("metrics.rouge_l.n=1",), "n"),
    ],
)
def test_a_wrong_metric_is_said_before_anything_is_written(
    metrics: Any, settings: Sequence[str], says: str, data_dir: Path
) -> None:
    with pytest.raises(UsageError, match=says):
        imported(ANSWERS, data_dir, metrics=metrics, settings=settings)
    assert not Path("runs").exists()
