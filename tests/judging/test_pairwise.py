"""Runs compared by a judge: both orders, flips apart from ties, ratings, and nothing asked twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import UsageError
from qilin_rag.judging.config import resolve_judge
from qilin_rag.judging.pairwise import Compared, compare_runs
from qilin_rag.llms import retry
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import JUDGEMENTS
from qilin_rag.reports.contents import collect
from qilin_rag.reports.packing import unpack
from tests.conftest import Cli, write_jsonl
from tests.fake_server import MODEL, FakeServer

LETTERS = "AB"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight questions, q0 to q7."""
    folder = tmp_path / "eight"
    folder.mkdir()
    write_jsonl(folder / "notes.jsonl", [{"note_idx": 0, "title": "t", "content": "c"}])
    questions = [
        {"search_idx": i, "query": f"q{i}", "answers": [f"参考{i}"], "ref_note_idx_list": [0]} for i in range(8)
    ]
    write_jsonl(folder / "dqa.jsonl", questions)
    return folder


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BASE_S", 0.001)


def make_runs(data: Path, server: FakeServer, names: str = "xy") -> list[Path]:
    """Runs whose answers are `x`, `y`, ... with the question."""
    paths = []
    for name in names:
        server.answer = lambda body, name=name: f"{name} {asked_about(body)}"  # type: ignore[misc]
        given = {"data": str(data), "llm": "openai", "base_url": server.url, "retriever": "none", "cache": False}
        paths.append(run(resolve_run(given, [f"llm.model={MODEL}", f"llm.seed={ord(name)}"])).directory.path)
    server.calls.clear()
    return paths


def asked_about(body: dict[str, Any]) -> str:
    text = str(body["messages"][-1]["content"])
    return next(f"q{i}" for i in range(8) if f"q{i}\n" in f"{text}\n")


def judged_by(prefer: Callable[[str, str, str], str]) -> Callable[[dict[str, Any]], str]:
    """A judge that is given the question and whose answers it sees first and second."""

    def reply(body: dict[str, Any]) -> str:
        text = str(body["messages"][-1]["content"])
        first, second = (text.split(f"## 回答{letter}\n> ")[1][0] for letter in LETTERS)
        return f"有理由。\n结论：{prefer(asked_about(body), first, second)}"

    return reply


def scripted(question: str, first: str, second: str) -> str:
    """Of x against y: won, lost, tied, flipped to the first and to the second, leaning, unreadable, won."""
    match question:
        case "q0" | "q7":
            return "A" if first < second else "B"
        case "q1":
            return "B" if first < second else "A"
        case "q2":
            return "平局"
        case "q3":
            return "A"
        case "q4":
            return "B"
        case "q5":
            return "A" if first < second else "平局"
    return "A" if first < second else "CORRECT"


def compare(server: FakeServer, paths: list[Path], **flags: Any) -> Compared:
    return compare_runs(
        paths, resolve_judge({"llm": "openai", "base_url": server.url, **flags}, [f"llm.model={MODEL}"])
    )


def test_every_outcome_is_counted_for_what_it_is(data: Path, server: FakeServer, cli: Cli) -> None:
    paths = make_runs(data, server)
    server.answer = judged_by(scripted)
    done = compare(server, paths)
    [pair] = done.comparison.pairs
    counts = pair.model_dump(exclude={"a", "b", "score"})
    assert counts == {
        "won": 2,
        "lost": 1,
        "tied": 1,
        "leaning": 1,
        "flipped_to_first": 1,
        "flipped_to_second": 1,
        "same": 0,
        "unscored": {"no verdict": 1},
    }
    assert pair.score == pytest.approx((1 + 1 + 0 + 0.5 + 0.75 + 0.5 + 0.5) / 7)
    assert len(server.calls) == 16
    x, y = (rated.rating for rated in done.comparison.runs)
    assert x and y and "8 independent questions" in (x.no_interval or "")
    assert x.value - y.value == pytest.approx(400 * np.log10((4.25 + 0.5) / (2.75 + 0.5)))
    assert json.loads((done.path / "ratings.json").read_text()) == done.comparison.model_dump(mode="json")
    judgements = [json.loads(line) for line in (done.path / JUDGEMENTS).read_text().splitlines()]
    assert {tuple(line["runs"]) for line in judgements} == {(pair.a, pair.b), (pair.b, pair.a)}
    printed = cli("judge", *paths, "--llm", "openai", "--base-url", server.url, "--set", f"llm.model={MODEL}")
    assert printed.code == 0, printed.err
    assert len(server.calls) == 16
    assert "flipped with the order: 2, 1 of them to the answer shown first" in printed.out
    assert "unscored, no verdict: 1" in printed.out
    assert [line.split() for line in printed.out.splitlines() if line.startswith("1 : 2")] == [
        ["1", ":", "2", "2", "1", "1", "1", "2", "1", "0.6071"]
    ]
    assert max(map(len, printed.out.splitlines()[:-2])) <= 80  # the tables; cost and path are one line each


def test_what_is_planned_is_what_is_asked(data: Path, server: FakeServer, cli: Cli) -> None:
    paths = make_runs(data, server, "xyz")
    server.answer = judged_by(lambda question, first, second: "A" if first < second else "B")
    command = ["judge", *paths, "--llm", "openai", "--base-url", server.url, f"--set=llm.model={MODEL}", "--dry-run"]
    said = cli(*command).out
    assert said.startswith("48 calls for 48 judgements\n")
    assert (server.calls, list(Path("runs").glob("judged-*"))) == ([], [])
    compare(server, paths[:2])
    said = cli(*command).out
    assert said.startswith("32 calls for 48 judgements\n16 have an answer in runs/judged-")


def test_one_more_run_costs_only_the_pairs_with_it(data: Path, server: FakeServer) -> None:
    paths = make_runs(data, server, "xyz")
    server.answer = judged_by(lambda question, first, second: "A" if first < second else "B")
    compare(server, paths[:2], cache=False)
    assert len(server.calls) == 16
    done = compare(server, paths, cache=False)
    assert len(server.calls) == 48
    values = [rated.rating.value for rated in done.comparison.runs if rated.rating]
    assert values == sorted(values, reverse=True) and sum(values) == pytest.approx(3000)
    assert done.comparison.signature.startswith(f"pairwise|both orders|Bradley-Terry|judge:{MODEL}|model:{MODEL}|")
    compare(server, paths[::-1], cache=False)  # the other way round the questions are the same
    assert len(server.calls) == 48


def test_a_failed_judgement_is_asked_again_and_no_other(data: Path, server: FakeServer, cli: Cli) -> None:
    paths = make_runs(data, server)
    server.answer = judged_by(scripted)
    server.fault = lambda n, body: "400" if n == 3 else None
    command = ["judge", *paths, "--llm", "openai", "--base-url", server.url, "--set", f"llm.model={MODEL}", "--json"]
    failed = cli(*command, "--concurrency", "1")
    assert failed.code == 3
    [pair] = json.loads(failed.out)["pairs"]
    assert pair["unscored"] == {"judge failed": 1, "no verdict": 1}
    server.fault = lambda n, body: None
    assert cli(*command, "--fail-on-error", "0").code == 0
    assert len(server.calls) == 17


def test_the_same_answer_is_a_tie_nobody_is_asked_about(data: Path, server: FakeServer) -> None:
    x, _ = make_runs(data, server)
    server.answer = lambda body: f"x {asked_about(body)}" if asked_about(body) != "q0" else "w"
    given = {"data": str(data), "llm": "openai", "base_url": server.url, "retriever": "none", "cache": False}
    other = run(resolve_run(given, [f"llm.model={MODEL}", "llm.seed=7"])).directory.path
    server.calls.clear()
    server.answer = judged_by(scripted)
    [pair] = compare(server, [x, other]).comparison.pairs
    assert (pair.same, pair.tied, pair.lost, len(server.calls)) == (7, 7, 1, 2)


def test_unanswered_questions_are_unscored(data: Path, server: FakeServer) -> None:
    server.fault = lambda n, body: "400" if asked_about(body) == "q0" else None
    paths = make_runs(data, server)
    server.fault = lambda n, body: None
    server.answer = judged_by(lambda question, first, second: "说不清")
    done = compare(server, paths).comparison
    assert done.pairs[0].unscored == {"no two answers": 1, "no verdict": 7}
    assert (done.pairs[0].score, [rated.rating for rated in done.runs]) == (None, [None, None])


def test_only_questions_of_all_runs_are_compared(data: Path, server: FakeServer) -> None:
    x, y = make_runs(data, server)
    lines = (y / "questions.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (y / "questions.jsonl").write_text("".join(lines[:5]), encoding="utf-8")
    server.answer = judged_by(scripted)
    done = compare(server, [x, y], limit=2).comparison
    assert (done.n_questions, done.n_not_shared, len(server.calls)) == (2, 3, 4)
    assert compare(server, [x, y], limit=5).comparison.n_questions == 5
    assert len(server.calls) == 10  # a larger limit takes the same questions and more
    (y / "questions.jsonl").write_text(lines[0].replace('"query":"q', '"query":"p'))
    with pytest.raises(UsageError, match="is not the same in"):
        compare(server, [x, y])
    (y / "questions.jsonl").write_text("")
    with pytest.raises(UsageError, match="no question in common"):
        compare(server, [x, y])


def test_ratings_and_reasons_are_shown_where_runs_are(data: Path, server: FakeServer, cli: Cli) -> None:
    x, y = make_runs(data, server)
    server.answer = lambda body: "因为第一个更全。\n结论：A"
    compare(server, [x, y])
    board = cli("leaderboard").out
    assert "win share" in board and f"pairwise: by {MODEL}, 8 questions" in board
    assert "50.0%" in board and "8 verdicts flipped with the order" in board
    shown = cli("show", x, "--question", "0").out
    assert f"judged by {MODEL} ({x.name} : {y.name}, in this order; ok)" in shown
    assert f"judged by {MODEL} ({y.name} : {x.name}, in this order; ok)" in shown
    assert shown.count("因为第一个更全。") == 2
    shutil.move(x.parent, "kept")
    Path("runs").mkdir()
    for folder in Path("kept").glob("judged-*"):
        shutil.move(folder, "runs")
    shutil.move("kept", "runs/kept")  # runs one level below the folder of their judge
    x, y = (Path("runs/kept") / path.name for path in (x, y))
    assert cli("show", x, "--question", "0").out.count("因为第一个更全。") == 2
    contents = collect([x, y])
    [table] = contents.overview["tables"]
    assert [row[0] for row in table["judged"][0]["rows"][1:]] in ([x.name, y.name], [y.name, x.name])
    told = unpack(contents.blocks["t0-run0"])
    assert [one["runs"] for one in told[0]["judgements"]] == [[x.name, y.name], [y.name, x.name]]
    assert all(one["text"].startswith("因为") for one in told[0]["judgements"])
