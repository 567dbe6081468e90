"""Logs of inspect_ai: its own readers read ours, ours reads its, and what comes back is what was sent."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.pipeline.imports import import_answers
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.reports.exports.inspect_samples import safe_id
from qilin_rag.reports.exports.run_content import public_settings
from tests.conftest import Cli
from tests.fake_server import MODEL, FakeServer
from tests.reports.logged import IDS, METRICS, ODD, ask, exported, imported, logged_data, logged_run

STATUSES = ["ok", "ok", "failed", "filtered", "truncated", "empty", "ok"]


def members(log: Path) -> dict[str, Any]:
    """The content of a log; NaN and its like are refused."""

    def no_constant(name: str) -> None:
        raise ValueError(name)

    with zipfile.ZipFile(log) as file:
        return {name: json.loads(file.read(name), parse_constant=no_constant) for name in file.namelist()}


def without(content: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in names}


def test_every_outcome_is_in_the_log(tmp_path: Path, server: FakeServer, cli: Cli) -> None:
    data = logged_data(tmp_path / "data")
    path = logged_run(data, server, "llm.temperature=0.5", repeat=2)
    done = cli("export", path, "--format", "inspect", "--out", tmp_path / "run.eval")
    n_unscored = sum(figure.n_unscored for figure in RunDirectory(path).read_summary().metrics.values())
    assert (done.code, done.out.splitlines()) == (
        0,
        [f"{tmp_path / 'run.eval'}: 11 samples, 7 metrics", f"{n_unscored} scores without a value are not in the log"],
    )
    log = members(tmp_path / "run.eval")
    samples = [value for name, value in log.items() if name.startswith("samples/")]
    assert [(sample["id"], sample["epoch"]) for sample in samples[:7]] == [(safe_id(name), 1) for name in IDS]
    assert [sample["metadata"]["call"]["status"] for sample in samples[:7]] == STATUSES
    good, odd, failed, filtered, cut, empty, uncounted = samples[:7]
    assert good["output"]["completion"] == "遮阴[2]。晾根[1][2]。"
    assert good["metadata"]["call"]["raw"] == "<think>想[2]</think>遮阴[2]。晾根[1][2]。"
    assert good["metadata"]["citations"] == [good["metadata"]["prompt_notes"][at] for at in (1, 0)]
    assert good["output"]["usage"]["total_tokens"] == sum(
        good["output"]["usage"][name] for name in ("input_tokens", "output_tokens")
    )
    assert odd["output"]["completion"] == f"{ODD}[1]。{ODD}" and ODD in odd["metadata"]["query"]
    assert (failed["output"]["choices"], failed["scores"].keys() & {"rouge_l"}) == ([], set())
    assert failed["error"]["message"] and "http" not in json.dumps(failed)
    assert [sample["output"]["choices"][0]["stop_reason"] for sample in (filtered, cut, empty)] == [
        "content_filter",
        "max_tokens",
        "stop",
    ]
    assert "usage" not in uncounted["output"] and uncounted["model_usage"] == {}  # unknown is absent, not 0
    header = log["header.json"]
    assert header["eval"]["model"] == MODEL and header["eval"]["model_generate_config"]["temperature"] == 0.5
    assert header["stats"]["model_usage"] == {}  # that of one answer is not known
    assert header["results"]["total_samples"] == 11 and header["results"]["completed_samples"] == 10
    figures = RunDirectory(path).read_summary().metrics
    assert {of["name"]: of["metrics"].get("mean", {}).get("value") for of in header["results"]["scores"]} == {
        name: figure.value for name, figure in figures.items()
    }


def test_a_log_has_no_address_key_or_path(tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-test")
    path = logged_run(logged_data(tmp_path / "data"), server)
    exported("inspect", path, tmp_path / "run.eval")
    exported("lm-eval", path, tmp_path / "lm")
    texts = [*(json.dumps(value) for value in members(tmp_path / "run.eval").values())]
    texts += [file.read_text(encoding="utf-8") for file in (tmp_path / "lm").rglob("*.json*")]
    for text in texts:
        assert not [word for word in (server.url, "127.0.0.1", "sk-secret", "api_key", str(tmp_path)) if word in text]
    assert public_settings({"index": "/home/me/notes.idx", "urls": ["see http://u:p@h/x?key=1"]}) == {
        "index": "notes.idx",
        "urls": ["see ..."],
    }


def test_what_was_imported_and_exported_again_is_equal(tmp_path: Path, server: FakeServer) -> None:
    data = logged_data(tmp_path / "data")
    path = logged_run(data, server)
    first, second, third = (tmp_path / f"{name}.eval" for name in ("first", "second", "third"))
    exported("inspect", path, first)
    exported("inspect", path, third)
    assert first.read_bytes() == third.read_bytes()  # nothing depends on the time of export
    back = imported(first, data)
    assert RunDirectory(back).read_manifest().imported.remarks == []  # type: ignore[union-attr]
    for one, other in zip(*(RunDirectory(each).each_sample() for each in (path, back)), strict=True):
        expected = without(one.model_dump(), "notes_used", "short_count") | {
            "error": other.error
        }  # without its address
        expected |= {"latency_s": None} if one.status == "failed" else {}  # nobody measured it
        assert without(other.model_dump(), "notes_used", "short_count") == expected
    own, its = (RunDirectory(each).read_summary().metrics for each in (path, back))
    assert its == own
    exported("inspect", back, second)
    one, other = members(first), members(second)
    assert one.keys() == other.keys() and one["reductions.json"] == other["reductions.json"]
    for name in one:
        if name.startswith("samples/"):
            assert without(one[name], "uuid") == without(other[name], "uuid")
    assert one["header.json"]["results"] == other["header.json"]["results"]
    assert one["header.json"]["stats"]["model_usage"] == other["header.json"]["stats"]["model_usage"]
    assert imported(second, data) == back  # the same answers are the same run
    exported("inspect", back, third)
    assert second.read_bytes() == third.read_bytes()


def test_a_run_of_which_little_is_known(data_dir: Path, tmp_path: Path) -> None:
    rows = [{"question_id": "1", "answer": "粗研磨[1]。"}, {"question_id": "3", "answer": "92度"}]
    made = import_answers(rows, name="ours", data=data_dir, metrics="rouge_l").directory.path
    exported("inspect", made, tmp_path / "ours.eval")
    log = members(tmp_path / "ours.eval")
    sample = log["samples/1_epoch_1.json"]
    assert sample["input"] == sample["metadata"]["query"] and len(sample["messages"]) == 1
    assert "usage" not in sample["output"] and "time" not in sample["output"] and sample["output"]["model"] == ""
    assert not sample["metadata"].keys() & {"note_ids", "prompt_notes", "citations"}
    assert log["samples/2_epoch_1.json"]["error"]["message"] == "no answer was imported"
    header = log["header.json"]
    assert (header["eval"]["model"], header["plan"]["steps"], header["stats"]["model_usage"]) == ("ours", [], {})
    assert "unknown" not in json.dumps(header["eval"]["task_args"])
    assert imported(tmp_path / "ours.eval", data_dir, runs_dir=tmp_path / "other")


def test_what_can_not_be_exported(data_dir: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(cli("run", "--data", data_dir, "-q").out.splitlines()[-1])
    if Path("/dev/null").exists():
        with pytest.raises(UsageError, match="not a plain file"):
            exported("inspect", path, Path("/dev/null"))
    manifest = RunDirectory(path).read_manifest()
    RunDirectory(path).write_manifest(manifest.model_copy(update={"updated": "never"}))
    for name in ("inspect", "lm-eval"):
        with pytest.raises(UsageError, match="'never' is not a time"):
            exported(name, path, tmp_path / name)
    RunDirectory(path).write_manifest(manifest.model_copy(update={"state": "incomplete"}))
    with pytest.raises(UsageError, match="is incomplete"):
        exported("inspect", path, tmp_path / "run.eval")
    RunDirectory(path).write_manifest(manifest)
    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(QilinError, match=r"run.eval can't be written: No space left"):
        exported("inspect", path, tmp_path / "run.eval")
    assert not list(tmp_path.glob("*run.eval*"))


def full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("name", ["1", "", "a/b", "..", ODD, "\ud800", "长" * 200, "长" * 300, "%2F", "/"])
def test_ids_are_parts_of_file_names_and_stay_apart(name: str) -> None:
    found = safe_id(name)
    assert found and not set(found) & set("/\\\0 \n\u2028") and len(found) <= 220
    found.encode()
    assert safe_id(found) == found or "%" in found or "~" in found
    assert safe_id(name + "x") != found


@pytest.mark.slow
def test_inspect_reads_what_we_write_and_we_read_what_it_writes(
    tmp_path: Path, data_dir: Path, server: FakeServer
) -> None:
    data = logged_data(tmp_path / "data")
    path = logged_run(data, server, repeat=2)
    exported("inspect", path, tmp_path / "run.eval")
    said = ask("inspect_ai", "inspect_peer.py", tmp_path, tmp_path / "run.eval", tmp_path / "logs")
    assert said["header"] == said["whole"] == ["success", 2, 11]
    assert said["summaries_are_its_own"] and said["samples_one_by_one"] == 11
    samples, _ = RunDirectory(path).read_samples()
    assert said["answers"] == {safe_id(name): sample.answer for name, sample in samples.items()}
    figures = RunDirectory(path).read_summary().metrics
    known = {name: figure for name, figure in figures.items() if figure.value is not None}
    assert said["figures"] == {name: [figure.value, figure.stderr] for name, figure in known.items()}
    assert said["frame"]["rows"] == 11 and said["frame"]["evals"] == 1
    scores = [each for each in RunDirectory(path).read_scores() if each.metric == "rouge_l" and each.value is not None]
    assert said["frame"]["rouge_l"] == {safe_id(each.question_id): each.value for each in scores}
    own = imported(tmp_path / "run.eval", data)  # a log that inspect_ai has written again is the same run
    assert imported(Path(said["rewritten"]), data) == own
    assert imported(Path(said["rewritten_as_json"]), data) == own
    check_the_run_of_a_foreign_log(Path(said["made"]), data_dir)


def check_the_run_of_a_foreign_log(log: Path, data: Path) -> None:
    run = import_answers(log, name="theirs", data=data, metrics=METRICS)
    samples, _ = run.directory.read_samples()
    assert {name: sample.answer for name, sample in samples.items()} == {"1": "粗研磨[1]。", "2": "断水。[1]", "3": ""}
    assert samples["1"].usage.prompt_tokens == 10 and samples["1"].usage.cached_tokens == 3
    assert samples["1"].model == "mockllm/model" and samples["1"].messages[-1]["content"] == "冷萃咖啡怎么做"
    assert [hit.note_idx for hit in samples["2"].hits] == [12, 13] and samples["2"].prompt_notes == [12, 13]
    assert (samples["3"].status, samples["3"].finish_reason) == ("filtered", "content_filter")
    assert run.manifest.imported and [(each.n, each.what) for each in run.manifest.imported.remarks] == [
        (3, "further answers to a question, of which the first counts")
    ]
