"""Small runs that ask by batch, and what of them must not differ from runs that ask one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qilin_rag.config.run import RunConfig, resolve_run
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.run import run
from tests.fake_server import MODEL, FakeServer


def config(server: FakeServer, data: Path, **flags: Any) -> RunConfig:
    settings = {"data": str(data), "llm": "openai", "base_url": server.url, "metrics": "rouge_l", "cache": False}
    return resolve_run({**settings, **flags}, [f"llm.model={MODEL}"])


def run_by_batch(server: FakeServer, data: Path, **flags: Any) -> Run:
    return run(config(server, data, batch=True, **flags))


def samples_of(path: Path, name: str = "samples.jsonl") -> dict[str, dict[str, Any]]:
    """The last line of each question, without what may differ."""
    lines = [json.loads(line) for line in (path / name).read_text(encoding="utf-8").splitlines()]
    return {line["question_id"]: {k: v for k, v in line.items() if k not in ("latency_s", "batch")} for line in lines}


def records_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(each.read_text()) for each in sorted(path.glob("batches/*/record.json"))]
