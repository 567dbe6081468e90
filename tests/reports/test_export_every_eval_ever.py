"""Every Eval Ever's own validator takes what is exported, its figures are the run's, and it imports back equal."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.imports import import_answers
from tests.conftest import Cli, write_jsonl
from tests.fake_server import FakeServer
from tests.reports.exchanged import METRICS, eee_findings, exported_to, json_lines, odd_run
from tests.reports.hostile import hostile_run

EXAMPLES = sorted((Path(__file__).parents[2] / "runs/examples").glob("sample-*"))


def files_of(folder: Path) -> tuple[Path, Path]:
    [aggregate], [samples] = folder.rglob("*.json"), folder.rglob("*.jsonl")
    return aggregate, samples


def aggregate_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(files_of(folder)[0].read_text(encoding="utf-8"))
    return content


def without_ids(path: Path) -> list[dict[str, Any]]:
    """The records without the id of the evaluation, which is another one after an import."""
    return [{**record, "evaluation_id": ""} for record in json_lines(path)]


def figures(folder: Path) -> list[dict[str, Any]]:
    keep = ("evaluation_result_id", "metric_config", "score_details")
    return [{name: result[name] for name in keep} for result in aggregate_of(folder)["evaluation_results"]]


@pytest.fixture
def own(tmp_path: Path, server: FakeServer) -> Run:
    return odd_run(tmp_path, server)


def test_the_validator_takes_recorded_runs_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = exported_to("every-eval-ever", tmp_path / "out", *EXAMPLES)
    assert done.counts == {"runs": 4, "figures": 16, "records": 16 * 60} and not done.remarks
    assert eee_findings(tmp_path / "out", monkeypatch) == ([], [])


def test_figures_intervals_and_settings_are_the_runs(tmp_path: Path) -> None:
    [path] = [each for each in EXAMPLES if "bm25" in each.name]
    exported_to("every-eval-ever", tmp_path / "out", path)
    manifest, summary = (json.loads((path / name).read_text("utf-8")) for name in ("manifest.json", "summary.json"))
    log = aggregate_of(tmp_path / "out")
    results = {result["evaluation_result_id"]: result for result in log["evaluation_results"]}
    assert list(results) == list(summary["metrics"])
    for name, figure in summary["metrics"].items():
        details, config = results[name]["score_details"], results[name]["metric_config"]
        assert details["score"] == figure["value"]
        assert details["uncertainty"] == {
            "standard_error": {"value": figure["stderr"], "method": "analytic, clustered by query"},
            "confidence_interval": {
                "lower": figure["ci95"][0],
                "upper": figure["ci95"][1],
                "confidence_level": 0.95,
                "method": "sign-flip, clustered by query",
            },
            "num_samples": 60,
        }
        assert config["additional_details"]["signature"] == figure["signature"] and not config["lower_is_better"]
        assert results[name]["source_data"]["additional_details"]["sha256"] == manifest["data"]["sha256"]
        assert results[name]["generation_config"]["generation_args"] == {
            "temperature": 0.0,
            "top_p": 1.0,
            "max_tokens": 512,
        }
    assert log["model_info"]["id"] == "Qwen/Qwen2.5-Coder-1.5B-Instruct"
    assert log["model_info"]["inference_engine"] == {"name": "vLLM", "version": "0.32.0"}
    assert log["model_info"]["additional_details"]["deployment_type"] == "self_deployed"
    assert log["retrieved_timestamp"] == "1795273121"  # 2026-11-21T14:58:41Z
    aggregate, samples = files_of(tmp_path / "out")
    assert samples.name == f"{aggregate.stem}_samples.jsonl"
    assert aggregate.parent.relative_to(tmp_path / "out").parts == (
        "data",
        "sample",
        "Qwen",
        "Qwen2.5-Coder-1.5B-Instruct",
    )
    assert log["detailed_evaluation_results"]["checksum"] == hashlib.sha256(samples.read_bytes()).hexdigest()
    scores = [json.loads(line) for line in (path / "scores.jsonl").read_text("utf-8").splitlines()]
    records = json_lines(samples)
    assert {(each["sample_id"], each["evaluation_result_id"]): each["evaluation"]["score"] for each in records} == {
        (score["question_id"], score["metric"]): score["value"] for score in scores
    }
    text = aggregate.read_text("utf-8") + samples.read_text("utf-8")
    assert "127.0.0.1" not in text and "OPENAI_API_KEY" not in text


def test_what_is_not_known_is_absent_and_never_0(own: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = exported_to("every-eval-ever", tmp_path / "out", own.path, model_id="Odd/fake")
    records = json_lines(files_of(tmp_path / "out")[1])
    kept = {record["sample_id"]: record for record in records}
    status = {name: record["metadata"]["status"] for name, record in kept.items()}
    assert status == {
        "0": "ok",
        "1": "ok",
        "2": "ok",
        "3": "empty",
        "4": "ok",
        "5": "truncated",
        "6": "filtered",
        "7": "failed",
    }
    assert "token_usage" not in kept["7"] and "token_usage" in kept["0"] and kept["7"]["error"]
    scored = {
        metric: {each["sample_id"] for each in records if each["evaluation_result_id"] == metric}
        for metric in own.metrics
    }
    for metric, figure in own.metrics.items():
        assert len(scored[metric]) == figure.n
    assert done.remarks["unscored values have no record"] == sum(of.n_unscored for of in own.metrics.values())
    assert eee_findings(tmp_path / "out", monkeypatch) == ([], [])


def test_what_was_imported_and_exported_again_is_equal(
    own: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"model_id": "Odd/fake", "collection": "odd"}
    exported_to("every-eval-ever", tmp_path / "first", own.path, **given)
    samples = files_of(tmp_path / "first")[1]
    back = import_answers(samples, name="other", data=tmp_path / "odd", metrics=METRICS)
    assert back.summary.counts == own.summary.counts
    assert {name: of.model_dump() for name, of in back.metrics.items()} == {
        name: of.model_dump() for name, of in own.metrics.items()
    }
    exported_to("every-eval-ever", tmp_path / "again", back.path, collection="odd")  # the model's name came with it
    assert without_ids(files_of(tmp_path / "again")[1]) == without_ids(samples)
    assert figures(tmp_path / "again") == figures(tmp_path / "first")
    assert "evaluation_timestamp" not in aggregate_of(tmp_path / "again")  # nobody told when it answered
    assert eee_findings(tmp_path / "again", monkeypatch) == ([], [])
    ours, theirs = (each.directory.read_samples()[0] for each in (own, back))
    for name, sample in ours.items():
        for field in ("answer", "raw", "status", "usage", "finish_reason", "known_prompt_notes"):
            assert getattr(theirs[name], field) == getattr(sample, field), (name, field)


def test_equal_runs_give_equal_bytes(own: Run, tmp_path: Path) -> None:
    shutil.copytree(own.path, tmp_path / "elsewhere" / own.path.name)
    for out, path in (("a", own.path), ("b", tmp_path / "elsewhere" / own.path.name)):
        exported_to("every-eval-ever", tmp_path / out, path)
    first, second = (
        {f.relative_to(tmp_path / out): f.read_bytes() for f in (tmp_path / out).rglob("*.json*")} for out in "ab"
    )
    assert first == second and len(first) == 2


def test_a_hostile_run_is_exported_and_leaves_its_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hostile_run()
    done = exported_to("every-eval-ever", tmp_path / "out", path)
    assert done.counts["runs"] == 1 and len(list((tmp_path / "out").rglob("*.json*"))) == 2
    assert eee_findings(tmp_path / "out", monkeypatch) == ([], [])


@pytest.mark.parametrize(
    "model", ["../../x", "a//b", "/", "nul/con", "data/data", "a\\b/c:d?", "\u202e/x ", "长" * 300]
)
def test_no_name_leaves_the_folder(own: Run, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = exported_to("every-eval-ever", tmp_path / "out", own.path, model_id=json.dumps(model), collection='"../.. "')
    aggregate, _ = files_of(tmp_path / "out" / "data")
    assert len(aggregate.relative_to(tmp_path / "out").parts) == 5
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["data"] and done.counts["runs"] == 1
    errors, _ = eee_findings(tmp_path / "out", monkeypatch)
    assert errors == []


def test_a_model_without_a_developer_is_said(own: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = exported_to("every-eval-ever", tmp_path / "out", own.path)
    assert [remark for remark in done.remarks if "model_id=DEVELOPER/NAME" in remark]
    errors, warnings = eee_findings(tmp_path / "out", monkeypatch)
    assert errors == [] and len(warnings) == 1


def test_files_of_other_tools_are_read(tmp_path: Path) -> None:
    record = {
        "schema_version": "0.3.0",
        "evaluation_id": "e",
        "model_id": "dev/model",
        "evaluation_name": "e",
        "sample_id": "1",
        "input": {"raw": "冷萃咖啡怎么做", "reference": []},
        "evaluation": {"score": 1, "is_correct": True},
    }
    turns = [
        {"turn_idx": 0, "role": "user", "content": "?"},
        {"turn_idx": 1, "role": "assistant", "content": "冷藏12小时"},
    ]
    of_turns = {**record, "interaction_type": "multi_turn", "output": None, "messages": turns, "answer_attribution": []}
    found = {"turn_idx": 0, "source": "output.raw", "extraction_method": "regex"}
    final = [
        {**found, "extracted_value": "粗", "is_terminal": False},
        {**found, "extracted_value": "粗研磨", "is_terminal": True},
    ]
    single = {
        **record,
        "interaction_type": "single_turn",
        "output": {"raw": ["答案：粗研磨"]},
        "answer_attribution": final,
    }
    odd = {"status": "done", "note_ids": "see the log"}  # another tool's own words
    write_jsonl(tmp_path / "notes.jsonl", [{"note_idx": 1, "title": "t", "content": "c"}])
    write_jsonl(
        tmp_path / "dqa.jsonl",
        [{"search_idx": 1, "query": "冷萃咖啡怎么做", "answers": ["粗研磨"], "ref_note_idx_list": [1]}],
    )
    for rows, answer in (
        ([of_turns], "冷藏12小时"),
        ([single, {**single, "evaluation_result_id": "b", "metadata": odd}], "粗研磨"),
    ):
        made = import_answers(
            write_jsonl(tmp_path / "x_samples.jsonl", rows), name="other", data=tmp_path, metrics="rouge_l"
        )
        [sample] = made.directory.read_samples()[0].values()
        assert (sample.answer, sample.model, sample.latency_s) == (answer, "dev/model", None)
        assert sample.usage.prompt_tokens is None and made.manifest.imported and not made.manifest.imported.remarks


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sample_id": 1}, "line 1: sample_id"),
        ({"input": [1]}, "line 1: input must be an object"),
        ({"answer_attribution": "x"}, "line 1: answer_attribution"),
        ({"performance": {"latency_ms": 10**400}}, "line 1"),
        ({"metadata": {"status": "ok", "prompt_note_ids": '["x"]'}}, "line 1: setting 'prompt_notes.0'"),
    ],
)
def test_a_broken_record_is_one_line(own: Run, tmp_path: Path, cli: Cli, change: dict[str, Any], said: str) -> None:
    exported_to("every-eval-ever", tmp_path / "out", own.path)
    aggregate, samples = files_of(tmp_path / "out")
    file = write_jsonl(tmp_path / "broken_samples.jsonl", [json_lines(samples)[0] | change])
    done = cli("import-answers", file, "--data", tmp_path / "odd", "--name", "x", "--metrics", "rouge_l", "-q")
    assert (done.code, done.err.count("\n")) == (2, 1) and said in done.err
    wrong = cli("import-answers", aggregate, "--data", tmp_path / "odd", "--name", "x", "-q")
    assert (wrong.code, f"{aggregate.stem}_samples.jsonl" in wrong.err) == (2, True)


def test_wrong_use_writes_nothing(own: Run, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "mine").write_text("x")
    form = ("--format", "every-eval-ever")
    for arguments, said in (
        ((own.path, *form, "--out", there), "exists and is not empty"),
        ((own.path, own.path, *form, "--out", tmp_path / "new"), "name it once"),
        ((own.path, *form, "--out", tmp_path / "new", "--set", "orgnization=x"), "did you mean 'organization'"),
        ((own.path, *form, "--out", tmp_path / "new", "--set", "relationship=friend"), "relationship"),
        ((own.path, *EXAMPLES[:1], *form, "--out", tmp_path / "new", "--set", "model_id=a/b"), "one by one"),
        ((own.path, *EXAMPLES[:1], "--format", "trec-rag", "--out", tmp_path / "new"), "holds one"),
        ((own.path, "--format", "every-eval", "--out", tmp_path / "new"), "did you mean 'every-eval-ever'"),
    ):
        done = cli("export", *arguments)
        assert (done.code, done.err.count("\n"), said in done.err) == (2, 1, True), done.err
    assert (there / "mine").read_text() == "x" and not (tmp_path / "new").exists()
    with monkeypatch.context() as patched:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patched.setattr("os.fsync", full)
        done = cli("export", own.path, *form, "--out", tmp_path / "new")
        assert (done.code, "No space left" in done.err, done.err.count("\n")) == (1, True, 1), done.err
    assert [each.name for each in tmp_path.iterdir() if "new" in each.name] == []


def test_broken_characters_and_addresses_do_not_come_through(own: Run, tmp_path: Path) -> None:
    exported_to("every-eval-ever", tmp_path / "out", own.path)
    [record, *_] = json_lines(files_of(tmp_path / "out")[1])
    text = json.dumps(
        record | {"sample_id": "0", "output": {"raw": ["?"]}, "error": "no reply from ftp://h:1/v1?key=K"}
    )
    text = text.replace('"raw": ["?"]', r'"raw": ["\ud800后"]').replace('"stop"', r'"\udc00"')
    (tmp_path / "half_samples.jsonl").write_text(text, encoding="utf-8")
    made = import_answers(tmp_path / "half_samples.jsonl", name="half", data=tmp_path / "odd", metrics="rouge_l")
    assert made.directory.read_samples()[0]["0"].raw == "\ufffd后"
    exported_to("every-eval-ever", tmp_path / "again", made.path)
    again = json_lines(files_of(tmp_path / "again")[1])[0]
    assert again["error"] == "no reply from ..." and again["metadata"]["finish_reason"] == "\ufffd"
