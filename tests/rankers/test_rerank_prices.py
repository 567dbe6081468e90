"""What a reranker behind an address costs: by tokens or by searches, in a dry run and in the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import QilinError
from qilin_rag.core.types import Cost, RerankPrice, RerankUse, Usage
from qilin_rag.pipeline.cost import add_costs
from qilin_rag.pipeline.dry_run import plan
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.rankers.rerank_forms import Billed, read_billed
from tests.conftest import Cli
from tests.fake_server import MODEL, FakeServer
from tests.rankers.rerank_server import RerankServer

BY_TOKENS = "rerank.price={currency: USD, per_mtok: 50, as_of: 2026-11}"
BY_SEARCHES = "rerank.price={currency: USD, per_1k_searches: 2, as_of: 2026-11}"


@pytest.fixture
def server() -> Iterator[RerankServer]:
    with RerankServer() as server:
        yield server


def config(server: RerankServer, data: Path, *overrides: str, **flags: Any) -> Any:
    url = f"{server.root}/v1/rerank"
    flags = {"data": str(data), "metrics": "retrieval", "retriever": "random", "rerank": url, **flags}
    return resolve_run(flags, ["rerank.model=m", "rerank.batch_size=2", *overrides])


def cost(done: Run) -> Cost:
    assert done.manifest.rerank is not None
    assert done.manifest.cost == done.manifest.rerank.cost  # the extractive reader costs nothing
    return done.manifest.rerank.cost


def test_tokens_are_those_that_the_server_counts(server: RerankServer, data_dir: Path, cli: Cli) -> None:
    server.billed = lambda n: {"usage": {"total_tokens": 100 * n}}
    done = run(config(server, data_dir, BY_TOKENS))
    use = done.manifest.rerank
    assert use is not None and use.requests == len(server.calls) == 3 * 3 + 1  # and the texts that tell models apart
    n_tokens = 100 * (3 * 5 + 3)
    assert (use.usage.prompt_tokens, use.uncounted) == (n_tokens, 0)
    assert cost(done) == Cost(amount=n_tokens * 50 / 1e6, currency="USD", as_of="2026-11")
    shown = " ".join(cli("show", done.directory.path).out.split())
    assert "reranking: 10 requests; 1,800 tokens; cost 0.0900 USD" in shown and "altogether: cost 0.0900 USD" in shown
    again = run(config(server, data_dir, BY_TOKENS, prompt="strict"))
    assert len(server.calls) == 10 + 1  # the scores are kept; only the texts that tell models apart are scored again
    assert again.manifest.rerank is not None and again.manifest.rerank.requests == 1


@pytest.mark.parametrize(("units", "n_searches"), [(None, 10), (1, 10), (3, 30)])
def test_a_request_is_a_search_unless_the_server_says_more(
    server: RerankServer, data_dir: Path, units: int | None, n_searches: int
) -> None:
    server.billed = lambda n: {"meta": {"billed_units": {"search_units": units}}} if units else {}
    done = run(config(server, data_dir, BY_SEARCHES))
    assert cost(done).amount == pytest.approx(n_searches * 2 / 1000)


def test_what_is_not_counted_has_no_price(server: RerankServer, data_dir: Path) -> None:
    done = run(config(server, data_dir, BY_TOKENS))
    assert cost(done) == Cost(unknown="10 requests without a count of tokens")
    free = run(config(server, data_dir, "rerank.extra_body={x: 1}"))  # a server on this machine, without a price
    assert cost(free) == Cost(amount=0.0)


def test_a_price_changes_no_identity(server: RerankServer, data_dir: Path) -> None:
    plain, priced = (config(server, data_dir, *more).rerank.identity() for more in ((), (BY_TOKENS,)))
    assert plain == priced


def test_a_dry_run_names_the_most_that_it_costs(server: RerankServer, data_dir: Path) -> None:
    [step] = plan(config(server, data_dir, BY_SEARCHES)).steps
    assert step.endswith("again by m (at most 9 searches, cost 0.0180 USD (prices of 2026-11))")
    [step] = plan(config(server, data_dir, BY_TOKENS)).steps
    n_tokens = int(step.partition("about ")[2].partition(" ")[0].replace(",", ""))
    n_chars = (
        3 * sum(len(text) for text in ("冷萃咖啡粗研磨咖啡粉80克，冷水800毫升，冷藏12小时后过滤。#咖啡[话题]#",)) * 5
    )
    assert 0.3 * n_chars < n_tokens < 3 * n_chars
    assert not server.calls


def test_billed_units_are_read_and_nonsense_is_not() -> None:
    assert read_billed({"usage": {"total_tokens": 7}}) == Billed(7, None)
    assert read_billed({"usage": {"prompt_tokens": 7}, "meta": {"billed_units": {"search_units": 1}}}) == Billed(7, 1)
    nonsense: list[Any] = [
        [],
        b"x",
        None,
        {"usage": 3},
        {"usage": {"total_tokens": -1}},
        {"meta": {"billed_units": []}},
    ]
    for reply in nonsense:
        assert read_billed(reply) == Billed(None, None)


def test_a_price_is_one_of_both() -> None:
    for wrong in ({}, {"per_mtok": 1, "per_1k_searches": 1}, {"per_mtok": -1}):
        with pytest.raises(ValidationError):
            RerankPrice.model_validate({"currency": "USD", "as_of": "2026", **wrong})


def test_costs_and_uses_add_up() -> None:
    usd, more = (Cost(amount=n, currency="USD", as_of=day) for n, day in ((1.0, "2026-10"), (2.0, "2026-11")))
    assert add_costs(usd, more) == Cost(amount=3.0, currency="USD", as_of="2026-10, 2026-11")
    assert add_costs(Cost(amount=0.0), usd) == add_costs(usd, Cost(amount=0.0)) == usd
    assert add_costs(usd, Cost(unknown="why")).unknown == add_costs(Cost(unknown="why"), usd).unknown == "why"
    assert add_costs(usd, Cost(amount=1.0, currency="CNY")).unknown == "in two currencies, USD and CNY"
    one = RerankUse(requests=1, usage=Usage(prompt_tokens=5), kept={"a": 1}, windows=2)
    both = one.plus(RerankUse(requests=2, cached=1, kept={"b": 2, "a": 1}, usage=Usage(completion_tokens=3)))
    assert (both.requests, both.cached, both.kept, both.windows) == (3, 1, {"a": 2, "b": 2}, 2)
    assert both.usage == Usage(prompt_tokens=5, completion_tokens=3)
    assert both.again() == RerankUse(cached=4, kept={"a": 2, "b": 2}, windows=2)


@pytest.mark.parametrize("with_queries", [False, True])
def test_what_was_asked_before_an_error_is_paid_for_once(
    server: RerankServer, data_dir: Path, cli: Cli, with_queries: bool
) -> None:
    """The next session takes those scores from the cache, at no cost."""
    server.billed = lambda n: {"usage": {"total_tokens": 100}}
    server.fault = lambda n, rows: (400, {"error": "no credit left"}) if n >= 5 else None
    with FakeServer(answer=lambda body: "1. 咖啡") as writer:
        stage = ["query.llm=openai", f"query.llm.model={MODEL}", f"query.llm.base_url={writer.url}"]
        settings = ["rerank.concurrency=1", *(stage if with_queries else [])]
        flags = {"retriever": "bm25", "query": "multi"} if with_queries else {}
        asked = config(server, data_dir, BY_TOKENS, *settings, **flags)
        with pytest.raises(QilinError, match="no credit left"):
            run(asked)
        [folder] = Path("runs").iterdir()
        stopped = RunDirectory(folder).read_manifest()
        assert stopped.state == "incomplete" and stopped.rerank is not None
        assert stopped.rerank.requests == 4
        assert stopped.rerank.cost.amount == pytest.approx(400 * 50 / 1e6)
        assert "0 of 3 questions asked" in cli("show", folder).out
        server.fault = lambda n, rows: None
        n_before = len(server.calls)
        done = run(asked)
    assert done.path.name == folder.name
    assert done.manifest.rerank is not None
    assert done.manifest.rerank.requests == 4 + len(server.calls) - n_before
