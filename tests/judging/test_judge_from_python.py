"""`qilin_rag.judge` does what the commands do."""

from __future__ import annotations

from pathlib import Path

import pytest

import qilin_rag as qr
from qilin_rag.pipeline.run_directory import RunDirectory
from tests.conftest import Cli, write_jsonl
from tests.fake_server import MODEL, FakeServer
from tests.judging.substring_judge import substring_judge

KIND = "正确性：5\n完整性：4\n忠实性：3"


@pytest.fixture
def run(data_dir: Path) -> qr.Run:
    return qr.run(data=data_dir, retriever="bm25", metrics="rouge_l")


def judge_of(server: FakeServer) -> qr.OpenAICompatible:
    return qr.OpenAICompatible(model=MODEL, base_url=server.url)


def test_grades_are_figures_of_the_run(run: qr.Run, server: FakeServer, cli: Cli) -> None:
    server.answer = lambda body: KIND
    judged = qr.judge(run, judge_of(server), limit=2)
    assert judged.path == run.path and set(run.metrics) < set(judged.metrics)
    assert (judged.metrics["judge_completeness"].value, judged.metrics["judge_completeness"].n) == (4.0, 2)
    assert len(server.calls) == 2
    arguments = ["--llm", "openai", "--base-url", server.url, f"--set=llm.model={MODEL}"]
    done = cli("judge", run.path, *arguments, "--limit", "2", "-q")
    assert done.code == 0, done.err
    assert len(server.calls) == 2  # the command finds what the function asked
    assert RunDirectory(run.path).read_summary().metrics == judged.metrics
    again = qr.judge(run.path.name, {"name": "openai", "model": MODEL, "base_url": server.url})
    assert again.metrics["judge_correctness"].n == 3 and len(server.calls) == 3


def test_nuggets_are_assigned_from_a_bank(run: qr.Run, server: FakeServer) -> None:
    server.answer = substring_judge
    [answer, *_] = [sample.answer for sample in run.directory.read_samples()[0].values()]
    nuggets = [{"text": answer[:6], "importance": "vital"}, {"text": "没有说", "importance": "okay"}]
    bank = write_jsonl(Path("bank.jsonl"), [{"qid": "1", "query": "冷萃咖啡怎么做", "nuggets": nuggets}])
    judged = qr.judge(run, judge_of(server), measure="nuggets", bank=bank, batch=1)  # type: ignore[arg-type] # once per_call
    assert judged.metrics["nugget_all"].value == 0.5 and judged.metrics["nugget_all"].n == 1
    assert len(server.calls) == 2


def test_wrong_use_asks_nothing(run: qr.Run, server: FakeServer) -> None:
    llm = judge_of(server)
    with pytest.raises(qr.UsageError, match="measure 'nugget' does not exist; did you mean 'nuggets'"):
        qr.judge(run, llm, measure="nugget")
    with pytest.raises(qr.UsageError, match="judge nuggets: setting 'bank' is missing"):
        qr.judge(run, llm, measure="nuggets")
    with pytest.raises(qr.UsageError, match="bank is not a setting of judge grades"):
        qr.judge(run, llm, bank="bank.jsonl")
    with pytest.raises(qr.UsageError, match="judge prompt 'nuggetassigner-fr' does not exist"):
        qr.judge(run, llm, measure="nuggets", bank="bank.jsonl", language="fr")
    with pytest.raises(qr.UsageError, match="per_call"):
        qr.judge(run, llm, measure="nuggets", bank="bank.jsonl", per_call=0)
    with pytest.raises(qr.UsageError, match="reads no instructions"):
        qr.judge(run, "extractive")
    assert server.calls == []


def test_replies_that_fail_are_an_error_if_asked_for(run: qr.Run, server: FakeServer) -> None:
    server.fault = lambda n, body: "400"
    assert qr.judge(run, judge_of(server)).metrics["judge_correctness"].n == 0
    with pytest.raises(qr.FailedSamplesError):
        qr.judge(run, judge_of(server), fail_on_error=0)
