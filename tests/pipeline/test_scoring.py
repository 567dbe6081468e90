from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qilin_rag.config.run import RunConfig, resolve_run
from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.pipeline.run import run
from qilin_rag.reports.leaderboard import leaderboard
from qilin_rag.reports.measured import read_run
from qilin_rag.scorers.summary import remarks
from tests.conftest import Cli
from tests.fake_server import MODEL, FakeServer
from tests.scored import score_run

SCORERS = """
from qilin_rag.core.errors import UsageError
from qilin_rag.scorers import AnswerScorer, Remarked

class Ready(AnswerScorer):
    metric = "ready"
    def signatures(self): return {self.metric: self.metric}
    def score_answers(self, answers, references): return [1, Remarked(0.5, "half"), Remarked(float("nan"), "half")]
class Absent(Ready):
    metric = "absent"
    def unavailable(self): return "its model is not here"
    def signatures(self): raise UsageError("no model")
class Broken(Ready):
    metric = "broken"
    def prepare(self): raise UsageError("its model is broken")
class Odd(Ready):
    metric = "odd"
    def prepare(self): 1 / 0
"""


@pytest.fixture(autouse=True)
def mine(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("ready_or_not.py").write_text(SCORERS, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "ready_or_not", raising=False)
    monkeypatch.syspath_prepend(str(own_folder))


def config(data: Path, *optional: str, **flags: object) -> RunConfig:
    resolved = resolve_run({"data": str(data), **flags})
    return resolved.model_copy(update={"optional_metrics": [f"ready_or_not:{name}" for name in optional]})


def test_values_may_come_with_a_remark(data_dir: Path, cli: Cli) -> None:
    summary = run(config(data_dir, metrics="ready_or_not:Ready")).summary
    ready = summary.metrics["ready"]
    assert (ready.value, ready.n, ready.reasons) == (0.75, 2, {"half": 1, "not a number": 1})
    assert remarks(summary.metrics)[:-1] == ["ready: half (1 of 3)", "ready: not a number (1 of 3)"]
    assert remarks(summary.metrics)[-1].endswith("ready: no 95% interval, too few: 2 independent values, 20 needed")
    [path] = Path("runs").iterdir()
    assert "ready  0.5000: half" in cli("show", path, "--question", "2").out
    [table] = leaderboard(Path("runs"))
    assert [note.partition(": ")[2] for note in table.notes] == remarks(summary.metrics)


def test_a_remark_that_metrics_share_is_said_once(data_dir: Path, server: FakeServer) -> None:
    path = data_dir / "dqa.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("[12, 13]", "[]"), encoding="utf-8")
    server.fault = lambda n, body: "length" if n == 1 else "filtered" if n == 2 else None
    asked = resolve_run({"data": str(data_dir), "llm": "openai", "base_url": server.url}, [f"llm.model={MODEL}"])
    metrics = run(asked).summary.metrics
    assert remarks(metrics)[0] == "recall@5, ndcg@5, mrr@5: no reference notes (1 of 3)"
    assert len(remarks(metrics)) == 2
    assert metrics["rouge_l"].reasons == {"filtered": 1}


def test_optional_metrics_are_scored_where_they_can_be(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "qilin_rag")
    finished = run(config(data_dir, "Ready", "Absent", "Broken", "Odd"))
    assert {"rouge_l", "ready"} < set(finished.summary.metrics)
    assert not {"absent", "broken"} & set(finished.summary.metrics)
    assert set(finished.manifest.config["metrics"]) == {"retrieval", "rouge_l", "ready_or_not:Ready"}
    again = f"to add it later: qilin-rag score {finished.directory.path} --metrics ready_or_not"
    said = [message for message in caplog.messages if "left out" in message]
    assert said == [
        f"ready_or_not:Absent is left out: its model is not here; {again}:Absent",
        f"ready_or_not:Broken is left out: its model is broken; {again}:Broken",
        "ready_or_not:Odd is left out: metric ready_or_not:Odd failed: ZeroDivisionError: division by zero; "
        f"{again}:Odd",
    ]
    scored = score_run(finished.directory.path, {"rouge_l": {}}, ["ready_or_not:Ready", "ready_or_not:Absent"])
    assert scored.summary.metrics == finished.summary.metrics
    assert caplog.messages[-1] == said[0]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("Absent", UsageError, "no model"),
        ("Broken", UsageError, "its model is broken"),
        ("Odd", QilinError, "metric ready_or_not:Odd failed: ZeroDivisionError"),
    ],
)
def test_a_named_metric_that_is_not_ready_stops_the_run_before_the_first_call(
    data_dir: Path, server: FakeServer, name: str, error: type[Exception], message: str
) -> None:
    flags = {"data": str(data_dir), "llm": "openai", "base_url": server.url, "metrics": f"ready_or_not:{name}"}
    with pytest.raises(error, match=message):
        run(resolve_run(flags, [f"llm.model={MODEL}"]))
    assert server.calls == []
    assert not Path("runs").exists()


def test_bertscore_without_its_model_is_one_line_that_quiet_hides(data_dir: Path, cli: Cli) -> None:
    done = cli("run", "--data", data_dir)
    path = done.out.splitlines()[-1]
    [line] = [line for line in done.err.splitlines() if "bertscore" in line]
    assert line.startswith("bertscore is left out: ")
    assert line.endswith(f"qilin-rag score {path} --metrics bertscore")
    assert "bertscore" in cli("score", path).err
    assert cli("run", "--data", data_dir, "--quiet").err == ""
    assert cli("run", "--data", data_dir, "--metrics", "rouge_l").err == ""
    assert cli("score", path, "--metrics", "rouge_l").err == ""
    named = cli("score", path, "--metrics", "bertscore", "--quiet")
    assert (named.code, named.err.count("\n")) == (2, 1)


def test_a_default_run_stays_light(data_dir: Path) -> None:
    code = (
        "import sys; from qilin_rag.config.run import resolve_run; from qilin_rag.pipeline.run import run\n"
        "run(resolve_run({'data': sys.argv[1]})); print(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(data_dir)], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers"} & set(done.stdout.split())


@pytest.mark.parametrize("as_json", [True, False])
def test_what_was_scored_is_said_also_where_a_later_run_fails(cli: Cli, as_json: bool) -> None:
    of = {"data": "sample", "llm": "extractive"}
    made = [run(resolve_run({**of, "retriever": name, "limit": n}, [])) for name, n in (("none", 3), ("bm25", 2))]
    paths = [each.directory.path for each in made]
    metric = "ready_or_not:Ready"  # which has three scores
    done = cli("score", *paths, "--metrics", metric, *(["--json"] if as_json else []))
    assert (done.code, metric in done.err) == (1, True)
    said = [each["run"] for each in json.loads(done.out)] if as_json else done.out.splitlines()[-1:]
    assert said == [str(paths[0])]


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_retrieval_is_named_by_the_notes_that_were_asked_for(top_k: int, data_dir: Path, cli: Cli) -> None:
    done = run(config(data_dir, retriever="bm25", top_k=top_k))
    assert {name for name in done.summary.metrics if "@" in name} == {f"{m}@{top_k}" for m in ("recall", "ndcg", "mrr")}
    [path] = Path("runs").iterdir()
    again = score_run(path, {"retrieval": {}}).summary
    assert again.metrics == done.summary.metrics
    shown = json.loads(cli("show", path, "--json").out)["scores"]
    assert {name for figures in shown.values() for name in figures} == set(done.summary.metrics)
    beyond = score_run(path, {"retrieval": {"k": top_k + 1}}).summary.metrics[f"recall@{top_k + 1}"]
    assert (beyond.value, beyond.n, beyond.n_unscored) == (None, 0, 3)


def test_small_corpora_and_missing_notes_are_told_apart(data_dir: Path) -> None:
    """Five notes are all there are at top 9; a hit that the data lacks leaves its question unscored."""
    whole = run(config(data_dir, retriever="random", top_k=9)).summary.metrics["recall@9"]
    assert (whole.value, whole.n) == (1.0, 3)
    Path("x.trec").write_text("1 Q0 10 1 3 t\n1 Q0 99 2 2 t\n2 Q0 12 1 2 t\n2 Q0 13 2 1 t\n3 Q0 11 1 1 t\n")
    part = run(config(data_dir, retriever="trec:x.trec", top_k=2, missing_notes="skip")).summary.metrics["recall@2"]
    assert (part.value, part.n, part.n_unscored) == (1.0, 2, 1)
    assert list(part.reasons.values()) == [1]


def test_what_version_1_named_wrongly_is_left_out_until_it_is_scored_again(data_dir: Path, cli: Cli) -> None:
    """Then a run of two notes had recall@5."""
    path = run(config(data_dir, retriever="bm25", top_k=2)).directory.path
    for file in ("scores.jsonl", "summary.json"):
        text = (path / file).read_text(encoding="utf-8").replace("@2", "@5").replace("|of:hits retrieved", "")
        (path / file).write_text(text.replace("empty:0|v2", "empty:0|v1"), encoding="utf-8")
    found = read_run(path)
    assert list(found.summary.metrics) == ["rouge_l"]
    assert "recall@5" in found.remarks[0] and f"score {path}" in found.remarks[0]
    assert "@5" not in cli("show", path).out
    assert {name for name in score_run(path, {"retrieval": {}}).summary.metrics if "@" in name} == {
        "recall@2",
        "ndcg@2",
        "mrr@2",
    }
    assert read_run(path).remarks == ()
