"""Runs with a query stage: what is searched, kept, asked again, priced, and where the stage is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.types import Cost
from qilin_rag.pipeline.cost import add_costs
from qilin_rag.pipeline.dry_run import plan
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.queries import query_price
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.sweep import read_sweep, sweep
from tests.conftest import Cli
from tests.fake_server import MODEL, FakeServer

PRICE = "{currency: USD, prompt_per_mtok: 1, completion_per_mtok: 2, as_of: 2026-11}"
WRITTEN = {
    "冷萃咖啡怎么做": "1. 冷水泡咖啡粉\n2. 冷藏过滤咖啡",
    "多肉怎么养": "1. 多肉夏天遮阴\n2. 多肉春天换盆晾根",
    "手冲水温": "1. 手冲咖啡用几度的水\n2. 闷蒸",
}


def is_of_stage(body: dict[str, Any]) -> bool:
    return "搜索引擎" in body["messages"][0]["content"] or "文章库" in body["messages"][0]["content"]


def written(body: dict[str, Any]) -> str:
    """Known replies to the query stage; others answer."""
    question = body["messages"][-1]["content"].partition("问题：")[2].partition("\n")[0]
    return WRITTEN[question] if is_of_stage(body) else "回答"


@pytest.fixture
def writer() -> Any:
    with FakeServer(answer=written) as server:
        yield server


def ask(data: Path, server: FakeServer, *settings: str, **flags: Any) -> Run:
    return run(config(data, server, *settings, **flags))


def config(data: Path, server: FakeServer, *settings: str, **flags: Any) -> Any:
    given = {
        "data": str(data),
        "llm": "openai",
        "base_url": server.url,
        "metrics": "rouge_l",
        "query": "multi",
        **flags,
    }
    return resolve_run(given, [f"llm.model={MODEL}", *settings])


def n_stage(server: FakeServer) -> int:
    return sum(map(is_of_stage, server.calls))


def lines(done: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (done.path / "queries.jsonl").read_text().splitlines()]


def test_question_and_texts_are_fused_as_by_hand(data_dir: Path, writer: FakeServer) -> None:
    """The ranks of BM25 for each text alone, and their reciprocal ranks added by hand (k = 60)."""
    done = ask(data_dir, writer)
    rankings: dict[str, list[list[int]]] = {}
    questions = [json.loads(line) for line in (data_dir / "dqa.jsonl").read_text().splitlines()]
    for question in questions:
        texts = [question["query"], *(line.partition(". ")[2] for line in WRITTEN[question["query"]].splitlines())]
        for number, text in enumerate(texts):
            folder = data_dir.parent / f"alone{question['search_idx']}-{number}"
            folder.mkdir()
            (folder / "notes.jsonl").write_text((data_dir / "notes.jsonl").read_text())
            (folder / "dqa.jsonl").write_text(json.dumps({**question, "query": text}, ensure_ascii=False) + "\n")
            found = run(resolve_run({"data": str(folder), "metrics": "rouge_l"})).directory.read_samples()[0]
            [sample] = found.values()
            rankings.setdefault(sample.question_id, []).append([hit.note_idx for hit in sample.hits])
    for question_id, sample in done.directory.read_samples()[0].items():
        scores: dict[int, float] = {}
        for its in rankings[question_id]:
            for rank, note in enumerate(its, 1):
                scores[note] = scores.get(note, 0) + 1 / (60 + rank)
        assert {hit.note_idx: hit.score for hit in sample.hits} == pytest.approx(scores)
        assert [hit.rank for hit in sample.hits] == list(range(1, len(scores) + 1))
        assert sorted(hit.score for hit in sample.hits)[::-1] == [hit.score for hit in sample.hits]
    assert done.directory.read_samples()[0]["3"].query == "手冲水温"  # the answer is about the question


def test_the_texts_are_on_disk_and_shown_and_nothing_is_asked_twice(
    data_dir: Path, writer: FakeServer, cli: Cli
) -> None:
    done = ask(data_dir, writer)
    assert {line["query"]: line["texts"] for line in lines(done)} == {
        query: [text[3:] for text in reply.splitlines()] for query, reply in WRITTEN.items()
    }
    assert len(writer.calls) == 6
    assert n_stage(writer) == 3
    ask(data_dir, writer)  # finished
    ask(data_dir, writer, top_k=2)  # from the response cache
    assert n_stage(writer) == 3
    assert done.manifest.queries is not None
    assert (done.manifest.queries.questions, done.manifest.queries.texts) == (3, 6)
    assert done.path.name.startswith("small-bm25-multi-")
    shown = cli("show", done.path, "--question", "3").out
    assert "手冲咖啡用几度的水" in shown
    assert "6 texts written for 3 questions" in cli("show", done.path).out
    assert json.loads(cli("show", done.path, "--question", "3", "--json").out)["queries"]["texts"][1] == "闷蒸"
    [body] = [each for each in writer.calls if is_of_stage(each) and "手冲水温" in each["messages"][-1]["content"]]
    assert (body["temperature"], body["max_tokens"]) == (0, 256)


def test_calls_that_failed_are_asked_again_and_only_those(data_dir: Path, writer: FakeServer) -> None:
    writer.fault = lambda n, body: "422" if "多肉" in body["messages"][-1]["content"] else None
    done = ask(data_dir, writer)
    sample = done.directory.read_samples()[0]["2"]
    assert sample.status == "failed"
    assert sample.error is not None
    assert sample.error.startswith("query multi: ")
    assert done.summary.counts["failed"] == 1
    writer.fault = lambda n, body: None
    before = len(writer.calls)
    again = ask(data_dir, writer)
    assert again.summary.counts["failed"] == 0
    assert [is_of_stage(body) for body in writer.calls[before:]] == [True, False]
    assert len(again.directory.read_samples()[0]["2"].hits) == 2


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("抱歉，我无法回答这个问题。", "refused"),
        ("", "empty"),
        ("没有编号", "not in the form that was asked for"),
        ("1. 手冲 水温", "the same as the question"),
    ],
)
def test_a_question_without_a_usable_reply_is_searched_alone(
    data_dir: Path, writer: FakeServer, caplog: pytest.LogCaptureFixture, reply: str, reason: str
) -> None:
    writer.answer = lambda body: reply if is_of_stage(body) and "手冲" in str(body["messages"]) else written(body)
    done = ask(data_dir, writer)
    alone = ask(data_dir, writer, query="none")
    ours, plain = (each.directory.read_samples()[0]["3"] for each in (done, alone))
    assert [hit.note_idx for hit in ours.hits] == [hit.note_idx for hit in plain.hits]
    assert done.manifest.queries is not None
    assert done.manifest.queries.alone == {reason: 1}
    assert (f"1 of 3 questions are searched alone: 1 {reason}" in caplog.text) == (reason != "the same as the question")
    before = n_stage(writer)
    ask(data_dir, writer)
    assert n_stage(writer) == before  # it would say the same again


def test_a_filter_and_a_limit_are_no_text(data_dir: Path, writer: FakeServer) -> None:
    writer.fault = lambda n, body: (
        None
        if not is_of_stage(body)
        else "filtered"
        if "手冲" in str(body)
        else "length"
        if "多肉" in str(body)
        else None
    )
    done = ask(data_dir, writer, query="rewrite")
    assert done.manifest.queries is not None
    assert sum(done.manifest.queries.alone.values()) == 3
    assert done.manifest.queries.alone["refused"] == 1
    assert done.summary.counts["ok"] == 3


def test_a_run_killed_while_it_wrote_queries_asks_none_twice(data_dir: Path, writer: FakeServer) -> None:
    writer.latency_s = 0.5
    command = [sys.executable, "-m", "qilin_rag", "run", "--data", str(data_dir), "--llm", "openai", "--query", "multi"]
    command += ["--base-url", writer.url, "--set", f"llm.model={MODEL}", "--metrics", "rouge_l", "--no-cache"]
    command += ["--concurrency", "1"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (kept := list(Path("runs").glob("*/queries.jsonl"))) or not kept[0].read_text().count("\n"):
        assert time.monotonic() < until
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    n_kept = kept[0].read_text().count("\n")
    assert n_kept < 3
    time.sleep(0.6)
    writer.latency_s, before = 0.0, n_stage(writer)
    done = ask(data_dir, writer, cache=False, concurrency=1)
    assert n_stage(writer) - before == 3 - n_kept
    assert done.summary.counts["ok"] == 3
    assert len({line["question_id"] for line in lines(done)}) == len(lines(done)) == 3


def test_fresh_asks_again_and_sets_the_replies_aside(data_dir: Path, writer: FakeServer) -> None:
    ask(data_dir, writer)
    done = ask(data_dir, writer, fresh=True)
    assert n_stage(writer) == 6
    assert len(lines(done)) == 3
    assert len(list(done.path.glob("queries-until-*.jsonl"))) == 1


def test_cost_and_plan_count_the_stage(data_dir: Path, writer: FakeServer, cli: Cli) -> None:
    setting = f"llm.price={PRICE}"
    foreseen = plan(config(data_dir, writer, setting))
    assert foreseen.queries is not None
    assert (foreseen.calls, foreseen.queries.calls) == (6, 3)
    assert foreseen.prompt_tokens is not None
    assert foreseen.prompt_tokens > (foreseen.queries.prompt_tokens or 0) > 0
    assert foreseen.queries.answer_tokens == 3 * 256
    assert foreseen.cost_to.amount == pytest.approx((foreseen.prompt_tokens + 2 * (3 * 256 + 3 * 1024)) / 1e6)
    assert not list(Path().glob("runs/*/queries.jsonl"))
    done = ask(data_dir, writer, setting)
    use = done.manifest.queries
    assert use is not None
    assert use.usage.completion_tokens == 30
    tokens = (use.usage.prompt_tokens or 0) + (done.summary.usage.prompt_tokens or 0)
    assert use.cost.amount == pytest.approx(((use.usage.prompt_tokens or 0) + 2 * 30) / 1e6)
    assert done.manifest.cost is not None
    assert done.manifest.cost.amount == pytest.approx((tokens + 2 * 60) / 1e6)
    known = plan(config(data_dir, writer, setting, prompt="concise"))  # other answers, the same queries
    assert known.queries is not None
    assert (known.calls, known.queries.calls, known.queries.cached) == (3, 0, 3)
    arguments = ["run", "--data", data_dir, "--llm", "openai", "--base-url", writer.url, "--set", f"llm.model={MODEL}"]
    said = cli(*arguments, "--query", "hyde", "--dry-run")
    assert "6 calls for 3 questions" in said.out
    assert f"query hyde by {MODEL}: 3 calls" in said.out


def test_costs_add_up() -> None:
    usd, more = (Cost(amount=n, currency="USD", as_of="2026-11") for n in (0.25, 0.5))
    assert add_costs(usd, more) == Cost(amount=0.75, currency="USD", as_of="2026-11")
    assert add_costs(usd, Cost(amount=0.0)) == add_costs(Cost(amount=0.0), usd) == usd
    assert add_costs(usd, Cost(unknown="no price")).unknown == "no price"
    assert "CNY" in (add_costs(usd, Cost(amount=1, currency="CNY", as_of="2026")).unknown or "")


def test_another_llm_writes_and_is_named(data_dir: Path, writer: FakeServer, server: FakeServer, cli: Cli) -> None:
    other = ["query.llm=openai", f"query.llm.model={MODEL}", f"query.llm.base_url={writer.url}"]
    done = ask(data_dir, server, *other, "query.llm.max_tokens=40", "query.n=2")
    assert not n_stage(server)
    assert {body["max_tokens"] for body in writer.calls} == {40}
    assert done.manifest.labels["retriever"] == f"bm25 + multi n=2 llm={MODEL} max_tokens=40"
    extractive = run(resolve_run({"data": str(data_dir), "query": "multi", "metrics": "rouge_l"}, other))
    assert extractive.manifest.queries is not None
    assert extractive.manifest.queries.texts == 6
    assert cli("reproduce", extractive.path).code == 0
    assert cli("reproduce", extractive.path, "--json").code == 0


def test_what_can_follow_no_instructions_can_t_write(data_dir: Path) -> None:
    with pytest.raises(UsageError, match=r"extractive follows none; name another: --set query\.llm=PRESET"):
        resolve_run({"data": str(data_dir), "query": "hyde"})


def test_identity_holds_the_stage_and_runs_without_one_keep_theirs(data_dir: Path, writer: FakeServer) -> None:
    plain = ask(data_dir, writer, query=None)
    assert "query" not in plain.manifest.identity
    stages: list[tuple[dict[str, Any], list[str]]] = [
        ({"query": "none"}, []),
        ({"query": "rewrite"}, []),
        ({"query": "hyde"}, []),
        ({}, []),
        ({}, ["query.n=2"]),
        ({}, ["query.with_question=false"]),
        ({}, ["query.language=en"]),
        ({}, ["query.llm.temperature=0.5"]),
        ({}, ["query.llm.max_tokens=40"]),
        ({}, ["query.llm.timeout_s=7"]),
    ]
    from qilin_rag.core.hashing import fingerprint
    from qilin_rag.data import load_dataset
    from qilin_rag.pipeline.identity import run_identity

    data = load_dataset(str(data_dir))
    prints = [
        fingerprint(run_identity(config(data_dir, writer, *settings, **flags), data)) for flags, settings in stages
    ]
    assert prints[0] == plain.manifest.fingerprint
    assert len(set(prints)) == len(prints) - 1
    assert prints[-1] == prints[3]  # a timeout changes no reply


def test_the_stage_is_a_factor(data_dir: Path, writer: FakeServer, cli: Cli) -> None:
    writer.answer = lambda body: "冷水泡咖啡，冷藏12小时" if is_of_stage(body) else "回答"
    flags = [
        "--data",
        data_dir,
        "--llms",
        "openai",
        "--set",
        f"llm.model={MODEL}",
        "--set",
        f"llm.base_url={writer.url}",
    ]
    said = cli("ablate", *flags, "--query", "none,rewrite,hyde", "--metric", "recall@5", "--json")
    assert said.code == 0
    [report] = json.loads(said.out)
    [factor] = report["factors"]
    assert (factor["factor"], factor["default"]) == ("query", "none")
    assert [level["level"] for level in factor["systems"][0]["levels"]] == ["none", "hyde", "rewrite"]
    assert factor["systems"][0]["retriever"] == "bm25"
    assert n_stage(writer) == 6
    saved = cli("ablate", "--saved", "--query", "none,hyde", "--metric", "recall@5", "--json")
    assert [each["level"] for each in json.loads(saved.out)[0]["factors"][0]["systems"][0]["levels"]] == [
        "none",
        "hyde",
    ]


def test_a_sweep_gives_a_stage_to_retrievers_that_search_by_text_alone(data_dir: Path, writer: FakeServer) -> None:
    flags = {"data": str(data_dir), "llm": "openai", "base_url": writer.url, "metrics": "rouge_l", "cache": False}
    axes: dict[str, list[Any]] = {
        "retrievers": ["bm25", "oracle"],
        "query": ["none", "multi", "rewrite"],
        "top_k": [1, 3],
    }
    settings = [f"llm.model={MODEL}", "query.n=2"]
    configs = read_sweep(None, axes, flags, settings)
    assert [(each.retriever.called(), each.query and each.query.called()) for each in configs[::2]] == [
        ("bm25", None),
        ("bm25", "multi"),
        ("bm25", "rewrite"),
        ("oracle", None),
    ]
    swept = sweep(configs)
    assert not swept.failures
    assert n_stage(writer) == 6  # once for both numbers of notes, without the response cache
    costs = [done.manifest.queries for done in swept.runs if done.manifest.queries]
    assert sorted(use.cached for use in costs) == [0, 0, 3, 3]


def test_retrieve_keeps_the_replies_beside_its_ranking(data_dir: Path, writer: FakeServer, cli: Cli) -> None:
    llm = ["query.llm=openai", f"query.llm.model={MODEL}", f"query.llm.base_url={writer.url}"]
    arguments = [
        "retrieve",
        "--data",
        data_dir,
        "--query",
        "multi",
        *(part for each in llm for part in ("--set", each)),
    ]
    first = cli(*arguments, "--out", "a.trec", "--json")
    assert json.loads(first.out)["queries"]["texts"] == 6
    assert len(Path("a.queries.jsonl").read_text().splitlines()) == 3
    assert cli(*arguments, "--out", "a.trec").code == 0
    assert len(writer.calls) == 3
    writer.fault = lambda n, body: "422"
    failed = cli(*arguments, "--set", "query.n=2", "--out", "a.trec")
    assert failed.code == 1
    assert "3 of 3 calls failed" in failed.err
    assert cli("retrieve", "--data", data_dir, "--query", "multi", "--out", "b.trec").code == 2


def test_a_file_of_settings_names_no_address_for_the_queries_unseen(
    data_dir: Path, writer: FakeServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A key would go with them: said for an address, refused under the name of a shipped preset."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    file = Path("run.yaml")
    file.write_text("query: {name: hyde, llm: {name: openai, model: m, base_url: 'https://llm.evil.example/v1'}}\n")
    resolve_run({}, file=file)
    assert "the key in OPENAI_API_KEY goes to https://llm.evil.example/v1" in caplog.text
    file.write_text("query: {name: hyde, llm: {name: gpt-4o-mini, base_url: 'https://llm.evil.example/v1'}}\n")
    with pytest.raises(UsageError, match=r"--set query\.llm\.base_url=https://llm\.evil\.example/v1"):
        resolve_run({}, file=file)
    named = resolve_run({}, ["query.llm.base_url=https://llm.evil.example/v1"], file)
    assert named.query_config is not None
    assert named.query_config.llm.base_url == "https://llm.evil.example/v1"
    file.write_text("llm: gpt-4o-mini\nquery: {name: hyde, llm: {base_url: 'https://llm.evil.example/v1'}}\n")
    with pytest.raises(UsageError, match=r"--set query\.llm\.base_url=https://llm\.evil\.example/v1"):
        resolve_run({"base_url": "https://mine.example/v1"}, file=file)  # the flag is not about the queries
    file.write_text("query: {name: hyde, llm: {name: 'os:path'}}\n")
    with pytest.raises(UsageError, match="must be a registered name"):
        resolve_run({}, file=file)
    file.write_text("query: {name: multi, n: 2, llm: {max_tokens: 40}}\nllm: {name: openai, model: m}\n")
    read = resolve_run({}, file=file)
    assert read.query_config is not None
    assert (read.query.n, read.query_config.llm.max_tokens, read.llm.max_tokens) == (2, 40, 1024)


@pytest.mark.parametrize("llm", ["3", "[1]", "{name: 3}", "{label: 3}"])
@pytest.mark.parametrize("override", ["query.llm.temperature=1", "query.llm=nobody"])
def test_an_llm_in_another_form_is_one_clear_line_also_if_a_flag_changes_it(llm: str, override: str) -> None:
    file = Path("run.yaml")
    file.write_text(f"query: {{name: hyde, llm: {llm}}}\n")
    with pytest.raises(UsageError, match=r"query\.llm: expected|llm 'nobody' does not exist"):
        resolve_run({}, [override], file)


def test_settings_of_a_second_stage_in_another_form_are_one_clear_line() -> None:
    file = Path("run.yaml")
    file.write_text("rerank: 'llm:openai'\nrerank_settings: 3\n")
    for override in ("rerank.llm.model=m", "rerank.window=3"):
        with pytest.raises(UsageError, match=r"rerank_settings(: expected|. is 3)"):
            resolve_run({}, [override], file)


def test_another_llm_that_is_gone_stops_the_runs_that_need_it_alone(
    data_dir: Path, writer: FakeServer, server: FakeServer
) -> None:
    writer.fault = lambda n, body: "401"
    other = ["query.llm=openai", f"query.llm.model={MODEL}", f"query.llm.base_url={writer.url}"]
    swept = sweep([config(data_dir, server, *other), config(data_dir, server, query="none")])
    [failure] = swept.failures
    assert "multi" in failure.run and "refused" in failure.reason
    assert [done.config["query"] for done in (each.manifest for each in swept.runs)] == [None]


def test_a_reranker_that_is_gone_is_noticed_before_queries_are_paid(data_dir: Path, writer: FakeServer) -> None:
    with pytest.raises(QilinError, match="no server answers"):
        ask(data_dir, writer, "rerank.llm.model=m", "rerank.llm.base_url=http://127.0.0.1:9/v1", rerank="llm:openai")
    with pytest.raises(QilinError, match="no server answers"):
        ask(data_dir, writer, "rerank.model=m", rerank="http://127.0.0.1:9/v1/rerank")
    assert not writer.calls


def test_the_price_of_a_preset_is_not_that_of_another_model() -> None:
    def price(*overrides: str) -> Any:
        made = resolve_run({"query": "hyde"}, ["query.llm=deepseek-flash", *overrides])
        assert made.query_config is not None
        assert query_price(made.spec().model_dump(mode="json")) == made.query_config.llm.price
        return made.query_config.llm.price

    assert price() is not None
    assert price("query.llm.temperature=1") == price()
    assert price("query.llm.model=other") is None
    assert price("query.llm.base_url=http://127.0.0.1:9/v1") is None
    assert price("query.llm.model=other", f"query.llm.price={PRICE}").completion_per_mtok == 2
