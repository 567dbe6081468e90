"""One synthetic data set for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from qilin_rag.synth import World, resolve_world, synthesize

COUNTS = {"notes": 4000, "searches": 5000, "recommendations": 6000, "dqa": 700, "users": 900}


@pytest.fixture(scope="session")
def world() -> World:
    return resolve_world(COUNTS, seed=7)


@pytest.fixture(scope="session")
def synthetic(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "qilin"
    synthesize(world, out)
    return out
