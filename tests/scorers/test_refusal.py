"""Refusals by patterns: a table that was filled in by hand, and the sentence that a prompt names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import qilin_rag as qr
from qilin_rag.core.errors import UsageError
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.prompts.answer import load_prompt
from qilin_rag.reports.measured import highest_is_best
from qilin_rag.scorers.refusal import RefusalRate
from qilin_rag.scorers.refusal_patterns import VERSION
from tests.conftest import Cli
from tests.fake_server import MODEL, FakeServer
from tests.scorers.refusal_table import OWN, TABLE

ROOT = Path(__file__).parents[2]
BODY = """language: zh
description: d
with_notes: '{{ query }} {{ notes }} 否则写：没有呢。'
without_notes: '{{ query }}'
"""


def value(answer: str, own: list[str] = OWN) -> float:
    [found] = RefusalRate().for_prompt(own).score_answers([answer], [[]])
    return found


@pytest.mark.parametrize(("answer", "expected"), TABLE)
def test_the_table(answer: str, expected: float) -> None:
    assert value(answer) == expected


def test_the_sentence_of_a_prompt_counts_for_that_prompt_alone() -> None:
    [own] = OWN
    assert (value(own), value(own, []), value(own, ["没有呢。"])) == (1, 0, 0)
    assert value("抱歉。笔记里没有。请换个问题。", ["抱歉。笔记里没有。请换个问题。"]) == 1  # several sentences
    assert value("（1+1）？", ["（1+1）？"]) == 1  # no pattern of its own
    assert value("水温92度。", ["", "。", " "]) == 0


def test_real_answers_of_a_model_that_never_refused() -> None:
    """Of 240 recorded answers none says that it can't answer; many have 不足, 无法 or 没有."""
    answers = [
        json.loads(line)["answer"]
        for path in sorted((ROOT / "runs/examples").glob("*/samples.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    assert len(answers) >= 240
    assert sum(map(value, answers)) == 0


@pytest.mark.parametrize(
    "part",
    ["笔记", "没有", "“", "\n", ">", "- ", "无法", "notes ", "如果", ",", '"', "1.", "cannot ", "虽然笔记", " "],
)
def test_long_repetitions_are_read_in_linear_time(part: str) -> None:
    """In quadratic time this would take an hour."""
    assert value(part * 20_000 + "x") == 0


def test_its_signature_names_the_patterns_and_marks_nothing_best() -> None:
    [signature] = RefusalRate().signatures().values()
    assert f"|patterns:zh+en v{VERSION}|" in signature
    assert not highest_is_best(signature)
    assert RefusalRate().for_prompt(OWN).signatures() == {"refusal": signature}  # prompts can be compared


def test_a_prompt_names_its_sentence() -> None:
    strict = load_prompt("strict")
    assert strict.refusal == ("根据这些笔记无法回答。",)
    assert strict.sha256.startswith("30713e137f72")  # as before the sentence was named
    assert load_prompt("default").refusal == ()
    for refusal in ("没有呢", "['没有呢。']"):
        Path("own.yaml").write_text(f"{BODY}refusal: {refusal}\n", encoding="utf-8")
        assert len(load_prompt("own.yaml").refusal) == 1
    for wrong in ("别的话", "'。'", "{a: b}", "[3]"):
        Path("own.yaml").write_text(f"{BODY}refusal: {wrong}\n", encoding="utf-8")
        with pytest.raises(UsageError, match="refusal"):
            load_prompt("own.yaml")


def test_a_run_scores_by_its_prompts_sentence_and_again_later(data_dir: Path, cli: Cli, server: FakeServer) -> None:
    """Scored again, too, when the prompt's file has changed; a sentence that a stranger wrote as a number is none."""
    prompt = Path("own.yaml")
    prompt.write_text(f"{BODY}refusal: 没有呢。\n", encoding="utf-8")
    server.answer = lambda body: "没有呢。" if "手冲水温" in json.dumps(body, ensure_ascii=False) else "92度。"
    asked = ("--llm", "openai", "--base-url", server.url, f"--set=llm.model={MODEL}", "--metrics", "refusal", "-q")
    done = cli("run", "--data", data_dir, "--retriever", "mixed", "--prompt", "own.yaml", *asked)
    assert done.code == 0, done.err
    [run] = map(RunDirectory, Path("runs").iterdir())
    first = {score.question_id: score.value for score in run.read_scores() if score.metric == "refusal"}
    assert set(first.values()) == {0, 1}
    prompt.write_text(BODY, encoding="utf-8")
    assert cli("score", run.path, "--metrics", "refusal", "-q").code == 0
    again = {score.question_id: score.value for score in run.read_scores() if score.metric == "refusal"}
    assert again == first
    manifest = json.loads((run.path / "manifest.json").read_text())
    for strange in (3, [3], {"a": 1}, None):
        manifest["prompt"]["refusal"] = strange
        (run.path / "manifest.json").write_text(json.dumps(manifest))
        assert cli("score", run.path, "--metrics", "refusal", "-q").code == 0
        assert {score.value for score in run.read_scores() if score.metric == "refusal"} == {0}


def test_unanswered_questions_are_unscored() -> None:
    scores = qr.score(["我不知道。", "92度。"], ["92度", "92度"], metrics=["refusal"])
    assert scores.values == {"refusal": [1.0, 0.0]}
