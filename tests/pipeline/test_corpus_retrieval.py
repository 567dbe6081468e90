"""`retrieve --task`: all notes are searched for the requests of a task, against a brute force and ir_measures."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import ir_measures
import numpy as np
import pyarrow.parquet as pq
import pytest

from qilin_rag.core.ties import rank_order
from qilin_rag.data.notes import open_notes_of
from qilin_rag.data.source import open_source
from qilin_rag.pipeline import corpus_retrieval
from qilin_rag.retrievers.bm25.retriever import BM25
from qilin_rag.synth import resolve_world, synthesize
from tests.conftest import Cli, write_jsonl

K = 100
THEIRS = {
    "recall@100": ir_measures.R @ 100,
    "hit_rate@100": ir_measures.Success @ 100,
    "mrr@100": ir_measures.RR @ 100,
    "ndcg@10": ir_measures.nDCG @ 10,
    "ndcg@100": ir_measures.nDCG @ 100,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "qilin"
    synthesize(resolve_world({"notes": 300, "searches": 120, "recommendations": 100, "dqa": 30, "users": 30}, 1), out)
    return out


class Row(NamedTuple):
    """A request as its table has it."""

    id: str
    query: str
    clicked: set[int]
    shown: set[int]
    history: set[int]


def rows(world: Path, table: str) -> list[Row]:
    """Read a table without the code that is tested."""
    kind, key = ("search", "search_idx") if table[:3] in ("sea", "dqa") else ("rec", "request_idx")
    found = []
    for row in pq.read_table(world / table).to_pylist():
        shown = row[f"{kind}_result_details_with_idx"]
        clicked = {each["note_idx"] for each in shown if each["click"] == 1}
        history = set(row["recent_clicked_note_idxs"] or [])
        found.append(Row(str(row[key]), row["query"], clicked, {each["note_idx"] for each in shown}, history))
    return found


def brute_force(world: Path, asked: list[Row], without_history: bool) -> dict[str, list[int]]:
    """Score every note for every request, and sort them all."""
    notes = open_notes_of(open_source(str(world), ["notes"]))
    every = [np.arange(len(notes))] * len(asked)
    found = {}
    for row, scores in zip(asked, BM25().scores([row.query for row in asked], notes, every), strict=True):
        order = rank_order(scores, notes.note_idxs, row.query)
        ranking = [int(notes.note_idxs[place]) for place in order if scores[place] > 0]
        found[row.id] = [note for note in ranking if not (without_history and note in row.history)][:K]
    return found


def theirs(rankings: dict[str, list[int]], relevant: dict[str, set[int]]) -> dict[str, float]:
    """The mean of each measure over the requests with a relevant note, by ir_measures."""
    qrels = [ir_measures.Qrel(name, str(note), 1) for name, notes in relevant.items() for note in notes]
    run = [
        ir_measures.ScoredDoc(name, str(note), float(-rank))
        for name, ranking in rankings.items()
        for rank, note in enumerate(ranking)
    ]
    sums: defaultdict[str, float] = defaultdict(float)
    for value in ir_measures.iter_calc(list(THEIRS.values()), qrels, run):
        if relevant[value.query_id]:
            sums[str(value.measure)] += value.value
    n = sum(map(bool, relevant.values()))
    return {name: sums[str(measure)] / n for name, measure in THEIRS.items()}


def retrieve(cli: Cli, world: Path, *more: object) -> dict[str, Any]:
    done = cli("retrieve", "--data", world, "--out", "run.trec", "--top-k", K, "--json", *more)
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def values(figures: dict[str, Any]) -> dict[str, float]:
    return {name: figure["value"] for name, figure in figures.items()}


def read_run() -> dict[str, list[int]]:
    rankings: dict[str, list[int]] = {}
    for line in Path("run.trec").read_text().splitlines():
        name, _, note, rank, _, _ = line.split()
        rankings.setdefault(name, []).append(int(note))
        assert len(rankings[name]) == int(rank)
    return rankings


@pytest.mark.parametrize("without_history", [False, True])
@pytest.mark.parametrize(
    ("task", "split", "table"),
    [("search", "test", "search_test"), ("recommendation", "test", "recommendation_test"), ("search", "dqa", "dqa")],
)
def test_figures_equal_a_brute_force_over_all_notes(
    cli: Cli, world: Path, task: str, split: str, table: str, without_history: bool
) -> None:
    flag = ["--without-history"] if without_history else []
    found = retrieve(cli, world, "--task", task, "--split", split, *flag)
    asked = rows(world, table)
    rankings = brute_force(world, asked, without_history)
    assert read_run() == {name: ranking for name, ranking in rankings.items() if ranking}
    relevant = {row.id: row.clicked - (row.history if without_history else set()) for row in asked}
    shown = set().union(*(row.shown for row in rows(world, f"{task}_train")))
    cold = {name: notes - shown for name, notes in relevant.items()}
    warm = {name: notes & shown for name, notes in relevant.items()}
    assert values(found["metrics"]) == pytest.approx(theirs(rankings, relevant), abs=1e-12)
    assert values(found["slices"]["warm"]) == pytest.approx(theirs(rankings, warm), abs=1e-12)
    if any(cold.values()):
        assert values(found["slices"]["cold"]) == pytest.approx(theirs(rankings, cold), abs=1e-12)
    n_clicked = sum(len(row.clicked) for row in asked)
    assert found["counts"] == {
        "requests": len(asked),
        "relevant": sum(map(len, relevant.values())),
        "in_history": n_clicked - sum(map(len, relevant.values())),
        "cold": sum(map(len, cold.values())),
        "missing": 0,
        "blank": sum(not row.query.strip() for row in asked),
        "left_out": 0,
    }
    signature = found["metrics"]["ndcg@10"]["signature"]
    assert signature.startswith("nDCG@10|rel:clicked notes|") and ("history:removed" in signature) == without_history


def test_validation_is_judged_by_the_earlier_requests_of_train(cli: Cli, world: Path) -> None:
    found = retrieve(cli, world, "--task", "search", "--split", "validation")
    train = rows(world, "search_train")
    later = set(read_run())
    shown = set().union(*(row.shown for row in train if row.id not in later))
    cold = [note for row in train if row.id in later for note in row.clicked - shown]
    assert found["counts"]["requests"] == len(later) == round(0.05 * len(train))
    assert found["counts"]["cold"] == len(cold)


@pytest.mark.parametrize("retriever", ["bm25", "random", "trec:whole.trec"])
def test_batches_change_nothing(cli: Cli, world: Path, retriever: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = ("--task", "recommendation", "--retriever")
    retrieve(cli, world, *task, "bm25")
    Path("run.trec").rename("whole.trec")
    expected, run = retrieve(cli, world, *task, retriever), read_run()
    monkeypatch.setattr(corpus_retrieval, "_HITS_AT_ONCE", 3 * K)
    assert (retrieve(cli, world, *task, retriever), read_run()) == (expected, run)


def test_cold_notes_are_found_by_content_and_not_by_popularity(cli: Cli, world: Path) -> None:
    train, test = rows(world, "search_train"), rows(world, "search_test")
    clicks = Counter(note for row in train for note in sorted(row.clicked))
    popular = [note for note, _ in clicks.most_common(K)]
    lines = [f"{row.id} Q0 {note} {rank} {K - rank} popular\n" for row in test for rank, note in enumerate(popular, 1)]
    Path("popular.trec").write_text("".join(lines))
    figures = {}
    for name in ("trec:popular.trec", "random", "bm25"):
        found = retrieve(cli, world, "--task", "search", "--retriever", name, "--top-k", 50)
        figures[name] = [found["slices"][part]["recall@50"]["value"] for part in ("cold", "warm")]
    (cold, warm), (cold_by_chance, _), (cold_by_text, _) = figures.values()
    assert cold == 0 < warm
    assert cold_by_text > max(2 * cold_by_chance, 0.3)


def shown(*notes: tuple[int, int]) -> list[dict[str, int]]:
    return [{"note_idx": note, "click": click, "position": 1, "search_timestamp": 1} for note, click in notes]


def test_hand_made_requests(cli: Cli, tmp_path: Path) -> None:
    """A blank query, a clicked note that is not there, and none clicked; without a train table there are no slices."""
    data = tmp_path / "data"
    data.mkdir()
    texts = ["咖啡", "咖啡 咖啡", "多肉"]
    write_jsonl(
        data / "notes.jsonl", [{"note_idx": i, "note_title": "", "note_content": t} for i, t in enumerate(texts)]
    )
    column = "search_result_details_with_idx"
    requests = [
        {"search_idx": 1, "query": "咖啡", "recent_clicked_note_idxs": [1], column: shown((0, 1), (1, 1), (2, 1))},
        {"search_idx": 2, "query": " ", "recent_clicked_note_idxs": [], column: shown((2, 1))},
        {"search_idx": 3, "query": "多肉", "recent_clicked_note_idxs": None, column: shown((2, 1), (9, 1), (0, 0))},
        {"search_idx": 4, "query": "多肉", "recent_clicked_note_idxs": [2], column: shown((2, 1), (0, 0))},
        {"search_idx": 5, "query": "多肉", "recent_clicked_note_idxs": [], column: shown((0, 0))},
    ]
    write_jsonl(data / "search_test.jsonl", requests)
    found = retrieve(cli, data, "--task", "search")
    assert found["slices"] == {}
    assert found["metrics"]["recall@100"]["value"] == pytest.approx((2 / 3 + 0 + 1 / 2 + 1) / 4)
    assert found["metrics"]["recall@100"]["reasons"] == {"no note was clicked": 1}
    found = retrieve(cli, data, "--task", "search", "--without-history")
    assert found["metrics"]["recall@100"]["value"] == pytest.approx((1 / 2 + 0 + 1 / 2) / 3)
    assert found["metrics"]["mrr@100"]["value"] == pytest.approx((1 + 0 + 1) / 3)
    assert read_run() == {"1": [0], "3": [2], "5": [2]}
    counts = {"requests": 5, "relevant": 5, "in_history": 2, "missing": 1, "blank": 1, "left_out": 0, "cold": 0}
    assert found["counts"] == counts
    printed = cli("retrieve", "--task", "search", "--data", data, "--out", "run.trec", "--without-history")
    assert "2 clicked notes left out: the user had clicked them before" in printed.out
    assert "1 clicked note not in the data: can't be found" in printed.out
    assert "1 request without a query" in printed.out
    write_jsonl(data / "search_train.jsonl", [{"search_idx": 9, "query": "q", column: shown((0, 1), (2, 0))}])
    found = retrieve(cli, data, "--task", "search")
    assert found["slices"]["cold"]["recall@100"]["value"] == pytest.approx((1 + 0) / 2)  # notes 1 and 9
    assert found["slices"]["warm"]["recall@100"]["value"] == pytest.approx((1 / 2 + 0 + 1 + 1) / 4)
    write_jsonl(data / "search_test.jsonl", requests[-1:])
    found = retrieve(cli, data, "--task", "search")
    none = {"value": None, "n": 0}
    assert found["metrics"]["ndcg@10"] | none == found["metrics"]["ndcg@10"]
    assert found["slices"]["cold"]["ndcg@10"] | none == found["slices"]["cold"]["ndcg@10"]
    write_jsonl(data / "search_test.jsonl", requests)
    Path("other.trec").write_text("1 Q0 77 1 3 x\n1 Q0 0 2 2 x\n4 Q0 2 1 1 x\n")
    command = ("retrieve", "--task", "search", "--data", data, "--retriever", "trec:other.trec", "--out", "run.trec")
    assert "77; to leave them out" in cli(*command).err
    found = retrieve(cli, data, *command[1:3], *command[5:7], "--missing-notes", "skip")
    assert found["counts"]["left_out"] == 1
    assert read_run() == {"1": [0], "4": [2]}
    assert found["metrics"]["mrr@100"]["value"] == pytest.approx((1 + 0 + 0 + 1) / 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "test"], "name it with --task"),
        (["--without-history"], "name it with --task"),
        (["--task", "search", "--query", "rewrite"], "neither query nor rerank"),
        (["--task", "search", "--set", "rerank.depth=5"], "rerank"),
        (["--task", "recommendation", "--split", "dqa"], "split dqa holds searches"),
        (["--task", "search", "--data", "sample"], "table search_test does not exist"),
        (["--task", "search", "--retriever", "hybrid", "--set", "retriever.of=[bm25, random]"], "retriever.depth="),
        (["--task", "search", "--out", "nowhere/run.trec"], "must be a file in a folder that exists"),
    ],
)
def test_bad_input_is_one_line_with_code_2(cli: Cli, world: Path, arguments: list[str], message: str) -> None:
    out = [] if "--out" in arguments else ["--out", "run.trec"]
    data = [] if "--data" in arguments else ["--data", world]
    history = ["--without-history"] if "hybrid" in arguments else []
    done = cli("retrieve", "--quiet", *arguments, *history, *data, *out)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert message in done.err
    assert not Path("run.trec").exists()
