from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def made_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.retrievers.test_biencoder import write_model

    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def no_native_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors are fp32 on every machine unless a test asks for something else."""
    monkeypatch.setattr("qilin_rag.retrievers.dense.retriever.has_native_bf16", lambda device: False)
