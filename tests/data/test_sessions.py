"""Both kinds of sessions: by hand, and as pandas has them in a synthetic Qilin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.analysis.paper_tables import analyse
from qilin_rag.core.types import Hit, Question
from qilin_rag.data.log_settings import LogSettings
from qilin_rag.data.requests import Requests, requests_of
from qilin_rag.data.sessions import app_sessions, pause_sessions
from qilin_rag.data.source import open_source
from qilin_rag.rankers.ranking_directory import RankConfig
from qilin_rag.rankers.run import rank
from qilin_rag.rankers.simple import Production
from qilin_rag.synth import resolve_world, synthesize

HALF_HOUR_S = 1800


def asked(n: int, **columns: list[int]) -> Requests:
    questions = [Question(id=str(i), query="", references=["-"]) for i in range(n)]
    requests = requests_of(questions, [[Hit(note_idx=1, score=0, rank=1)]] * n)
    arrays: dict[str, Any] = {name: np.array(values) for name, values in columns.items()}
    return replace(requests, **arrays)


def test_sessions_of_the_app_by_hand() -> None:
    searches = asked(5, session_idx=[7, 7, -1, 8, 7], time_ms=[50, 20, 10, 5, -1])
    others = asked(3, session_idx=[7, 7, 9], time_ms=[10, 20, 1])
    log = [searches, others]
    assert app_sessions(searches, log).ordinal.tolist() == [4, 2, 0, 1, 0]  # two at 20 share a place
    assert app_sessions(searches, log).number.tolist() == [7, 7, -1, 8, -1]
    assert app_sessions(others, log).ordinal.tolist() == [1, 2, 1]
    assert app_sessions(others, log[::-1]).ordinal.tolist() == [1, 2, 1]
    assert app_sessions(searches.take(np.array([0])), log).ordinal.tolist() == [4]


def test_sessions_by_pauses_by_hand() -> None:
    """User 1 asks at 0, 1,800 (the edge) and 3,601 s (a second more), user 2 in between; two have no user or time."""
    s = 1000
    searches = asked(4, user_idx=[1, 2, 1, -1], time_ms=[3601 * s, 900 * s, 0, 5 * s])
    others = asked(3, user_idx=[1, 1, 2], time_ms=[1800 * s, 1800 * s, -1])
    log = [searches, others]
    found = pause_sessions(searches, log, HALF_HOUR_S)
    assert found.ordinal.tolist() == [1, 1, 1, 0]
    assert len({found.number[0], found.number[1], found.number[2]}) == 3 and found.number[3] == -1
    assert pause_sessions(others, log, HALF_HOUR_S).ordinal.tolist() == [2, 2, 0]
    assert pause_sessions(others, log, HALF_HOUR_S).number[0] == found.number[2]
    longer = pause_sessions(searches, log, HALF_HOUR_S + 1)
    assert longer.ordinal.tolist() == [4, 1, 1, 0] and longer.number[0] == longer.number[2]
    shorter = pause_sessions(others.take(np.array([0])), log, 1)
    assert shorter.ordinal.tolist() == [1]
    nobody = asked(2)
    assert pause_sessions(nobody, [nobody], HALF_HOUR_S).ordinal.tolist() == [0, 0]
    assert app_sessions(nobody, [nobody]).number.tolist() == [-1, -1]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sessions") / "qilin"
    counts = {"notes": 400, "searches": 500, "recommendations": 600, "dqa": 60, "users": 40}
    settings = ["app_stays_open=0.6", "app_restarts=0.2"]
    synthesize(resolve_world(counts, 4, (), settings), folder)
    return folder


@pytest.fixture(scope="module")
def requests(world: Path) -> Any:
    """All requests with their places in the session of each kind, by pandas."""
    pd = pytest.importorskip("pandas")
    parts = []
    for name in ("search_train", "search_test", "dqa", "recommendation_train", "recommendation_test"):
        is_search = not name.startswith("rec")
        details = "search_result_details_with_idx" if is_search else "rec_result_details_with_idx"
        rows = pd.read_parquet(world / name).rename(columns={details: "details"})
        stamp = "search_timestamp" if is_search else "request_timestamp"
        first = rows["details"].map(lambda items, stamp=stamp: min(item[stamp] for item in items))
        time_s = first - 28_800 if is_search else first // 1000
        key = "search_idx" if is_search else "request_idx"
        parts.append(rows.assign(table=name, kind="S" if is_search else "R", id=rows[key].astype(str), time_s=time_s))
    return pd.concat(parts).sort_values(["user_idx", "time_s"], kind="stable").reset_index(drop=True)


def by_pauses(requests: Any, gap_s: int) -> Any:
    pause = requests.groupby("user_idx")["time_s"].diff()
    return (pause.isna() | (pause > gap_s)).cumsum()


@pytest.mark.parametrize("gap_s", [HALF_HOUR_S, 600, 7200])
def test_figures_as_pandas_has_them(world: Path, requests: Any, gap_s: int) -> None:
    source = open_source(str(world), log=LogSettings(session_gap_s=gap_s))
    tables = {table.key: table for table in analyse(source)}
    session = by_pauses(requests, gap_s)
    clicks = requests["details"].map(lambda items: sum(item["click"] for item in items))
    shown = requests["details"].map(len)
    for key, number in (("figure3b", requests["session_idx"]), ("figure3b_pause", session)):
        place = requests.groupby(number)["time_s"].rank(method="min").clip(upper=11)
        for row, label in enumerate(tables[key].rows):
            for column, kind in enumerate("SR"):
                here = (place == row + 1) & (requests["kind"] == kind)
                expected = clicks[here].sum() / shown[here].sum() if here.any() else None
                assert tables[key].values[row][column] == pytest.approx(expected), (key, label, kind)
    assert tables["figure3b"].values != tables["figure3b_pause"].values

    follows = session == session.shift()
    pairs = (requests["kind"].shift() + "-" + requests["kind"])[follows].value_counts()
    assert dict(zip(tables["table6"].rows, (row[3] for row in tables["table6"].values), strict=True)) == {
        name: pairs.get(name, 0) for name in ("S-S", "R-S", "R-R", "S-R")
    }
    searches = requests[requests["kind"] == "S"].reset_index(drop=True)
    alone = by_pauses(searches, gap_s)
    is_pair = alone == alone.shift()
    repeats = (searches["query"].map(set) == searches["query"].shift().map(set, na_action="ignore")) & is_pair
    counted = {row: values[1] for row, values in zip(tables["table8"].rows, tables["table8"].values, strict=True)}
    assert sum(filter(None, counted.values())) == is_pair.sum()
    assert counted["Repeat"] == repeats.sum()


@pytest.mark.parametrize("gap_s", [HALF_HOUR_S, 600])
def test_slices_have_the_same_sessions(world: Path, requests: Any, gap_s: int, tmp_path: Path) -> None:
    config = RankConfig(data=str(world), task="recommendation", log=LogSettings(session_gap_s=gap_s))
    done = rank(Production(), config)
    places = {
        "place in session (app)": requests.groupby("session_idx")["time_s"].rank(method="min"),
        "place in session (pause)": requests.groupby(by_pauses(requests, gap_s))["time_s"].rank(method="min"),
    }
    lines = {line.id: line.slices for line in done.directory.read_figures()}
    here = requests["table"] == "recommendation_test"
    for name, place in places.items():
        labels = place[here].astype(int).map(lambda n: str(n) if n <= 10 else ">10")
        expected = dict(zip(requests.loc[here, "id"], labels, strict=True))
        assert {request: slices[name] for request, slices in lines.items()} == expected
    [said] = [remark for remark in done.summary.remarks if "session_idx" in remark]
    assert f"{gap_s // 60} minutes" in said and "search_shift_s=28800" in said
