"""The paper's tables, computed with plain pandas, are near what the world was told to be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.data.schema import ACTIONS, FEEDBACK
from qilin_rag.synth import World, resolve_world, synthesize

pd = pytest.importorskip("pandas", reason="needs pandas: pip install 'qilin-rag[test]'")

SEARCHES = ("search_train", "search_test", "dqa")
RECOMMENDATIONS = ("recommendation_train", "recommendation_test")
SESSION_GAP_S = 30 * 60
BEIJING_S = 8 * 3600
PAPER = {"S": (22.75, 0.2101), "R": (18.80, 0.2413), "S-DQA": (23.41, 0.2102), "S+DQA": (10.61, 0.2073)}
"""Depth and click-through rate of Table 5."""


def read(folder: Path, names: tuple[str, ...], details: str) -> Any:
    rows = pd.concat([pd.read_parquet(folder / name).assign(table=name) for name in names], ignore_index=True)
    rows["details"] = rows[details].map(list)
    return rows


@pytest.fixture(scope="module")
def searches(synthetic: Path) -> Any:
    return read(synthetic, SEARCHES, "search_result_details_with_idx")


@pytest.fixture(scope="module")
def recommendations(synthetic: Path) -> Any:
    return read(synthetic, RECOMMENDATIONS, "rec_result_details_with_idx")


def answered(searches: Any) -> Any:
    return searches["dqa_output"].fillna("-1") != "-1"


def near(found: float, wanted: float, n: int, slack: float = 0.0) -> bool:
    """Whether a share of n rows may be a draw of the wanted one: four standard errors, and what is granted."""
    return bool(abs(found - wanted) < 4 * (wanted * (1 - wanted) / n) ** 0.5 + slack)


def test_table_2_and_the_users(synthetic: Path, searches: Any, recommendations: Any, world: World) -> None:
    notes, users = (pd.read_parquet(synthetic / name) for name in ("notes", "user_feat"))
    assert (len(notes), len(users)) == (world.counts.notes, world.counts.users)
    assert (len(searches), len(recommendations)) == (world.counts.searches, world.counts.recommendations)
    dqa = searches[searches["table"] == "dqa"]
    assert len(dqa) == world.counts.dqa
    assert near(answered(dqa).mean(), 2932 / 6972, len(dqa), slack=0.03)
    images = notes["image_path"].map(len)
    assert abs(images.mean() - 5_006_181 / 1_983_938) < 0.15
    for name in ("gender", "platform", "age"):
        found = users[name].value_counts(normalize=True)
        for value, share in getattr(world, name).items():
            assert near(found.get(value, 0.0), share / sum(getattr(world, name).values()), len(users)), value
    somewhere = users.loc[users["location"] != "", "location"]
    assert near(len(somewhere) / len(users), 1 - world.no_location, len(users))
    assert near(somewhere.str.startswith("China").mean(), world.china, len(somewhere))
    for level, share in enumerate(world.no_taxonomy, start=1):
        assert near((notes[f"taxonomy{level}_id"] == "nan").mean(), share, len(notes))


def test_table_5_engagement(searches: Any, recommendations: Any, world: World) -> None:
    shown = answered(searches)
    groups = {
        "S": (searches, world.search),
        "R": (recommendations, world.recommendation),
        "S-DQA": (searches[~shown], world.search),
        "S+DQA": (searches[shown], world.search),
    }
    for name, (rows, kind) in groups.items():
        results = pd.DataFrame([one | {"row": i} for i, row in enumerate(rows["details"]) for one in row])
        clicked = results[results["click"] == 1]
        depth, ctr = PAPER[name]
        deepest = results.groupby("row")["position"].max()
        assert abs(deepest.mean() - depth) < 4 * deepest.std() / len(rows) ** 0.5 + 0.8, name
        assert near(results["click"].mean(), ctr, len(results) // 10, slack=0.015), name
        firsts = clicked.groupby("row")["position"].min().mean()
        assert 1.5 < firsts < 6, name
        for action, share in kind.actions.model_dump().items():
            assert near(clicked[action].mean(), share, len(clicked)), (name, action)
        assert results.loc[results["click"] == 0, list(ACTIONS[1:])].to_numpy().sum() == 0


def requests_in_time(searches: Any, recommendations: Any) -> Any:
    """All requests of each user in true time, with what came before: by the 30-minute rule, and in the app."""
    stamped = [
        rows.assign(kind=kind, time=[min(one[stamp] for one in some) / unit - shift for some in rows["details"]])
        for rows, kind, stamp, unit, shift in (
            (searches, "S", "search_timestamp", 1, BEIJING_S),
            (recommendations, "R", "request_timestamp", 1000, 0),
        )
    ]
    rows = pd.concat(stamped).sort_values(["user_idx", "time"], kind="stable", ignore_index=True)
    before = rows.shift()
    same_user = rows["user_idx"] == before["user_idx"]
    gap = rows["time"] - before["time"]
    return rows.assign(
        before=before["kind"],
        goes_on=same_user & (gap <= SESSION_GAP_S),
        same_app=same_user & (rows["session_idx"] == before["session_idx"]),
        gap=gap.where(same_user),
    )


def test_table_6_transitions_and_the_rule(searches: Any, recommendations: Any, world: World) -> None:
    rows = requests_in_time(searches, recommendations)
    assert ((rows["gap"] == SESSION_GAP_S) & rows["goes_on"]).sum() > 10
    assert ((rows["gap"] == SESSION_GAP_S + 1) & ~rows["goes_on"]).sum() > 10
    assert near(rows["goes_on"].mean(), world.next_request, len(rows), slack=0.01)
    pairs = rows[rows["goes_on"]]
    for before, share in (("S", world.to_recommendation), ("R", world.to_search)):
        after = pairs.loc[pairs["before"] == before, "kind"]
        assert near((after != before).mean(), share, len(after), slack=0.01)


def test_sessions_of_the_app_are_not_those_of_the_rule(searches: Any, recommendations: Any, world: World) -> None:
    rows = requests_in_time(searches, recommendations)
    assert rows["session_idx"].nunique() == (~rows["same_app"]).sum()  # each is whole, and of one user
    within = rows[rows["goes_on"]]
    assert near((~within["same_app"]).mean(), world.app_restarts, len(within))
    pauses = rows[~rows["goes_on"] & rows["gap"].notna()]
    beyond_h = (pauses["gap"] - SESSION_GAP_S) / 3600
    assert near(pauses["same_app"].mean(), (world.app_stays_open * 0.5**beyond_h).mean(), len(pauses))
    assert pauses["same_app"].sum() > 50 and (~within["same_app"]).sum() > 50
    short, long = beyond_h < 1, beyond_h > 6
    assert pauses.loc[short, "same_app"].mean() > 0.15 and pauses.loc[long, "same_app"].mean() < 0.02


def test_the_clock_of_searches_is_a_setting(tmp_path: Path) -> None:
    counts = {"notes": 300, "searches": 40, "recommendations": 40, "dqa": 5, "users": 5}
    for name, shift in (("eight", 28_800), ("none", 0)):
        synthesize(resolve_world(counts, 1, (), [f"search_shift_s={shift}"]), tmp_path / name)
    stamps = {
        name: np.concatenate(
            [
                [one["search_timestamp"] for one in some]
                for some in pd.read_parquet(tmp_path / name / "search_train")["search_result_details_with_idx"]
            ]
        )
        for name in ("eight", "none")
    }
    assert set(stamps["eight"] - stamps["none"]) == {28_800}
    same = [pd.read_parquet(tmp_path / name / "recommendation_train").to_json() for name in ("eight", "none")]
    assert same[0] == same[1]


def test_table_7_query_lengths(searches: Any, world: World) -> None:
    length = searches["query"].str.len()
    paper = {4: 0.1364, 5: 0.1394, 6: 0.1727, 7: 0.1407, 8: 0.1242, 9: 0.0954, 10: 0.0689}
    for n, share in paper.items():
        assert near((length == n).mean(), share, len(length), slack=0.015), n
    assert near((length > 10).mean(), 0.1191, len(length), slack=0.02)
    assert (length <= 3).mean() < 0.01
    assert sum(share for n, share in world.lengths.items() if n > 10) == pytest.approx(0.1191)


def test_table_8_reformulations(searches: Any, recommendations: Any, world: World) -> None:
    rows = requests_in_time(searches, recommendations.head(0))
    before = rows["query"].shift()
    pairs = [
        (set(old), set(new))
        for old, new in zip(before[rows["goes_on"]], rows.loc[rows["goes_on"], "query"], strict=True)
    ]
    found = {
        "add": sum(old < new for old, new in pairs),
        "delete": sum(new < old for old, new in pairs),
        "change": sum(bool(old - new and new - old and old & new) for old, new in pairs),
        "repeat": sum(old == new for old, new in pairs),
        "others": sum(not old & new for old, new in pairs),
    }
    assert sum(found.values()) == len(pairs) > 1000
    for name, share in world.reformulations.items():
        assert near(found[name] / len(pairs), share, len(pairs), slack=0.015), name


def test_table_9_sources(searches: Any, world: World) -> None:
    sources = searches["query_from_type"]
    assert near(sources.isna().mean(), world.no_source, len(sources))
    for source, share in enumerate(world.sources, start=1):
        assert near((sources.dropna() == source).mean(), share, len(sources)), source


def test_answers_cite_their_references(searches: Any, synthetic: Path) -> None:
    shown = searches[answered(searches)]
    bodies = pd.read_parquet(synthetic / "notes").set_index("note_idx")["note_content"]
    outside = []
    for answer, references, details in zip(
        *(shown[name] for name in ("dqa_output", "ref_note_idx_list", "details")), strict=True
    ):
        items = answer.split("\n")[1:]
        assert len(items) == len(references) > 0
        for i, (item, note) in enumerate(zip(items, references, strict=True), start=1):
            assert item.endswith(f"[第{i}篇](#)")
            first = re.split("[。！？，～]|\\[第", item.removeprefix(f"{i}. "))[0][:10]
            assert first in bodies[note]
        outside.append(bool(set(references) - {one["note_idx"] for one in details}))
    assert 0.02 < np.mean(outside) < 0.3
    silent = searches[(searches["table"] == "dqa") & ~answered(searches)]
    assert (silent[list(FEEDBACK)] == -1).all().all()
    assert silent["ref_note_idx_list"].map(len).sum() == 0


def test_feedback_goes_by_what_truth_says(searches: Any, synthetic: Path) -> None:
    truth = pd.read_parquet(synthetic / "truth.parquet")
    truth = truth[truth["table"] == "dqa"].drop_duplicates("request").set_index("request")
    dqa = searches[searches["table"] == "dqa"].set_index("search_idx")
    assert (truth["p_is_like_clk"].notna().reindex(dqa.index) == answered(dqa)).all()
    shown = dqa[answered(dqa)]
    for name in FEEDBACK:
        p = truth.loc[shown.index, f"p_{name}"]
        error = ((p * (1 - p)).sum()) ** 0.5
        assert abs((shown[name] == 1).sum() - p.sum()) < 4 * error, name
    assert truth["p_is_content_clk"].nunique() > 2


def test_answers_are_shown_to_what_asks_for_facts(searches: Any, synthetic: Path, world: World) -> None:
    """Compared with all other searches, answers seem to cost more clicks than they do: their queries differ."""
    truth = pd.read_parquet(synthetic / "truth.parquet")
    truth = truth[truth["table"].isin(SEARCHES)]
    first = truth.drop_duplicates(["table", "request"])
    assert first.loc[first["answer"] == 1, "factoid"].mean() > 0.85
    assert near(first["factoid"].mean(), world.factoid_queries, len(first), slack=0.04)
    results = truth.groupby(["table", "request"])["click"].agg(["size", "sum"]).reset_index()
    results = results.merge(first[["table", "request", "factoid", "answer"]], on=["table", "request"])
    plain = results.loc[results["answer"] == 0, "sum"].mean() - results.loc[results["answer"] == 1, "sum"].mean()
    facts = results[(results["factoid"] == 1) & (results["table"] == "dqa")]
    matched = facts.loc[facts["answer"] == 0, "sum"].mean() - facts.loc[facts["answer"] == 1, "sum"].mean()
    assert plain > matched + 0.3 > 0.3
