"""The leaderboard of the view and the questions behind it say what the report and the files say."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs Starlette: pip install 'qilin-rag[view]'")
from qilin_rag.config.run import resolve_run
from qilin_rag.core.judged_answers import ASSIGNED, CHECKED
from qilin_rag.core.types import Sample
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.reports.judged_parts import read_judged_parts
from qilin_rag.reports.leaderboard import leaderboard_of
from qilin_rag.reports.measured import RunCache, read_runs
from qilin_rag.viewer.lines import LineFinder
from qilin_rag.viewer.site import site
from tests.reports.apart import write_parts
from tests.viewer.serving import client_of


@pytest.fixture
def runs(data_dir: Path) -> list[RunDirectory]:
    """Two complete runs, in the folder `runs`."""
    return [
        run(resolve_run({"data": str(data_dir), "retriever": name, "metrics": "rouge_l", "limit": 3})).directory
        for name in ("bm25", "oracle")
    ]


def asked(client: Any, what: str, board: str, **fields: Any) -> Any:
    answer = client.get(f"/api/{what}", params={"board": board, "t": 0, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_board_is_that_of_the_command(runs: list[RunDirectory]) -> None:
    index = client_of(site([Path("runs")])).get("/api/board").json()
    [table] = index["tables"]
    [board] = leaderboard_of([each.path for each in runs])
    assert {each["run"] for each in table["runs"]} == {each.path.name for each in runs}
    names = [metric["name"] for metric in table["metrics"]]
    for each in table["runs"]:
        summary = RunDirectory(Path("runs") / each["run"]).read_summary()
        for name, figure in zip(names, each["figures"], strict=True):
            assert figure["value"] == pytest.approx(summary.metrics[name].value, abs=1e-12)
    assert table["data"] == board.data and "scores" not in table["runs"][0]


def test_a_view_that_stays_open_forgets_deleted_runs(data_dir: Path, runs: list[RunDirectory]) -> None:
    settings = {"data": str(data_dir), "top_k": 1, "metrics": "rouge_l", "limit": 2}
    third = run(resolve_run(settings)).directory
    cache = RunCache()
    kept, _ = read_runs([each.path for each in runs], cache=cache)
    gone, _ = read_runs([third.path], cache=cache)
    of_kept = [each.details.hits for each in kept]
    left = [weakref.ref(each) for each in (gone[0].details, *gone[0].questions.values())]
    n_hits = len(gone[0].details.hits)
    del gone
    shutil.rmtree(third.path)
    again, _ = read_runs([each.path for each in runs], cache=cache)
    gc.collect()
    assert n_hits == 2 and [reference() for reference in left] == [None] * 3
    assert all(one.questions is other.questions for one, other in zip(kept, again, strict=True))
    assert all(hits is each.details.hits for hits, each in zip(of_kept, again, strict=True))


def test_a_question_is_what_the_files_hold(runs: list[RunDirectory]) -> None:
    client = client_of(site([Path("runs")]))
    index = client.get("/api/board").json()
    [table], board = index["tables"], index["board"]
    names = [each.path.name for each in runs]
    for place, question_id in enumerate(table["ids"]):
        shown = asked(client, "question", board, id=question_id, run=names)
        for directory, part in zip(runs, shown["runs"], strict=True):
            sample = directory.read_samples()[0][question_id]
            assert part["told"]["answer"] == sample.answer
            assert [note for note, _ in part["hits"]] == [hit.note_idx for hit in sample.hits]
            assert part["messages"][-1][1] == sample.messages[-1]["content"]
        columns = asked(client, "columns", board, run=names[0])
        answers = asked(client, "answers", board, run=names[0])
        assert answers[place] == shown["runs"][0]["told"]["answer"]
        scores = {(score.question_id, score.metric): score.value for score in runs[0].read_scores()}
        for metric, column in zip(table["metrics"], columns["scores"], strict=True):
            assert column[place] == pytest.approx(scores[question_id, metric["name"]], abs=5e-5)


def test_a_question_has_the_parts_of_its_answer_in_each_run(runs: list[RunDirectory]) -> None:
    """Also beside a file that is damaged."""
    samples = [list(each.read_samples()[0].values()) for each in runs]
    for each, own in zip(runs, samples, strict=True):
        write_parts(each.path, own, judge=f"judge of {each.path.name}")
    (runs[1].path / ASSIGNED).write_text('{"qid": "1"}\n' * 3)
    client = client_of(site([Path("runs")]))
    board = client.get("/api/board").json()["board"]
    names = [each.path.name for each in runs]
    for sample, other in zip(*samples, strict=True):
        shown = asked(client, "question", board, id=sample.question_id, run=names)
        parts = [one["told"]["parts"] for one in shown["runs"]]
        assert parts[0] == read_judged_parts(runs[0].path, [sample])[sample.question_id].as_json()
        assert parts[1] == read_judged_parts(runs[1].path, [other])[sample.question_id].as_json()
        assert [set(each) for each in parts] == [{"nuggets", "claims", "support"}, {"claims", "support"}]
        assert parts[1]["claims"]["judge"] == f"judge of {names[1]}"
        alone = client.get("/api/sample", params={"run": names[0], "id": sample.question_id}).json()
        assert alone["parts"] == parts[0]
    (runs[0].path / CHECKED).unlink()
    alone = client.get("/api/sample", params={"run": names[0], "id": samples[0][0].question_id}).json()
    assert set(alone["parts"]) == {"nuggets", "support"}


def test_a_page_of_runs_that_have_changed_is_told_to_load_again(runs: list[RunDirectory]) -> None:
    client = client_of(site([Path("runs")]))
    board = client.get("/api/board").json()["board"]
    assert board == client.get("/api/board").json()["board"]
    one = client.get("/api/board", params={"run": runs[0].path.name}).json()
    assert [each["run"] for each in one["tables"][0]["runs"]] == [runs[0].path.name]
    manifest = runs[0].read_manifest()
    runs[0].write_manifest(manifest.model_copy(update={"labels": {**manifest.labels, "llm": "renamed"}}))
    old = {"board": board, "t": 0, "run": runs[0].path.name}
    assert client.get("/api/columns", params=old).status_code == 409
    renewed = client.get("/api/board").json()
    assert renewed["board"] != board and "renamed" in {each["llm"] for each in renewed["tables"][0]["runs"]}


def test_a_run_that_goes_on_beside_them_does_not_change_the_page(runs: list[RunDirectory]) -> None:
    client = client_of(site([Path("runs")]))
    going = RunDirectory(Path("runs/going"))
    shutil.copytree(runs[0].path, going.path)
    going.write_manifest(going.read_manifest().model_copy(update={"state": "incomplete"}))
    going.discard_scores([])
    index = client.get("/api/board").json()
    with (going.path / "samples.jsonl").open("a") as file:
        file.write(going.read_samples()[1][0].model_dump_json() + "\n")
    assert client.get("/api/version").json() == index["board"]
    assert len(asked(client, "answers", index["board"], run=runs[0].path.name)) == len(index["tables"][0]["ids"])
    shutil.copyfile(runs[0].path / "summary.json", going.path / "summary.json")
    assert client.get("/api/version").json() != index["board"]


def test_scores_that_a_crash_left_without_their_name_are_those_of_the_question(runs: list[RunDirectory]) -> None:
    path = runs[0].path
    question = runs[0].read_questions()[0].id
    value = next(
        score.value for score in runs[0].read_scores() if (score.question_id, score.metric) == (question, "rouge_l")
    )
    old = [score.model_copy(update={"value": 0.125}) for score in runs[0].read_scores()]
    (path / "scores.jsonl").rename(path / ".scores-new.jsonl")
    runs[0].write_scores(old)
    client = client_of(site([Path("runs")]))
    index = client.get("/api/board").json()
    number = [metric["name"] for metric in index["tables"][0]["metrics"]].index("rouge_l")
    columns = asked(client, "columns", index["board"], run=path.name)
    assert columns["scores"][number][0] == pytest.approx(value, abs=5e-5) != 0.125
    assert runs[0].scores_path().name == ".scores-new.jsonl"


@pytest.mark.parametrize(
    ("what", "fields"),
    [
        ("columns", {"run": "nobody"}),
        ("columns", {"run": "../runs"}),
        ("answers", {}),
        ("question", {"id": "nothing"}),
        ("question", {"t": "7"}),
        ("question", {"t": "-1"}),
        ("question", {"t": "²"}),
        ("question", {"t": "9" * 5000}),
    ],
)
def test_what_does_not_exist_is_not_found(runs: list[RunDirectory], what: str, fields: dict[str, Any]) -> None:
    client = client_of(site([Path("runs")]))
    board = client.get("/api/board").json()["board"]
    answer = client.get(f"/api/{what}", params={"board": board, "t": "0", **fields})
    assert answer.status_code == 404 and list(answer.json()) == ["error"]
    assert client.get("/api/board", params={"run": "nobody"}).status_code == 404


def test_the_page_is_ours_alone_and_asks_for_its_scripts(runs: list[RunDirectory]) -> None:
    client = client_of(site([Path("runs")]))
    page = client.get("/board").text
    assert 'type="module" src="/page/board_page.js"' in page and runs[0].path.name not in page
    for name in ("board_page.js", "served.js", "results.js", "style.css"):
        assert client.get(f"/page/{name}").status_code == 200


def test_lines_are_found_whatever_stands_first_in_them(tmp_path: Path, runs: list[RunDirectory]) -> None:
    [sample, *_] = runs[0].read_samples()[1]
    others = [sample.model_copy(update={"question_id": name, "answer": name}) for name in ("a", 'q"\\n', "早餐")]
    path = tmp_path / "samples.jsonl"
    lines = [each.model_dump_json() for each in others]
    moved = "{" + ",".join(lines[2][1:-1].split(",", 1)[::-1]) + "}"  # the id comes last
    path.write_text(
        "\n".join([lines[0], lines[1], "not JSON", moved, lines[0].replace('"answer":"a"', '"answer":"b"')])
    )
    finder = LineFinder()
    for name in ('q"\\n', "早餐"):
        assert [each.answer for each in finder.find(path, name, Sample)] == [name]
    assert [each.answer for each in finder.find(path, "a", Sample)] == ["a"]  # the last line is half written
    with path.open("a") as file:
        file.write("\n")
    assert [each.answer for each in finder.find(path, "a", Sample)] == ["a", "b"]
    assert finder.find(path, "c", Sample) == [] and finder.find(tmp_path / "none", "a", Sample) == []
