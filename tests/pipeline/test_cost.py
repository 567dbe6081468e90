"""Seconds, tokens and cost of a run: what is known is said, what is not is `unknown`, and never 0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import QilinError
from qilin_rag.core.types import Cost, Exchange, Price, Summary, Usage
from qilin_rag.core.units import format_amount, format_seconds
from qilin_rag.llms import retry
from qilin_rag.llms.openai_compatible import OpenAICompatible
from qilin_rag.pipeline.cost import Tally, cost_of, describe, format_cost
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.forecast import priced
from qilin_rag.pipeline.run import run
from qilin_rag.reports.formats import as_rows
from qilin_rag.reports.leaderboard import leaderboard
from qilin_rag.reports.side_tables import spending_rows
from tests.conftest import Cli, launch, wait_until
from tests.fake_server import MODEL, FakeServer

PRICE = Price(currency="USD", prompt_per_mtok=10, completion_per_mtok=20, as_of="2026-11")
PRICED = "llm.price={currency: USD, prompt_per_mtok: 10, completion_per_mtok: 20, as_of: 2026-11}"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BASE_S", 0.001)
    monkeypatch.setattr(retry, "LONGEST_S", 0.01)


def ask(data: object, server: FakeServer, *overrides: str, **flags: Any) -> Run:
    given = {"data": str(data), "llm": "openai", "base_url": server.url, "metrics": "rouge_l", **flags}
    return run(resolve_run(given, [f"llm.model={MODEL}", *overrides]))


def summary(
    prompt: int | None, completion: int | None, in_cache: int | None = None, put_there: int | None = None, **others: Any
) -> Summary:
    usage = Usage(
        prompt_tokens=prompt, completion_tokens=completion, cached_tokens=in_cache, cache_write_tokens=put_there
    )
    return Summary(metrics={}, counts={}, usage=usage, **others)


@pytest.mark.parametrize(
    ("took", "price", "cost"),
    [
        (summary(1000, 100), PRICE, Cost(amount=0.012, currency="USD", as_of="2026-11")),
        (summary(1000, 100), None, Cost(unknown="no price is known; --set llm.price= gives one")),
        (summary(1000, 100, uncounted=1), PRICE, Cost(unknown="1 answer without a count of tokens")),
        (summary(None, None, uncounted=1200), PRICE, Cost(unknown="1,200 answers without a count of tokens")),
        (summary(None, None), PRICE, Cost(unknown="nothing was answered")),
        (summary(None, None, cached=3), None, Cost(amount=0)),
        (summary(0, 0), None, Cost(amount=0)),
        (summary(1000, 100, cached=500), PRICE, Cost(amount=0.012, currency="USD", as_of="2026-11")),
    ],
)
def test_what_is_not_known_is_unknown(took: Summary, price: Price | None, cost: Cost) -> None:
    assert cost_of(took, price) == cost


def test_tokens_in_the_providers_cache_make_an_amount_the_most_or_are_priced_apart() -> None:
    took = summary(1000, 100, in_cache=600)
    most = cost_of(took, PRICE)
    assert (most.amount, most.at_most) == (0.012, True)
    assert format_cost(most) == "at most 0.0120 USD (prices of 2026-11)"
    exact = cost_of(took, PRICE.model_copy(update={"cached_per_mtok": 1.0}))
    assert exact.amount == pytest.approx((400 * 10 + 600 * 1 + 100 * 20) / 1e6)
    assert not exact.at_most
    assert not cost_of(summary(1000, 100, in_cache=0), PRICE).at_most
    written = cost_of(summary(1000, 100, put_there=300), PRICE)  # dearer than others, at some providers
    assert written.amount is None and "300 tokens put into the provider's cache" in (written.unknown or "")
    known = cost_of(
        took_and_put := summary(1000, 100, 600, 300), PRICE.model_copy(update={"cache_write_per_mtok": 12.5})
    )
    assert known.amount == pytest.approx((700 * 10 + 300 * 12.5 + 100 * 20) / 1e6) and known.at_most
    both = PRICE.model_copy(update={"cache_write_per_mtok": 12.5, "cached_per_mtok": 1.0})
    assert cost_of(took_and_put, both).amount == pytest.approx((100 * 10 + 600 * 1 + 300 * 12.5 + 100 * 20) / 1e6)


BATCHED = PRICE.model_copy(update={"batch_factor": 0.5})


@pytest.mark.parametrize(
    ("lines", "price", "amount", "at_most"),
    [
        (["batch"], BATCHED, (1000 * 5 + 10 * 10) / 1e6, False),
        (["batch", "one"], BATCHED, (1000 * 5 + 10 * 10 + 1000 * 10 + 10 * 20) / 1e6, False),
        (["one", "one"], PRICE, 2 * (1000 * 10 + 10 * 20) / 1e6, False),
        # tokens in the provider's cache: by batch at the price of others, unless they have one of their own there
        (["batch cached"], BATCHED, (1000 * 5 + 10 * 10) / 1e6, True),
        (["batch cached"], BATCHED.model_copy(update={"cached_per_mtok": 1.0}), (1000 * 5 + 10 * 10) / 1e6, True),
        (
            ["batch cached", "one cached"],
            BATCHED.model_copy(update={"cached_per_mtok": 1.0, "batch_cached_per_mtok": 0.5}),
            (400 * 5 + 600 * 0.5 + 10 * 10 + 400 * 10 + 600 * 1 + 10 * 20) / 1e6,
            False,
        ),
        (["batch"], BATCHED.model_copy(update={"batch_factor": 0.0}), 0.0, False),
    ],
)
def test_answers_by_batch_and_one_by_one_have_prices_of_their_own(
    lines: list[str], price: Price, amount: float, at_most: bool
) -> None:
    asked = [line(1000, in_cache=600 if "cached" in kind else None, batch="batch" in kind) for kind in lines]
    for order in (asked, asked[::-1]):
        spent = Tally(order).spent
        cost = cost_of(Summary.model_validate_json(spent.model_dump_json()), price)
        assert cost.amount == pytest.approx(amount)
        assert cost.at_most is at_most


def test_a_batch_without_a_price_has_an_unknown_cost() -> None:
    spent = Tally([line(1000), line(1000, batch=True)]).spent
    assert cost_of(spent, PRICE) == Cost(unknown="the price by batch is not known; llm.price takes batch_factor")
    assert "batch_usage" not in Tally([line(1000)]).spent.model_dump(mode="json")
    assert cost_of(Tally([line(1000, batch=True, cached=True)]).spent, PRICE) == Cost(amount=0.0)  # from our own cache


def test_a_plan_prices_calls_by_batch() -> None:
    llm = OpenAICompatible(model="m", max_tokens=100, price=BATCHED)
    one_by_one, by_batch = priced(llm, 10, 5000), priced(llm, 10, 5000, by_batch=True)
    assert one_by_one["cost_to"].amount == pytest.approx((5000 * 10 + 1000 * 20) / 1e6)
    assert by_batch["cost_to"].amount == pytest.approx(one_by_one["cost_to"].amount / 2)
    unknown = priced(llm.model_copy(update={"price": PRICE}), 10, 5000, by_batch=True)
    assert unknown["cost_to"].amount is None


def line(prompt: int | None, short: bool = False, in_cache: int | None = None, **more: Any) -> Exchange:
    usage = Usage(prompt_tokens=prompt, completion_tokens=10, cached_tokens=in_cache)
    reply: dict[str, Any] = {"status": "ok", "answer": "答", "raw": "答", "finish_reason": "stop", "latency_s": 1.0}
    return Exchange(**{**reply, "usage": usage, "short_count": short, **more})


@pytest.mark.parametrize(
    ("lines", "prompt_tokens", "uncounted", "n_cut"),
    [
        ([line(900), line(800)], 1700, 0, 0),
        ([line(900), line(28, True), line(28, True)], 900, 2, 0),  # the rest was in the server's cache
        ([line(900), *(line(n, True) for n in (28, 300, 5))], 900, 3, 0),
        ([line(n, True) for n in (40, 7, 90, 15)], None, 4, 0),  # and so was the first one
        ([line(1, True), line(1, True)], None, 2, 0),
        ([line(30, True), line(900)], 900, 1, 0),  # another server behind the address, or a cache: who knows
        ([line(512, True)], None, 1, 0),
        ([line(512, True), line(512, True)], 1024, 0, 2),  # a limit
        ([line(300), line(512, True), line(511, True), line(512)], 1835, 0, 2),
        ([line(512, True), line(512, True), line(30, True)], None, 3, 0),
        ([line(512, True), line(512, True), line(513 + 512)], 1025, 2, 0),
        ([line(28, True, 0), line(900, False, 872)], 928, 0, 1),  # a server that says what was in its cache
        ([line(None), line(900)], 900, 1, 0),
        ([line(900, cached=True), line(28, True, cached=True)], None, 0, 0),
        ([line(None, status="filtered", answer="", raw="", latency_s=0.0, usage=Usage())], None, 0, 0),
        ([line(None, status="filtered", answer="", raw="不行", finish_reason="refusal", usage=Usage())], None, 1, 0),
        ([line(None, status="failed", finish_reason=None, usage=Usage())], None, 0, 0),
    ],
)
def test_what_is_made_of_prompts_that_were_counted_short(
    lines: list[Exchange], prompt_tokens: int | None, uncounted: int, n_cut: int
) -> None:
    taken = Tally(lines)
    assert (taken.usage.prompt_tokens, taken.uncounted, sum(map(taken.is_cut, lines))) == (
        prompt_tokens,
        uncounted,
        n_cut,
    )
    assert Tally(reversed(lines)).usage == taken.usage


def test_what_a_server_left_out_of_its_count_is_no_cut_and_has_no_price(data_dir: Path, server: FakeServer) -> None:
    server.fault = lambda n, body: "usage 30" if n > 1 else None
    done = ask(data_dir, server, PRICED, concurrency=1)
    assert done.summary.left_out.cut_by_server == 0
    assert (done.summary.uncounted, done.manifest.cost) == (2, Cost(unknown="2 answers without a count of tokens"))
    server.fault = lambda n, body: "usage 30"
    cut = ask(data_dir, server, PRICED, concurrency=1, fresh=True)
    assert (cut.summary.left_out.cut_by_server, cut.summary.uncounted) == (3, 0)
    assert cut.manifest.cost == Cost(amount=(90 * 10 + 30 * 20) / 1e6, currency="USD", as_of="2026-11")


def test_a_run_records_what_it_took(data_dir: Path, server: FakeServer, cli: Cli) -> None:
    done = ask(data_dir, server, PRICED)
    usage = done.summary.usage
    assert usage.prompt_tokens is not None
    assert done.manifest.cost == Cost(
        amount=(usage.prompt_tokens * 10 + 30 * 20) / 1e6, currency="USD", as_of="2026-11"
    )
    times = done.manifest.times
    assert times is not None and done.manifest.generation_s is not None
    assert (times.sessions, times.untimed, times.cut_off) == (1, 0, 0)
    assert times.generation_s > 0
    assert times.scoring_s > 0
    assert done.directory.read_manifest() == done.manifest
    again = ask(data_dir, server, PRICED)
    assert (again.manifest.times, again.manifest.cost) == (times, done.manifest.cost)
    shown = json.loads(cli("show", done.directory.path, "--json").out)
    assert shown["manifest"]["cost"] == done.manifest.cost.model_dump()
    assert shown["answers"]["usage"] == usage.model_dump()
    assert f"{usage.prompt_tokens} prompt + 30 completion tokens, cost" in cli("show", done.directory.path).out


def test_a_price_given_later_counts_for_the_whole_run(data_dir: Path, server: FakeServer) -> None:
    first = ask(data_dir, server)
    assert first.manifest.cost is not None
    assert first.manifest.cost.amount is None
    priced = ask(data_dir, server, PRICED)
    assert priced.directory.path == first.directory.path
    assert len(server.calls) == 3
    assert priced.manifest.cost == cost_of(first.summary, PRICE)


def test_an_answer_without_a_count_makes_the_cost_unknown(data_dir: Path, server: FakeServer, cli: Cli) -> None:
    faults = {1: "no usage", 2: "filtered 400", 3: "400"}
    server.fault = lambda n, body: faults.get(n)
    done = ask(data_dir, server, PRICED, concurrency=1)
    assert done.summary.uncounted == 1  # what was refused unread, and what failed, is no answer
    assert done.manifest.cost == Cost(unknown="1 answer without a count of tokens")
    assert "tokens unknown, cost unknown (1 answer without a count of tokens)" in describe(*done[1:])[1]
    healed = ask(data_dir, server, PRICED)  # asks the failed one again
    assert healed.summary.usage.completion_tokens == 10
    assert healed.manifest.cost == done.manifest.cost
    assert "1 answer without a count of tokens" in cli("show", done.directory.path).out


def test_cached_answers_cost_nothing_and_are_said(data_dir: Path, server: FakeServer) -> None:
    ask(data_dir, server, PRICED, limit=2)
    mixed = ask(data_dir, server, PRICED, runs_dir="b")
    assert mixed.summary.usage.completion_tokens == 10
    assert describe(*mixed[1:])[-1].endswith("USD (prices of 2026-11); 2 answers from the cache, at no cost")
    free = ask(data_dir, server, runs_dir="c")
    assert describe(*free[1:])[-1] == "no tokens, no cost; 3 answers from the cache, at no cost"


def test_a_reader_without_an_llm_takes_no_tokens(data_dir: Path) -> None:
    done = run(resolve_run({"data": str(data_dir)}))
    assert describe(*done[1:])[-1] == "no tokens, no cost"


def test_sessions_add_up_and_say_what_is_missing(data_dir: Path, server: FakeServer) -> None:
    server.latency_s = 0.05
    server.fault = lambda n, body: "401" if n == 3 else None
    with pytest.raises(QilinError, match="refused the key"):
        ask(data_dir, server, PRICED, concurrency=1)
    [path] = Path("runs").glob("*/manifest.json")
    stopped = json.loads(path.read_text())
    assert (stopped["state"], stopped["cost"]) == ("incomplete", None)
    assert stopped["times"]["generation_s"] >= 0.1
    server.fault = lambda n, body: None
    done = ask(data_dir, server, PRICED)
    times = done.manifest.times
    assert times is not None and done.manifest.generation_s is not None
    assert (times.sessions, times.untimed, times.cut_off) == (2, 0, 1)
    assert times.generation_s > stopped["times"]["generation_s"]
    assert done.manifest.generation_s >= 0.15  # all three calls
    said = describe(*done[1:])
    assert " in 2 sessions: retrieval " in said[0]
    assert said[2] == "1 session cut off: the calls under way then are not in these tokens"
    fresh = ask(data_dir, server, fresh=True).manifest.times
    assert fresh is not None
    assert (fresh.sessions, fresh.cut_off) == (1, 0)


def test_a_killed_session_is_counted_but_not_timed(data_dir: Path, server: FakeServer, cli: Cli) -> None:
    server.fault = lambda n, body: "hang" if n == 3 else None
    command = ["run", "--data", data_dir, "--llm", "openai", "--base-url", server.url, "--concurrency", "1", "--json"]
    command += ["--set", f"llm.model={MODEL}", "--set", PRICED]
    process = launch(*command)
    wait_until(lambda: len(server.calls) >= 3, process)
    process.kill()
    process.communicate()
    [path] = Path("runs").iterdir()
    halfway = cli("show", path)
    assert "state      incomplete" in halfway.out
    assert " + 20 completion tokens, cost " in halfway.out
    assert "1 session killed: not in these seconds" in halfway.out
    assert "retrieval 0" not in halfway.out  # no seconds are known
    server.fault = lambda n, body: None
    done = json.loads(cli(*command).out)
    assert (done["times"]["sessions"], done["times"]["untimed"], done["times"]["cut_off"]) == (2, 1, 1)
    assert done["usage"]["completion_tokens"] == 30
    assert done["cost"]["currency"] == "USD"
    shown = cli("show", path).out
    assert " in 2 sessions: " in shown
    assert "1 session killed: not in these seconds" in shown
    assert "1 session cut off: the calls under way then are not in these tokens" in shown


def test_the_leaderboard_lists_tokens_and_cost(data_dir: Path, server: FakeServer, cli: Cli) -> None:
    run(resolve_run({"data": str(data_dir)}))
    [table] = leaderboard(Path("runs"))
    assert spending_rows(table) == []
    ask(data_dir, server, PRICED)
    ask(data_dir, server, retriever="none")
    server.fault = lambda n, body: "no usage"
    ask(data_dir, server, PRICED, retriever="oracle", cache=False)
    [table] = leaderboard(Path("runs"))
    costs = {row[1]: row[3:] for row in spending_rows(table)[1:]}
    assert costs["bm25"][0] == "30"
    assert costs["bm25"][1].endswith(" USD")
    assert costs["none"] == ["30", "unknown"]
    assert costs["oracle"] == ["unknown", "unknown"]
    assert {row["currency"] for row in as_rows([table]) if row["cost"]} == {"USD"}
    for output_format in ("table", "md"):
        shown = cli("leaderboard", "--format", output_format).out
        assert "tokens" in shown
        assert "extractive" in shown
        assert " USD" in shown


@pytest.mark.parametrize(
    ("amount", "shown"),
    [(0, "0.00"), (1234.5, "1,234.50"), (0.5, "0.500"), (0.012345, "0.0123"), (0.00000123, "0.00000123"), (1, "1.00")],
)
def test_amounts_are_seen(amount: float, shown: str) -> None:
    assert format_amount(amount) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 0 s"), (3599, "59 min 59 s"), (7384, "2 h 3 min")],
)
def test_seconds_are_read(seconds: float, shown: str) -> None:
    assert format_seconds(seconds) == shown


def test_only_an_answer_that_came_by_batch_says_so() -> None:
    assert "batch" not in line(900).model_dump(mode="json")
    assert json.loads(line(900, batch=True).model_dump_json())["batch"] is True
    assert Exchange.model_validate_json(line(900, batch=True).model_dump_json()).batch


def test_replies_that_were_counted_and_discarded_are_paid(data_dir: Path, server: FakeServer) -> None:
    def reply(n: int, body: dict[str, Any]) -> dict[str, Any] | None:
        is_lost = "多肉" in body["messages"][-1]["content"][-60:] or n == 1
        return server.completion("半", "insufficient_system_resource") if is_lost else None

    server.reply = reply
    finished = ask(data_dir, server, PRICED, "llm.max_tries=3", concurrency=1)
    lines = list(finished.directory.each_sample())
    lost = sum(line.discarded.prompt_tokens or 0 for line in lines)
    assert finished.summary.counts["failed"] == 1 and lost == 100 * (1 + 3)
    kept = sum(line.usage.prompt_tokens or 0 for line in lines)
    assert finished.summary.usage.prompt_tokens == kept + lost
    again = ask(data_dir, server, PRICED, "llm.max_tries=3", concurrency=1)  # the failed one: what it took stays
    assert again.summary.usage.prompt_tokens == kept + lost + 300
