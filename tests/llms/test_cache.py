from __future__ import annotations

import logging
import sqlite3
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.cache import cache_dir
from qilin_rag.core.types import Completion, RenderedPrompt, Usage
from qilin_rag.llms.cache import ResponseCache, request_key
from qilin_rag.llms.openai_compatible import OpenAICompatible
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.run import run
from tests.conftest import Cli
from tests.fake_server import MODEL, FakeServer

ANSWER = Completion(
    text="答", raw="<think>想</think>答", model="m", finish_reason="stop", usage=Usage(prompt_tokens=3), latency_s=2
)
PROMPT = RenderedPrompt([{"role": "user", "content": "问"}], "问", [], 0)
PLAIN = OpenAICompatible(model="m")


def key_of(llm: OpenAICompatible, prompt: RenderedPrompt = PROMPT) -> str:
    return request_key(llm.request(prompt))


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"base_url": "http://127.0.0.1:8001/v1"},
        {"temperature": 0.1},
        {"top_p": 0.9},
        {"max_tokens": 1023},
        {"presence_penalty": 0.1},
        {"frequency_penalty": 0.1},
        {"seed": 1},
        {"seed": None},
        {"temperature": None},
        {"max_tokens_field": "max_completion_tokens"},
        {"extra_body": {"top_k": 1}},
    ],
)
def test_one_field_changed_is_another_request(change: dict[str, Any]) -> None:
    assert key_of(PLAIN) == key_of(OpenAICompatible(model="m"))
    assert key_of(OpenAICompatible(**{"model": "m", **change})) != key_of(PLAIN)


def test_every_sampling_field_is_in_the_key() -> None:
    """A field that is added to the client later must be in `request`, or be one that changes no answer."""
    others = OpenAICompatible.operational - {"base_url"} | {"context_length", "image_tokens", "max_tokens_field"}
    fields = set(OpenAICompatible.model_fields) - others
    marked = OpenAICompatible(model="m", thinking_markers=[("<cot>", "</cot>")])
    assert fields <= marked.request(PROMPT).keys()


def test_other_messages_are_another_request() -> None:
    other = RenderedPrompt([{"role": "system", "content": "你"}, *PROMPT.messages], "问", [], 0)
    assert key_of(PLAIN, other) != key_of(PLAIN)


def test_what_the_server_says_of_its_model_is_in_the_key(server: FakeServer) -> None:
    llm = OpenAICompatible(model=MODEL, base_url=server.url)
    unasked = key_of(llm)
    llm.check()
    assert key_of(llm) != unasked or not llm.request(PROMPT)["served"]
    found = key_of(llm)
    server.details = {"root": "/models/another"}
    llm.check()
    assert key_of(llm) not in (unasked, found)


def test_what_is_kept_is_found_again_by_another_object(tmp_path: Path) -> None:
    cache = ResponseCache(tmp_path / "deep" / "responses.sqlite")
    assert cache.get("k") is None
    cache.put("k", ANSWER)
    cache.put("k", ANSWER.model_copy(update={"text": "新"}))
    cache.close()
    assert ResponseCache(tmp_path / "deep" / "responses.sqlite").get("k") == ANSWER.model_copy(update={"text": "新"})
    assert ResponseCache(tmp_path / "deep" / "responses.sqlite", ask_again=True).get("k") is None


def fill(path: Path, worker: int) -> int:
    cache = ResponseCache(path)
    for i in range(100):
        cache.put(f"{worker}-{i}", ANSWER)
        cache.put("shared", ANSWER)
    return sum(cache.get(f"{worker}-{i}") == ANSWER for i in range(100))


def test_several_processes_may_write(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    with ProcessPoolExecutor(4) as pool:
        assert list(pool.map(fill, [path] * 4, range(4))) == [100] * 4
    assert sqlite3.connect(path).execute("SELECT count(*) FROM responses").fetchone() == (401,)


def opens(path: Path) -> bool:
    cache = ResponseCache(path)
    cache.put("k", ANSWER)
    kept = cache.get("k") == ANSWER
    cache.close()
    return kept


def test_several_processes_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    with ProcessPoolExecutor(8) as pool:
        for i in range(60):
            assert all(pool.map(opens, [tmp_path / f"{i}.sqlite"] * 8))


@pytest.mark.parametrize("damage", ["no database at all" * 100, None])
def test_a_broken_file_is_said_once_and_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str | None
) -> None:
    path = tmp_path / "responses.sqlite"
    path.write_text(damage) if damage else path.mkdir()
    cache = ResponseCache(path)
    with caplog.at_level(logging.WARNING, "qilin_rag"):
        assert cache.get("k") is None
        cache.put("k", ANSWER)
        assert cache.get("k") is None
    assert caplog.text.count("responses.sqlite") == 1


def ask(data: Path, server: FakeServer, runs: str, *overrides: str, **flags: Any) -> Run:
    given = {"data": str(data), "llm": "openai", "base_url": server.url, "runs_dir": Path(runs), **flags}
    return run(resolve_run(given, [f"llm.model={MODEL}", *overrides]))


def test_the_same_request_of_another_run_is_not_sent_again(data_dir: Path, server: FakeServer) -> None:
    first = ask(data_dir, server, "a")
    again = ask(data_dir, server, "b")
    assert len(server.calls) == 3
    assert (first.summary.cached, again.summary.cached) == (0, 3)
    assert again.summary.usage.prompt_tokens is None  # nothing was spent
    assert first.summary.metrics == again.summary.metrics
    ours, theirs = (
        [sample.model_copy(update={"cached": False, "latency_s": 0}) for sample in done.directory.read_samples()[1]]
        for done in (first, again)
    )
    assert sorted(ours, key=lambda s: s.question_id) == sorted(theirs, key=lambda s: s.question_id)


def test_ways_past_the_cache(data_dir: Path, server: FakeServer) -> None:
    ask(data_dir, server, "a")
    assert ask(data_dir, server, "b", cache=False).summary.cached == 0
    assert ask(data_dir, server, "c", fresh=True).summary.cached == 0
    assert len(server.calls) == 9
    ask(data_dir, server, "d", "llm.temperature=0.5")
    assert len(server.calls) == 12


def test_what_failed_or_was_filtered_is_asked_again(data_dir: Path, server: FakeServer) -> None:
    server.fault = lambda n, body: "400"
    assert ask(data_dir, server, "a").summary.counts["failed"] == 3
    server.fault = lambda n, body: None
    assert ask(data_dir, server, "b").summary.cached == 0
    assert not list(cache_dir().glob("*.tmp"))


def test_hits_are_shown(data_dir: Path, server: FakeServer, cli: Cli) -> None:
    flags = ("run", "--data", data_dir, "--llm", "openai", "--set", f"llm.model={MODEL}", "--base-url", server.url)
    assert "cache" not in cli(*flags).out
    assert "3 questions: 3 ok (3 from the cache of answers)" in cli(*flags, "--runs-dir", "b").out
    assert "cache" not in cli(*flags, "--runs-dir", "c", "--no-cache").out
