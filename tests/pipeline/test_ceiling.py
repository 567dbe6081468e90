"""A ceiling of money or tokens holds for whole commands, over all their sessions, and says what is left."""

from __future__ import annotations

import contextlib
import json
import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import CeilingError, UsageError
from qilin_rag.core.types import Price, Usage
from qilin_rag.judging.config import resolve_judge
from qilin_rag.llms import retry
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import RunDirectory
from tests.conftest import Cli, launch, wait_until
from tests.fake_server import MODEL, FakeServer

PRICE = Price(currency="USD", prompt_per_mtok=10, completion_per_mtok=20, as_of="2026-11")
PRICED = "llm.price={currency: USD, prompt_per_mtok: 10, completion_per_mtok: 20, as_of: 2026-11}"
SHORT = "llm.max_tokens=100"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BASE_S", 0.001)
    monkeypatch.setattr(retry, "LONGEST_S", 0.01)


class Till:
    """Makes a server charge for each reply, and remembers what it charged."""

    def __init__(self, server: FakeServer, seed: int = 0, longest: int = 100) -> None:
        self.server, self.rng, self.longest = server, random.Random(seed), longest
        self.charges: list[float] = []
        self.text = "答"
        server.reply = self.reply

    def reply(self, n: int, body: dict[str, Any]) -> dict[str, Any] | None:
        n_chars = sum(len(message["content"]) for message in body["messages"])
        with self.server.lock:
            kind = self.rng.random()
            usage = {
                "prompt_tokens": int(n_chars * self.rng.uniform(0.6, 1.1)),
                "completion_tokens": self.rng.randint(1, self.longest),
            }
            if kind < 0.05:
                return None  # what `fault` says, free
            self.charges.append(PRICE.of(Usage(**usage)))
        ending = "insufficient_system_resource" if kind < 0.1 else "stop"
        answer = self.server.completion(self.text, ending)
        return answer | {"usage": None if 0.1 < kind < 0.15 else usage}

    @property
    def total(self) -> float:
        return sum(self.charges)


def answer_honestly(server: FakeServer) -> list[Usage]:
    """Make a server count a token a character; return what it counts."""
    used: list[Usage] = []

    def reply(n: int, body: dict[str, Any]) -> dict[str, Any]:
        n_chars = sum(len(message["content"]) for message in body["messages"])
        used.append(Usage(prompt_tokens=n_chars, completion_tokens=20))
        return server.completion("答") | {"usage": {"prompt_tokens": n_chars, "completion_tokens": 20}}

    server.reply = reply
    return used


def options(server: FakeServer, *settings: str, **flags: Any) -> tuple[dict[str, Any], list[str]]:
    given = {"llm": "openai", "base_url": server.url, "metrics": "rouge_l", "data": "sample", **flags}
    return given, [f"llm.model={MODEL}", PRICED, SHORT, *settings]


@pytest.mark.parametrize("seed", range(20))
def test_a_run_passes_its_ceiling_by_no_more_than_one_call(seed: int, server: FakeServer) -> None:
    rng = random.Random(seed)
    till = Till(server, seed, longest=250 if seed % 2 else 100)
    server.fault = lambda n, body: rng.choice(["500", "429 0", "filtered 400", "overflow"])
    dollars, concurrency = rng.uniform(0.005, 0.6), rng.randint(1, 24)
    flags, settings = options(server, "llm.max_tries=3", concurrency=concurrency, max_cost=dollars)
    with pytest.raises(CeilingError, match=r"stopped before max_cost \(--max-cost\)"):
        run(resolve_run(flags, settings))
    assert till.total <= dollars + max(till.charges, default=0.0)
    n_calls = len(server.calls)
    with pytest.raises(CeilingError):
        run(resolve_run(flags, settings))
    assert len(server.calls) <= n_calls + 3  # a shorter prompt may fit
    assert till.total <= dollars + max(till.charges, default=0.0)
    with contextlib.suppress(CeilingError):
        run(resolve_run({**flags, "max_cost": 1.3 * dollars}, settings))
    assert len(server.calls) > n_calls or dollars < 0.03
    assert till.total <= 1.3 * dollars + max(till.charges, default=0.0)


@pytest.mark.slow
def test_a_killed_run_counts_the_calls_that_were_under_way(server: FakeServer, tmp_path: Path) -> None:
    till = Till(server)
    server.latency_s = 0.05
    _, settings = options(server)
    command = ["run", "--llm", "openai", "--base-url", server.url, "--metrics", "rouge_l", "--concurrency", 8, "-q"]
    command += [part for setting in settings for part in ("--set", setting)]
    dollars = 0.4
    for n_killed in (6, 20):
        process = launch(*command, "--max-cost", f"{dollars}USD")
        wait_until(lambda n=n_killed: len(server.calls) >= n, process)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        process.communicate()
    [folder] = Path("runs").iterdir()
    assert any("has_ended" not in line for line in (folder / "reservations-samples.jsonl").read_text().splitlines())
    process = launch(*command, "--max-cost", f"{dollars}USD")
    assert "stopped before max_cost" in process.communicate(timeout=120)[1]
    assert process.returncode == 4
    n_on_disk = sum(1 for _ in RunDirectory(folder).each_sample())
    assert len(till.charges) > n_on_disk  # the server answered calls that nobody heard
    assert 0.5 * dollars < till.total <= dollars
    assert RunDirectory(folder).read_manifest().state == "incomplete"


def test_a_run_that_stopped_says_what_is_left_and_resumes_with_a_higher_ceiling(server: FakeServer, cli: Cli) -> None:
    answer_honestly(server)
    _, settings = options(server)
    command = ["run", "--llm", "openai", "--base-url", server.url, "--metrics", "rouge_l", "--limit", 20, "-q"]
    command += [part for setting in settings for part in ("--set", setting)]
    stopped = cli(*command, "--max-cost", "0.06usd")
    assert stopped.code == 4 and not stopped.out
    [line] = stopped.err.strip().splitlines()
    n_calls = len(server.calls)
    assert f"on {n_calls} of 20 questions, {20 - n_calls} are left for about" in line
    higher = re.search(r"the same command with (--max-cost) (\S+) resumes", line)
    assert higher is not None
    [folder] = Path("runs").iterdir()
    manifest = RunDirectory(folder).read_manifest()
    assert manifest.state == "incomplete" and manifest.times and not manifest.times.cut_off
    assert not list(folder.glob("reservations*"))
    assert "max_cost" not in json.dumps(manifest.config) and "max_tokens_total" not in json.dumps(manifest.config)
    assert cli("leaderboard").code != 0 or "0.06" not in cli("leaderboard").out
    assert cli(*command, *higher.groups()).code == 0
    assert len(server.calls) == 20
    [same] = Path("runs").iterdir()
    assert same == folder
    more = cli(*command, "--fresh", "--max-cost", higher[2])  # what was set aside was paid, too
    assert more.code == 4 and "the same command without --fresh with --max-cost" in more.err


def test_tokens_bound_a_run_without_a_price(server: FakeServer, cli: Cli) -> None:
    used = answer_honestly(server)
    command = ["run", "--llm", "openai", "--base-url", server.url, "--set", f"llm.model={MODEL}", "--set", SHORT, "-q"]
    stopped = cli(*command, "--metrics", "rouge_l", "--max-tokens-total", 9000, "--limit", 30)
    assert stopped.code == 4
    assert "stopped before max_tokens_total (--max-tokens-total) 9,000" in stopped.err
    assert 5000 < sum((each.prompt_tokens or 0) + (each.completion_tokens or 0) for each in used) <= 9000


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_cost": "5"}, "the price of llm is not known; give it with --set 'llm.price="),
        ({"max_cost": "5EUR", "price": True}, "is in EUR, but the price of llm is in USD"),
        ({"max_cost": "nan", "price": True}, "max_cost"),
        ({"max_cost": "-1", "price": True}, "max_cost"),
        ({"max_cost": 0, "price": True}, "max_cost"),
        ({"max_tokens_total": 0}, "max_tokens_total"),
        ({"max_tokens_total": "many"}, "max_tokens_total"),
        (
            {"max_cost": "5", "price": True, "query": {"name": "multi", "llm": {"name": "openai", "model": "other"}}},
            "the price of query.llm is not known",
        ),
        (
            {"max_cost": 5, "price": True, "rerank": "llm:openai", "more": ["rerank.llm.model=other"]},
            "the price of rerank.llm is not known",
        ),
        (
            {
                "max_cost": 5,
                "price": True,
                "query": {"name": "multi", "llm": {"price": PRICE.model_dump() | {"currency": "CNY"}}},
            },
            "prices in USD and CNY, which can't be added",
        ),
    ],
)
def test_a_ceiling_that_can_t_be_held_is_one_clear_line(setting: dict[str, Any], message: str) -> None:
    overrides = [f"llm.model={MODEL}", *([PRICED] if setting.pop("price", False) else []), *setting.pop("more", [])]
    with pytest.raises(UsageError, match=re.escape(message)):
        resolve_run({"llm": "openai", **setting}, overrides)


def test_what_takes_no_tokens_has_no_ceiling() -> None:
    assert run(resolve_run({"max_cost": 1, "max_tokens_total": 1, "metrics": "rouge_l", "limit": 5})).summary.lost == 0


def test_a_sweep_has_one_ceiling_and_says_which_runs_are_complete(server: FakeServer, cli: Cli, tmp_path: Path) -> None:
    till = Till(server)
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        f"llms: [{{name: openai, base_url: '{server.url}'}}]\nretrievers: [none, bm25, random]\nlimit: 20\n"
    )
    command = ["sweep", grid, "--metrics", "rouge_l", "--set", f"llm.model={MODEL}", "--set", PRICED, "--set", SHORT]
    stopped = cli(*command, "--max-cost", "0.2", "-q")
    assert stopped.code == 4
    assert till.total <= 0.2 + max(till.charges)
    complete = [line for line in stopped.err.splitlines() if line.startswith("complete: ")]
    assert len(complete) == 1 and "none" in complete[0]
    assert sum(line.startswith("not finished: ") for line in stopped.err.splitlines()) == 2
    assert "1 of 3 runs are complete" in stopped.err.splitlines()[-1]
    n_calls = len(server.calls)
    assert cli(*command, "--max-cost", "0.2", "-q").code == 4
    assert len(server.calls) == n_calls
    assert cli(*command, "--max-cost", "2", "-q").code in (0, 3)


def test_a_query_stage_and_an_llm_that_ranks_count(server: FakeServer, data_dir: Path) -> None:
    used = answer_honestly(server)
    settings = ["rerank.window=4", f"rerank.llm.base_url={server.url}", f"rerank.llm.model={MODEL}"]
    settings += [f"rerank.{PRICED}", f"rerank.{SHORT}"]
    flags, usual = options(server, data=str(data_dir), query="multi", rerank="llm:openai", cache=False)
    whole = run(resolve_run(flags, usual + settings))
    stages = whole.manifest.queries, whole.manifest.rerank
    assert all(each is not None and each.cost.amount for each in stages)
    cost_of_whole = sum(map(PRICE.of, used))
    for share in (0.2, 0.5, 0.8):
        used.clear()
        folder, ceiling = f"runs-{share}", share * cost_of_whole
        with pytest.raises(CeilingError):
            run(resolve_run({**flags, "runs_dir": folder, "max_cost": ceiling}, usual + settings))
        assert 0 < sum(map(PRICE.of, used)) <= ceiling
        [path] = Path(folder).iterdir()
        assert RunDirectory(path).read_manifest().state == "incomplete"


def test_judges_stop_and_resume(server: FakeServer, data_dir: Path, cli: Cli) -> None:
    finished = run(resolve_run({"metrics": "rouge_l", "limit": 30}))
    server.answer = lambda body: "correctness: 3\ncompleteness: 3\nfaithfulness: 3"
    till = Till(server)
    till.text = "正确性：3\n完整性：3\n忠实性：3"
    asking: list[object] = ["--llm", "openai", "--base-url", server.url, "--set", f"llm.model={MODEL}", "--set", PRICED]
    asking += ["--set", SHORT, "-q", "--concurrency", 8]
    commands: list[list[object]] = [
        ["judge", finished.path],
        ["judge", finished.path, "--refusal"],
        ["nuggets", "create", finished.path],
        ["data", "filter", data_dir, "--out", "safe"],
    ]
    for command in commands:
        till.charges.clear()
        dollars = 0.1 if command[0] != "data" else 0.03
        stopped = cli(*command, *asking, "--max-cost", dollars)
        assert stopped.code == 4 and " judgements, " in stopped.err, stopped.err
        assert till.total <= dollars + max(till.charges, default=0.0)
        n_calls = len(server.calls)
        assert cli(*command, *asking, "--max-cost", dollars).code == 4
        assert len(server.calls) == n_calls
        cli(*command, *asking, "--max-cost", 2 * dollars)
        assert len(server.calls) > n_calls
        assert till.total <= 2 * dollars + max(till.charges)


def test_a_judge_without_a_price_is_one_clear_line(server: FakeServer) -> None:
    with pytest.raises(UsageError, match="the price of llm is not known"):
        resolve_judge({"llm": "openai", "max_cost": "5"}, [f"llm.model={MODEL}"])
