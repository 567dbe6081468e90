"""The hub, as far as it can be tried without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.data import load_dataset
from tests.conftest import Cli
from tests.data.qilin import write_parquet


def test_the_hub_is_asked_for_the_tables_that_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def download(repository: str, **options: Any) -> str:
        asked.append((repository, options))
        return str(write_parquet(tmp_path / f"snapshot{len(asked)}"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    data = load_dataset("hub:THUIR/Qilin")
    assert data.label == "THUIR/Qilin"
    assert len(data.questions) == 3
    assert asked == [
        ("THUIR/Qilin", {"repo_type": "dataset", "allow_patterns": ["notes/*", "dqa/*"], "local_files_only": False})
    ]
    done = cli("run", "--data", "hub:THUIR/Qilin")
    assert "runs/THUIR-Qilin-bm25-extractive-default-" in done.out
    cli("data", "validate", "hub:THUIR/Qilin")
    assert "user_feat/*" in asked[-1][1]["allow_patterns"]


def test_what_cannot_be_fetched_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> str:
        raise ConnectionError("no network\nin tests")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(UsageError, match="'hub:a/b' can't be fetched from the Hugging Face hub: no network; check"):
        load_dataset("hub:a/b")
