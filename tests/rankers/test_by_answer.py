"""Rankers of searches with an answer: their parts of the table dqa, training on them, and differences with intervals.

In the made table the searches with an answer click the even notes, those without the odd ones, so a ranker gains by
being trained on the kind that it ranks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.core.stats import paired_tests
from qilin_rag.data.log_settings import LogSettings
from qilin_rag.data.requests import earlier_by_answer, read_requests, read_table
from qilin_rag.data.source import open_source
from qilin_rag.rankers.ranking_directory import RankConfig, RankingDirectory
from qilin_rag.rankers.run import rank
from qilin_rag.rankers.simple import Production, Random
from qilin_rag.reports.compare_rankings import compare_rankings
from tests.conftest import Cli, write_jsonl

N, N_NOTES = 300, 40
TOY = "tests.rankers.made:Toy"


def made(folder: Path, n: int = N) -> Path:
    """One search a minute; the first, third, ... have an answer. Nothing is clicked in every seventh."""
    rng = np.random.default_rng(0)
    write_jsonl(folder / "notes.jsonl", [{"note_idx": i, "title": f"t{i}", "content": "c"} for i in range(N_NOTES)])
    rows = []
    for i in range(n):
        is_answered = i % 2 == 0
        notes = rng.choice(N_NOTES, 8, replace=False).tolist()
        details = [
            {
                "note_idx": note,
                "position": place,
                "click": int(i % 7 != 3 and note % 2 == (not is_answered)),
                "search_timestamp": 1_732_667_616 + 60 * i,
            }
            for place, note in enumerate(notes, start=1)
        ]
        rows.append(
            {
                "search_idx": i,
                "query": f"q{i}",
                "user_idx": i % 50,
                "dqa_output": "答。" if is_answered else "-1",
                "search_result_details_with_idx": details,
            }
        )
    write_jsonl(folder / "dqa.jsonl", rows)
    return folder


def test_parts_by_time(tmp_path: Path) -> None:
    """Of 10 searches the last two are ranked: 8 has an answer, 9 has none."""
    source = open_source(str(made(tmp_path, 10)))
    dqa = read_table(source, "dqa")
    assert read_requests(source, "search", "answered").ids == ["8"]
    assert read_requests(source, "search", "unanswered").ids == ["9"]
    assert earlier_by_answer(dqa, "answered").ids == ["0", "2", "4", "6"]
    assert earlier_by_answer(dqa, "unanswered").ids == ["1", "3", "5", "7"]
    with pytest.raises(UsageError, match="split answered holds searches; the task recommendation has"):
        read_requests(source, "recommendation", "answered")
    alone = dqa.take(dqa.answered)
    with pytest.raises(UsageError, match="none of 4 searches of the table dqa is unanswered"):
        earlier_by_answer(alone, "unanswered")


def test_few_rows_are_too_few_to_train_on(tmp_path: Path, cli: Cli) -> None:
    pytest.importorskip("accelerate", reason="needs accelerate: pip install 'qilin-rag[rankers]'")
    pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
    done = cli("train", TOY, "--data", made(tmp_path, 10), "--out", "out", "--requests", "answered")
    assert (done.code, done.err.count("\n")) == (2, 1) and "4 requests: too few to set 5% of them apart" in done.err
    assert not Path("out").exists()


def test_ten_rows_are_too_few(shared: Path, cli: Cli) -> None:
    """Of the authors' ten rows three have an answer, none of them among the last two."""
    data = shared / "data" / "qilin_toy"
    done = cli("rank", "--ranker", "random", "--data", data, "--split", "answered", "--missing-notes", "skip")
    assert (done.code, done.err.count("\n")) == (2, 1) and "of the table dqa is answered" in done.err


def test_trained_and_judged_on_searches_with_an_answer(tmp_path: Path, cli: Cli) -> None:
    pytest.importorskip("accelerate", reason="needs accelerate: pip install 'qilin-rag[rankers]'")
    pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
    data = made(tmp_path)
    train = ["train", TOY, "--data", data, "--set", "ranker.n_notes=40", "--set", "ranker.epochs=3"]
    runs = {}
    for kind in ("answered", "unanswered"):
        done = cli(*train, "--out", kind, "--requests", kind, "--set", "ranker.batch_size=64")
        assert done.code == 0, done.err
        assert json.loads((Path(kind) / "ranker.json").read_text())["trained"]["by_answer"] == kind
        for split in ("answered", "unanswered"):
            ranked = cli("rank", "--checkpoint", kind, "--ranker", TOY, "--data", data, "--split", split, "--json")
            assert ranked.code == 0, ranked.err
            runs[kind, split] = json.loads(ranked.out)["run"]
    for split, other in (("answered", "unanswered"), ("unanswered", "answered")):
        told = cli("compare", runs[split, split], runs[other, split], "--json")
        [mrr] = [each for each in json.loads(told.out)["metrics"] if each["metric"] == "mrr@10"]
        assert mrr["difference"] > 0.2 and mrr["ci95"][0] > 0  # each kind is ranked best by what was trained on it
    refused = cli("rank", "--checkpoint", "answered", "--ranker", TOY, "--data", data, "--split", "dqa")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "answered was trained on answered searches of the table dqa" in refused.err
    wrong = cli(*train, "--out", "other", "--requests", "answered", "--task", "search,recommendation")
    assert wrong.code == 2 and "split answered holds searches" in wrong.err
    assert "holds another training" in cli(*train, "--out", "answered", "--requests", "unanswered").err


def test_the_difference_between_the_parts_is_given_with_its_interval(tmp_path: Path, cli: Cli) -> None:
    config = RankConfig(data=str(made(tmp_path)), task="search", split="dqa", runs_dir=tmp_path / "runs")
    done = rank(Production(), config)
    [difference] = done.summary.differences
    assert (difference.slice, difference.first, difference.second) == ("answer", "shown", "not shown")
    slices = {part.label: part.figures["mrr@10"] for part in done.summary.slices if part.slice == "answer"}
    found = difference.figures["mrr@10"]
    shown, others = slices["shown"], slices["not shown"]
    assert shown.value is not None and others.value is not None
    assert found.value == pytest.approx(shown.value - others.value)
    assert (found.n_first, found.n_second) == (shown.n, others.n)
    assert found.ci95 is not None and found.ci95[0] < found.value < found.ci95[1]
    assert found.ci95[0] < 0 < found.ci95[1]  # the order of production knows no parity
    one_kind = rank(Production(), config.model_copy(update={"split": "answered"}))
    assert one_kind.summary.differences == []
    printed = cli("rank", "--ranker", "production", "--data", tmp_path, "--split", "dqa", "--slices").out
    assert "mrr@10, answer shown minus not shown:" in " ".join(printed.split())
    assert "no effect of the answer" in " ".join(printed.split())


def test_two_rankings_are_compared_request_by_request(tmp_path: Path, cli: Cli) -> None:
    config = RankConfig(data=str(made(tmp_path)), task="search", split="dqa", runs_dir=tmp_path / "runs")
    paths = [rank(ranker, config).directory.path for ranker in (Production(), Random())]
    compared = compare_rankings(paths[0], paths[1])
    lines = [{line.id: line for line in RankingDirectory(path).read_figures()} for path in paths]
    scored = [name for name, line in lines[0].items() if line.figures]
    values = np.array([[(of[name].figures or {})["mrr@10"] for of in lines] for name in scored])
    [mrr] = [each for each in compared.metrics if each.metric == "mrr@10"]
    assert (compared.n_questions, mrr.n, compared.unit) == (N, len(scored), "request") and len(scored) < N
    assert (mrr.value_a, mrr.value_b) == pytest.approx(tuple(values.mean(axis=0)))
    [test] = paired_tests((values[:, 0] - values[:, 1])[:, None])
    assert test.interval is not None and mrr.ci95 == pytest.approx(test.interval[:2]) and mrr.p == test.p
    assert mrr.wins + mrr.ties + mrr.losses == len(scored)
    best = compared.better_a[0]
    assert best.value_a - best.value_b == pytest.approx((values[:, 0] - values[:, 1]).max())
    told = cli("compare", *paths)
    assert told.code == 0 and "300 requests" in told.out and "mrr@10" in told.out and "qilin-rag show" not in told.out


def test_what_can_not_be_compared_is_refused(tmp_path: Path, cli: Cli) -> None:
    config = RankConfig(data=str(made(tmp_path)), task="search", split="dqa", runs_dir=tmp_path / "runs")
    whole, part, first, unknown = (
        str(rank(Production(), config.model_copy(update=changed)).directory.path) for changed in _changes()
    )
    for other in (part, first, unknown):
        done = cli("compare", whole, other)
        assert (done.code, done.err.count("\n")) == (2, 1) and "rank other requests or candidates" in done.err
    assert "metric 'mrr@11'" in cli("compare", whole, whole, "--metric", "mrr@11").err
    assert "--cluster-by is for runs of answers" in cli("compare", whole, whole, "--cluster-by", "user").err
    (tmp_path / "empty").mkdir()
    assert "is not a ranking, the other one is" in cli("compare", whole, tmp_path / "empty").err


def _changes() -> list[dict[str, Any]]:
    zero = LogSettings(search_shift_s=0)
    return [{}, {"split": "answered"}, {"first": 20}, {"log": zero}]
