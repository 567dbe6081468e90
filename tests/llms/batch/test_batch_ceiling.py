"""A ceiling of money holds for calls by batch, which reserve at the price of a batch, and no call waits for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import CeilingError
from qilin_rag.core.types import Price, Usage
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.sweep import read_sweep, sweep
from tests.batch_server import BatchServer
from tests.fake_server import MODEL

PRICE = Price(currency="USD", prompt_per_mtok=10, completion_per_mtok=20, batch_factor=0.5, as_of="2026-11")
SETTINGS = [
    f"llm.model={MODEL}",
    "llm.price={currency: USD, prompt_per_mtok: 10, completion_per_mtok: 20, batch_factor: 0.5, as_of: 2026-11}",
    "llm.max_tokens=100",
]


def charged(server: BatchServer) -> float:
    """What the server charges for all that it answered: a token a character, and 20 in the answer."""
    asked = [each["body"]["messages"] for batch in server.batches.values() for each in server.lines_of(batch)]
    n_chars = [sum(len(message["content"]) for message in messages) for messages in asked]
    return sum(PRICE.of(Usage(prompt_tokens=n, completion_tokens=20), by_batch=True) for n in n_chars)


def honest(server: BatchServer) -> None:
    def line(n: int, custom_id: str, body: dict[str, Any]) -> tuple[int, Any]:
        n_chars = sum(len(message["content"]) for message in body["messages"])
        usage = {"prompt_tokens": n_chars, "completion_tokens": 20}
        return 200, server.completion("答") | {"usage": usage}

    server.line = line


@pytest.mark.parametrize("dollars", [0.02, 0.1, 0.2])
def test_a_run_by_batch_stays_below_its_ceiling_and_resumes(service: BatchServer, dollars: float) -> None:
    honest(service)
    flags = {"llm": "openai", "base_url": service.url, "data": "sample", "metrics": "rouge_l", "batch": True}
    with pytest.raises(CeilingError, match="stopped before max_cost"):
        run(resolve_run({**flags, "max_cost": dollars}, SETTINGS))
    assert 0 < charged(service) <= dollars
    [folder] = Path("runs").iterdir()
    assert not list(folder.glob("reservations*"))
    done = run(resolve_run({**flags, "max_cost": 5}, SETTINGS))
    assert done.manifest.cost and done.manifest.cost.amount == pytest.approx(charged(service))
    assert set(service.asked.values()) == {1}


def test_a_sweep_by_batch_counts_what_other_runs_have_submitted(service: BatchServer) -> None:
    honest(service)
    flags = {"base_url": service.url, "data": "sample", "metrics": "rouge_l", "batch": True, "limit": 30}
    axes = {"llms": ["openai"], "retrievers": ["none", "bm25", "random"]}
    swept = sweep(read_sweep(None, axes, {**flags, "max_cost": 0.1}, SETTINGS))
    assert swept.stopped and 0 < charged(service) <= 0.1
    again = sweep(read_sweep(None, axes, {**flags, "max_cost": 5}, SETTINGS))
    assert len(again.runs) == 3 and not again.stopped
    total = sum(run.manifest.cost.amount for run in again.runs if run.manifest.cost and run.manifest.cost.amount)
    assert total == pytest.approx(charged(service))
