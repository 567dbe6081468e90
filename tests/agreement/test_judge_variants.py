"""`agreement calibrate RUN... --labels F`: a judge is chosen among the metrics of runs and of their copies."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.agreement.judge_variants import _told_apart
from tests.agreement.labelled import BM25, ORACLE, one_line, preferring, rating, rouge_of_examples
from tests.conftest import Cli, write_jsonl
from tests.fake_server import MODEL, FakeServer


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "labels.jsonl", preferring(rouge_of_examples(), BM25, ORACLE))


def calibrated(cli: Cli, *arguments: object) -> tuple[list[dict[str, Any]], str]:
    done = cli("agreement", "calibrate", *arguments, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out), done.err


def test_the_metric_that_people_follow_is_chosen(labels: Path, cli: Cli) -> None:
    [found], said = calibrated(cli, BM25, ORACLE, "--labels", labels)
    assert (found["aspect"], found["judge"], found["held_out"]["value"]) == ("choice", "rouge_l", 1.0)
    assert {each["judge"]: each["n_chosen"] for each in found["judges"]} == {
        "rouge_l": 5,
        "recall@2": 0,
        "ndcg@2": 0,
        "mrr@2": 0,
    }
    assert said == ""
    shown = cli("agreement", "calibrate", BM25, ORACLE, "--labels", labels).out
    assert "Use rouge_l" in shown and "1.000" in shown


@pytest.mark.parametrize("is_same_name", [True, False])
def test_a_copy_adds_the_scores_of_another_judge(is_same_name: bool, labels: Path, tmp_path: Path, cli: Cli) -> None:
    """Labels name the runs, not their copies; the hash and the text of the answers say that they are the same."""
    copies = []
    for path in (BM25, ORACLE):
        name = path.name if is_same_name else f"other-{path.name[:12]}"
        copies.append(Path(shutil.copytree(path, tmp_path / "copies" / name)))
        done = cli("score", copies[-1], "--metrics", "rouge_l,length_ratio", "--set", "metrics.rouge_l.tokens=word")
        assert done.code == 0, done.err
    [found], said = calibrated(cli, *copies, BM25, ORACLE, "--labels", labels, "--judges", "rouge_l,length_ratio")
    judges = {each["judge"]: each["n_chosen"] for each in found["judges"]}
    assert judges == {"rouge_l [tokens:mixed]": 5, "rouge_l [tokens:word]": 0, "length_ratio": 0}
    assert found["judge"] == "rouge_l [tokens:mixed]" and found["held_out"]["value"] == 1.0
    assert "rouge_l [tokens:word]: scores of" in said and "no label" not in said
    wrong = one_line(cli, "calibrate", BM25, ORACLE, "--labels", labels, "--judges", "rouge_x")
    assert "no scores of rouge_x" in wrong and "rouge_l" in wrong


def test_a_copy_whose_answers_differ_adds_nothing(labels: Path, tmp_path: Path, cli: Cli) -> None:
    other = Path(shutil.copytree(BM25, tmp_path / "other"))
    samples = [json.loads(line) for line in (other / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    write_jsonl(other / "samples.jsonl", [{**sample, "answer": f"不同 {sample['answer']}"} for sample in samples])
    assert cli("score", other, "--metrics", "rouge_l", "--set", "metrics.rouge_l.tokens=word").code == 0
    [found], said = calibrated(cli, BM25, ORACLE, other, "--labels", labels)
    assert "rouge_l [tokens:word] left out" in said and "other: no label, and none of the labelled answers" in said
    assert "rouge_l [tokens:mixed]" in [each["judge"] for each in found["judges"]]


def test_an_aspect_with_few_queries_is_left_out_and_said(labels: Path, tmp_path: Path, cli: Cli) -> None:
    rows = [json.loads(line) for line in labels.read_text(encoding="utf-8").splitlines()][:3]
    rated = write_jsonl(tmp_path / "rated.jsonl", [row | {"choice": None, "clear.a": 1, "clear.b": 2} for row in rows])
    found, said = calibrated(cli, BM25, ORACLE, "--labels", labels, "--labels", rated)
    assert [each["aspect"] for each in found] == ["choice"]
    assert "clear left out: 3 queries can't make 5 folds" in said
    assert "3 queries can't make 5 folds" in one_line(cli, "calibrate", BM25, ORACLE, "--labels", rated)


def test_what_can_not_be_calibrated_is_one_line(labels: Path, tmp_path: Path, cli: Cli) -> None:
    rows = rating(rouge_of_examples(), BM25)
    one = write_jsonl(tmp_path / "one.jsonl", rows)
    assert "two runs or more" in one_line(cli, "calibrate", BM25, "--labels", one)
    assert "--labels" in one_line(cli, "calibrate", BM25)
    assert "--labels" in one_line(cli, "calibrate", labels, labels)
    assert "twice" in one_line(cli, "calibrate", BM25, BM25, "--labels", labels)


def graded(worst: int, body: dict[str, Any]) -> str:
    return f"正确性：{worst if '> 坏' in body['messages'][-1]['content'] else 5}\n完整性：3\n忠实性：3"


@pytest.mark.slow
def test_two_prompts_of_a_judge_are_told_apart(data_dir: Path, server: FakeServer, tmp_path: Path, cli: Cli) -> None:
    for name, text in (("one", "好"), ("two", "坏")):
        answers = write_jsonl(tmp_path / f"{name}.jsonl", [{"question_id": n, "answer": text + n} for n in "123"])
        where = ("--data", data_dir, "--name", name, "--runs-dir", tmp_path / "runs", "--metrics", "rouge_l")
        assert cli("import-answers", answers, *where).code == 0
    runs = sorted((tmp_path / "runs").iterdir())
    copies = [Path(shutil.copytree(path, tmp_path / "other" / path.name)) for path in runs]
    prompt = Path("prompts/judge/pointwise.yaml")
    bundled = (Path(__file__).parents[2] / prompt).read_text(encoding="utf-8")
    prompt.parent.mkdir(parents=True)
    for paths, worst in ((runs, 5), (copies, 1)):
        server.answer = partial(graded, worst)
        for path in paths:
            done = cli("judge", path, "--llm", "openai", "--base-url", server.url, f"--set=llm.model={MODEL}")
            assert done.code == 0, done.err
        prompt.write_text(bundled.replace("严格", "十分严格", 1), encoding="utf-8")
    label = {"annotator": "An", "run_a": runs[0].name, "run_b": runs[1].name, "choice": "A"}
    labels = write_jsonl(tmp_path / "labels.jsonl", [label | {"question_id": n} for n in "123"])
    options = ("--labels", labels, "--judges", "judge_correctness", "--folds", 3)
    [found], said = calibrated(cli, *runs, *copies, *options)
    held_out = {each["judge"]: each["held_out"]["value"] for each in found["judges"]}
    assert list(held_out.values()) == [1.0, 0.0] and all("[prompt:" in name for name in held_out)
    assert f"{found['judge']}: scores of {copies[0]}, {copies[1]}" in said


def test_a_variant_has_the_name_of_what_differs() -> None:
    made = "grade|1-5|judge:qwen|model:{}|settings:{}|prompt:{}|v1"
    assert _told_apart([made.format("q", "1", "a"), made.format("q", "2", "b")]) == ["prompt:a", "prompt:b"]
    assert _told_apart([made.format("q", "1", "a"), made.format("r", "2", "a")]) == ["model:q", "model:r"]
    assert _told_apart([made.format("q", "1", "a"), made.format("q", "2", "a")]) == ["settings:1", "settings:2"]
