"""Files of lm-eval: its own readers read ours, ours reads its, and what comes back is what was sent."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.pipeline.imports import import_answers
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.reports.exports.lm_eval import hash_text
from tests.conftest import Cli, write_jsonl
from tests.fake_server import MODEL, FakeServer
from tests.reports.logged import IDS, METRICS, ODD, ask, exported, imported, logged_data, logged_run


def read(folder: Path) -> tuple[Path, dict[str, Any], list[dict[str, Any]]]:
    """The file of samples, the results, and the lines; NaN is no number of JSON."""
    [results], [samples] = folder.glob("*/results_*.json"), folder.glob("*/samples_*.jsonl")
    lines = samples.read_text(encoding="utf-8").splitlines()  # also at U+2028
    content = json.loads(results.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    return samples, content, [json.loads(line, parse_constant=pytest.fail) for line in lines]


def test_every_outcome_is_in_the_files(tmp_path: Path, server: FakeServer, cli: Cli) -> None:
    path = logged_run(logged_data(tmp_path / "data"), server, repeat=2)
    done = cli("export", path, "--format", "lm-eval", "--out", tmp_path / "out")
    assert (done.code, done.out) == (0, f"{tmp_path / 'out'}: 7 samples, 7 metrics\n")
    file, results, lines = read(tmp_path / "out")
    assert (file.parent.name, results["model_name"]) == (MODEL, MODEL)
    assert [line["doc"]["question_id"] for line in lines] == IDS and [line["doc_id"] for line in lines] == [*range(7)]
    assert all(line.keys() == lines[0].keys() for line in lines)  # one table
    good, odd, failed, _, _, _, uncounted = lines
    assert good["resps"] == [["<think>想[2]</think>遮阴[2]。晾根[1][2]。"] * 2]
    assert good["filtered_resps"] == ["遮阴[2]。晾根[1][2]。"] and odd["filtered_resps"] == [f"{ODD}[1]。{ODD}"]
    assert json.loads(good["arguments"]["gen_args_0"]["arg_0"])[-1]["role"] == "user"
    assert good["target"] == str(["遮阴。", ODD]) and good["target_hash"] == hash_text(good["target"])
    assert (failed["filtered_resps"], failed["rouge_l"], failed["recall@2"]) == ([""], None, 1.0)
    assert failed["qilin_rag"]["call"]["status"] == "failed" and failed["qilin_rag"]["unscored"]["rouge_l"]
    assert uncounted["qilin_rag"]["call"]["usage"] == {}
    [task] = results["results"]
    figures = RunDirectory(path).read_summary().metrics
    assert {name: results["results"][task].get(f"{name},none") for name in figures} == {
        name: figure.value for name, figure in figures.items()
    }
    assert results["qilin_rag"]["metrics"]["rouge_l"] == figures["rouge_l"].model_dump(mode="json")
    again = cli("export", path, "--format", "lm-eval", "--out", tmp_path / "out")
    assert (again.code, "is not empty" in again.err) == (2, True)


def test_what_was_imported_and_exported_again_is_equal(tmp_path: Path, server: FakeServer) -> None:
    data = logged_data(tmp_path / "data")
    path = logged_run(data, server)
    for name in ("first", "same"):
        exported("lm-eval", path, tmp_path / name)
    first, _, lines = read(tmp_path / "first")
    assert first.read_bytes() == read(tmp_path / "same")[0].read_bytes()
    back = imported(first, data)
    own, its = (RunDirectory(each).read_summary().metrics for each in (path, back))
    assert its == own
    exported("inspect", path, tmp_path / "run.eval")
    assert imported(tmp_path / "run.eval", data) == back  # both formats hold the same
    exported("lm-eval", back, tmp_path / "second")
    second, results, again = read(tmp_path / "second")
    for one, other in zip(lines, again, strict=True):
        arguments = {"gen_args_0": {"arg_0": one["arguments"]["gen_args_0"]["arg_0"], "arg_1": {}}}  # settings
        assert other == one | {"arguments": arguments}
    assert imported(second, data) == back
    exported("lm-eval", back, tmp_path / "third")
    assert second.read_bytes() == read(tmp_path / "third")[0].read_bytes()
    assert results == read(tmp_path / "third")[1]


def test_a_run_of_which_little_is_known(data_dir: Path, tmp_path: Path) -> None:
    made = import_answers([{"question_id": "1", "answer": "粗研磨。"}], name="a/b:c", data=data_dir, metrics="rouge_l")
    exported("lm-eval", made.directory.path, tmp_path / "out")
    file, results, lines = read(tmp_path / "out")
    assert (file.parent.name, results["model_source"], results["config"]["model_args"]) == ("a__b__c", "imported", {})
    assert "total_evaluation_time_seconds" not in results and results["n-samples"]["small"]["original"] == 3
    call = lines[0]["qilin_rag"]["call"]
    assert (call["model"], call["latency_s"], call["usage"]) == (None, None, {})
    assert lines[0]["arguments"]["gen_args_0"] == {"arg_0": "", "arg_1": {}}
    assert "note_ids" not in lines[0]["qilin_rag"]


def test_a_full_disk_leaves_nothing(data_dir: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(cli("run", "--data", data_dir, "-q").out.splitlines()[-1])

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qilin_rag.core.files.write_all", full)
    with pytest.raises(QilinError, match="can't be written: No space left"):
        exported("lm-eval", path, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_what_is_no_file_of_samples(data_dir: Path, tmp_path: Path) -> None:
    line: dict[str, Any] = {
        "doc_id": 0,
        "doc": {"id": 1, "query": "多肉怎么养"},
        "target": "",
        "arguments": {},
        "resps": [["断水"]],
    }
    cases: list[tuple[dict[str, Any], str]] = [
        ({"filtered_resps": [["-1.5", "False"]]}, "line 1: filtered_resps has no generated text"),
        ({"filtered_resps": []}, "filtered_resps has no generated text"),
        ({"doc": "x", "filtered_resps": ["a"]}, "doc must be an object"),
        ({"doc": {"x": 1}, "filtered_resps": ["a"]}, "doc has no question_id or .*; it has x"),
        ({"filtered_resps": ["a"], "qilin_rag": {"call": {"status": "well"}}}, "qilin_rag.call: status: "),
    ]
    for change, message in cases:
        file = write_jsonl(tmp_path / "samples_qa_2026.jsonl", [line | change])
        with pytest.raises(UsageError, match=message):
            import_answers(file, name="theirs", data=data_dir, metrics="rouge_l")
    results = tmp_path / "results_2026.json"
    results.write_text('{\n  "results": {}}', encoding="utf-8")
    with pytest.raises(UsageError, match=r"results of lm-eval without answers; give the samples_\*.jsonl"):
        import_answers(results, name="theirs", data=data_dir, metrics="rouge_l")


def test_a_file_by_hand_is_a_run(data_dir: Path, tmp_path: Path) -> None:
    """As lm-eval 0.4 writes it for a chat model, with a filter of its own before the answer."""
    shared = {"target": "92度", "filter": "strict", "metrics": ["exact_match"], "exact_match": 0.0}
    chat = json.dumps([{"role": "user", "content": "手冲水温", "type": "text"}], ensure_ascii=False)
    rows = [
        {
            "doc_id": 0,
            "doc": {"qid": "3", "question": "手冲水温"},
            "arguments": {"gen_args_0": {"arg_0": [chat], "arg_1": {"until": []}}},
            "resps": [["想…92度", "90度"]],
            "filtered_resps": ["92度"],
            **shared,
        },
        {
            "doc_id": 1,
            "doc": {"id": 2, "question": "冷萃咖啡怎么做", "note_ids": [10], "citations": ["10"]},
            "arguments": {"gen_args_0": {"arg_0": "[冷萃", "arg_1": {}}},
            "resps": [["粗研磨"]],
            "filtered_resps": [["粗研磨", "细研磨"]],
            **shared,
        },
    ]
    file = write_jsonl(tmp_path / "samples_coffee_qa_2026-01-02T03-04-05.678.jsonl", rows)
    results = {"results": {}, "model_name": "by/heart"}
    (tmp_path / "results_2026-01-02T03-04-05.678.json").write_text(json.dumps(results), encoding="utf-8")
    run = import_answers(file, name="theirs", data=data_dir, metrics=METRICS)
    samples, _ = run.directory.read_samples()
    assert {name: sample.answer for name, sample in samples.items()} == {"1": "粗研磨[1]", "2": "", "3": "92度"}
    assert (samples["3"].raw, samples["3"].model, samples["3"].usage.prompt_tokens) == ("想…92度", "by/heart", None)
    assert samples["3"].messages == [{"role": "user", "content": "手冲水温"}]
    assert samples["1"].messages == [{"role": "user", "content": "[冷萃"}] and samples["1"].prompt_notes == [10]


@pytest.mark.slow
def test_lm_eval_reads_what_we_write_and_we_read_what_it_writes(
    tmp_path: Path, data_dir: Path, server: FakeServer
) -> None:
    if find_spec("datasets") is None:
        pytest.skip("needs datasets: qilin-rag[rankers]")
    path = logged_run(logged_data(tmp_path / "data"), server)
    exported("lm-eval", path, tmp_path / "ours")
    file, results, lines = read(tmp_path / "ours")
    said = ask("lm_eval", "lm_eval_peer.py", tmp_path, tmp_path / "ours", tmp_path / "theirs")
    [task] = results["results"]
    assert said["names"] == [file.stem.rpartition("_")[2], task, MODEL] and said["sanitized"] == MODEL
    rows = [[cell.strip() for cell in row.split("|")] for row in said["table"].splitlines()]
    for name, figure in RunDirectory(path).read_summary().metrics.items():
        [row] = [row for row in rows if name in row]
        assert {f"{figure.value:.4f}", f"{figure.stderr:.4f}"} <= set(row)
        assert said["wandb"][f"{task}/{name}"] == figure.value
    assert said["zeno"]["output"] == [line["filtered_resps"][0] for line in lines]
    assert said["zeno"]["rouge_l"] == [line["rouge_l"] for line in lines]
    assert said["rows"] == len(lines) and task in said["card"]
    run = import_answers(said["made"], name="theirs", data=data_dir, metrics="rouge_l")
    samples, _ = run.directory.read_samples()
    expected = {"1": ("粗研磨\u2028。", "ok"), "2": ("", "empty"), "3": ("92度", "ok")}
    assert {name: (sample.answer, sample.status) for name, sample in samples.items()} == expected
    assert {sample.model for sample in samples.values()} == {"by-heart"} and not run.manifest.imported.remarks[1:]  # type: ignore[union-attr]
    assert samples["3"].messages == [{"role": "user", "content": "问题：手冲水温\n回答："}]
