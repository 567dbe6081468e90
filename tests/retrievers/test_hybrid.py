from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import RETRIEVERS
from qilin_rag.core.ties import ranked
from qilin_rag.core.types import Hit, Question
from qilin_rag.data import Dataset, NoteStore, load_dataset
from qilin_rag.pipeline.answering import search
from qilin_rag.pipeline.run import run
from qilin_rag.retrievers import Retriever
from qilin_rag.retrievers.bm25.retriever import BM25
from qilin_rag.retrievers.hybrid import Hybrid
from qilin_rag.retrievers.random import Random
from qilin_rag.scorers.retrieval import Retrieval
from tests.conftest import Cli


@pytest.fixture
def small(data_dir: Path) -> Dataset:
    return load_dataset(str(data_dir))


def trec(name: str, *lines: str) -> dict[str, str]:
    """A part that finds `question note score` in a file."""
    Path(name).write_text("".join(f"{q} Q0 {n} 1 {s} t\n" for q, n, s in map(str.split, lines)), encoding="utf-8")
    return {"name": "trec", "path": name}


def tied(data: Dataset, *notes: int) -> list[int]:
    """Notes of one score as the first question has them."""
    return [hit.note_idx for hit in ranked(dict.fromkeys(notes, 0.0), data.questions[0].query)]


def found(of: Sequence[Any], data: Dataset, k: int = 5, **settings: Any) -> list[Any]:
    """(note_idx, score) of each question's hits."""
    retriever = Hybrid(of=list(of), **settings)
    rankings = search(retriever, data.notes, data.questions, k)
    return [[(hit.note_idx, hit.score) for hit in hits] for hits in rankings]


def test_reciprocal_rank_fusion_is_the_formula(small: Dataset) -> None:
    of = [trec("a", "1 10 9", "1 11 8", "1 12 7"), trec("b", "1 12 0.5", "1 13 0.4")]
    first, *others = found(of, small)
    assert first == [
        (12, pytest.approx(1 / 63 + 1 / 61)),
        (10, pytest.approx(1 / 61)),
        *((note, pytest.approx(1 / 62)) for note in tied(small, 11, 13)),
    ]
    assert others == [[], []]
    assert found(of, small, rrf_k=0, weights=[1, 3])[0] == [
        (12, pytest.approx(1 / 3 + 3)),
        (13, pytest.approx(3 / 2)),
        (10, pytest.approx(1)),
        (11, pytest.approx(1 / 2)),
    ]


def test_a_weighted_sum_is_of_scores_from_lowest_to_highest(small: Dataset) -> None:
    of = [trec("a", "1 10 9", "1 11 8", "1 12 5"), trec("b", "1 12 -100", "1 13 -300", "2 13 7")]
    assert found(of, small, fusion="sum", weights=[2, 1]) == [
        [(10, 2.0), (11, pytest.approx(1.5)), (12, 1.0), (13, 0.0)],
        [(13, 1.0)],  # the only one there is
        [],
    ]
    huge = [trec("a", "1 10 1e308", "1 11 -1e308"), trec("b", "1 12 5e-324", "1 13 0")]
    assert found(huge, small, fusion="sum")[0] == [(note, 1.0) for note in tied(small, 10, 12, 13)] + [(11, 0.0)]


def test_neither_the_order_of_parts_nor_k_changes_a_ranking() -> None:
    data = load_dataset("sample")
    of = ["bm25", {"name": "bm25", "analyzer": "char"}, "random", {"name": "random", "seed": 1}]
    for settings in ({}, {"fusion": "sum"}):
        whole = search(Hybrid(of=of, **settings), data.notes, data.questions, 100)
        assert search(Hybrid(of=of[::-1], **settings), data.notes, data.questions, 100) == whole
        assert search(Hybrid(of=of, **settings), data.notes, data.questions, 7) == [hits[:7] for hits in whole]
        assert all(len({hit.note_idx for hit in hits}) == len(hits) == 100 for hits in whole)


def test_each_part_is_asked_for_depth_notes(small: Dataset) -> None:
    of = [trec("a", "1 10 9", "1 11 8", "1 12 7"), trec("b", "1 13 9", "1 12 8")]
    assert found(of, small, k=1, depth=1)[0] == [(tied(small, 10, 13)[0], pytest.approx(1 / 61))]
    assert [note for note, _ in found(of, small, k=2, depth=2)[0]] == tied(small, 10, 13)
    with pytest.raises(UsageError, match="2 notes are wanted of rankings of 1; raise"):
        found(of, small, k=2, depth=1)
    oracle = found(["oracle", "none"], small, k=1, depth=1)  # one that gives all it has is cut as well
    assert [[note for note, _ in hits] for hits in oracle] == [[10], [12], [11]]


def test_it_finds_more_than_each_of_its_parts(small: Dataset) -> None:
    """One part is right about the first half, one about the second, and what each is wrong about the other lacks."""
    right = {"1": 10, "2": 12, "3": 11}
    by_title = trec("a", *(f"{q} {n} {s}" for q, n, s in (("1", 10, 2), ("2", 14, 3), ("2", 12, 2), ("3", 11, 2))))
    by_text = trec("b", "1 13 3", "1 10 2", "2 12 2", "3 14 3", "3 11 2")
    scorer = Retrieval(k=1)
    questions = [question.model_copy(update={"reference_notes": [right[question.id]]}) for question in small.questions]

    def figure(name: str, **settings: Any) -> list[float | None]:
        hits = search(RETRIEVERS.create(name, settings), small.notes, questions, 1)
        return [score.value for score in scorer.score_hits(hits, questions) if score.metric == "recall@1"]

    assert figure("trec", path="a") == [1, 0, 1]
    assert figure("trec", path="b") == [0, 1, 0]
    assert figure("hybrid", of=[by_title, by_text]) == [1, 1, 1]


def test_its_identity_is_that_of_its_parts() -> None:
    trec("a", "1 10 9")
    trec("copy", "1 10 9")
    trec("b", "1 10 8")
    base = Hybrid(of=["bm25", "trec:a"])
    assert Hybrid(of=[{"name": "bm25", "k1": 0.9}, {"name": "trec", "path": "copy"}]).identity() == base.identity()
    others = [
        Hybrid(of=[{"name": "bm25", "k1": 1.2}, "trec:a"]),
        Hybrid(of=["bm25", "trec:b"]),
        Hybrid(of=["bm25", "trec:a"], depth=50),
        Hybrid(of=["bm25", "trec:a"], rrf_k=61),
        Hybrid(of=["bm25", "trec:a"], weights=[1, 2]),
        Hybrid(of=["bm25", "trec:a"], fusion="sum"),
    ]
    assert len({json.dumps(retriever.identity()) for retriever in [base, *others]}) == 7
    assert json.loads(json.dumps(base.identity()))["of"] == [part.identity() for part in base.parts]


def test_what_it_is_made_of_survives_being_written_down() -> None:
    trec("a", "1 10 9")
    made = Hybrid(of=["trec:a", {"name": "bm25", "k1": 1.2}], fusion="sum", weights=[1, 2])
    again = RETRIEVERS.create("hybrid", json.loads(made.model_dump_json()))
    assert again.identity() == made.identity()
    assert again.model_dump() == made.model_dump()
    assert made.model_dump()["of"][1] == {
        "name": "bm25",
        "index": None,
        "k1": 1.2,
        "b": 0.4,
        "analyzer": "word",
        "simplify": False,
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "setting 'of' is missing"),
        ({"of": "bm25"}, "expected a list of retrievers"),
        ({"of": ["bm25"]}, "at least 2 items"),
        ({"of": ["bm25", 3]}, "a part is a name, or a mapping with 'name'"),
        ({"of": ["bm25", {"k1": 3}]}, "a part is a name, or a mapping with 'name'"),
        ({"of": ["bm25", "bm52"]}, "retriever 'bm52' does not exist; did you mean 'bm25'?"),
        (
            {"of": ["bm25", {"name": "bm25", "k2": 1}]},
            "bm25: setting 'k2' does not exist; did you mean 'k1'?",
        ),
        ({"of": ["bm25", {"name": "bm25", "b": 0.4}]}, "retriever hybrid: bm25 is named twice"),
        ({"of": ["bm25", {"name": "bm25", "index": "x"}]}, "retriever hybrid: bm25 is named twice"),
        ({"of": ["bm25", {"name": "hybrid", "of": ["bm25", "random"]}]}, "a part of hybrid can't be hybrid"),
        ({"of": ["bm25", "mixed"]}, "a part of hybrid can't be mixed"),
        ({"of": ["bm25", "unanswerable:bm25"]}, "a part of hybrid can't be unanswerable:bm25"),
        ({"of": ["bm25", "random"], "weights": [1]}, "1 weights for 2 retrievers"),
        ({"of": ["bm25", "random"], "weights": [1, 0]}, "setting 'weights.1' is 0"),
        ({"of": ["bm25", "random"], "weights": [1, float("nan")]}, "setting 'weights.1' is nan"),
        ({"of": ["bm25", "random"], "fusion": "sum", "rrf_k": 10}, "rrf_k is a setting of fusion rrf"),
        ({"of": ["bm25", "random"], "depth": 0}, "setting 'depth' is 0"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        RETRIEVERS.create("hybrid", settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


class Twice(Retriever):
    """A note found twice, as code of a user's own may have it."""

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        return [[Hit(note_idx=10, score=1, rank=1), Hit(note_idx=10, score=1, rank=2)] for _ in questions]


def test_a_part_that_gives_no_ranking_is_named(small: Dataset) -> None:
    with pytest.raises(UsageError, match=r"^hybrid: .*:Twice, question 1: a note is named twice"):
        found(["bm25", Twice.class_path()], small)


def test_a_file_names_no_code_in_a_part(data_dir: Path, cli: Cli) -> None:
    Path("run.yaml").write_text(f"retriever: {{name: hybrid, of: [bm25, '{Twice.class_path()}']}}\n")
    done = cli("run", "--config", "run.yaml", "--data", data_dir)
    assert (done.code, "retriever must be a registered name" in done.err) == (2, True)
    Path("run.yaml").write_text("retriever: {name: hybrid, of: [bm25, [random]]}\n")
    done = cli("run", "--config", "run.yaml", "--data", data_dir)
    assert (done.code, "a part is a name" in done.err) == (2, True)


def test_runs_sweeps_and_tables(data_dir: Path, cli: Cli) -> None:
    index = Path("index").absolute()
    assert cli("index", "bm25", "--data", data_dir, "--out", index).code == 0
    Path("grid.yaml").write_text(
        f"retrievers: [bm25, {{name: hybrid, of: [{{name: bm25, index: {index}}}, 'trec:a'], weights: [2, 1]}}]\n"
        f"data: {data_dir}\ntop_k: [2, 3]\n"
    )
    trec("a", "1 11 5", "2 11 5", "3 12 5")
    done = cli("sweep", "grid.yaml", "-q")
    assert done.code == 0, done.err
    board = json.loads(cli("leaderboard", "--format", "json").out)
    assert "hybrid of=(bm25, trec:a) weights=[2.0, 1.0]" in json.dumps(board)
    [two, three] = sorted(Path("runs").glob("*-hybrid-*"), key=lambda path: len((path / "run.trec").read_text()))
    assert (two / "run.trec").read_text().startswith("1 Q0 11 1 2 ")  # found by both: 2/62 + 1/61 against 2/61
    assert cli("reproduce", three, "-q").code == 0
    out = cli("retrieve", "--retriever", "hybrid", "--set", "retriever.of=[bm25,random]", "--data", data_dir, "--out=t")
    assert out.code == 0
    assert len(Path("t").read_text().splitlines()) == 15
    gone = cli(
        "run", "--data", data_dir, "--retriever", "hybrid", "--set", "retriever.of=[random,{name: bm25, index: x}]"
    )
    assert (gone.code, gone.err.count("\n"), "index x does not exist" in gone.err) == (2, 1, True)


def test_the_same_run_by_flags_and_by_a_part_with_its_defaults(data_dir: Path) -> None:
    made = {"data": str(data_dir), "retriever": "hybrid"}
    one = run(resolve_run(made, ["retriever.of=[bm25, random]"]))
    two = run(resolve_run(made, ["retriever.of=[{name: bm25, k1: 0.9}, {name: random, seed: 0}]"]))
    assert one.directory.path == two.directory.path
    assert [type(part) for part in Hybrid(of=["bm25", "random"]).parts] == [BM25, Random]
