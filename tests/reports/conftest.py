from __future__ import annotations

from pathlib import Path

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.pipeline.run import run


@pytest.fixture
def made(data_dir: Path) -> Path:
    """A folder for `make_run`, which copies the one run of the folder `real`."""
    run(resolve_run({"data": str(data_dir), "retriever": "bm25", "limit": 1, "runs_dir": Path("real")}))
    return Path("made")
