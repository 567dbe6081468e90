"""Runs ranked by variants of a metric: the figures are those of the variant, and the runs stay as they are."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import Completion, RenderedPrompt
from qilin_rag.llms import LLM
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.run import run
from qilin_rag.reports.measured import FROM_THE_HIGHEST, Measured, read_run
from qilin_rag.reports.sensitivity import Sensitivity, Variant, sensitivity
from qilin_rag.scorers import Scorer
from qilin_rag.scorers.citations import Citations
from qilin_rag.scorers.length import LengthRatio
from qilin_rag.scorers.rouge import RougeL
from tests.conftest import QUESTIONS, Cli, write_jsonl

FIRST, SECOND = "先把多肉搬到阴凉通风的地方", "夏天遮阴断水，春天换盆。"


class Says(LLM):
    """Answers everything with the same words; a question it has none for fails."""

    words: str
    silent_on: str = ""

    async def generate(self, prompt: RenderedPrompt) -> Completion:
        reason = "error" if prompt.query == self.silent_on else "stop"
        return Completion(text=self.words, raw=self.words, model="says", finish_reason=reason)


def say(data: Path, words: str, *overrides: str, **flags: Any) -> Run:
    given = {"data": str(data), "llm": "tests.reports.test_sensitivity:Says", "retriever": "none", **flags}
    return run(resolve_run(given, [f"llm.words={words}", *overrides]))


def measured(*runs: Run) -> list[Measured]:
    return [read_run(each.directory.path) for each in runs]


def by_name(report: Sensitivity) -> dict[str, Variant]:
    return {variant.variant: variant for variant in report.variants}


@pytest.fixture
def two_references(data_dir: Path) -> Path:
    """One question, whose second reference is not at all like its first."""
    write_jsonl(data_dir / "dqa.jsonl", [{**QUESTIONS[1], "answers": [FIRST, SECOND]}])
    return data_dir


def test_values_are_those_of_the_metric_made_that_way(data_dir: Path) -> None:
    texts = ("六月起遮阴 **92度** SPF50", "冷萃用粗研磨咖啡粉[第1篇](#)", "春天换盆")
    runs = measured(*(say(data_dir, text) for text in texts))
    [report] = sensitivity(runs, [RougeL()])
    assert (report.n_questions, report.n_scored, report.signature) == (3, 3, RougeL().signatures()["rouge_l"])
    references = [list(question["answers"]) for question in QUESTIONS]  # type: ignore[call-overload]

    def means(scorer: RougeL, chosen: list[list[str]]) -> list[float]:
        return [float(np.mean(scorer.score_answers([text] * 3, chosen))) for text in texts]

    expected = {
        "as it is": means(RougeL(), references),
        "tokens: word": means(RougeL(tokens="word"), references),
        "strip_markup: false": means(RougeL(strip_markup=False), references),
        "references: first": means(RougeL(), [each[:1] for each in references]),
        "references: mean": [
            float(
                np.mean(
                    [np.mean(RougeL().score_answers([text] * len(each), [[r] for r in each])) for each in references]
                )
            )
            for text in texts
        ],
    }
    found = by_name(report)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].means == pytest.approx(values)
        ranked = [report.runs[i] for i in np.argsort(-np.array(values), kind="stable")]
        assert found[name].order == ranked
    assert len({tuple(variant.means) for variant in report.variants}) == 5
    assert report.variants[0].means == [each.summary.metrics["rouge_l"].value for each in runs]
    assert len(set(report.runs)) == 3


def test_a_variant_can_turn_the_order(two_references: Path) -> None:
    runs = measured(say(two_references, SECOND), say(two_references, FIRST[:4]))
    [report] = sensitivity(runs, [RougeL()])
    found = by_name(report)
    assert (found["as it is"].tau, found["as it is"].changes_best) == (None, False)
    assert (found["references: mean"].tau, found["references: mean"].changes_best) == (1, False)
    assert (found["references: first"].tau, found["references: first"].changes_best) == (-1, True)
    assert found["references: first"].order == found["as it is"].order[::-1]


def test_questions_that_failed_in_one_run_count_in_none(data_dir: Path) -> None:
    whole, part = say(data_dir, "92度"), say(data_dir, "遮阴92度", "llm.silent_on=手冲水温")
    [report] = sensitivity(measured(whole, part), [RougeL()])
    assert (report.n_questions, report.n_scored) == (3, 2)
    answers = [
        float(np.mean([value for i, value in zip(each.questions, each.values["rouge_l"], strict=True) if i != "3"]))
        for each in measured(whole, part)
    ]
    assert report.variants[0].means == pytest.approx(answers)


def test_nothing_is_written_into_the_runs(two_references: Path, cli: Cli) -> None:
    paths = [say(two_references, words).directory.path for words in (SECOND, FIRST[:4])]
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    shown = cli("sensitivity", *paths, "--metrics", "rouge_l,chrf")
    assert shown.code == 0, shown.err
    assert max(map(len, shown.out.splitlines())) <= 80
    for expected in (
        "rouge_l: variants against it as it is",
        "chrf: variants",
        "references: first",
        "the same",
        "-1.00",
    ):
        assert expected in shown.out
    assert {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()} == before
    [rouge, chrf] = json.loads(cli("sensitivity", *paths, "--metrics", "rouge_l,chrf", "--json").out)
    assert [variant["variant"] for variant in chrf["variants"]] == [
        "as it is",
        "strip_markup: false",
        "references: mean",
        "references: first",
    ]
    rows = list(csv.DictReader(io.StringIO(cli("sensitivity", *paths, "--format", "csv").out)))
    assert len(rows) == 5 * 2
    assert [float(row["value"]) for row in rows[:2]] == rouge["variants"][0]["means"]
    assert "| **tokens: word** |" in cli("sensitivity", *paths, "--format", "md").out


def test_a_metric_can_be_set_as_for_score(two_references: Path, cli: Cli) -> None:
    paths = [say(two_references, words).directory.path for words in (SECOND, FIRST[:4])]
    [report] = json.loads(cli("sensitivity", *paths, "--set", "metrics.rouge_l.tokens=word", "--json").out)
    assert "tokens:word" in report["signature"]
    assert [variant["variant"] for variant in report["variants"]][:2] == ["as it is", "tokens: mixed"]


def test_where_every_question_has_one_reference_that_is_said(two_references: Path) -> None:
    write_jsonl(two_references / "dqa.jsonl", QUESTIONS[:1])
    [report] = sensitivity(measured(say(two_references, "冷萃"), say(two_references, "粗研磨")), [RougeL()])
    assert not any(variant.variant.startswith("references") for variant in report.variants)
    assert report.notes == ["every question has one reference: best, mean and first are the same"]


def test_layers_of_bertscore(two_references: Path, tmp_path: Path, cli: Cli) -> None:
    pytest.importorskip("torch", reason="needs torch: pip install 'qilin-rag[neural]'")
    pytest.importorskip("transformers", reason="needs transformers: pip install 'qilin-rag[neural]'")
    from qilin_rag.scorers.bertscore import BertScore
    from tests.scorers.test_bertscore import N_LAYERS, tiny_bert

    folder = tiny_bert(tmp_path / "tiny-bert")
    texts = (SECOND, FIRST[:4])
    runs = measured(*(say(two_references, words) for words in texts))
    [report] = sensitivity(runs, [BertScore(model=str(folder), layer=2)], [1, N_LAYERS])
    found = by_name(report)
    assert list(found)[:4] == ["as it is", "strip_markup: false", "layer: 1", f"layer: {N_LAYERS}"]
    for layer in (1, N_LAYERS):
        scored = BertScore(model=str(folder), layer=layer).score_answers(texts, [[FIRST, SECOND]] * 2)
        assert found[f"layer: {layer}"].means == pytest.approx([each.value for each in scored])
    [report] = sensitivity(runs, [BertScore(model=str(folder), layer=N_LAYERS)])
    assert f"layer: {N_LAYERS - 2}" in by_name(report)
    assert f"layer: {N_LAYERS + 2}" not in by_name(report)
    [note] = [note for note in report.notes if note.startswith(f"layer: {N_LAYERS + 2}: left out")]
    assert f"has {N_LAYERS} layers" in note
    paths = [each.directory.path for each in runs]
    refused = cli(
        *("sensitivity", *paths, "--metrics", "bertscore", "--set", f"metrics.bertscore.model={folder}"),
        *("--set", "metrics.bertscore.layer=2", "--layers", "99"),
    )
    assert (refused.code, refused.err.count("\n")) == (2, 1), refused.err
    assert f"has {N_LAYERS} layers, no layer 99" in refused.err


@pytest.mark.parametrize(
    ("scorers", "said"), [([Citations()], "none of these metrics compares"), ([], "none of these metrics compares")]
)
def test_metrics_without_references_have_no_variants(two_references: Path, scorers: list[Scorer], said: str) -> None:
    runs = measured(say(two_references, SECOND), say(two_references, FIRST))
    with pytest.raises(UsageError, match=said):
        sensitivity(runs, scorers)


def test_the_highest_is_not_called_the_best_where_it_is_not(two_references: Path) -> None:
    runs = measured(say(two_references, SECOND), say(two_references, FIRST))
    [by_length] = sensitivity(runs, [LengthRatio()])
    [by_overlap] = sensitivity(runs, [RougeL()])
    assert FROM_THE_HIGHEST in by_length.notes
    assert FROM_THE_HIGHEST not in by_overlap.notes


def test_layers_need_a_metric_that_has_them(two_references: Path) -> None:
    runs = measured(say(two_references, SECOND), say(two_references, FIRST))
    with pytest.raises(UsageError, match="none of these metrics has layers"):
        sensitivity(runs, [RougeL()], [3])


def test_wrong_use_is_one_line(data_dir: Path, cli: Cli) -> None:
    one, two = say(data_dir, "92度"), say(data_dir, "断水", limit=2)
    paths = [each.directory.path for each in (one, two)]
    for arguments, said in (
        (paths, "are about different questions"),
        (paths[:1] * 2, "a ranking needs two runs or more"),
        (["runs"], "is not a finished run directory"),
        ([paths[0], "--layers", "x"], "--layers: 'x' is not a number"),
        ([paths[0], "--metrics", "rouge"], "rouge_l"),
    ):
        done = cli("sensitivity", *arguments)
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        assert said in done.err
