"""Runs whose second stage is an LLM: figures, cost, resuming, sharing, and nothing that a stranger decides."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import UsageError
from qilin_rag.data import load_dataset
from qilin_rag.llms import retry
from qilin_rag.pipeline.cost import cost_of, price_of, total_cost
from qilin_rag.pipeline.dry_run import plan
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.reproduce import reproduce
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.sweep import sweep
from tests.conftest import Cli, launch, wait_until, write_jsonl
from tests.fake_server import MODEL
from tests.pipeline.test_queries import is_of_stage
from tests.rankers.listwise_server import PerfectComparer

KEY = "sk-0123456789abcdef"
PRICE = "{currency: USD, prompt_per_mtok: 1000, completion_per_mtok: 2000, as_of: 2026-11}"


def shortest(query: str, note: str) -> float:
    return -len(note)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[PerfectComparer]:
    monkeypatch.setattr(retry, "BASE_S", 0.01)
    with PerfectComparer(shortest) as server:
        yield server


def of_llm(server: PerfectComparer, *more: str) -> list[str]:
    return [f"rerank.llm.model={MODEL}", f"rerank.llm.base_url={server.url}", *more]


def flags_of(data: Path, **more: Any) -> dict[str, Any]:
    return {"data": str(data), "metrics": "retrieval", "retriever": "random", "rerank": "llm:openai", **more}


def ran(server: PerfectComparer, data: Path, *more: str, **flags: Any) -> Run:
    return run(resolve_run(flags_of(data, **flags), of_llm(server, *more)))


def test_a_run_has_the_llms_order_its_figures_and_its_cost(server: PerfectComparer, data_dir: Path, cli: Cli) -> None:
    done = ran(server, data_dir, f"rerank.llm.price={PRICE}", "rerank.window=3", "rerank.step=2", top_k=2)
    length = {note.note_idx: len(note.text) for note in load_dataset(str(data_dir)).notes}
    for sample in done.directory.read_samples()[0].values():
        assert [hit.note_idx for hit in sample.hits] == sorted(length, key=length.__getitem__)[:2]
        assert [hit.score for hit in sample.hits] == [5.0, 4.0]
    assert done.manifest.labels["retriever"] == f"random + llm:{MODEL} window=3 step=2"
    assert f"-random-llm-{MODEL}-" in done.directory.path.name
    use = done.manifest.rerank
    assert use is not None and (use.windows, use.requests, use.cached, use.kept) == (6, 6, 0, {})
    n_prompt = sum(max(100, sum(len(m["content"]) for m in body["messages"]) // 2) for body in server.calls)
    assert (use.usage.prompt_tokens, use.usage.completion_tokens) == (n_prompt, 60)
    assert use.cost.amount == pytest.approx((n_prompt * 1000 + 60 * 2000) / 1e6)
    assert done.manifest.cost == use.cost  # the extractive reader costs nothing
    shown = cli("show", done.directory.path).out
    assert "6 windows of notes; 6 requests" in " ".join(shown.split())
    again = ran(server, data_dir, f"rerank.llm.price={PRICE}", "rerank.window=3", "rerank.step=2", top_k=2)
    assert (len(server.calls), again.manifest.rerank) == (6, use)


def test_a_second_run_takes_every_reply_from_the_cache(server: PerfectComparer, data_dir: Path) -> None:
    first = ran(server, data_dir)
    n_calls = len(server.calls)
    second = ran(server, data_dir, prompt="concise", note="another")
    assert len(server.calls) == n_calls == 3
    use = second.manifest.rerank
    assert use is not None and (use.windows, use.requests, use.cached) == (3, 0, 3)
    assert use.cost.amount == 0
    assert first.manifest.identity["rerank"] == second.manifest.identity["rerank"]
    ran(server, data_dir, "rerank.window=4")
    assert len(server.calls) > n_calls
    n_calls = len(server.calls)
    ran(server, data_dir, prompt="strict", cache=False)
    assert len(server.calls) == n_calls + 3


def test_a_dry_run_names_windows_tokens_and_cost_and_asks_nothing(server: PerfectComparer, data_dir: Path) -> None:
    config = resolve_run(flags_of(data_dir), of_llm(server, f"rerank.llm.price={PRICE}", "rerank.llm.max_tokens=50"))
    [step] = plan(config).steps
    assert not server.calls
    assert "rank 60 hits again by llm:fake-model (at most 3 windows, about " in step
    n_tokens = int(step.partition("about ")[2].partition(" ")[0].replace(",", ""))
    least, most = n_tokens / 1000, n_tokens / 1000 + 3 * 50 * 2000 / 1e6
    assert f"cost {least:.2f} USD" in step and f"to {most:.2f} USD" in step
    run(config)
    sent = [sum(len(m["content"]) for m in body["messages"]) for body in server.calls]
    assert sum(sent) / 4 < n_tokens < 2 * sum(sent)
    [step] = plan(resolve_run(flags_of(data_dir, prompt="strict"), of_llm(server))).steps
    assert "cost unknown: --set rerank.llm.price= gives a price" in step


def test_a_killed_run_asks_only_for_the_rest(server: PerfectComparer, tmp_path: Path) -> None:
    data = tmp_path / "many"
    data.mkdir()
    write_jsonl(data / "notes.jsonl", [{"note_idx": i, "title": "", "content": "水" * (i + 1)} for i in range(9)])
    questions = [
        {"search_idx": i, "query": f"咖啡{i}", "answers": ["九十度"], "ref_note_idx_list": [i]} for i in range(8)
    ]
    write_jsonl(data / "dqa.jsonl", questions)
    settings = [*of_llm(server), "rerank.window=3", "rerank.step=2", "rerank.concurrency=2", "seed=0"]
    command = ("run", "--data", data, "--metrics", "retrieval", "--retriever", "random", "--rerank", "llm:openai")
    flags = [part for setting in settings for part in ("--set", setting)]
    server.latency_s = 0.1
    process = launch(*command, *flags)
    wait_until(lambda: len(server.calls) >= 9, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    server.latency_s = 0.0
    n_before = len(server.calls)
    whole = launch(*command, *flags)
    _, err = whole.communicate(timeout=120)
    assert whole.returncode == 0, err
    asked = [json.dumps(body["messages"]) for body in server.calls]
    assert len(set(asked)) == 8 * 4
    assert n_before + 1 <= len(asked) <= 8 * 4 + 2  # those in flight when it was killed are asked again
    [folder] = Path("runs").iterdir()
    config = resolve_run(flags_of(data, cache=False, runs_dir="clean"), settings)
    clean = run(config).directory
    assert clean.path.name == folder.name
    hits = [json.loads(line)["hits"] for line in (folder / "samples.jsonl").read_text().splitlines()]
    never_killed = [json.loads(line)["hits"] for line in (clean.path / "samples.jsonl").read_text().splitlines()]
    assert sorted(map(str, hits)) == sorted(map(str, never_killed))
    assert [ranking[0]["note_idx"] for ranking in hits] == [0] * 8


def test_a_sweep_asks_once_and_each_run_says_what_was_wrong(server: PerfectComparer, data_dir: Path, cli: Cli) -> None:
    server.spoil = lambda n, ranking: "不知道" if n <= 2 else ranking
    Path("grid.yaml").write_text(
        f"retrievers: [random]\ntop_k: [1, 2]\nmetrics: retrieval\nconcurrency: 1\n"
        f"rerank: {{name: 'llm:openai', concurrency: 1, llm: {{model: {MODEL}, base_url: '{server.url}'}}}}\n"
    )
    done = cli("sweep", "grid.yaml", "--data", data_dir, "-q")
    assert done.code == 0, done.err
    assert f"random + llm:{MODEL}" in done.out
    manifests = [json.loads((path / "manifest.json").read_text()) for path in Path("runs").glob("*-random-llm-*")]
    uses = sorted((each["rerank"] for each in manifests), key=lambda use: use["cached"])
    assert [(use["windows"], sum(use["kept"].values()), use["requests"], use["cached"]) for use in uses] == [
        (3, 1, 4, 0),
        (3, 1, 0, 4),
    ]
    assert len(server.calls) == 4


def test_each_run_of_a_sweep_pays_for_its_own_rankings(server: PerfectComparer, data_dir: Path) -> None:
    """Two LLMs write other queries, so that the same reranker orders other notes; top 1 shares those of top 3."""

    def answer(body: dict[str, Any]) -> str:
        text = body["messages"][-1]["content"]
        if "笔记[" in text:
            return PerfectComparer._answer(server, body)
        return f"1. 水温\n2. {body['model']} 咖啡" if is_of_stage(body) else "回答"

    server.answer, server.models = answer, ["a", "b", MODEL]

    def config(model: str, top_k: int) -> Any:
        flags = {"llm": "openai", "base_url": server.url, "query": "multi", "retriever": "bm25", "top_k": top_k}
        settings = (f"llm.model={model}", f"llm.price={PRICE}", f"rerank.llm.price={PRICE}")
        return resolve_run(flags_of(data_dir, cache=False, **flags), of_llm(server, *settings))

    swept = sweep([config(model, top_k) for model in "ab" for top_k in (3, 1)])
    assert not swept.failures and len(server.asked) == 6
    uses = [done.manifest.rerank for done in swept.runs]
    assert [use and (use.windows, use.requests, use.cached) for use in uses] == [(3, 3, 0), (3, 0, 3)] * 2
    for done in swept.runs:
        of_answers = cost_of(done.summary, price_of(done.manifest))
        assert done.manifest.cost == total_cost(of_answers, done.manifest.queries, done.manifest.rerank)
    paid = sum(done.manifest.cost.amount or 0 for done in swept.runs if done.manifest.cost)
    n_prompt = sum(max(100, sum(len(m["content"]) for m in body["messages"]) // 2) for body in server.calls)
    assert paid == pytest.approx((n_prompt * 1000 + len(server.calls) * 10 * 2000) / 1e6)


def test_a_dry_run_names_the_calls_of_a_query_stage_too(server: PerfectComparer, data_dir: Path, cli: Cli) -> None:
    stage = ("query.llm=openai", f"query.llm.model={MODEL}", f"query.llm.base_url={server.url}")
    flags = [part for setting in (*of_llm(server), *stage) for part in ("--set", setting)]
    foreseen = cli("run", "--data", data_dir, "--query", "multi", "--rerank", "llm:openai", *flags, "--dry-run")
    said = " ".join(foreseen.out.split())
    assert "first: rank 60 hits again by llm:fake-model" in said and f"query multi by {MODEL}: 3 calls" in said
    assert not server.calls


def test_replies_from_the_cache_alone_cost_nothing(server: PerfectComparer, data_dir: Path, cli: Cli) -> None:
    ran(server, data_dir, f"rerank.llm.price={PRICE}")
    second = ran(server, data_dir, f"rerank.llm.price={PRICE}", prompt="concise")
    shown = " ".join(cli("show", second.directory.path).out.split())
    assert "0 requests; 3 replies from the cache, at no cost; no cost" in shown


def test_it_works_on_the_command_line(server: PerfectComparer, data_dir: Path, cli: Cli) -> None:
    flags = [part for setting in of_llm(server) for part in ("--set", setting)]
    command = ("--data", data_dir, "--retriever", "random", "--rerank", "llm:openai", *flags)
    done = cli("retrieve", *command, "--out", "run.trec")
    assert done.code == 0 and "3 windows of notes; 3 requests" in " ".join(done.err.split())
    assert [line.split()[2] for line in Path("run.trec").read_text().splitlines()[:2]] == ["14", "13"]
    looked = cli("doctor", *command)
    assert f"llm:{MODEL} at {server.url} answers" in "".join(looked.out.split()).replace(
        f"llm:{MODEL}at{server.url}answers", f"llm:{MODEL} at {server.url} answers"
    )
    listed = cli("list", "rankers", "llm").out
    assert all(name in listed for name in ("window", "step", "note_chars", "language"))
    assert "llm" in cli("list", "rankers").out
    gone = cli("run", "--data", data_dir, "--rerank", "llm:openai", "--set", "rerank.llm.model=m", "-q")
    assert gone.code == 1 and "no server answers at http://127.0.0.1:8000/v1" in gone.err


def test_rank_takes_it_too(server: PerfectComparer, data_dir: Path) -> None:
    from qilin_rag.core.registry import RANKERS
    from qilin_rag.core.types import Hit
    from qilin_rag.data.catalogue import Catalogue
    from qilin_rag.data.requests import requests_of

    dataset = load_dataset(str(data_dir))
    ranker = RANKERS.create("llm:openai", {"llm_settings": {"model": MODEL, "base_url": server.url}})
    found = [Hit(note_idx=note.note_idx, score=-float(i), rank=i + 1) for i, note in enumerate(dataset.notes)]
    requests = requests_of(dataset.questions, [found] * len(dataset.questions))
    scores = ranker.score(requests, Catalogue(dataset.notes))
    shortest_first = sorted(dataset.notes.note_idxs.tolist(), key=lambda i: len(dataset.notes.get([i])[0].text))
    assert [[hit.note_idx for hit in hits] for hits in requests.rankings(scores)] == [shortest_first] * 3
    for _, shown in server.asked:  # the order in which it sees the notes says nothing
        assert shown != [note.text for note in dataset.notes]


def test_it_is_reproduced_and_a_strangers_run_sends_no_key_unasked(
    server: PerfectComparer, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = ran(server, data_dir)
    assert reproduce(done.directory.path).agrees
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(UsageError, match=rf"alone names rerank.llm.base_url {server.url}"):
        reproduce(done.directory.path, Path("again"))
    again = reproduce(done.directory.path, Path("again"), overrides=[f"rerank.llm.base_url={server.url}"])
    assert (again.agrees, again.hits_changed) == (True, 0)
    assert server.authorizations[-1] == f"Bearer {KEY}"
    kept = [path for path in Path.cwd().rglob("*") if path.is_file()]
    assert not [path for path in kept if KEY.encode() in path.read_bytes()]
    manifest = json.loads((done.directory.path / "manifest.json").read_text(encoding="utf-8"))
    monkeypatch.delenv("OPENAI_API_KEY")
    manifest["config"]["rerank_settings"]["llm_settings"]["base_url"] = "https://evil.example/v1"
    (done.directory.path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(UsageError, match=r"alone names rerank.llm.base_url https://evil.example/v1"):
        reproduce(done.directory.path)
    manifest["config"]["rerank"] = "llm:os:system"
    (done.directory.path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(UsageError, match=r"names code to run: os:system"):
        reproduce(done.directory.path)


def test_a_file_names_no_code_and_no_other_address_of_a_preset_unasked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Path("run.yaml").write_text("rerank: llm:os:system\n")
    with pytest.raises(UsageError, match="must be a registered name"):
        resolve_run({}, file=Path("run.yaml"))
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    Path("run.yaml").write_text("rerank: {name: 'llm:qwen-plus', llm: {base_url: 'https://evil.example/v1'}}\n")
    with pytest.raises(UsageError, match=r"a key would go there.*rerank.llm.base_url=https://evil.example/v1"):
        resolve_run({}, file=Path("run.yaml"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    Path("run.yaml").write_text("rerank: {name: 'llm:openai', llm: {model: m, base_url: 'https://own.example/v1'}}\n")
    resolve_run({}, file=Path("run.yaml"))
    assert "the key in OPENAI_API_KEY goes to https://own.example/v1" in caplog.text


def test_the_price_of_a_preset_is_not_that_of_another_model() -> None:
    def price(*overrides: str) -> Any:
        return resolve_run({"rerank": "llm:deepseek-flash"}, overrides).rerank.price

    assert price() is not None and price("rerank.llm.temperature=1") == price()
    assert price("rerank.llm.model=other") is None
    assert price("rerank.llm.model=other", f"rerank.llm.price={PRICE}").prompt_per_mtok == 1000
