"""Batches without their waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qilin_rag.llms import retry
from qilin_rag.llms.batch import carrier, steps
from tests.batch_server import BatchServer
from tests.test_crash import make_data


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BASE_S", 0.001)
    monkeypatch.setattr(steps, "FIRST_POLL_S", 0.005)
    monkeypatch.setattr(steps, "LOOKS_S", (0.0, 0.01))
    monkeypatch.setattr(carrier, "QUOTA_WAIT_S", 0.01)


@pytest.fixture
def service() -> Iterator[BatchServer]:
    with BatchServer() as running:
        yield running


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "many", 12)
