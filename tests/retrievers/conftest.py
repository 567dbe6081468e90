from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def made_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.retrievers.test_biencoder import write_model

    return write_model(tmp_path_factory.mktemp("models") / "tiny")
