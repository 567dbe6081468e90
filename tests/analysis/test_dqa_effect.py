"""The effect of an answer: covariates and outcomes by hand, and planted effects in synthetic worlds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs scikit-learn: pip install 'qilin-rag[analysis]'")

from qilin_rag.analysis.dqa_effect import dqa_effects, outcomes_of
from qilin_rag.analysis.effect_page import as_csv, as_page, write_effects
from qilin_rag.analysis.log import Log, read_log
from qilin_rag.data.catalogue import read_users
from qilin_rag.data.source import Source, open_source
from qilin_rag.errors import UsageError
from qilin_rag.synth import resolve_world, synthesize

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "dqa_coverage.py"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("effect") / "out"
    counts = {"notes": 300, "searches": 700, "recommendations": 40, "dqa": 400, "users": 120}
    synthesize(resolve_world(counts, 2, (), ["shown_if_factoid=0.6", "causes.answer=-3"]), folder)
    return open_source(str(folder))


@pytest.fixture(scope="module")
def log(source: Source) -> Log:
    return read_log(source)


def test_outcomes_by_hand(log: Log) -> None:
    rows = np.flatnonzero(log.shown.is_search & log.is_dqa)
    found = {name: (values, mask) for name, _, values, mask in outcomes_of(log, rows)}
    shown = log.shown
    for at in range(0, len(rows), 37):
        part = slice(shown.offsets[rows[at]], shown.offsets[rows[at] + 1])
        clicked = shown.actions[part, 0]
        positions = shown.position[part]
        assert found["clicks"][0][at] == clicked.sum()
        assert found["CTR"][0][at] == clicked.mean()
        assert found["browsing depth"][0][at] == positions.max()
        assert found["first click rank"][1][at] == clicked.any()
        if clicked.any():
            assert found["first click rank"][0][at] == positions[clicked].min()
        engaged = (shown.actions[part, 1:].any(axis=1) & clicked).any()
        assert found["any like, collect, share or comment"][0][at] == engaged


def test_a_large_effect_is_found_and_said(source: Source, log: Log, tmp_path: Path) -> None:
    effects = dqa_effects(log, read_users(source))
    assert [effect.population for effect in effects] == ["rows of the table dqa", "all searches"]
    clicks = effects[0].effects[0]
    assert clicks.outcome == "clicks" and clicks.doubly_robust.high < -0.5
    assert clicks.e_value is not None and clicks.e_value > 1.5
    assert effects[0].n_answered + effects[0].n_others == 400
    assert dqa_effects(log, read_users(source)) == effects  # the same seed, the same figures
    page = as_page(effects, "<b>", with_plots=False)
    assert "<b>" not in page and "What this does not show" in page and "E-value" in page
    assert as_csv(effects).startswith("population,outcome,of,method,effect,low,high,answered,without_answer\n")
    write_effects(effects, tmp_path, "made", with_plots=False)
    assert json.loads((tmp_path / "dqa_effect.json").read_text())[0]["n_answered"] == effects[0].n_answered


def test_too_few_are_said(log: Log, source: Source) -> None:
    few = np.flatnonzero(log.shown.answered)[:5]
    none = np.flatnonzero(log.shown.is_search & ~log.shown.answered)[:50]
    rows = np.sort(np.concatenate([few, none]))
    small = Log(log.shown.take(rows), log.is_dqa[rows], log.notes)
    with pytest.raises(UsageError, match="5 searches with an answer and 50 without: 30 of each are needed"):
        dqa_effects(small, read_users(source))


@pytest.mark.slow
def test_planted_effects_are_covered_and_none_is_invented() -> None:
    """A short form of benchmarks/dqa_coverage.py; the bounds of 16 worlds are wide, those of its 200 narrow."""
    command = [sys.executable, str(BENCHMARK), "--seeds", "16", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["covered_by_naive"] < 0.3 and found["naive"] < 1.5 * found["true_effect"] < 0
    assert found["covered"] >= 0.8  # 12 of 16 or fewer: p = .007 where 95% hold the truth
    assert found["found_where_none"] <= 0.2
    assert found["found_by_naive_where_none"] > 0.7
