"""What `run --dry-run` says is what the run then does, and saying it costs nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import RunConfig, resolve_run
from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import Completion, RenderedPrompt
from qilin_rag.llms import LLM
from qilin_rag.pipeline.dry_run import plan
from qilin_rag.pipeline.run import run
from tests.conftest import Cli, write_jsonl
from tests.fake_server import MODEL, FakeServer


class Boundless(LLM):
    """Nothing is known of the length of its answers."""

    async def generate(self, prompt: RenderedPrompt) -> Completion:
        return Completion(text="答", raw="答", model="m", finish_reason="stop")


PRICE = "llm.price={currency: USD, prompt_per_mtok: 10, completion_per_mtok: 20, as_of: 2026-11}"


def configured(data: object, server: FakeServer, *overrides: str, **flags: Any) -> RunConfig:
    given = {"data": str(data), "llm": "openai", "base_url": server.url, "metrics": "rouge_l", **flags}
    return resolve_run(given, [f"llm.model={MODEL}", *overrides])


def test_what_is_planned_is_what_is_done(data_dir: Path, server: FakeServer) -> None:
    config = configured(data_dir, server, PRICE, "llm.max_tokens=50", retriever="oracle")
    planned = plan(config)
    assert (server.calls, Path("runs").exists(), Path("cache/responses.sqlite").exists()) == ([], False, False)
    assert (planned.questions, planned.answered, planned.cached, planned.calls) == (3, 0, 0, 3)
    done = run(config)
    assert str(done.directory.path) == planned.run
    sent = [body["messages"] for body in server.calls]
    assert len(sent) == planned.calls
    assert all(call.messages in sent for call in planned.examples)
    lengths = [call.prompt_tokens for call in planned.examples]
    assert lengths == sorted(lengths, reverse=True)
    assert len({call.question_id for call in planned.examples}) == 3
    assert planned.prompt_tokens == sum(lengths)
    assert planned.prompt_tokens >= (done.summary.usage.prompt_tokens or 0) / 2
    assert planned.answer_tokens == 150
    assert planned.cost_from.amount == pytest.approx(planned.prompt_tokens * 10 / 1e6)
    assert planned.cost_to.amount == pytest.approx((planned.prompt_tokens * 10 + 150 * 20) / 1e6)


def test_what_is_answered_already_is_not_planned(data_dir: Path, server: FakeServer) -> None:
    server.fault = lambda n, body: "400" if n == 2 else None
    config = configured(data_dir, server, concurrency=1, cache=False)
    run(config)
    again = plan(config)
    assert (again.answered, again.calls, len(again.examples)) == (2, 1, 1)
    server.fault = lambda n, body: None
    run(config)
    nothing = plan(configured(data_dir, server, PRICE, cache=False))
    assert (nothing.answered, nothing.calls, nothing.examples, nothing.cost_to.amount) == (3, 0, [], 0)
    fresh = plan(configured(data_dir, server, cache=False, fresh=True))
    assert (fresh.answered, fresh.calls) == (0, 3)
    before = sorted(Path("runs").rglob("*"))
    assert plan(configured(data_dir, server, prompt="concise", cache=False)).calls == 3
    assert sorted(Path("runs").rglob("*")) == before


def test_where_nothing_is_left_an_answer_without_bounds_costs_nothing(data_dir: Path) -> None:
    config = resolve_run({"data": str(data_dir), "llm": "tests.pipeline.test_plan:Boundless"})
    assert plan(config).cost_to.unknown == "no price is known; --set llm.price= gives one"
    run(config)
    nothing = plan(config)
    assert (nothing.calls, nothing.answer_tokens, nothing.cost_to.amount) == (0, 0, 0)


def test_cached_answers_cost_no_call(data_dir: Path, server: FakeServer) -> None:
    run(configured(data_dir, server, limit=2))
    elsewhere = plan(configured(data_dir, server, runs_dir="b"))
    assert (elsewhere.cached, elsewhere.calls, elsewhere.cache_unknown) == (2, 1, None)
    done = run(configured(data_dir, server, runs_dir="b"))
    assert (done.summary.cached, len(server.calls)) == (2, 3)
    for flags in ({"cache": False}, {"fresh": True}):
        assert plan(configured(data_dir, server, runs_dir="c", **flags)).calls == 3
    assert plan(configured(data_dir, server, "llm.temperature=1", runs_dir="c")).cached == 0


def test_without_its_server_it_is_not_known_what_is_cached(data_dir: Path) -> None:
    with FakeServer() as server:
        run(configured(data_dir, server))
    planned = plan(configured(data_dir, server, runs_dir="b"))
    assert (planned.cached, planned.calls) == (0, 3)
    assert "no server answers" in (planned.cache_unknown or "")


def test_neither_key_nor_server_are_needed(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan(resolve_run({"data": str(data_dir), "llm": "gpt-4o-mini"}))
    assert (planned.calls, planned.cache_unknown) == (3, None)
    assert planned.cost_to.currency == "USD"
    Path("cache").mkdir(exist_ok=True)
    Path("cache/responses.sqlite").touch()
    planned = plan(resolve_run({"data": str(data_dir), "llm": "gpt-4o-mini"}))
    assert planned.calls == 3
    assert "set the environment variable OPENAI_API_KEY" in (planned.cache_unknown or "")
    monkeypatch.setenv("QILIN_RAG_VLLM_PYTHON", "/no/such/python")
    served = plan(resolve_run({"data": str(data_dir), "llm": "qwen2.5-72b", "serve": True}))
    assert (served.calls, served.cache_unknown, served.cost_to.amount) == (3, None, None)


def test_notes_that_do_not_fit_and_prompts_that_never_do(data_dir: Path, server: FakeServer) -> None:
    tight = plan(configured(data_dir, server, "llm.context_length=190", "llm.max_tokens=10", retriever="oracle"))
    assert (tight.left_out.too_long, tight.left_out.questions_without_notes, tight.calls) == (4, 3, 3)
    hopeless = plan(configured(data_dir, server, "llm.context_length=20", "llm.max_tokens=10"))
    assert (hopeless.too_long, hopeless.calls, hopeless.examples) == (3, 0, [])


@pytest.mark.parametrize(
    ("overrides", "flags", "message"),
    [
        ([], {"prompt": "defualt"}, "prompt 'defualt' does not exist"),
        ([], {"metrics": "rouge"}, "metric 'rouge' does not exist"),
        ([], {"data": "nowhere"}, "data 'nowhere' does not exist"),
        (["llm.context_length=10"], {}, "leaves no room"),
        (["llm.price=3"], {}, "setting 'price' is 3"),
    ],
)
def test_what_would_stop_the_run_stops_the_plan(
    data_dir: Path, server: FakeServer, overrides: list[str], flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        plan(configured(flags.pop("data", data_dir), server, *overrides, **flags))


def test_a_note_that_is_missing_stops_the_plan(data_dir: Path, server: FakeServer) -> None:
    write_jsonl(data_dir / "notes.jsonl", [{"note_idx": 10, "title": "冷萃", "content": "冷藏"}])
    with pytest.raises(UsageError, match="notes that are not in the data"):
        plan(configured(data_dir, server, retriever="oracle"))
    skipped = plan(configured(data_dir, server, retriever="oracle", missing_notes="skip"))
    assert (skipped.left_out.not_in_data, skipped.left_out.questions_without_notes) == (3, 2)


def test_an_llm_whose_answers_nothing_bounds(data_dir: Path) -> None:
    Path("free.py").write_text(
        "from qilin_rag.llms import LLM\nclass Free(LLM):\n    async def generate(self, prompt): raise ValueError\n",
        encoding="utf-8",
    )
    planned = plan(resolve_run({"data": str(data_dir), "llm": "free:Free"}, [PRICE]))
    assert (planned.answer_tokens, planned.cost_to.amount, planned.calls) == (None, None, 3)
    assert planned.cost_from.amount is not None


def test_a_reader_without_an_llm_costs_nothing(data_dir: Path) -> None:
    planned = plan(resolve_run({"data": str(data_dir)}))
    assert (planned.calls, planned.prompt_tokens, planned.answer_tokens, planned.cost_to.amount) == (3, 0, 0, 0)


def test_from_the_command_line(data_dir: Path, cli: Cli, server: FakeServer) -> None:
    command = ["run", "--data", data_dir, "--llm", "openai", "--set", f"llm.model={MODEL}", "--base-url", server.url]
    shown = cli(*command, "--set", PRICE, "--dry-run")
    assert shown.code == 0, shown.err
    assert "3 calls for 3 questions" in shown.out
    assert "USD (prices of 2026-11, without discounts)" in shown.out
    assert "the longest: question 1, about" in shown.out
    assert shown.out.count("\n问题：") == 3
    unpriced = cli(*command, "--dry-run", "--json")
    assert (unpriced.code, unpriced.err) == (0, "")
    planned = json.loads(unpriced.out)
    assert (planned["calls"], planned["cost_to"]["amount"]) == (3, None)
    assert planned["cost_to"]["unknown"].startswith("no price is known")
    assert "cost: unknown (no price is known" in cli(*command, "--dry-run").out
    assert server.calls == []
    assert not Path("runs").exists()
    cli(*command)
    again = cli(*command, "--dry-run").out
    assert "0 calls for 3 questions\n3 have an answer in runs/small-bm25-fake-model-default-" in again
    assert "cost: none" in again


def test_repeats_are_planned_as_they_are_made(data_dir: Path, server: FakeServer) -> None:
    def planned(repeat: int) -> int:
        config = resolve_run(
            {"data": str(data_dir), "llm": "openai", "base_url": server.url, "repeat": repeat}, [f"llm.model={MODEL}"]
        )
        calls, before = plan(config).calls, len(server.calls)
        run(config)
        assert len(server.calls) - before == calls
        return calls

    assert [planned(1), planned(3), planned(3), planned(4)] == [3, 6, 0, 3]
