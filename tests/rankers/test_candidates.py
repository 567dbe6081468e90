"""Candidates by name: read directly, judged as ir_measures does with all clicks, sampled as by a slow reading."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.core.ties import text_hashes
from qilin_rag.core.trec import read_trec
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.requests import Floats, Requests, TaskName
from qilin_rag.rankers.base import Ranker
from qilin_rag.rankers.metrics import MEASURES
from qilin_rag.rankers.ranking_directory import RankConfig
from qilin_rag.rankers.run import Ranking, rank
from qilin_rag.rankers.simple import Production, Random
from qilin_rag.synth import resolve_world, synthesize

COUNTS = {"notes": 700, "searches": 260, "recommendations": 200, "dqa": 30, "users": 40}
DETAILS = {"search": "search_result_details_with_idx", "recommendation": "rec_result_details_with_idx"}
KEYS = {"search": "search_idx", "recommendation": "request_idx"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import pandas as pd

    out = tmp_path_factory.mktemp("world") / "qilin"
    synthesize(resolve_world(COUNTS, 3), out)
    for task in ("search", "recommendation"):
        [path] = (out / f"{task}_test").iterdir()
        rows = pd.read_parquet(path)
        rows.at[1, DETAILS[task]] = [item | {"click": 0} for item in rows.at[1, DETAILS[task]]]  # nobody clicks
        rows.to_parquet(path)
    return out


def do(world: Path, ranker: Ranker, candidates: str, task: TaskName = "search", **settings: Any) -> Ranking:
    return rank(ranker, RankConfig(data=str(world), task=task, candidates=candidates, **settings))


def rows_of(world: Path, table: str) -> dict[str, Any]:
    import pandas as pd

    rows = pd.read_parquet(world / table)
    task = table.partition("_")[0]
    return {str(row[KEYS[task]]): row for _, row in rows.iterrows()}


def clicks_of(row: Any, task: str = "search") -> set[int]:
    return {item["note_idx"] for item in row[DETAILS[task]] if item["click"] == 1}


def by_ir_measures(clicks: dict[str, set[int]], run: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The figures of each request that has a click, zero for one that is not in the run."""
    names = {ir_measures.parse_measure(measure): name for name, measure in MEASURES.items()}
    qrels = [ir_measures.Qrel(request, str(note), 1) for request, notes in clicks.items() for note in notes]
    docs = [
        ir_measures.ScoredDoc(request, str(hit.note_idx), -hit.rank) for request, hits in run.items() for hit in hits
    ]
    found: dict[str, dict[str, float]] = {request: {} for request, notes in clicks.items() if notes}
    for each in ir_measures.iter_calc(list(names), qrels, docs):
        found[each.query_id][names[each.measure]] = each.value
    return found


@pytest.mark.parametrize(("task", "name"), [("search", "bm25"), ("recommendation", "dpr")])
def test_recorded_results_count_as_in_trec_eval_with_all_clicks(world: Path, task: TaskName, name: str) -> None:
    rows = rows_of(world, f"{task}_test")
    done = do(world, Random(), f"recorded:{name}", task)
    run = read_trec(done.directory.path / "run.trec")
    recorded = {request: {int(note) for note, _ in row[f"{name}_results"]} for request, row in rows.items()}
    assert {request: {hit.note_idx for hit in hits} for request, hits in run.items()} == recorded
    clicks = {request: clicks_of(row, task) for request, row in rows.items()}
    n_lost = sum(len(notes - recorded[request]) for request, notes in clicks.items())
    assert 0 < n_lost < sum(map(len, clicks.values()))
    assert done.summary.counts["not_found"] == n_lost
    found = {line.id: line.figures for line in done.directory.read_figures() if line.figures}
    expected = by_ir_measures(clicks, run)
    assert found.keys() == expected.keys()
    for request, figures in expected.items():
        assert {name: found[request][name] for name in figures} == pytest.approx(figures, abs=1e-12)
    ir = ir_measures.calc_aggregate([ir_measures.R @ 100], *_as_ir(clicks, run))
    assert done.summary.metrics["recall@100"].value == pytest.approx(ir[ir_measures.R @ 100])


def _as_ir(clicks: dict[str, set[int]], run: dict[str, Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    qrels = [ir_measures.Qrel(request, str(note), 1) for request, notes in clicks.items() for note in notes]
    return qrels, [
        ir_measures.ScoredDoc(request, str(hit.note_idx), -hit.rank) for request, hits in run.items() for hit in hits
    ]


def test_the_recorded_order_is_that_of_production_and_ties_have_none(world: Path) -> None:
    done = do(world, Production(), "recorded:bm25")
    rows = rows_of(world, "search_test")
    for line in done.directory.read_figures():
        clicks = clicks_of(rows[line.id])
        if not clicks:
            continue
        scores = {int(note): score for note, score in rows[line.id]["bm25_results"]}
        assert line.figures is not None
        expected = 0.0
        for note in clicks & scores.keys():
            above = sum(score > scores[note] for score in scores.values())
            tied = sum(score == scores[note] for score in scores.values())
            expected += min(max(10 - above, 0), tied) / tied / len(clicks)
        assert line.figures["recall@10"] == pytest.approx(expected)


def test_a_run_of_another_system_is_ranked_anew(world: Path, tmp_path: Path) -> None:
    rows = rows_of(world, "search_test")
    ids = sorted(rows, key=int)
    clicks = {request: clicks_of(row) for request, row in rows.items()}
    rng = np.random.default_rng(0)
    found = {request: rng.choice(700, 60, replace=False).tolist() for request in ids[1:]}  # nothing for the first
    path = tmp_path / "mine.trec"
    path.write_text("".join(f"{r} Q0 {n} {i} {-i} me\n" for r, notes in found.items() for i, n in enumerate(notes, 1)))
    done = do(world, Random(), f"trec:{path}")
    run = read_trec(done.directory.path / "run.trec")
    assert {request: {hit.note_idx for hit in hits} for request, hits in run.items()} == {
        request: set(notes) for request, notes in found.items()
    }
    expected = by_ir_measures(clicks, run)
    lines = {line.id: line.figures for line in done.directory.read_figures() if line.figures}
    assert lines.keys() == expected.keys()
    for request, figures in expected.items():
        for name, value in figures.items():
            assert lines[request][name] == pytest.approx(value, abs=1e-12)
    assert done.summary.counts["without_candidates"] == 1
    if clicks[ids[0]]:
        first = lines[ids[0]]
        assert set(first) == {*MEASURES, "map@10 (released code)", "map@100 (released code)"} and not any(
            first.values()
        )
    own = do(world, Production(), f"trec:{path}")
    order = {
        request: [hit.note_idx for hit in hits] for request, hits in read_trec(own.directory.path / "run.trec").items()
    }
    assert order == found
    seen = {part.label: part for part in done.summary.slices if part.slice == "note type"}
    assert sum(part.figures["recall@100"].n for part in seen.values()) > 0


def slow_negatives(ids: Sequence[str], clicks: dict[str, set[int]], weights: dict[int, int], n: int, seed: int) -> Any:
    """Draw one note after the other for each request, until there are n different ones that were not clicked."""
    tickets = [note for note in sorted(weights) for _ in range(weights[note])]
    negatives = {}
    for request in ids:
        rng = np.random.default_rng([seed, int(text_hashes([request])[0])])
        drawn: list[int] = []
        while clicks[request] and len(drawn) < n:
            note = tickets[int(rng.integers(len(tickets)))]
            if note not in clicks[request] and note not in drawn:
                drawn.append(note)
        negatives[request] = drawn
    return negatives


@pytest.mark.parametrize(("by", "task"), [("", "search"), (":popularity", "recommendation")])
def test_sampled_candidates_are_those_of_a_slow_reading_with_the_same_seeds(
    world: Path, by: str, task: TaskName
) -> None:
    rows = rows_of(world, f"{task}_test")
    clicks = {request: clicks_of(row, task) for request, row in rows.items()}
    weights = dict.fromkeys(range(COUNTS["notes"]), 1)
    if by:
        train = rows_of(world, f"{task}_train").values()
        weights = dict(Counter(note for row in train for note in clicks_of(row, task)))
    for seed in (0, 7):
        done = do(world, Random(), f"sampled:40{by}", task, seed=seed)
        negatives = slow_negatives(sorted(rows, key=int), clicks, weights, 40, seed)
        run = read_trec(done.directory.path / "run.trec")
        assert {request: {hit.note_idx for hit in hits} for request, hits in run.items()} == {
            request: {*notes, *negatives[request]} for request, notes in clicks.items() if notes
        }
        for line in done.directory.read_figures():
            if not clicks[line.id]:
                assert (line.figures, line.reason) == (None, "no click")
                continue
            place = {hit.note_idx: hit.rank for hit in run[line.id]}
            ranks = [1 + sum(place[other] < place[note] for other in negatives[line.id]) for note in clicks[line.id]]
            expected = {
                **{f"hit@{k}": np.mean([rank <= k for rank in ranks]) for k in (1, 5, 10)},
                **{
                    f"ndcg@{k} (sampled)": np.mean([1 / math.log2(rank + 1) if rank <= k else 0 for rank in ranks])
                    for k in (5, 10)
                },
                "mrr@10 (sampled)": np.mean([1 / rank if rank <= 10 else 0 for rank in ranks]),
                "request_auc": np.mean([1 - (rank - 1) / 40 for rank in ranks]),
            }
            assert line.figures == pytest.approx(expected)
        assert done.summary.metrics["hit@10"].value == pytest.approx(
            np.mean([line.figures["hit@10"] for line in done.directory.read_figures() if line.figures])
        )


def test_sampled_candidates_do_not_depend_on_what_else_is_ranked(world: Path) -> None:
    whole = read_trec(do(world, Random(), "sampled:9").directory.path / "run.trec")
    few = read_trec(do(world, Random(), "sampled:9", first=5).directory.path / "run.trec")
    assert 0 < len(few) <= 5 and few == {request: whole[request] for request in few}


def test_kinds_of_sampled_clicks_are_ranked_against_all_negatives(world: Path) -> None:
    done = do(world, Random(), "sampled:20", "recommendation")
    parts = [part for part in done.summary.slices if part.slice == "note type"]
    clicks = {
        request: clicks_of(row, "recommendation") for request, row in rows_of(world, "recommendation_test").items()
    }
    assert {part.of for part in parts} == {"clicked"} and sum(part.n for part in parts) == sum(
        map(len, clicks.values())
    )
    assert not {"recall@10", "ild@10"} & set(done.summary.metrics) and not done.summary.ties


class Shown(Ranker):
    """Records what it is given."""

    def score(self, requests: Requests, catalogue: Catalogue) -> Floats:
        SEEN.append(requests)
        return np.zeros(requests.n_candidates, np.float32)

    @property
    def is_click_logit(self) -> bool:
        return True


SEEN: list[Requests] = []


def test_a_ranker_sees_no_request_without_candidates(world: Path) -> None:
    SEEN.clear()
    done = do(world, Shown(), "sampled:3")
    assert (np.diff(SEEN[0].offsets) > 0).all() and len(SEEN[0]) == done.summary.counts["requests"] - 1


def test_neither_place_nor_order_tells_a_ranker_which_candidate_was_clicked(world: Path) -> None:
    SEEN.clear()
    done = do(world, Shown(), "sampled:30")
    [requests] = SEEN
    assert (requests.position == -1).all()
    first = requests.clicked[requests.offsets[:-1][np.diff(requests.offsets) > 0]].mean()
    assert first < 0.5  # about the share of clicked notes, if the order is a hash
    metrics = done.summary.metrics
    n = np.diff(requests.offsets)[requests.n_clicked > 0] - requests.n_clicked[requests.n_clicked > 0]
    assert (n == 30).all()
    assert metrics["hit@1"].value == pytest.approx(1 / 31)
    assert metrics["hit@10"].value == pytest.approx(10 / 31)
    assert metrics["request_auc"].value == done.summary.pooled["auc"].value == 0.5


def test_what_does_not_apply_is_said(world: Path) -> None:
    shown = do(world, Shown(), "exposed").summary
    assert shown.pooled["logloss"].value == pytest.approx(math.log(2))
    assert shown.pooled["calibration"].value and not shown.pooled["calibration"].missing
    for candidates in ("sampled:5", "recorded:bm25"):
        pooled = do(world, Shown(), candidates).summary.pooled
        assert "only a note that was shown could be clicked" in (pooled["logloss"].missing or "")
        assert pooled["auc"].value is not None
    assert "no probabilities" in (do(world, Random(), "exposed").summary.pooled["logloss"].missing or "")
    with pytest.raises(UsageError, match="production takes the order of the candidates, and candidates sampled:5"):
        do(world, Production(), "sampled:5")


def test_the_identity_names_the_candidates_only_if_they_are_not_the_shown_ones(world: Path, tmp_path: Path) -> None:
    shown = do(world, Random(), "exposed")
    assert "candidates" not in shown.manifest.identity and shown.directory.path.name.startswith("qilin-search-random-")
    assert "clicked" not in shown.summary.counts
    run = tmp_path / "a.trec"
    shutil.copy(shown.directory.path / "run.trec", run)
    named = {
        name: do(world, Random(), name)
        for name in ("recorded:bm25", "sampled:9", "sampled:9:popularity", f"trec:{run}")
    }
    seeded = do(world, Random(), "sampled:9", seed=1)
    done = [shown, *named.values(), seeded]
    assert len({each.directory.path for each in done}) == 6
    assert named["sampled:9:popularity"].directory.path.name.startswith("qilin-search-sampled-9-popularity-random-")
    assert do(world, Random(), "sampled:9:uniform").directory.path == named["sampled:9"].directory.path
    moved = tmp_path / "b.trec"
    shutil.copy(run, moved)
    assert do(world, Random(), f"trec:{moved}").directory.path == named[f"trec:{run}"].directory.path
    assert named[f"trec:{run}"].summary.metrics["mrr@10"] == shown.summary.metrics["mrr@10"]  # the same candidates


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ("corpus", r"all notes are searched by `qilin-rag retrieve --task search\|recommendation`"),
        ("recorded:bm52", r"candidates 'recorded:bm52' does not exist; did you mean 'recorded:bm25'"),
        ("recorded", "does not exist"),
        ("", "does not exist"),
        ("sampled", "it must be sampled:N or sampled:N:popularity"),
        ("sampled:0", "it must be sampled:N or sampled:N:popularity"),
        ("sampled:-9", "it must be sampled:N or sampled:N:popularity"),
        ("sampled:९", "it must be sampled:N or sampled:N:popularity"),
        ("sampled:9:popular", "it must be sampled:N or sampled:N:popularity"),
        ("sampled:699", r"request \d+ has only 69\d notes to draw from"),
        ("sampled:999999999999999999", "notes to draw from"),
        ("trec:nowhere.trec", r"nowhere\.trec can't be read"),
        ("trec:other.trec", r"other\.trec has no notes for any of the \d+ requests; is it of another task or split"),
        ("trec:twice.trec", "is ranked twice"),
        ("other.trec", r"is a file; write trec:other\.trec"),
    ],
)
def test_names_of_no_candidates(world: Path, candidates: str, message: str) -> None:
    Path("other.trec").write_text("no-such-request Q0 1 1 1 me\n")
    Path("twice.trec").write_text("1 Q0 1 1 2 me\n1 Q0 1 2 1 me\n")
    with pytest.raises(UsageError, match=message) as error:
        do(world, Random(), candidates)
    assert "\n" not in str(error.value)


def test_recorded_results_that_the_data_lacks(world: Path, tmp_path: Path) -> None:
    import pandas as pd

    with pytest.raises(UsageError, match=r"search_train has no column bm25_results, so no candidates recorded:bm25"):
        do(world, Random(), "recorded:bm25", split="validation")
    assert do(world, Random(), "recorded:dpr", split="validation").summary.counts["candidates"] > 0

    def changed(name: str, change: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(world, folder)
        [path] = (folder / "search_test").iterdir()
        rows = pd.read_parquet(path)
        rows["bm25_results"] = rows["bm25_results"].map(lambda pairs: [pair.tolist() for pair in pairs])
        change(rows)
        rows.to_parquet(path)
        return folder

    def empty(rows: Any) -> None:
        rows.at[3, "bm25_results"] = []
        rows.at[4, "bm25_results"] = None

    def half(rows: Any) -> None:
        rows.at[2, "bm25_results"] = [[1.0]]

    with pytest.raises(UsageError, match=r"2 of \d+ requests have no bm25_results, the first is search_idx \d+"):
        do(changed("empty", empty), Random(), "recorded:bm25")
    with pytest.raises(UsageError, match="must be a pair of note_idx and score"):
        do(changed("half", half), Random(), "recorded:bm25")

    def twice(rows: Any) -> None:
        rows.at[0, "bm25_results"] = [[1.0, 2.0], [2.0, 3.0], [1.0, 4.0]]

    doubled = do(changed("twice", twice), Production(), "recorded:bm25")
    rows = pd.read_parquet(tmp_path / "twice" / "search_test")
    hits = read_trec(doubled.directory.path / "run.trec")[str(rows["search_idx"].iloc[0])]
    assert [hit.note_idx for hit in hits] == [1, 2]


def test_without_a_train_table_there_is_no_popularity(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "qilin"
    shutil.copytree(world, folder)
    shutil.rmtree(folder / "search_train")
    with pytest.raises(UsageError, match="table search_train does not exist"):
        do(folder, Random(), "sampled:9:popularity")
    assert do(folder, Random(), "sampled:9").summary.metrics["hit@10"].value


def test_candidates_whose_note_is_missing(world: Path, tmp_path: Path) -> None:
    import pandas as pd

    folder = tmp_path / "qilin"
    shutil.copytree(world, folder)
    [path] = (folder / "notes").iterdir()
    rows = pd.read_parquet(path)
    clicked = [request for request in rows_of(world, "search_test").values() if clicks_of(request)]
    gone = clicks_of(clicked[0])
    rows[~rows["note_idx"].isin(gone)].to_parquet(path)
    for candidates in ("recorded:bm25", "sampled:9"):
        with pytest.raises(UsageError, match="are notes that the data lacks"):
            do(folder, Random(), candidates)
        lines = do(folder, Random(), candidates, missing_notes="skip").directory.read_figures()
        [line] = [line for line in lines if line.id == str(clicked[0]["search_idx"])]
        if candidates == "sampled:9":
            assert line.reason == "its clicked notes were left out"
        else:  # they are clicked notes that were not found
            assert line.figures and line.figures["recall@100"] == 0


def test_an_old_ranking_is_read(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    done = do(world, Random(), "exposed")
    path = done.directory.path
    manifest = json.loads((path / "ranking.json").read_text())
    del manifest["config"]["candidates"], manifest["config"]["seed"]
    (path / "ranking.json").write_text(json.dumps(manifest))
    summary = json.loads((path / "summary.json").read_text())
    del summary["pooled"], summary["metrics"]["request_auc"], summary["metrics"]["recall@100"]
    (path / "summary.json").write_text(json.dumps(summary))
    with caplog.at_level("INFO"):
        again = do(world, Random(), "exposed")
    assert "to rank again with the figures that came since, such as AUC: --fresh" in caplog.text
    assert (again.directory.path, again.summary.pooled) == (path, {})
    assert again.manifest.config.of_candidates == ""
