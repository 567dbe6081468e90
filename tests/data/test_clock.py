"""The clock of searches is an assumption: a setting, said where figures hang on it, with what speaks for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.analysis.log import read_log
from qilin_rag.core.errors import UsageError
from qilin_rag.data.clock import check_clock
from qilin_rag.data.exposures import read_exposures
from qilin_rag.data.log_settings import LogSettings, parse_log_settings
from qilin_rag.data.requests import read_requests
from qilin_rag.data.source import Source, open_source
from qilin_rag.synth import resolve_world, synthesize
from tests.conftest import Cli, write_jsonl

BEIJING_S = 28_800
LATE_S = 1_732_716_000  # 22:00 in Beijing, true time


def search(idx: int, stamp: int | None, **more: Any) -> dict[str, Any]:
    details = [{"note_idx": 1, "position": 1, "click": 0, "search_timestamp": stamp}]
    return {"search_idx": idx, "query": "茶", "search_result_details_with_idx": details, **more}


def recommendation(idx: int, stamp_ms: int, **more: Any) -> dict[str, Any]:
    details = [{"note_idx": 1, "position": 1, "click": 0, "request_timestamp": stamp_ms}]
    return {"request_idx": idx, "query": "茶", "rec_result_details_with_idx": details, **more}


def write_tables(folder: Path) -> Path:
    """Three of four searches after 22:00 under Beijing's clock (one has no time), one of two recommendations."""
    stamps = [LATE_S + BEIJING_S, LATE_S + BEIJING_S + 60, LATE_S + BEIJING_S + 7199, LATE_S + BEIJING_S - 1, None]
    write_jsonl(
        folder / "search_test.jsonl",
        [search(i, stamp, session_idx=5 if i == 1 else None) for i, stamp in enumerate(stamps)],
    )
    write_jsonl(
        folder / "recommendation_test.jsonl",
        [
            recommendation(1, (LATE_S - 3600) * 1000),
            recommendation(2, LATE_S * 1000, session_idx=5),
        ],
    )
    return folder


def tables_of(source: Source) -> dict[str, Any]:
    return {name: read_exposures(source, name) for name in source.tables()}


def test_what_speaks_for_the_clock_by_hand(tmp_path: Path) -> None:
    source = open_source(str(write_tables(tmp_path)))
    found = check_clock(tables_of(source), source.log)
    assert {kind: (times.n, times.n_late) for kind, times in found.tests.items()} == {
        "search": (4, 3),
        "recommendation": (2, 1),
    }
    assert found.tests["search"].earliest == "2024-11-27 21:59"
    assert found.n_sessions == 1
    assert found.ahead_h == pytest.approx(8 + 60 / 3600, abs=1e-6)
    sentence = found.sentence()
    assert "3 of 4 (search)" in sentence and "1 of 2 (recommendation)" in sentence and "1.0 h apart" in sentence

    true_time = open_source(str(tmp_path), log=LogSettings(search_shift_s=0))
    other = check_clock(tables_of(true_time), true_time.log)
    assert other.tests["search"].n_late == 0  # 6:00 in Beijing
    assert other.ahead_h == pytest.approx(found.ahead_h)  # of the stamps, whatever is assumed
    assert "8.0 h ahead" in other.sentence() and "search_shift_s=0" in other.sentence()
    none = check_clock({"search_train": read_exposures(source, "search_test").take(np.array([4]))}, source.log)
    assert (none.tests, none.n_sessions, none.ahead_h) == ({}, 0, None)


def test_the_clock_is_found_in_the_sessions_of_the_app(tmp_path: Path) -> None:
    counts = {"notes": 300, "searches": 300, "recommendations": 300, "dqa": 5, "users": 30}
    for shift in (28_800, 0, -3600):
        folder = tmp_path / str(shift)
        synthesize(resolve_world(counts, 1, (), [f"search_shift_s={shift}"]), folder)
        source = open_source(str(folder))
        found = check_clock(
            {name: read_exposures(source, name) for name in source.tables() if name not in ("notes", "user_feat")},
            source.log,
        )
        assert found.n_sessions > 10
        assert found.ahead_h == pytest.approx(shift / 3600, abs=0.2)


def test_the_setting_reaches_every_reader(tmp_path: Path, cli: Cli) -> None:
    folder = write_tables(tmp_path)
    assert read_requests(open_source(str(folder)), "search", "test").time_ms[0] == LATE_S * 1000
    no_shift = open_source(str(folder), log=LogSettings(search_shift_s=0))
    assert read_requests(no_shift, "search", "test").time_ms[0] == (LATE_S + BEIJING_S) * 1000
    assert "search_shift_s=0" in read_log(no_shift).clock
    late = "search_test requests after 22:00 in Beijing"
    assert json.loads(cli("data", "stats", folder, "--json").out)["clock"][late] == 3
    assert json.loads(cli("data", "stats", folder, "--set", "log.search_shift_s=0", "--json").out)["clock"][late] == 0
    for settings in ([], ["--set", "log.search_shift_s=-3600"]):
        out = tmp_path / f"out{len(settings)}"
        assert cli("analyze", "--data", folder, "--out", out, "--no-plots", *settings).code == 0
        page = (out / "analysis.md").read_text(encoding="utf-8")
        assert page.count("ahead of true time") == 3  # Table 6 and both kinds of Figure 3b
    assert "-1 h ahead" in page


def test_settings_that_are_none_are_named() -> None:
    assert parse_log_settings([]) == LogSettings()
    assert parse_log_settings(["log.session_gap_s=60", "log.position_zero=unknown"]).changed() == {
        "session_gap_s": 60,
        "position_zero": "unknown",
    }
    for wrong in ("log.shift=1", "search_shift_s=1", "log.session_gap_s=0", "log.position_zero=last"):
        with pytest.raises(UsageError, match=wrong.split("=")[0].removeprefix("log.")):
            parse_log_settings([wrong])


def test_the_clock_of_the_authors_sample(shared: Path) -> None:
    """Under the assumed clock both test tables begin at about one time; by the stamps alone they would not."""
    source = open_source(str(shared / "data" / "qilin_toy"))
    names = [name for name in source.tables() if name not in ("notes", "user_feat")]
    found = check_clock({name: read_exposures(source, name) for name in names}, source.log)
    assert found.tests["recommendation"][:2] == (10, 0)
    assert found.tests["search"][:2] == (10, 7)
    assert "0.2 h apart" in found.sentence()
