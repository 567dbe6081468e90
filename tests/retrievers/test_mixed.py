"""Right and wrong notes mixed, and notes without the answer: which notes a question gets, to the last one."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import RETRIEVERS
from qilin_rag.core.types import Hit, Question
from qilin_rag.data import Dataset, NoteStore, load_dataset
from qilin_rag.pipeline.answering import search
from qilin_rag.pipeline.doctor import examine
from qilin_rag.retrievers import Retriever
from qilin_rag.retrievers.bm25.retriever import BM25
from qilin_rag.retrievers.hybrid import Hybrid
from qilin_rag.retrievers.mixed import Mixed, Unanswerable
from qilin_rag.retrievers.parts import leaves
from qilin_rag.retrievers.random import Random
from tests.conftest import NOTES, QUESTIONS, Cli, write_jsonl

HITS = [
    *("1 Q0 11 1 9 t", "1 Q0 10 2 8 t", "1 Q0 13 3 7 t", "1 Q0 12 4 6 t"),
    *("2 Q0 12 1 9 t", "2 Q0 13 2 8 t", "2 Q0 11 3 7 t"),
    *("3 Q0 14 1 9 t", "3 Q0 13 2 8 t", "3 Q0 12 3 7 t", "3 Q0 10 4 6 t", "3 Q0 11 5 5 t"),
]
"""What a retriever finds; the reference notes are 10, then 12 and 13, then 11."""


@pytest.fixture
def small(data_dir: Path) -> Dataset:
    Path("hits").write_text("\n".join(HITS), encoding="utf-8")
    return load_dataset(str(data_dir))


def changed(folder: Path, notes: Sequence[Any] = NOTES, questions: Sequence[Any] = QUESTIONS) -> Dataset:
    write_jsonl(folder / "notes.jsonl", notes)
    write_jsonl(folder / "dqa.jsonl", questions)
    return load_dataset(str(folder))


def found(retriever: Retriever, data: Dataset, k: int = 5) -> list[list[int]]:
    return [[hit.note_idx for hit in hits] for hits in search(retriever, data.notes, data.questions, k)]


def hard(**settings: Any) -> Mixed:
    return Mixed(**{"wrong": "trec:hits", "order": "right_first", **settings})


@pytest.mark.parametrize(
    ("settings", "k", "expected"),
    [
        ({"k_right": 1, "k_wrong": 1}, 5, [[10, 11], [12, 11], [11, 14]]),
        ({"k_right": 2, "k_wrong": 1}, 5, [[10, 11], [12, 13, 11], [11, 14]]),
        ({"k_right": 1, "k_wrong": 2}, 3, [[10, 11, 13], [12, 11], [11, 14, 13]]),
        ({"k_right": 0, "k_wrong": 2}, 2, [[11, 13], [11], [14, 13]]),
        ({"k_right": 1, "k_wrong": 0}, 1, [[10], [12], [11]]),
        ({"k_wrong": 1}, 2, [[10, 11], [12, 11], [11, 14]]),  # the rest of top_k is right
        ({"k_wrong": 1}, 3, [[10, 11], [12, 13, 11], [11, 14]]),
        ({"k_wrong": 3}, 3, [[11, 13, 12], [11], [14, 13, 12]]),
        ({"k_right": 1, "k_wrong": 2, "order": "wrong_first"}, 3, [[11, 13, 10], [11, 12], [14, 13, 11]]),
    ],
)
def test_the_notes_are_those_that_are_asked_for(
    settings: dict[str, Any], k: int, expected: list[list[int]], small: Dataset
) -> None:
    assert found(hard(**settings), small, k) == expected
    shuffled = hard(**{**settings, "order": "shuffled"})
    assert [sorted(notes) for notes in found(shuffled, small, k)] == [sorted(notes) for notes in expected]
    scores = [[hit.score for hit in hits] for hits in search(shuffled, small.notes, small.questions, k)]
    assert scores == [list(range(len(notes), 0, -1)) for notes in expected]


def test_a_seed_draws_and_shuffles_for_each_question_alone(small: Dataset) -> None:
    drawn = {seed: found(Mixed(k_right=1, k_wrong=2, seed=seed), small) for seed in range(20)}
    assert drawn[0] == found(Mixed(k_right=1, k_wrong=2), small) == [[10, 12, 11], [11, 14, 12], [11, 10, 12]]
    assert len({json.dumps(each) for each in drawn.values()}) > 15
    right = [{10}, {12}, {11}]
    for of_seed in drawn.values():
        assert [bool(set(notes) & wanted) for notes, wanted in zip(of_seed, right, strict=True)] == [True] * 3
        assert all(not {12, 13} <= set(notes) for notes in of_seed[1:2])
    for number, question in enumerate(small.questions):
        [alone] = search(Mixed(k_right=1, k_wrong=2, seed=7), small.notes, [question], 5)
        assert [hit.note_idx for hit in alone] == drawn[7][number]
    everything = {note for of_seed in drawn.values() for note in of_seed[2]}
    assert everything == {10, 11, 12, 13, 14}  # any note may be drawn


@pytest.mark.parametrize("wrong", ["random", "trec:hits"])
def test_less_noise_is_a_part_of_more(wrong: str, small: Dataset) -> None:
    by_k = [found(Mixed(k_right=1, k_wrong=k, wrong=wrong), small, 5) for k in range(4)]
    for less, more in pairwise(by_k):
        for few, many in zip(less, more, strict=True):
            assert [note for note in many if note in few] == few


def test_neither_a_reference_note_nor_its_copy_is_wrong(tmp_path: Path, small: Dataset) -> None:
    copy = {**NOTES[0], "note_idx": 20, "content": f"{NOTES[0]['content']}\n".replace("80", "８０")}
    notes = [*NOTES, copy, {**NOTES[1], "note_idx": 21}]
    data = changed(tmp_path / "small", notes)
    Path("hits").write_text("1 Q0 20 1 9 t\n1 Q0 11 2 8 t\n1 Q0 21 3 7 t\n1 Q0 13 4 6 t\n2 Q0 13 1 5 t\n")
    assert found(hard(k_right=1, k_wrong=2), data)[:2] == [[10, 11, 21], [12]]
    assert found(Unanswerable(of="trec:hits"), data) == [[11, 21, 13], [], []]
    for seed in range(10):
        first, second, third = found(Mixed(k_right=0, k_wrong=5, seed=seed), data)
        assert (sorted(first), sorted(third)) == ([11, 12, 13, 14, 21], [10, 12, 13, 14, 20])
        assert sorted(second) == [10, 11, 14, 20, 21]


def test_questions_with_fewer_notes_get_fewer_and_are_counted(
    tmp_path: Path, small: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    questions = [
        {**QUESTIONS[0], "ref_note_idx_list": []},
        {**QUESTIONS[1], "ref_note_idx_list": [10, 11, 12, 13, 14]},
        QUESTIONS[2],
    ]
    data = changed(tmp_path / "small", NOTES, questions)
    with caplog.at_level(logging.INFO):
        first, second, third = found(Mixed(k_right=2, k_wrong=3, order="right_first"), data)
    assert (len(first), second, len(third)) == (3, [10, 11], 4)
    assert third[0] == 11
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [
        ("WARNING", "mixed: 2 of 3 questions have fewer than 2 reference notes, and get fewer"),
        ("WARNING", "mixed: 1 of 3 questions have fewer than 3 other notes, and get fewer"),
    ]
    assert [len(notes) for notes in found(Mixed(k_right=1, k_wrong=90), data, 91)] == [5, 1, 5]  # a small corpus
    assert found(Unanswerable(of="random"), data)[1] == []


def test_reference_notes_that_the_data_lacks_are_the_runs_to_refuse_or_skip(
    tmp_path: Path, cli: Cli, small: Dataset
) -> None:
    changed(tmp_path / "small", NOTES, [{**QUESTIONS[0], "ref_note_idx_list": [99, 10]}])
    command = ("run", "--data", tmp_path / "small", "--retriever", "mixed", "--set", "retriever.k_right=1")
    refused = cli(*command)
    assert (refused.code, refused.err.count("\n")) == (2, 2)
    assert "notes that are not in the data: 99" in refused.err and "skip" in refused.err
    assert cli(*command, "--missing-notes", "skip").code == 0
    [sample] = [json.loads(line) for line in next(Path("runs").glob("*/samples.jsonl")).open()]
    assert (sample["notes_missing"], sample["notes_given"], 10 in sample["prompt_notes"]) == (1, 2, False)


class Deepening(Retriever):
    """Finds other notes first if it is asked for more, and says what it was asked for."""

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        ASKED.append((k, [question.id for question in questions]))
        order = sorted(notes.note_idxs.tolist(), reverse=k > 4)
        return [[Hit(note_idx=n, score=-rank, rank=rank) for rank, n in enumerate(order[:k], 1)] for _ in questions]


ASKED: list[tuple[int, list[str]]] = []


def test_what_a_question_gets_does_not_depend_on_the_others(small: Dataset) -> None:
    """Though one has more reference notes, and a retriever finds others if it is asked for more."""
    retriever = Mixed(k_right=0, k_wrong=2, wrong=Deepening.class_path(), order="wrong_first")
    ASKED.clear()
    together = found(retriever, small)
    assert together == [[11, 12], [10, 11], [10, 12]]
    assert ASKED == [(4, ["1", "2", "3"])]
    alone = [search(retriever, small.notes, [question], 5)[0] for question in small.questions]
    assert [[hit.note_idx for hit in hits] for hits in alone] == together
    ASKED.clear()
    assert found(Unanswerable(of=Deepening.class_path()), small, 3) == [[11, 12, 13], [14, 11, 10], [10, 12, 13]]
    assert ASKED == [(4, ["1", "3"]), (8, ["2"])]


def test_unanswerable_is_filled_up_from_further_down(small: Dataset) -> None:
    retriever = Unanswerable(of="trec:hits")
    assert found(retriever, small, 2) == [[11, 13], [11], [14, 13]]
    assert found(retriever, small, 3) == [[11, 13, 12], [11], [14, 13, 12]]
    [first, *_] = search(retriever, small.notes, small.questions, 2)
    assert [(hit.rank, hit.score) for hit in first] == [(1, 9.0), (2, 7.0)]
    by_hybrid = Unanswerable(of={"name": "hybrid", "of": ["trec:hits", "random"], "depth": 3})
    assert [len(notes) for notes in found(by_hybrid, small, 2)] == [2, 1, 2]  # never asks for more than its depth


def test_a_run_is_known_by_every_setting() -> None:
    Path("hits").write_text("\n".join(HITS))
    base = {"k_right": 1, "k_wrong": 2, "wrong": "bm25"}
    variants: list[dict[str, Any]] = [
        *({}, {"k_right": 2}, {"k_right": None}, {"k_wrong": 3}, {"order": "right_first"}, {"order": "wrong_first"}),
        *({"seed": 1}, {"wrong": "random"}, {"wrong": "trec:hits"}, {"wrong": {"name": "bm25", "k1": 1.2}}),
    ]
    made = [Mixed(**{**base, **each}) for each in variants] + [Unanswerable(), Unanswerable(of="trec:hits")]
    assert len({json.dumps(each.identity()) for each in made}) == len(made) == 12
    assert len({json.dumps(each.changed()) for each in made}) == 12
    for each in made:
        again = RETRIEVERS.create(each.called(), json.loads(each.model_dump_json()))
        assert (again, again.identity()) == (each, each.identity())
        named = each.named()
        assert RETRIEVERS.create(named.name, named.settings) == each
    given = [Mixed(wrong=BM25(k1=1.2)), Mixed(wrong={"name": "bm25", "k1": 1.2})]
    assert given[0] == given[1] and given[0].changed() == {"wrong": "(bm25 k1=1.2)"}
    assert Mixed(wrong="bm25").identity() == RETRIEVERS.create("mixed:bm25", {}).identity()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mixed", {"k_right": 0, "k_wrong": 0}, "k_right and k_wrong are both 0"),
        ("mixed", {"k_wrong": -1}, "setting 'k_wrong' is -1"),
        ("mixed", {"order": "best"}, "setting 'order' is 'best'"),
        ("mixed", {"wrong": "bm52"}, "retriever 'bm52' does not exist; did you mean 'bm25'?"),
        ("mixed", {"wrong": {"name": "bm25", "k3": 1}}, "setting 'k3' does not exist"),
        ("mixed", {"wrong": 3}, "a part is a name, or a mapping"),
        ("mixed", {"wrong": {"name": "random", "seed": 3}}, "random notes are drawn by retriever.seed"),
        ("mixed:oracle", {}, "wrong can't be oracle"),
        ("mixed:oracle_top_k", {}, "wrong can't be oracle_top_k"),
        ("mixed:none", {}, "wrong can't be none"),
        ("mixed:mixed", {}, "wrong can't be mixed"),
        ("mixed:unanswerable", {}, "wrong can't be unanswerable"),
        ("unanswerable:oracle", {}, "of can't be oracle"),
        ("unanswerable:unanswerable", {}, "of can't be unanswerable"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        RETRIEVERS.create(name, settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "top_k", "expected"),
    [
        (["k_right=1", "k_wrong=9"], None, 10),  # both numbers are the number of notes
        (["k_right=1"], None, 3),
        (["k_right='1'", "k_wrong='9'"], None, 10),
        (["k_wrong=4"], None, 5),
        ([], None, 5),
        (["k_right=1", "k_wrong=2"], 5, 5),
        (["k_wrong=6"], None, "k_wrong 6 need 6 notes, but top_k is 5; set top_k to 6"),
        (["k_right=3", "k_wrong=4"], 5, "k_right 3 and k_wrong 4 need 7 notes, but top_k is 5"),
        (["k_right=oops"], None, "setting 'k_right'"),
    ],
)
def test_the_numbers_fit_top_k_or_are_refused(settings: list[str], top_k: int | None, expected: int | str) -> None:
    flags = {"retriever": "mixed", "top_k": top_k}
    overrides = [f"retriever.{setting}" for setting in settings]
    if isinstance(expected, int):
        assert resolve_run(flags, overrides).top_k == expected
    else:
        with pytest.raises(UsageError, match=expected):
            resolve_run(flags, overrides)


def test_all_that_looks_for_parts_sees_them(data_dir: Path, cli: Cli) -> None:
    """A dry run, doctor, and the check that a file names no code; no hard notes, no index."""
    deep = Mixed(wrong={"name": "hybrid", "of": ["bm25", "random"]})
    assert [type(leaf) for leaf in leaves(deep)] == [BM25, Random]
    assert isinstance(deep.parts[0], Hybrid)
    assert list(leaves(Mixed(k_right=2, k_wrong=0, wrong="bm25"))) == list(leaves(Mixed())) == []
    model = "{name: biencoder, model: nobody/knows-it}"
    command = ("run", "--data", data_dir, "--dry-run", "--retriever")
    for name, setting in (("mixed", "wrong"), ("unanswerable", "of")):
        planned = cli(*command, name, "--set", f"retriever.{setting}={model}")
        assert (planned.code, "model 'nobody/knows-it' is not on this machine" in " ".join(planned.out.split())) == (
            0,
            True,
        )
        config = resolve_run({"data": str(data_dir), "retriever": name}, [f"retriever.{setting}={model}"])
        [examined] = [each for each in examine(config.spec()) if each.subject == "biencoder"]
        assert "nobody/knows-it" in examined.detail
        for part in (Deepening.class_path(), f"{{name: hybrid, of: [bm25, '{Deepening.class_path()}']}}"):
            Path("run.yaml").write_text(f"retriever: {{name: {name}, {setting}: {part}}}\n")
            refused = cli("run", "--config", "run.yaml", "--data", data_dir)
            assert (refused.code, "retriever must be a registered name" in refused.err) == (2, True)
    assert not Path("runs").exists() and not Path("cache").exists()


@pytest.mark.slow
def test_parts_in_parts_are_refused_at_any_depth(cli: Cli) -> None:
    nested = '{"name": "mixed", "wrong": ' * 280 + "bm25" + "}" * 280
    Path("deep.yaml").write_text(f"retriever: {nested}\n")
    done = cli("run", "--config", "deep.yaml")
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert "wrong can't be mixed" in done.err


def test_the_whole_command_line(data_dir: Path, cli: Cli) -> None:
    Path("hits").write_text("\n".join(HITS))
    for settings in (["k_wrong=0"], ["k_wrong=2", "seed=1"]):
        flags = [part for each in ["k_right=1", *settings] for part in ("--set", f"retriever.{each}")]
        command = ("run", "--data", data_dir, "--retriever", "mixed:trec:hits", *flags, "--metrics", "refusal,rouge_l")
        assert cli(*command, "-q").code == 0
    assert cli("run", "--data", data_dir, "--retriever", "unanswerable", "--metrics", "refusal,rouge_l", "-q").code == 0
    runs = sorted(Path("runs").iterdir())
    assert len(runs) == 3
    board = cli("leaderboard", "--format", "csv")
    assert board.code == 0 and "mixed k_right=1 k_wrong=0 wrong=(trec:hits)" in board.out
    assert "unanswerable of=(bm25)" in board.out
    assert cli("compare", *runs[:2], "--metric", "rouge_l").code == 0
    assert cli("reproduce", runs[0], "-q").code == 0


def test_the_bundled_sample(cli: Cli) -> None:
    """Every question has its right note among as many wrong ones as asked, or none that is right."""
    data = load_dataset("sample")
    hard_notes = found(Mixed(k_right=1, k_wrong=4, wrong="bm25"), data, 5)
    drawn = found(Mixed(k_right=1, k_wrong=4), data, 5)
    without = found(Unanswerable(), data, 5)
    for question, *of_question in zip(data.questions, hard_notes, drawn, without, strict=True):
        n_right = [len(set(notes) & set(question.reference_notes)) for notes in of_question]
        assert n_right == [1, 1, 0]
        assert [len(notes) for notes in of_question] == [5, 5, 5]
