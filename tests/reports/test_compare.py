"""Two runs against scipy's paired figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from qilin_rag.core.errors import UsageError
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.pipeline.scoring import summarise
from qilin_rag.reports.compare import compare
from tests.conftest import Cli
from tests.reports.made_runs import make_run


def test_figures_are_those_of_the_paired_differences(made: Path) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(60), rng.random(60)
    b[:5] = a[:5]
    make_run(made, "a", a.tolist())
    make_run(made, "b", b.tolist())
    compared = compare(made / "a", made / "b")
    [metric] = [each for each in compared.metrics if each.metric == "m"]
    d = a - b
    assert (metric.n, metric.wins, metric.ties, metric.losses) == (60, (d > 0).sum(), 5, (d < 0).sum())
    assert metric.difference == pytest.approx(metric.value_a - metric.value_b)
    noncentral = scipy.stats.nct(59, (metric.detectable or 0) / scipy.stats.sem(d) / (1 + 1 / 45))
    assert noncentral.sf(scipy.stats.t.isf(0.025, 59)) == pytest.approx(0.8, abs=1e-4)
    theirs = scipy.stats.permutation_test(
        (a, b),
        lambda x, y: np.mean(x - y),
        permutation_type="samples",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    )
    assert metric.p == pytest.approx(theirs.pvalue, abs=0.02)
    interval = scipy.stats.t.interval(0.95, 59, d.mean(), scipy.stats.sem(d))
    assert metric.ci95 == pytest.approx(interval, abs=6e-3)
    order = np.argsort(b - a, kind="stable")
    assert [int(each.question_id) for each in compared.better_a] == order[:5].tolist()
    assert [int(each.question_id) for each in compared.better_b] == order[::-1][:5].tolist()
    other_way = compare(made / "b", made / "a")
    assert other_way.metrics[0].p == metric.p
    assert [each.question_id for each in other_way.better_a] == [each.question_id for each in compared.better_b]


def test_only_questions_that_are_the_same_and_scored_in_both_count(made: Path, cli: Cli) -> None:
    make_run(made, "a", [0.9, 0.1, 0.5, None])
    make_run(made, "b", [0.1, 0.1, 0.4, 0.5, 0.7])
    path = RunDirectory(made / "b")
    questions = path.read_questions()
    path.write_questions([questions[0].model_copy(update={"query": "another"}), *questions[1:]])
    compared = compare(made / "a", made / "b")
    assert compared.n_questions == 3
    assert [(each.n, each.wins, each.ties, each.losses) for each in compared.metrics if each.metric == "m"] == [
        (2, 1, 1, 0)
    ]
    assert compared.notes == [
        "1 questions left out: same id, other text or references",
        "b: 1 questions left out, the other run has none",
    ]
    said = cli("compare", made / "a", made / "b")
    assert "m: 2 questions scored in both" in said.out
    assert all(len(line) <= 80 for line in said.out.splitlines())
    assert json.loads(cli("compare", made / "a", made / "b", "--json").out)["n_questions"] == 3


def test_what_can_not_be_compared_is_one_line(made: Path, cli: Cli) -> None:
    make_run(made, "a", [0.9, 0.1])
    make_run(made, "b", [0.1, 0.1])
    with pytest.raises(UsageError, match="metric 'rouge' is not in both runs"):
        compare(made / "a", made / "b", metric="rouge")
    directory = RunDirectory(made / "b")
    directory.write_questions([each.model_copy(update={"query": "x"}) for each in directory.read_questions()])
    with pytest.raises(UsageError, match="a and b have no question in common"):
        compare(made / "a", made / "b")
    said = cli("compare", made / "a", made / "nowhere")
    assert said.code == 2
    assert said.err.count("\n") == 1


def test_runs_of_one_name_are_told_apart(made: Path) -> None:
    make_run(made, "a", [0.9, 0.1, 0.5])
    make_run(made / "elsewhere", "a", [0.1])
    paths = made / "a", made / "elsewhere" / "a"
    compared = compare(*paths)
    assert (compared.run_a, compared.run_b) == tuple(map(str, paths))
    assert compared.notes == [f"{paths[0]}: 2 questions left out, the other run has none"]


def test_the_higher_is_not_called_better_where_it_is_not(made: Path, cli: Cli) -> None:
    make_run(made, "a", [0.9, 0.1])
    make_run(made, "b", [0.1, 0.1])
    for name in "ab":
        for file in ("scores.jsonl", "summary.json"):
            path = made / name / file
            path.write_text(path.read_text().replace("m|made up", "m|best:lowest|made up"))
    said = cli("compare", made / "a", made / "b", "--metric", "m")
    assert "m: no difference shown; nothing can be shown by 2, 6 are needed" in said.out
    assert "m: no interval, too few: 2 independent values, 20 needed" in said.out
    assert "A is higher by m on" in said.out and "better" not in said.out
    assert "m: the highest is not the best; won is higher, lost is lower" in said.out


def test_questions_of_other_reference_notes_are_left_out_of_what_rests_on_them(made: Path, cli: Cli) -> None:
    """Question 0 has other reference notes in B, question 1 the same in another order, question 2 none in A."""
    for name, values in (("a", [0.9, 0.1, 0.5, 0.2]), ("b", [0.1, 0.1, 0.4, 0.5])):
        make_run(made, name, values)
        directory = RunDirectory(made / name)
        notes = {"a": [[1], [2, 3], [], [4]], "b": [[2], [3, 2], [5], [4]]}[name]
        directory.write_questions(
            [
                each.model_copy(update={"reference_notes": own})
                for each, own in zip(directory.read_questions(), notes, strict=True)
            ]
        )
        for metric in ("recall@5", "citation_recall"):
            scores = [
                score.model_copy(update={"metric": metric, "signature": "x"})
                for score in directory.read_scores()
                if score.metric == "m"
            ]
            directory.write_scores([*directory.read_scores(), *scores])
        samples = list(directory.read_samples()[0].values())
        directory.write_summary(summarise(samples, samples, directory.read_scores()))
    compared = compare(made / "a", made / "b")
    assert {each.metric: each.n for each in compared.metrics} == {"m": 4, "citation_recall": 2, "recall@5": 2}
    [recall] = [each for each in compared.metrics if each.metric == "recall@5"]
    assert (recall.value_a, recall.value_b) == pytest.approx((0.15, 0.3))
    [said] = [note for note in compared.notes if "reference notes" in note]
    assert said.startswith("2 of 4 questions ") and "recall@5" in said and "citation_recall" in said
    directory = RunDirectory(made / "b")
    manifest = directory.read_manifest()
    directory.write_manifest(manifest.model_copy(update={"data": {**manifest.data, "sha256": "0123456789"}}))
    assert "01234567" in cli("compare", made / "a", made / "b").out


def test_runs_of_the_same_data_need_no_remark(made: Path) -> None:
    make_run(made, "a", [0.9, 0.1])
    make_run(made, "b", [0.1, 0.1])
    assert compare(made / "a", made / "b").notes == []
