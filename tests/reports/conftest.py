from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.pipeline.run import run


@pytest.fixture
def made(data_dir: Path) -> Path:
    """A folder for `make_run`, which copies the one run of the folder `real`."""
    run(resolve_run({"data": str(data_dir), "retriever": "bm25", "limit": 1, "runs_dir": Path("real")}))
    return Path("made")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        pytest.skip("needs Chromium: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    with sync_api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found[0], args=["--no-sandbox"])  # root has no sandbox
        yield browser
        browser.close()
