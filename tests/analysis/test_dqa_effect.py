"""The effect of an answer: covariates and outcomes by hand, and planted effects in synthetic worlds."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs scikit-learn: pip install 'qilin-rag[analysis]'")

from qilin_rag.analysis.dqa_effect import DqaEffect, dqa_effects, outcomes_of
from qilin_rag.analysis.effect_page import as_csv, as_page, write_effects
from qilin_rag.analysis.log import Log, read_log
from qilin_rag.core.errors import UsageError
from qilin_rag.data.catalogue import read_users
from qilin_rag.data.source import Source, open_source
from qilin_rag.synth import resolve_world, synthesize

ONLY = ("clicks", "first click rank")
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
    effects = dqa_effects(log, read_users(source), only=ONLY)
    assert [effect.population for effect in effects] == ["rows of the table dqa", "all searches"]
    assert [of.outcome for of in effects[0].effects] == list(ONLY)
    clicks = effects[0].effects[0]
    assert clicks.outcome == "clicks" and clicks.doubly_robust is not None
    assert clicks.doubly_robust.high is not None and clicks.doubly_robust.high < -0.5
    assert clicks.e_value is not None and clicks.e_value > 1.5
    assert effects[0].n_answered + effects[0].n_others == 400
    is_dqa = np.flatnonzero(log.is_dqa)
    part = Log(log.shown.take(is_dqa), log.is_dqa[is_dqa], log.notes)
    [again] = dqa_effects(part, read_users(source), only=ONLY[:1])  # all searches are the rows of dqa: said once
    [same] = dqa_effects(part, read_users(source), only=ONLY[:1])
    assert again == same and again.population == effects[0].population and len(again.effects) == 1
    page = as_page(effects, "<b>", with_plots=False)
    assert "<b>" not in page and "What this does not show" in page and "E-value" in page
    assert "engaged with answers" in page and "divides by the results shown" in page
    assert as_csv(effects).startswith("population,outcome,of,method,effect,low,high,answered,without_answer,refused\n")
    write_effects(effects, tmp_path, "made", with_plots=False)
    assert json.loads((tmp_path / "dqa_effect.json").read_text())[0]["n_answered"] == effects[0].n_answered


def test_too_few_are_said(log: Log, source: Source) -> None:
    few = np.flatnonzero(log.shown.answered)[:5]
    none = np.flatnonzero(log.shown.is_search & ~log.shown.answered)[:50]
    rows = np.sort(np.concatenate([few, none]))
    small = Log(log.shown.take(rows), log.is_dqa[rows], log.notes)
    with pytest.raises(UsageError, match="5 searches with an answer and 50 without: 30 of each are needed"):
        dqa_effects(small, read_users(source))


@pytest.fixture(scope="module")
def worlds() -> ModuleType:
    """The worlds of the benchmark, in which 200 draws each are counted; here one draw of some."""
    spec = importlib.util.spec_from_file_location("dqa_coverage", BENCHMARK)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["dqa_coverage"] = module
    spec.loader.exec_module(module)
    return module


def effect_in(worlds: ModuleType, name: str, seed: int = 0) -> DqaEffect:
    log, users = worlds.make((worlds.WORLDS | worlds.SIBLINGS)[name], seed)
    [found] = dqa_effects(log, users, seed, only=["clicks", "browsing depth"])
    return found


def test_a_u_shaped_cause_is_adjusted_for(worlds: ModuleType) -> None:
    """True effect 0: the naive difference is .9, and a model of means left .8 of it and said "balanced"."""
    found = effect_in(worlds, "constant covariate", seed=1)
    clicks, depth = found.effects
    robust = clicks.doubly_robust
    assert robust is not None and robust.low is not None and robust.high is not None
    assert depth.doubly_robust is not None and depth.doubly_robust[:3] == (0, None, None)  # 20 in each search
    assert depth.no_interval is not None and "value 20" in depth.no_interval and depth.e_value is None
    assert clicks.naive.low is not None and clicks.naive.low > 0.4
    assert robust.low <= 0 <= robust.high < 0.8 and abs(robust.value) < clicks.naive.value / 2
    assert "query characters squared" in found.adjusted_for
    before = {each.covariate: each.before for each in found.balance}
    assert abs(before["query characters squared"]) > 0.5 > 3 * abs(before["query characters"])
    assert found.dropped["fans_num"] == "constant" and "fans_num" not in before
    assert found.largest_imbalance is not None and clicks.is_balanced == (not clicks.not_balanced)
    assert clicks.matched is not None and clicks.matched.low is None


def test_without_overlap_there_is_no_figure_and_the_words_say_so(
    worlds: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from qilin_rag.cli.analyze import _print_effect

    found = effect_in(worlds, "no overlap")
    clicks = found.effects[0]
    assert clicks.refused is not None and "no overlap" in clicks.refused
    assert (clicks.doubly_robust, clicks.matched, clicks.e_value, clicks.is_balanced) == (None, None, None, False)
    write_effects([found], tmp_path, "made", with_plots=False)
    [told] = json.loads((tmp_path / "dqa_effect.json").read_text())
    assert told["effects"][0]["doubly_robust"] is None and told["effects"][0]["refused"] == clicks.refused
    _print_effect(found)
    page = (tmp_path / "dqa_effect.md").read_text(encoding="utf-8")
    for text in (page, capsys.readouterr().out, (tmp_path / "dqa_effect.csv").read_text(encoding="utf-8")):
        assert "no overlap" in " ".join(text.lower().split()) and "refused" in text and "balanced" not in text.lower()
    assert "nan" not in page.lower()


def test_few_users_are_worth_few(worlds: ModuleType) -> None:
    clicks = effect_in(worlds, "few users").effects[0]
    assert clicks.effective_users is not None and 5 <= clicks.effective_users <= 10
    robust = clicks.doubly_robust
    assert robust is not None and robust.low is not None and robust.high is not None


def test_an_answer_to_three_users_is_refused(worlds: ModuleType) -> None:
    log, users = worlds.make(worlds.WORLDS["linear"], 0)
    user = np.where(log.shown.user_idx < 60, log.shown.user_idx % 3, log.shown.user_idx)  # three have 80 searches each
    made = Log(replace(log.shown, user_idx=user, answered=user < 3), log.is_dqa, log.notes)
    [found] = dqa_effects(made, users, only=["clicks"])
    [clicks] = found.effects
    assert clicks.refused is not None and "with an answer are of 3 users: 5 are needed" in clicks.refused
    assert clicks.doubly_robust is None and found.largest_imbalance is None and not found.is_balanced
    assert all(each.weighted is None for each in found.balance)
    assert "refused" in as_page([found], "made", with_plots=False)


@pytest.mark.slow
def test_the_benchmark_of_coverage_runs() -> None:
    """Bounds of 16 draws are wide; its 200 are narrow."""
    command = [sys.executable, str(BENCHMARK), "--replications", "16", "--worlds", "U-shaped", "no overlap", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["U-shaped"]["coverage"] >= 0.8  # 12 of 16 or fewer: p = .007 where 95% hold the truth
    assert found["U-shaped"]["naive bias"] > 0.5 > 3 * abs(found["U-shaped"]["bias"])
    assert found["no overlap"]["refused"] == 1 and found["no overlap"]["balanced"] == 0
