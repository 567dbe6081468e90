"""Rankings of a synthetic Qilin: written, found again, judged as by hand; training reads no test table."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.trec import read_trec
from qilin_rag.data.catalogue import Catalogue, open_catalogue
from qilin_rag.data.requests import Floats, Requests, Split, TaskName, read_requests, read_table
from qilin_rag.data.source import open_source
from qilin_rag.rankers import run as ranking
from qilin_rag.rankers.base import Ranker
from qilin_rag.rankers.bm25 import BM25
from qilin_rag.rankers.metrics import FIGURES, MEASURES
from qilin_rag.rankers.ranking_directory import RankConfig
from qilin_rag.rankers.run import Ranking, make_ranker, parse_tasks, rank, train
from qilin_rag.rankers.simple import Production, Random
from qilin_rag.rankers.trained import Trained, load_ranker
from qilin_rag.retrievers.bm25.analyzers import ANALYZERS
from qilin_rag.synth import resolve_world, synthesize
from tests.conftest import Cli
from tests.rankers.made import Toy

COUNTS = {"notes": 800, "searches": 400, "recommendations": 300, "dqa": 80, "users": 60}
CLICKS = {"search": "search_result_details_with_idx", "recommendation": "rec_result_details_with_idx"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "qilin"
    synthesize(resolve_world(COUNTS, 2), out)
    return out


def do(world: Path, ranker: Ranker, task: TaskName = "search", split: Split = "test", **settings: Any) -> Ranking:
    return rank(ranker, RankConfig(data=str(world), task=task, split=split, **settings))


def exposed(world: Path, table: str) -> Any:
    """What pandas reads: one row a candidate, with the first position and whether it was clicked."""
    import pandas as pd

    task = "recommendation" if table.startswith("rec") else "search"
    key = "request_idx" if task == "recommendation" else "search_idx"
    rows = pd.read_parquet(world / table).explode(CLICKS[task])
    items = pd.DataFrame(rows[CLICKS[task]].tolist()).assign(request=rows[key].astype(str).to_numpy())
    return (
        items.groupby(["request", "note_idx"]).agg(click=("click", "max"), position=("position", "min")).reset_index()
    )


def reciprocal_ranks(ordered: Any) -> dict[str, float]:
    """Of candidates in their order, at 10; requests without a click have none."""
    found = {}
    for request, clicks in ordered.groupby("request", sort=False)["click"]:
        if clicks.any():
            first = int(np.argmax(clicks.to_numpy() == 1)) + 1
            found[request] = 1 / first if first <= 10 else 0.0
    return found


def test_what_a_ranking_writes(world: Path) -> None:
    done = do(world, Random(seed=3))
    path = done.directory.path
    assert path.parent == Path("runs") and path.name.startswith("qilin-search-random-")
    written = {file.name for file in path.iterdir() if not file.name.startswith(".")}
    assert written == {"ranking.json", "run.trec", "figures.jsonl", "summary.json"}
    assert done.manifest.state == "complete"
    assert (done.manifest.ranker.name, done.manifest.ranker.changed) == ("random", {"seed": 3})
    table = exposed(world, "search_test")
    run = read_trec(path / "run.trec")
    shown = table.groupby("request")["note_idx"].apply(set).to_dict()
    assert {request: {hit.note_idx for hit in hits} for request, hits in run.items()} == shown
    clicked = table[table.click == 1].groupby("request")["note_idx"].apply(set).to_dict()
    lines = done.directory.read_figures()
    assert [line.id for line in lines] == sorted(shown, key=int)
    expected = {
        request: next((1 / hit.rank for hit in run[request][:10] if hit.note_idx in notes), 0.0)
        for request, notes in clicked.items()
    }
    assert {line.id: line.figures["mrr@10"] for line in lines if line.figures} == pytest.approx(expected)
    assert {line.reason for line in lines if not line.figures} == {"no click"}
    metric = done.summary.metrics["mrr@10"]
    assert metric.value == pytest.approx(np.mean(list(expected.values())))
    assert (metric.n, metric.n_unscored) == (len(clicked), len(shown) - len(clicked))
    assert metric.ci95 and metric.ci95[0] < (metric.value or 0) < metric.ci95[1]
    assert set(done.summary.metrics) == {*FIGURES, "request_auc", "ild@10", "coverage@10"} and metric.stderr
    assert done.summary.counts == {
        "requests": len(shown),
        "without_click": metric.n_unscored,
        "candidates": len(table),
        "left_out": 0,
        "tied": 0,
    }


def test_the_same_ranking_is_found_again(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = []
    real = ranking.score_candidates

    def counted(*arguments: Any) -> Floats:
        scored.append(1)
        return real(*arguments)

    monkeypatch.setattr(ranking, "score_candidates", counted)
    first = do(world, Random())
    again = do(world, Random())
    assert (again.manifest, again.summary, len(scored)) == (first.manifest, first.summary, 1)
    anew = do(world, Random(), fresh=True)
    assert (anew.directory.path, anew.summary, len(scored)) == (first.directory.path, first.summary, 2)
    others = [do(world, Random(seed=1)), do(world, Random(), first=9), do(world, Random(), split="validation")]
    assert len({each.directory.path for each in [first, *others]}) == 4
    first.directory.write_manifest(first.manifest.model_copy(update={"state": "incomplete"}))  # it was killed
    assert do(world, Random()).manifest.state == "complete" and len(scored) == 6


def test_what_changes_the_data_is_another_ranking(world: Path, tmp_path: Path) -> None:
    import pandas as pd

    other = tmp_path / "qilin"
    shutil.copytree(world, other)
    before = do(other, Production())
    assert do(other, Production(), fresh=True).directory.path == before.directory.path
    seen = {before.directory.path}
    named = int(exposed(world, "search_test")["note_idx"].iloc[0])
    for table, column, key in (("notes", "like_num", "note_idx"), ("user_feat", "fans_num", "user_idx")):
        [path] = (other / table).iterdir()
        rows = pd.read_parquet(path)
        rows.loc[rows[key] == (named if key == "note_idx" else 5), column] += 1
        rows.to_parquet(path)
        seen.add(do(other, Production()).directory.path)
    assert len(seen) == 3


def test_slices_are_made_anew_when_tables_come(world: Path, tmp_path: Path) -> None:
    """Places in sessions count the requests of all tables, and what is new is so beside the train log."""
    other = tmp_path / "qilin"
    shutil.copytree(world, other)
    tables = [other / name for name in ("search_train", "recommendation_train")]
    for table in tables:
        table.rename(tmp_path / table.name)
    before = do(other, Random(), runs_dir=tmp_path / "runs")
    for table in tables:
        (tmp_path / table.name).rename(table)
    after = do(other, Random(), runs_dir=tmp_path / "runs")
    assert after.summary.metrics == before.summary.metrics
    assert after.summary.slices != before.summary.slices
    assert after.summary == do(world, Random(), runs_dir=tmp_path / "others").summary


def test_random_is_at_chance(world: Path) -> None:
    """The expected reciprocal rank of c clicked among n: the sum of C(n - r, c - 1) / C(n, c) / r."""
    requests = read_requests(open_source(str(world)), "search", "test")
    expected, variances = [], []
    for n, c in zip(np.diff(requests.offsets).tolist(), requests.n_clicked.tolist(), strict=True):
        if c:
            ranks = range(1, min(10, n - c + 1) + 1)
            chances = [math.comb(n - r, c - 1) / math.comb(n, c) for r in ranks]
            mean = sum(p / r for p, r in zip(chances, ranks, strict=True))
            expected.append(mean)
            variances.append(sum(p / r**2 for p, r in zip(chances, ranks, strict=True)) - mean**2)
    off = [(do(world, Random(seed=seed)).summary.metrics["mrr@10"].value or 0) - np.mean(expected) for seed in range(5)]
    deviation = math.sqrt(sum(variances)) / len(variances)
    assert np.abs(off).max() < 4 * deviation
    assert abs(np.mean(off)) < 3 * deviation / math.sqrt(5)


@pytest.mark.parametrize("task", ["search", "recommendation"])
def test_production_is_as_exposed(world: Path, task: TaskName) -> None:
    table = exposed(world, f"{task}_test").sort_values(["request", "position", "note_idx"])
    expected = reciprocal_ranks(table)
    found = {
        line.id: line.figures["mrr@10"]
        for line in do(world, Production(), task).directory.read_figures()
        if line.figures
    }
    assert found == pytest.approx(expected)


def test_bm25_gets_text(world: Path) -> None:
    """Defect 3: handed rows instead of text, BM25 gives every note 0."""
    source = open_source(str(world))
    requests = read_requests(source, "search", "test").take(np.arange(5))
    catalogue = open_catalogue(source)
    scores = BM25(k1=1.2, b=0.6).score(requests, catalogue)
    analyze = ANALYZERS["word"]
    terms = {note.note_idx: Counter(analyze(note.text)) for note in catalogue.notes}
    n, mean_length = len(terms), np.mean([counts.total() for counts in terms.values()])
    expected = []
    for row, note in zip(requests.request, requests.note_idx.tolist(), strict=True):
        length = 1.2 * (1 - 0.6 + 0.6 * terms[note].total() / mean_length)
        total: Any = 0.0
        for term in analyze(requests.queries[row]):
            df = sum(term in counts for counts in terms.values())
            tf = terms[note][term]
            total += math.log(1 + (n - df + 0.5) / (df + 0.5)) * tf / (tf + length)
        expected.append(total)
    assert scores.tolist() == pytest.approx(expected, rel=1e-4)
    assert len(set(scores.tolist())) > len(scores) / 2 and scores.max() > 1
    above = do(world, BM25()).summary.metrics["mrr@10"].value or 0
    assert above > (do(world, Random()).summary.metrics["mrr@10"].value or 0) + 0.05


def test_the_first_requests_are_those_of_the_lowest_ids(world: Path) -> None:
    whole = do(world, Random())
    lines = whole.directory.read_figures()
    few = do(world, Random(), first=7)
    assert few.directory.read_figures() == lines[:7]
    assert do(world, Random(), first=len(lines)).directory.path == whole.directory.path


def without_notes(world: Path, folder: Path, gone: Sequence[int]) -> Path:
    import pandas as pd

    shutil.copytree(world, folder)
    [path] = (folder / "notes").iterdir()
    rows = pd.read_parquet(path)
    rows[~rows["note_idx"].isin(gone)].to_parquet(path)
    return folder


def test_candidates_without_a_note(world: Path, tmp_path: Path) -> None:
    table = exposed(world, "search_test")
    request = table[table.click == 1]["request"].iloc[0]
    gone = table[(table.request == request) & (table.click == 1)]["note_idx"].tolist()
    less = without_notes(world, tmp_path / "less", gone)
    n_gone = int(table["note_idx"].isin(gone).sum())
    with pytest.raises(UsageError, match=rf"{n_gone} of {len(table):,} candidates are notes that the data lacks"):
        do(less, Random())
    done = do(less, Random(), missing_notes="skip")
    assert done.summary.counts["left_out"] == n_gone
    reasons = {line.id: line.reason for line in done.directory.read_figures()}
    assert reasons[request] == "its clicked notes were left out"
    none = without_notes(world, tmp_path / "none", table["note_idx"].tolist())
    with pytest.raises(UsageError, match="so there is nothing to rank"):
        do(none, Random(), missing_notes="skip")


class Bad(Ranker):
    """Scores that are none."""

    how: str

    def score(self, requests: Requests, catalogue: Catalogue) -> Floats:
        scores = np.zeros(requests.n_candidates, np.float32)
        match self.how:
            case "nan":
                scores[4:6] = np.nan, np.inf
            case "short":
                return scores[1:]
            case "raise":
                raise KeyError("colour")
        return scores


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "nan",
            r"test_ranking:Bad gave 2 of \d+ candidates no finite score, the first is note \d+ of request \d+: nan",
        ),
        ("short", r"test_ranking:Bad gave scores of shape \(\d+,\) for \d+ candidates"),
        ("raise", r"test_ranking:Bad failed: KeyError: 'colour'"),
    ],
)
def test_scores_that_are_none_name_the_ranker(world: Path, how: str, message: str) -> None:
    with pytest.raises(QilinError, match=message):
        do(world, Bad(how=how))
    [path] = Path("runs").iterdir()
    assert json.loads((path / "ranking.json").read_text())["state"] == "incomplete"
    assert not (path / "summary.json").exists()


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Requests, Requests]]:
    """What rankers are trained and validated on, instead of training them."""
    seen: list[tuple[Requests, Requests]] = []

    def train_ranker(
        ranker: Any, train: Requests, validation: Requests, catalogue: Any, out: Path, by_answer: Any = None
    ) -> Trained:
        seen.append((train, validation))
        return Trained(out, 1, 1, 0.5)

    module = ModuleType("qilin_rag.rankers.training")
    module.train_ranker = train_ranker  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "qilin_rag.rankers.training", module)
    monkeypatch.setattr(ranking, "require", lambda *arguments, **more: None)
    return seen


def test_training_reads_no_test_table(world: Path, tmp_path: Path, learned: list[tuple[Requests, Requests]]) -> None:
    """Defect 8: the released code chooses its checkpoint on the test set."""
    only_train = tmp_path / "only-train"
    shutil.copytree(world, only_train)
    for table in ("search_test", "recommendation_test", "dqa", "recommendation_train"):
        shutil.rmtree(only_train / table)
    train(Toy(validation_share=0.1), ["search"], str(only_train), tmp_path / "out")
    [(trained_on, validation)] = learned
    whole = read_table(open_source(str(world)), "search_train")
    assert sorted([*trained_on.ids, *validation.ids], key=int) == whole.ids
    assert trained_on.time_ms.max() < validation.time_ms.min()
    assert len(validation) == pytest.approx(0.1 * len(whole), abs=2)
    assert not {*trained_on.ids, *validation.ids} & set(read_table(open_source(str(world)), "search_test").ids)


def test_how_the_log_is_read_reaches_training_and_ranking(
    world: Path, cli: Cli, learned: list[tuple[Requests, Requests]]
) -> None:
    toy = "tests.rankers.made:Toy"
    for shift in (28_800, 0):
        setting = f"log.search_shift_s={shift}"
        done = cli("train", toy, "--data", world, "--out", "out", "--set", setting, "--set", "ranker.seed=1")
        assert done.code == 0, done.err
    (train, validation), (train_true, validation_true) = learned
    assert set((train_true.time_ms - train.time_ms).tolist()) == {28_800_000}
    assert validation_true.ids == validation.ids  # one shift for all of a table changes no order in it
    command = ("rank", "--ranker", "production", "--data", world, "--json")
    settings: tuple[list[str], ...] = (
        [],
        ["log.search_shift_s=0"],
        ["log.session_gap_s=60"],
        ["log.position_zero=unknown"],
    )
    found = [cli(*command, *(["--set", *setting] if setting else [])) for setting in settings]
    assert len({json.loads(each.out)["run"] for each in found}) == len(settings)
    assert len({json.dumps(json.loads(each.out)["metrics"]) for each in found}) == 1  # no result is at position 0
    assert cli(*command, "--set", "log.search_shift_h=8").code == 2


def test_training_on_both_tasks_and_on_less(
    world: Path, tmp_path: Path, learned: list[tuple[Requests, Requests]]
) -> None:
    tasks = parse_tasks("recommendation, search")
    assert tasks == ["search", "recommendation"]
    train(Toy(), tasks, str(world), tmp_path / "out")
    for limit in (20, 50, 10**6):
        train(Toy(seed=4), tasks, str(world), tmp_path / "out", limit=limit)
    (both, validation), (few, same_validation), (more, _), (all_of_them, _) = learned
    assert 0 < both.is_search.sum() < len(both) and 0 < validation.is_search.sum() < len(validation)
    assert same_validation.sha256 == validation.sha256 and all_of_them.sha256 == both.sha256

    def names(requests: Requests) -> set[tuple[bool, str]]:
        return set(zip(requests.is_search.tolist(), requests.ids, strict=True))

    assert len(few) == 20 and names(few) < names(more) < names(both)


def test_what_can_not_be_trained_or_ranked(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ranker bm25 is not trained; the command rank takes it as it is"):
        train(BM25(), ["search"], str(world), tmp_path / "out")
    with pytest.raises(UsageError, match="'serch' does not exist"):
        parse_tasks("serch")
    with pytest.raises(UsageError, match="no ranker is named"):
        make_ranker(None, None, {})
    with pytest.raises(UsageError, match="made:Toy has to be trained first"):
        make_ranker("tests.rankers.made:Toy", None, {})
    for checkpoint in (None, tmp_path):  # its own settings have to come with it
        with pytest.raises(UsageError, match=r"checkpoint bi is not a setting; `rank --checkpoint` takes"):
            make_ranker("tests.rankers.made:Toy", checkpoint, {"checkpoint": "bi"})
    with pytest.raises(UsageError, match="checkpoint bi is not a setting"):
        train(Toy(checkpoint=Path("bi")), ["search"], str(world), tmp_path / "out")


class Blind(Toy):
    """Trained, and looks at nothing."""

    def score(self, requests: Requests, catalogue: Catalogue) -> Floats:
        return np.zeros(requests.n_candidates, np.float32)


def test_only_of_a_ranker_that_reads_counts_they_are_spoken_of(world: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "blind" / "model").mkdir(parents=True)
    content = {"ranker": Blind.class_path(), "settings": {}, "trained": {}}
    (tmp_path / "blind" / "ranker.json").write_text(json.dumps(content))
    named = ("--ranker", Blind.class_path(), "--checkpoint", tmp_path / "blind")
    done = cli("rank", *named, "--data", world, "--runs-dir", tmp_path / "runs")
    assert done.code == 0, done.err
    assert "Counts of notes" not in done.out + done.err


def test_whose_folder_a_trained_ranker_is(tmp_path: Path) -> None:
    def folder(ranker: str) -> Path:
        path = tmp_path / ranker.partition(":")[2]
        path.mkdir()
        content = {"ranker": ranker, "settings": {"seed": 7}, "trained": {}, "versions": {}}
        (path / "ranker.json").write_text(json.dumps(content))
        return path

    toy = folder(Toy.class_path())
    with pytest.raises(UsageError, match=r"is not a registered ranker, so it must be named \(--ranker\)"):
        load_ranker(toy)  # a file can't name code
    loaded = make_ranker("tests.rankers.made:Toy", toy, {"device": "cpu"})
    assert isinstance(loaded, Toy) and (loaded.seed, loaded.device, loaded.checkpoint) == (7, "cpu", toy)
    with pytest.raises(UsageError, match=r"holds the ranker tests\.rankers\.made:Toy, not bm25"):
        make_ranker("bm25", toy, {})
    with pytest.raises(UsageError, match="is trained, epochs stays as it is; to be set: device, log"):
        make_ranker("tests.rankers.made:Toy", toy, {"epochs": 2})
    untrained = folder(BM25.class_path())
    with pytest.raises(UsageError, match="no trained ranker"):
        make_ranker(None, tmp_path / "nowhere", {})
    with pytest.raises(UsageError, match="bm25 is not a ranker that is trained"):
        make_ranker(None, untrained, {})
    (untrained / "ranker.json").write_text('{"ranker": "bm25", "settings": [], "trained": {}}')
    with pytest.raises(UsageError, match="not the manifest of a trained ranker"):
        make_ranker(None, untrained, {})


def test_all_figures_are_there_for_every_split(world: Path) -> None:
    for split in ("validation", "dqa"):
        metrics = do(world, Random(), split=split).summary.metrics
        assert all(metrics[name].value is not None for name in MEASURES)
