"""What follows a search, by hand; a planted re-search that is found, and effects that are not there and not found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs scikit-learn: pip install 'qilin-rag[analysis]'")

from qilin_rag.analysis.after_search import AfterSearch, ReSearchLimits
from qilin_rag.analysis.causal import Estimate
from qilin_rag.analysis.log import Log, read_log
from qilin_rag.analysis.re_search import re_search_report
from qilin_rag.analysis.re_search_page import as_page, write_report
from qilin_rag.core.errors import UsageError
from qilin_rag.data.catalogue import read_users
from qilin_rag.data.feedback import find_re_searches
from qilin_rag.data.source import Source, open_source
from qilin_rag.synth import resolve_world, synthesize
from tests.conftest import Cli, write_jsonl

START = 1_732_667_616
NOTHING: tuple[tuple[int, float | None], ...] = ()


def row(
    search_idx: int,
    user: int | None,
    minute: float | None,
    query: str,
    results: tuple[tuple[int, float | None], ...],
    output: str | None = None,
) -> dict[str, Any]:
    """A search; `results` are (click, page time) from position 1 on, `output` is the answer of a row of dqa."""
    details = [
        {
            "note_idx": 10 * search_idx + place,
            "position": place,
            "click": click,
            "page_time": seconds,
            **({} if minute is None else {"search_timestamp": START + round(60 * minute)}),
        }
        for place, (click, seconds) in enumerate(results, start=1)
    ]
    own = {} if output is None else {"dqa_output": output}
    asked = {"search_idx": search_idx, "user_idx": user, "query": query, "search_result_details_with_idx": details}
    return asked | own


DQA = [
    row(1, 1, 0, "饺子怎么煮", ((1, 40.0), (0, 99.0)), "煮十分钟。"),  # 3 and 4 follow
    row(2, 2, 0, "珠海地图", ((0, -1.0),), "-1"),  # no click; 5 follows
    row(3, 1, 2, "饺子怎么煮好吃", ((0, -1.0), (0, -1.0)), "加水。"),  # no click; 4 follows
    row(4, 1, 9, "饺子怎么煮", ((1, 10.0), (1, 20.0)), "-1"),  # a return to 1, in other words than 3; nothing follows
]
ELSEWHERE = [
    row(5, 2, 10, "天气", ((1, None),)),  # another need than 2; its click has no time; 6 is too late
    row(6, 2, 20.1, "天气预报", ((1, 0.0), (1, 500.0))),  # one of two clicks has no time
    row(7, None, 1, "天气", ((1, 30.0),)),  # whose user is not known
    row(8, 3, None, "天气", ((1, 30.0),)),  # whose time is not known
]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "dqa.jsonl", DQA)
    write_jsonl(tmp_path / "data" / "search_train.jsonl", ELSEWHERE)
    return open_source(str(tmp_path / "data"))


def test_what_follows_by_hand(source: Source) -> None:
    log = read_log(source)
    after = AfterSearch(log, ReSearchLimits())
    ids = list(map(int, log.shown.ids))

    def of(name: str) -> set[int]:
        return {ids[place] for place in np.flatnonzero(after.is_followed[name]).tolist()}

    assert of("re-search") == {1, 3}  # 4 is in other words than 3, and the query of 1
    assert of("same query") == {1}
    assert of("another need") == {2}
    following = {ids[at]: ids[after.next_row[at]] for at in range(len(ids)) if after.next_row[at] >= 0}
    assert following == {1: 3, 3: 4, 2: 5}
    assert {ids[at] for at in np.flatnonzero(after.reformulates).tolist()} == {1, 3}
    assert {ids[at] for at in np.flatnonzero(~after.is_timed).tolist()} == {5, 6}
    assert {ids[at] for at in np.flatnonzero(after.has_long_click).tolist()} == {1, 6, 7, 8}
    dwell = dict(zip(ids, after.dwell_s.tolist(), strict=True))
    assert dwell == {1: 40, 2: -1, 3: -1, 4: 15, 5: -1, 6: -1, 7: 30, 8: 30}
    strict = AfterSearch(log, ReSearchLimits(minutes=1.9, similarity=0.9, long_click_s=41))
    assert not any(values.any() for values in strict.is_followed.values())
    assert {ids[at] for at in np.flatnonzero(strict.has_long_click).tolist()} == {6}
    label = find_re_searches(log.shown, asked=np.ones(len(ids), bool)).label
    assert dict(zip(ids, label.tolist(), strict=True)) == {1: 1, 2: 0, 3: 1, 4: 0, 5: 0, 6: 0, 7: -1, 8: -1}


def test_the_tables_by_hand(source: Source, tmp_path: Path) -> None:
    report = re_search_report(read_log(source), read_users(source))
    rate, clicks, following = report.tables
    assert rate.rows == ["with an answer", "without, in dqa", "without, elsewhere"]
    assert rate.values == [[2, 1, 0.5, 0], [2, 0, 0, 0.5], [2, 0, 0, 0]]  # 7 and 8 are left out
    assert any("2 searches without user or time left out" in note for note in rate.notes)
    names = [column.name for column in clicks.columns]
    assert names == ["searches", "no click, no re-search", "no click, re-search", "long click", "seconds a click"]
    assert clicks.values == [[2, 0, 0.5, 0.5, 40], [2, 0.5, 0, 0, 15], [2, 0, 0, None, None]]
    assert any("4 of 6 have" in note for note in clicks.notes)
    shares = dict(zip(following.rows, following.values, strict=True))
    assert shares["Add"] == [0.5, 0, 0] and shares["Delete"] == [0.5, 0, 0]
    assert shares["Others"] == [0, 0.5, 0] and shares["none"] == [0, 0.5, 1]
    assert report.refused == "2 searches with an answer and 4 without: 30 of each are needed at least"
    write_report(report, tmp_path, "<b>", with_plots=False)
    page = (tmp_path / "re_search.md").read_text(encoding="utf-8")
    assert "No effect is given. 2 searches with an answer and 4 without" in page and "<b>" not in page
    assert "This data can't give (no such search): without, elsewhere: long click, seconds a click." in page
    assert "nan" not in page.lower()
    told = json.loads((tmp_path / "re_search.json").read_text())
    assert told["limits"] == {"minutes": 10, "similarity": 0.4, "long_click_s": 30} and told["populations"] == []
    assert (tmp_path / "re_search_rate.csv").is_file() and (tmp_path / "re_search_next.json").is_file()


PLANT = ["shown_if_factoid=0.6", "shown_if_not=0.4", "depth_if_answered=1"]
FEW_OTHERS = "reformulations={add: 0.05, delete: 0.0, change: 0.1, repeat: 0.05, others: 0.8}"


def world(folder: Path, re_search: float) -> tuple[Log, Any]:
    counts = {"notes": 300, "searches": 700, "recommendations": 20, "dqa": 700, "users": 250}
    settings = [*PLANT, FEW_OTHERS, f"re_search={re_search}"]
    synthesize(resolve_world(counts, 5, ["answer"], settings), folder)
    source = open_source(str(folder))
    return read_log(source), read_users(source)


def test_a_planted_re_search_is_found_and_nothing_else(tmp_path: Path) -> None:
    """The two worlds differ in what bad answers cause alone, so that the difference between them is the true effect."""
    labels, found = {}, {}
    for size in (0.0, 1.0):
        log, users = world(tmp_path / str(size), size)
        again = find_re_searches(log.shown, asked=log.shown.is_search).label
        labels[size] = dict(
            zip(log.shown.ids, zip(again.tolist(), log.shown.answered.tolist(), strict=True), strict=True)
        )
        report = re_search_report(log, users, only=("re-search", "long click", "seconds a click"))
        [effects] = report.effects  # all searches are in dqa
        found[size] = {effect.outcome: effect.doubly_robust for effect in effects.effects}
        assert report.refused is None and "| re-search |" in as_page(report, "made", [], with_plots=False)
    answered = [name for name, (_, is_answered) in labels[0.0].items() if is_answered]
    true_effect = float(np.mean([labels[1.0][name][0] - labels[0.0][name][0] for name in answered]))
    assert true_effect > 0.1
    planted, absent = (interval(found[size]["re-search"]) for size in (1.0, 0.0))
    assert 0 < planted[0] < true_effect < planted[1]
    assert absent[0] < 0 < absent[1]
    for size in (0.0, 1.0):  # nothing of these is planted
        for name in ("long click", "seconds a click"):
            low, high = interval(found[size][name])
            assert low < 0 < high, (size, name)


def interval(estimate: Estimate | None) -> tuple[float, float]:
    assert estimate is not None and estimate.low is not None and estimate.high is not None
    return estimate.low, estimate.high


def test_the_authors_own_rows(shared: Path, cli: Cli) -> None:
    """Ten rows of each table: shares without much behind them, no effect, and the reason."""
    done = cli("analyze", "re-search", "--data", shared / "data" / "qilin_toy", "--out", "toy", "--no-plots")
    assert done.code == 0
    assert "no effect is given: 3 searches with an answer and 27 without: 30 of each are needed" in done.out + done.err
    page = Path("toy/re_search.md").read_text(encoding="utf-8")
    assert "figures without one: too few users" in page and "No effect is given" in page
    told = cli("analyze", "re-search", "--data", shared / "data" / "qilin_toy", "--out", "two", "--no-plots", "--json")
    rate = json.loads(told.out)["tables"][0]
    assert rate["values"][0][:2] == [3, pytest.approx(1 / 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--minutes", "31"], r"minutes 31 is longer than the longest pause"),
        (["--minutes", "0"], "minutes must be above 0, not 0"),
        (["--similarity", "1.5"], "similarity must be above 0 and at most 1, not 1.5"),
        (["--long-click", "nan"], "long_click_s must be above 0, not nan"),
    ],
)
def test_wrong_limits_are_one_line(source: Source, cli: Cli, options: list[str], message: str) -> None:
    done = cli("analyze", "re-search", "--data", source.folder, "--out", "out", "--no-plots", *options)
    assert (done.code, done.err.count("\n")) == (2, 1) and message in done.err
    assert not Path("out").exists()


def test_the_defaults_are_the_rule_of_the_label(source: Source, cli: Cli) -> None:
    told = cli("analyze", "re-search", "--data", source.folder, "--out", "out", "--no-plots", "--json")
    assert json.loads(told.out)["limits"] == ReSearchLimits()._asdict()


def test_without_users_or_times_there_is_nothing_to_say(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "search_train.jsonl", [row(7, None, 1, "天气", ((1, 30.0),)), row(8, 3, None, "天气", NOTHING)]
    )
    with pytest.raises(UsageError, match="no search has a user and a time"):
        re_search_report(read_log(open_source(str(tmp_path))), None)


def test_it_is_drawn(source: Source, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'qilin-rag[analysis]'")
    from qilin_rag.analysis.plots import chinese_font

    if not chinese_font():
        pytest.skip("no font with Chinese: pip install mplfonts")
    write_report(re_search_report(read_log(source), None), tmp_path, "made", with_plots=True)
    page = (tmp_path / "re_search.md").read_text(encoding="utf-8")
    for key in ("re_search_rate", "re_search_clicks", "re_search_next"):
        assert (tmp_path / f"{key}.png").read_bytes().startswith(b"\x89PNG") and f"({key}.svg)" in page
