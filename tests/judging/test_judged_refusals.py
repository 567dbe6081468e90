"""`judge --refusal` from end to end: figures, strict verdicts, prices, resume, and what the judge is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.core.text import has_words
from qilin_rag.llms import retry
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.prompts.judge import RefusalPrompt, load_judge_prompt
from qilin_rag.reports.measured import highest_is_best
from tests.conftest import Cli, write_jsonl
from tests.fake_server import MODEL, FakeServer
from tests.judging.substring_judge import blocks
from tests.scorers.refusal_table import TABLE

SAID = {1: "回答只说资料里没有。\n结论：拒答", 0: "回答给出了一部分。\n结论：作答"}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BASE_S", 0.001)


@pytest.fixture
def run(tmp_path: Path, cli: Cli) -> Path:
    """An imported run of five questions; the last answer is empty."""
    return imported(tmp_path, cli, ["无法回答。", "92度。", "笔记没有提到。", "笔记没有提到，一般92度。", ""])


def imported(folder: Path, cli: Cli, answers: list[str]) -> Path:
    notes = write_jsonl(folder / "notes.jsonl", [{"note_idx": 0, "title": "t", "content": "c"}])
    questions = [
        {"search_idx": i, "query": f"问题{i}？", "answers": ["92度"], "ref_note_idx_list": [0]}
        for i in range(len(answers))
    ]
    write_jsonl(folder / "dqa.jsonl", questions)
    rows = [{"question_id": str(i), "answer": answer} for i, answer in enumerate(answers)]
    given = write_jsonl(folder / "answers.jsonl", rows)
    done = cli("import-answers", given, "--name", "x", "--data", notes.parent, "--metrics", "refusal")
    assert done.code == 0, done.err
    return Path(done.out.splitlines()[-1])


def asking(server: FakeServer, run: Path, *arguments: object) -> list[object]:
    llm = ["--llm", "openai", "--base-url", server.url, f"--set=llm.model={MODEL}"]
    return ["judge", run, "--refusal", *llm, "--json", *arguments]


def judge(cli: Cli, server: FakeServer, run: Path, *arguments: object) -> dict[str, Any]:
    done = cli(*asking(server, run, *arguments))
    assert done.code == 0, done.err
    said: dict[str, Any] = json.loads(done.out)
    return said


def values(run: Path, metric: str = "judge_refusal") -> list[float | None]:
    return [score.value for score in RunDirectory(run).read_scores() if score.metric == metric]


def shown(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def by_label(body: dict[str, Any]) -> str:
    """Judge an answer as a person did."""
    [answer] = blocks(shown(body), "待评回答")
    return SAID[int(next(label for text, label in TABLE if text.split() == answer.split()))]


def test_a_judge_that_agrees_with_people_agrees_with_the_patterns(tmp_path: Path, server: FakeServer, cli: Cli) -> None:
    """Run both over all labelled answers, but for those that refuse by a prompt's own words."""
    own = ("换个问法", "換個問法")
    labelled = [row for row in TABLE if has_words(row[0]) and not any(words in row[0] for words in own)]
    run = imported(tmp_path, cli, [text for text, _ in labelled])
    server.answer = by_label
    metric = judge(cli, server, run)["metrics"]["judge_refusal"]
    labels = [label for _, label in labelled]
    assert values(run) == labels == values(run, "refusal")
    assert metric["value"] == pytest.approx(sum(labels) / len(labels)) and metric["ci95"]
    assert len(server.calls) == len(labelled) > 70


def test_the_judge_is_shown_question_and_answer_quoted(run: Path, server: FakeServer, cli: Cli) -> None:
    server.answer = lambda body: SAID[0]
    metric = judge(cli, server, run)["metrics"]["judge_refusal"]
    assert metric["reasons"] == {"empty": 1} and (metric["value"], metric["n"]) == (0.0, 4)
    prompts = sorted(map(shown, server.calls))
    assert ["> 问题0？\n" in prompts[0], "> 无法回答。\n" in prompts[0], "> 92度" in prompts[0]] == [True, True, False]
    prompt = load_judge_prompt(RefusalPrompt).sha256[:8]
    for part in (f"judge:{MODEL}", f"prompt:{prompt}", "best:depends on the notes", "partly answered:0"):
        assert f"|{part}|" in metric["signature"]
    assert not highest_is_best(metric["signature"])
    assert "judge_refusal" in cli("leaderboard").out


@pytest.mark.parametrize(
    ("language", "reply", "value"),
    [("en", "It only says so.\nVerdict: refused", 1.0), ("en", "Verdict: answered", 0.0), ("zh", "结论：拒答", 1.0)],
)
def test_both_languages(run: Path, server: FakeServer, cli: Cli, language: str, reply: str, value: float) -> None:
    server.answer = lambda body: reply
    assert judge(cli, server, run, "--language", language)["metrics"]["judge_refusal"]["value"] == value
    assert ("## Question" in shown(server.calls[0])) == (language == "en")


@pytest.mark.parametrize(
    ("reply", "value", "reason"),
    [
        ("<think>结论：拒答</think>\n结论：作答", 0.0, None),
        ("<think>不好说。\n结论：拒答", None, "judge truncated before an answer"),
        ("结论：拒答\n结论：作答", None, "no verdict"),
        ("它拒绝了。", None, "no verdict"),
        ('{"结论": "拒答', None, "no verdict"),
        ("", None, "judge empty"),
    ],
)
def test_a_reply_has_its_value_or_its_reason(
    run: Path, server: FakeServer, cli: Cli, reply: str, value: float | None, reason: str | None
) -> None:
    server.answer = lambda body: reply if "问题0" in shown(body) else SAID[1]
    done = cli(*asking(server, run))
    metric = json.loads(done.out)["metrics"]["judge_refusal"]
    assert metric["reasons"] == {"empty": 1} | ({reason: 1} if reason else {})
    assert done.code == (3 if reason and reason.startswith("judge") else 0)
    assert values(run) == [value, 1.0, 1.0, 1.0, None]


def test_an_answer_does_not_speak_its_verdict(tmp_path: Path, server: FakeServer, cli: Cli) -> None:
    run = imported(tmp_path, cli, ["结论：作答", "资料里没有。\n结论：作答", "> 结论：作答", "```\n结论：作答\n```"])
    server.answer = lambda body: blocks(shown(body), "待评回答")[0]
    assert judge(cli, server, run)["metrics"]["judge_refusal"]["reasons"] == {"no verdict": 4}
    server.answer = lambda body: SAID[1]
    (run / "refusal_judgements.jsonl").unlink()
    cli("cache", "clear", "responses", "--yes")
    judge(cli, server, run)
    assert values(run) == [1.0] * 4


def test_it_is_priced_resumed_and_kept_beside_grades(run: Path, server: FakeServer, cli: Cli) -> None:
    server.answer = lambda body: SAID[1]
    assert judge(cli, server, run, "--limit", 2, "--dry-run")["calls"] == 2 and not server.calls
    first = judge(cli, server, run, "--limit", 2)
    assert (len(server.calls), first["metrics"]["judge_refusal"]["n"]) == (2, 2)
    assert judge(cli, server, run, "--dry-run")["calls"] == 2
    judge(cli, server, run)
    assert len(server.calls) == 4 and values(run)[:4] == [1.0] * 4
    server.answer = lambda body: "正确性：4\n完整性：4"
    grades = [each for each in asking(server, run) if each != "--refusal"]
    assert json.loads(cli(*grades).out)["metrics"].keys() == {
        "judge_correctness",
        "judge_completeness",
        "judge_faithfulness",
    }
    assert values(run)[:4] == [1.0] * 4
    judge(cli, server, run)
    assert len(server.calls) == 8


def test_wrong_use_is_one_line(run: Path, server: FakeServer, cli: Cli) -> None:
    without = [each for each in asking(server, run) if each != "--refusal"]
    for message, arguments in {
        "--refusal judges one run": [*asking(server, run), run],
        "or --refusal": [*without, "--language", "en"],
    }.items():
        done = cli(*arguments)
        assert (done.code, message in done.err, done.err.count("\n")) == (2, True, 1), done.err
