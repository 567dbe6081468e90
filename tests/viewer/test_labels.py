"""Labels: every one is kept once, whoever writes at the same time and whatever ends a process."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs Starlette: pip install 'qilin-rag[view]'")

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import UsageError
from qilin_rag.core.label_rules import annotator_name, answers_hash
from qilin_rag.core.labels import Choice, Side
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.viewer.label_agreement import label_agreement
from qilin_rag.viewer.label_export import export_labels
from qilin_rag.viewer.label_task import OpenTask, open_task, read_task
from qilin_rag.viewer.labels import HOLD_S, ConflictError, LabelStore
from tests.conftest import Cli, write_jsonl
from tests.viewer.labelling import label_all, made_label, made_task

CHECKOUT = Path(__file__).parents[2]
CHANGES = [("question_id", "99"), ("sides", [0]), ("sides", [1, 1]), ("choice", None), ("ratings", {"A": {"x": 1}})]
"""What an edited line may hold that is no label of the task."""


def lines_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "made.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def task() -> OpenTask:
    return made_task()


@pytest.fixture
def store(task: OpenTask, tmp_path: Path) -> LabelStore:
    return LabelStore(task, tmp_path / "labels")


@pytest.fixture
def runs(data_dir: Path) -> list[Path]:
    one, other = (run(resolve_run({"data": str(data_dir), "retriever": name})).path for name in ("bm25", "oracle"))
    write_jsonl(other / "samples.jsonl", [each | {"answer": f"{each['answer']} 二"} for each in samples_of(other)])
    return [one, other]


def samples_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "samples.jsonl").read_text(encoding="utf-8").splitlines()]


def test_labels_are_kept_and_resumed(task: OpenTask, tmp_path: Path) -> None:
    assert label_all(task, tmp_path, "An") == list(task.items)
    assert label_all(task, tmp_path, "An") == []
    assert [line["question_id"] for line in lines_of(tmp_path)] == list(task.items)
    assert LabelStore(task, tmp_path).progress("An")["done"] == len(task.items)


def test_a_label_that_is_sent_twice_is_stored_once(store: LabelStore) -> None:
    label = made_label(store.task, "1", "An")
    assert [store.add(label), store.add(label)] == [True, False]
    assert LabelStore(store.task, store.path.parent).add(label) is False
    with pytest.raises(ConflictError, match="before"):
        store.add(made_label(store.task, "1", "An", choice="A"))
    with pytest.raises(ConflictError, match="id"):
        store.add(made_label(store.task, "2", "An", id=label.id))
    assert store.labels() == [label]


def test_half_a_line_is_cut_off_and_a_whole_one_without_its_end_is_kept(task: OpenTask, tmp_path: Path) -> None:
    whole = made_label(task, "1", "An").model_dump_json()
    (tmp_path / "made.jsonl").write_text(f"{whole}\n{whole[:40]}")
    store = LabelStore(task, tmp_path)
    store.add(made_label(task, "2", "An"))
    assert [line["question_id"] for line in lines_of(tmp_path)] == ["1", "2"]
    (tmp_path / "made.jsonl").write_text(whole)
    store = LabelStore(task, tmp_path)
    store.add(made_label(task, "2", "An"))
    assert [each.question_id for each in store.labels()] == ["1", "2"]


def test_what_is_withdrawn_comes_back_and_stays_in_the_file(store: LabelStore) -> None:
    first, second = (made_label(store.task, question_id, "An") for question_id in ("3", "4"))
    store.add(first)
    store.add(second)
    with pytest.raises(ConflictError, match="last"):
        store.withdraw("An", first.id)
    with pytest.raises(ConflictError, match="last"):
        store.withdraw("Bo", second.id)
    assert [store.withdraw("An", second.id), store.withdraw("An", second.id)] == [True, False]
    assert store.add(second) is False  # a late copy of what was withdrawn does not bring it back
    again = store.next_item("An")
    assert again is not None and again.question.id == "4"
    assert store.add(made_label(store.task, "4", "An", choice="A"))
    assert [(each.question_id, each.choice) for each in store.labels()] == [("3", "tie"), ("4", "A")]
    assert [line["kind"] for line in lines_of(store.path.parent)] == ["label", "label", "withdrawn", "label"]


@pytest.mark.parametrize("typed", ["An", "an", "AN", "Ａｎ", " An ", "A\u200bn"])
def test_a_name_is_one_however_it_is_typed(typed: str, task: OpenTask, tmp_path: Path) -> None:
    store = LabelStore(task, tmp_path)
    item = store.next_item(annotator_name("An"))
    assert item is not None and store.spelling(annotator_name(typed)) == "An"  # who looks at a question has a name, too
    store.add(made_label(task, item.question.id, "An"))
    assert LabelStore(task, tmp_path).spelling(annotator_name(typed)) == "An"
    assert store.spelling(annotator_name("Ann")) == "Ann" and store.spelling(annotator_name("安")) == "安"


def test_questions_that_are_not_shared_go_to_one_annotator(task: OpenTask, tmp_path: Path) -> None:
    one, other = LabelStore(task, tmp_path), LabelStore(task, tmp_path)  # two processes have two
    for _ in task.items:
        for store, annotator in ((one, "An"), (other, "Bo")):
            if item := store.next_item(annotator):
                assert store.next_item(annotator) is item  # the page may be loaded again
                store.add(made_label(task, item.question.id, annotator))
    times = Counter(each.question_id for each in one.labels())
    assert times == {each: 2 if item.is_shared else 1 for each, item in task.items.items()}
    assert one.progress("An") | {"last": None} == {
        "done": 5,
        "total": 5,
        "all_done": 8,
        "all_total": 8,
        "n_annotators": 2,
        "last": None,
    }


def test_a_question_is_held_for_half_an_hour(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    task = made_task(2, 0)
    store = LabelStore(task, tmp_path)
    clock = [1e9]
    monkeypatch.setattr("qilin_rag.viewer.labels.time.time", lambda: clock[0])

    def shown(annotator: str) -> str | None:
        item = store.next_item(annotator)
        return item and item.question.id

    assert [shown("An"), shown("Bo"), shown("Cy")] == ["0", "1", None]
    clock[0] += HOLD_S - 1
    assert [shown("Bo"), shown("Cy")] == ["1", None]
    clock[0] += 2
    assert [shown("Cy"), shown("An")] == ["0", None]
    assert store.add(made_label(task, "0", "An")) and store.add(made_label(task, "0", "Cy"))  # late, but not lost
    (tmp_path / ".made.held.json").write_text("[half")
    assert shown("An") == "1"


def test_two_processes_write_at_the_same_time(tmp_path: Path) -> None:
    task = made_task(60, 20)
    command = [sys.executable, "-m", "tests.viewer.labelling", str(tmp_path), "Bo"]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "begins\n"
        mine = label_all(task, tmp_path, "An", pause_s=0.01)
        assert process.wait(60) == 0
    assert 20 < len(mine) < 60  # both had some of those that go to one
    times = Counter(each.question_id for each in LabelStore(task, tmp_path).labels())
    assert times == {each: 2 if item.is_shared else 1 for each, item in task.items.items()}
    assert len({line["id"] for line in lines_of(tmp_path)}) == len(lines_of(tmp_path)) == 80


def test_labels_of_another_task_are_refused(store: LabelStore) -> None:
    store.add(made_label(store.task, "1", "An"))
    before = store.path.read_bytes()
    with pytest.raises(UsageError, match=r"made\.jsonl.*another task.*name"):
        LabelStore(made_task(9), store.path.parent)
    changed = [made_label(store.task, "2", "An").model_copy(update={name: value}) for name, value in CHANGES]
    for line in [b'{"id": 1}', *(each.model_dump_json().encode() for each in changed)]:
        store.path.write_bytes(before + line + b"\n")
        with pytest.raises(UsageError, match=r"made\.jsonl, line 2"):
            LabelStore(store.task, store.path.parent)
    elsewhere = store.path.rename(store.path.with_name("elsewhere.jsonl"))
    store.path.symlink_to(elsewhere)
    with pytest.raises(UsageError, match="plain file"):
        LabelStore(store.task, store.path.parent)


def test_what_is_not_a_label_of_the_task_is_refused() -> None:
    pair, rated = made_task(criteria={"correct": (1, 5)}), made_task(n_runs=1)
    good: dict[Side, dict[str, int]] = {"A": {"correct": 5}, "B": {"correct": 1}}
    pair.check("tie", good)
    rated.check(None, {"A": {"quality": 1}})
    wrong_pairs: list[tuple[Choice | None, dict[Side, dict[str, int]]]] = [
        (None, good),
        ("tie", {}),
        ("A", {"A": {"correct": 5}}),
        ("A", {"A": {"correct": 5}, "B": {}}),
        ("A", {"A": {"correct": 6}, "B": {"correct": 1}}),
        ("A", {"A": {"correct": 0}, "B": {"correct": 1}}),
        ("A", {"A": {"fluent": 1}, "B": {"correct": 1}}),
    ]
    for choice, ratings in wrong_pairs:
        with pytest.raises(UsageError):
            pair.check(choice, ratings)
    with pytest.raises(UsageError):
        rated.check("A", {"A": {"quality": 1}})
    with pytest.raises(UsageError):
        made_task().check("A", good)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("runs: []", "runs"),
        ("runs: [a, b, c]", "runs"),
        ("runs: [a]\nname: ../a", "name"),
        ("runs: [a]\nname: .hidden", "name"),
        ("runs: [a]\nquestions: 0", "questions"),
        ("runs: [a]\noverlap: 1.5", "overlap"),
        ("runs: [a]\nquestion: 3", "did you mean 'questions'"),
        ("runs: [a]\ncriteria: {correct: [5, 1]}", "correct"),
        ("runs: [a]\ncriteria: {correct: [0, 10]}", "correct"),
        ("runs: [a]\ncriteria: {correct: 5}", "criteria.correct"),
        ('runs: [a]\ncriteria: {"\\u200b": [1, 5]}', "criteria"),
        ('runs: [a]\ncriteria: {"fluent": [1, 5], "fluent ": [1, 3]}', "'fluent' is named twice"),
        (f"runs: [a]\ncriteria: {{{'x' * 41}: [1, 5]}}", "1 to 40 visible characters"),
        ("runs: [a]\nshow: {answers: true}", "show.answers"),
        ("- a", "mapping"),
    ],
)
def test_a_wrong_task_is_one_line_with_file_and_key(text: str, key: str) -> None:
    Path("task.yaml").write_text(text)
    with pytest.raises(UsageError) as raised:
        read_task("task.yaml")
    assert str(raised.value).startswith("task.yaml: ") and key in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_task_is_a_file_or_runs(runs: list[Path]) -> None:
    Path("one.yaml").write_text("runs: [runs/A]\nquestions: 3\nshow: {references: false}")
    task = read_task("one.yaml")
    assert (task.name, task.criteria, task.show.references) == ("one", {"quality": (1, 5)}, False)
    pair = read_task(f"{runs[0]}, {runs[1]}")
    assert pair.runs == [str(path) for path in runs] and pair.criteria == {}
    assert read_task(str(runs[0])).criteria == {"quality": (1, 5)}
    beginnings = [path.name[:15] for path in runs]
    assert pair.name == read_task(",".join(beginnings)).name != read_task(beginnings[0]).name
    assert re.fullmatch("labels-[0-9a-f]{8}", pair.name)  # the name of the file tells an annotator nothing


def test_questions_are_drawn_from_those_that_both_runs_answered(runs: list[Path]) -> None:
    task = open_task(read_task(",".join(map(str, runs))))
    assert set(task.items) == {"1", "2", "3"} and task.run_names == [path.name for path in runs]
    assert [item.answers for item in task.items.values()] == [
        [RunDirectory(path).read_samples()[0][each].answer for path in runs] for each in task.items
    ]
    again = open_task(read_task(",".join(path.name[:15] for path in runs)))
    assert again.sha256 == task.sha256 and list(again.items) == list(task.items)
    samples = samples_of(runs[1])
    changes = [
        {"answer": "", "raw": "", "status": "empty"},
        {"answer": task.items[samples[1]["question_id"]].answers[0]},
    ]
    write_jsonl(runs[1] / "samples.jsonl", [old | new for old, new in zip(samples, [*changes, {}], strict=True)])
    fewer = open_task(read_task(",".join(map(str, runs))))
    assert set(fewer.items) == {samples[2]["question_id"]}
    assert fewer.remarks == [
        "left out: 1 question, not answered by each run",
        "left out: 1 question, with the same answer in both runs (ties)",
    ]
    assert fewer.sha256 != task.sha256
    with pytest.raises(UsageError, match="itself"):
        open_task(read_task(f"{runs[0]},{runs[0]}"))


def test_the_notes_of_an_answer_are_shown_if_the_task_says_so(runs: list[Path], data_dir: Path) -> None:
    Path("notes.yaml").write_text(f"runs: [{runs[1].name}]\nshow: {{notes: true}}")
    task = open_task(read_task("notes.yaml"))
    assert task.items["3"].prompt_notes == [[("手冲咖啡", "水温92度，粉水比1:15，闷蒸30秒。[赞R]")]]
    (data_dir / "notes.jsonl").unlink()
    with pytest.raises(UsageError, match=r"show\.notes"):
        open_task(read_task("notes.yaml"))


def test_sides_are_even_and_differ_between_annotators() -> None:
    task = made_task(400)
    first = {name: [task.sides(each, name)[0] for each in task.items] for name in ("An", "Bo")}
    for drawn in first.values():
        assert 160 < sum(drawn) < 240
    assert 160 < sum(a == b for a, b in zip(*first.values(), strict=True)) < 240
    assert [task.sides(each, "An")[0] for each in task.items] == first["An"]
    assert made_task(n_runs=1).sides("0", "An") == [0]


def test_agreement_is_on_runs_and_not_on_sides() -> None:
    task = made_task(40, 40, criteria={"correct": (1, 5)})
    made = []
    for question_id in task.items:
        for annotator in ("An", "Bo"):
            sides = task.sides(question_id, annotator)
            ratings = {side: {"correct": 1 + place} for side, place in zip("AB", sides, strict=True)}
            made.append(
                made_label(
                    task, question_id, annotator, choice="AB"[sides.index(int(question_id) % 2)], ratings=ratings
                )
            )
    choices, rated = label_agreement(made)
    assert (choices.annotators, choices.criterion, choices.n, choices.share, choices.kappa) == (
        ("An", "Bo"),
        None,
        40,
        1,
        1,
    )
    assert (rated.criterion, rated.n, rated.share, rated.kappa) == ("correct", 80, 1, 1)
    assert label_agreement(made[::2]) == []


def test_an_export_names_the_runs(tmp_path: Path) -> None:
    task = made_task(criteria={"correct": (1, 5)})
    made = [
        made_label(
            task,
            question_id,
            "An",
            sides=sides,
            choice=choice,
            comment="=1+1",
            ratings={"A": {"correct": 2}, "B": {"correct": 4}},
        )
        for question_id, sides, choice in (("1", [1, 0], "A"), ("2", [0, 1], "A"), ("3", [1, 0], "both_bad"))
    ]
    export_labels(task, made, tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["run_a"], row["run_b"], row["preferred"]) for row in rows] == [
        ("run-1", "run-0", "run-1"),
        ("run-0", "run-1", "run-0"),
        ("run-1", "run-0", "both_bad"),
    ]
    assert rows[0] | {"run_a": "", "run_b": "", "preferred": ""} == {
        "question_id": "1",
        "query": "q1",
        "annotator": "An",
        "run_a": "",
        "run_b": "",
        "choice": "A",
        "preferred": "",
        "correct.a": 2,
        "correct.b": 4,
        "comment": "=1+1",
        "seconds": 1.5,
        "at": made[0].at,
        "answers_sha256": answers_hash(["answer 1 of 1", "answer 1 of 0"]),
    }
    export_labels(task, made, tmp_path / "out.csv")
    table = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [row | {"comment": ""} for row in table] == [
        {name: str(value) for name, value in row.items()} | {"comment": ""} for row in rows
    ]
    assert table[0]["comment"] == "'=1+1"  # no formula for a spreadsheet


def test_the_command_exports_without_what_was_withdrawn(runs: list[Path], cli: Cli) -> None:
    named = ",".join(map(str, runs))
    task = open_task(read_task(named))
    store = LabelStore(task, Path("labels"))
    taken_back = made_label(task, "1", "An")
    store.add(made_label(task, "2", "An", choice="A"))
    store.add(taken_back)
    store.withdraw("An", taken_back.id)
    done = cli("view", "--label", named, "--export", "out.jsonl")
    assert (done.code, done.out) == (0, "out.jsonl: 1 label by 1 annotator\n")
    [row] = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert row["preferred"] == row["run_a"] == runs[task.sides("2", "An")[0]].name
    for arguments, named_in_error in {
        ("--label", named, "--export", "out.txt"): "out.txt",
        ("--export", "out.csv"): "--label",
        ("--labels-dir", "elsewhere"): "--label",
        ("--label", "absent.yaml"): "absent.yaml",
        ("--label", "absent,other"): "absent",
        ("--label", ""): "runs",
    }.items():
        failed = cli("view", *arguments)
        assert failed.code == 2 and named_in_error in failed.err and len(failed.err.splitlines()) == 1
