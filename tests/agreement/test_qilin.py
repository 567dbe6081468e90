"""`agreement qilin` finds the planted AUC, names nothing without quality, and says what few rows can't give."""

from __future__ import annotations

import json
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.agreement.qilin_answers import (
    ENGAGED,
    NO_RE_SEARCH,
    LabelledAnswers,
    no_re_search,
    read_labelled_answers,
)
from qilin_rag.agreement.qilin_scores import score_sentinels
from qilin_rag.agreement.qilin_sections import label_verdict
from qilin_rag.agreement.qilin_table import LabelTable, MeasureAuc, label_rows, qilin_agreement
from qilin_rag.core.stats import Clusters, Values
from qilin_rag.data.feedback import read_feedback
from qilin_rag.data.schema import FEEDBACK
from qilin_rag.data.source import open_source
from tests.conftest import Cli
from tests.data.qilin import TABLES, columns, write_jsonl

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "agreement_null.py"


@cache
def benchmark() -> dict[str, Any]:
    return runpy.run_path(str(BENCHMARK))


@cache
def world_of(*settings: str, without: tuple[str, ...] = (), seed: int = 3, n: int = 300) -> LabelledAnswers:
    found: LabelledAnswers = benchmark()["labelled"](benchmark()["plant"](seed, settings, without, n))
    return found


@cache
def made_up(seed: int = 0, n: int = 300) -> tuple[Clusters, Clusters, dict[str, Values]]:
    """Return a label, users, and sentinels that have nothing to do with it."""
    rng = np.random.default_rng(seed)
    sentinels: dict[str, Values] = {
        "length": rng.integers(80, 300, n).astype(float),
        "citations": rng.integers(0, 4, n).astype(float),
        "permuted": rng.random(n),
        "constant": np.zeros(n),
    }
    return rng.integers(0, 2, n), rng.integers(0, 80, n), sentinels


def table_of(rows: list[MeasureAuc]) -> LabelTable:
    counts = {"n_positive": 150, "n_negative": 150, "n_unknown": 0, "n_users": 80, "detectable": 0.6}
    return LabelTable(label="liked", why_stopped=None, rows=rows, **counts)


@pytest.mark.slow
def test_the_planted_auc_is_within_its_interval() -> None:
    planted = benchmark()["plant"](1, ("quality=4",))
    found = benchmark()["found_and_planted"](planted)
    assert set(found) == set(FEEDBACK)
    for flag, each in found.items():
        assert each.holds(each.planted), flag
        assert each.planted > 0.65, flag
    table = next(
        each for each in qilin_agreement(benchmark()["labelled"](planted)).labels if each.label == "is_content_clk"
    )
    assert "notes_overlap" in [row.measure for row in table.rows if row.is_best]


@pytest.mark.slow
def test_without_quality_no_measure_is_named() -> None:
    """In 95% of worlds at least; `benchmarks/agreement_null.py` does 200 of each kind."""
    for settings in benchmark()["WORLDS"].values():
        share, which = benchmark()["errors"](10, settings)
        assert share.n <= 2, which


def test_a_measure_of_length_alone_is_never_named() -> None:
    """Length causes the feedback here, so a measure that follows it agrees, and is not better than the sentinel."""
    answers = world_of("length_bias=2.5", without=("quality",))
    sentinels = score_sentinels(answers)
    rng = np.random.default_rng(0)
    measures = {"as_long": 3 * sentinels["length"] + 1, "about_as_long": sentinels["length"] + rng.normal(0, 20, 300)}
    rows = label_rows(answers.labels["is_content_clk"], answers.users, measures, sentinels)
    assert all((row.auc_of_all or 0) > 0.6 for row in rows[:2])
    assert not any(row.is_best or row.is_beyond_sentinels for row in rows)
    said = " ".join(label_verdict(table_of(rows)))
    assert "none is named the best" in said and "Not shown to be better than length" in said


def test_a_measure_that_disagrees_is_below_one_half_and_not_named() -> None:
    label, users, sentinels = made_up()
    good = label + np.random.default_rng(1).normal(0, 1, len(label))
    rows = label_rows(label, users, {"good": good, "bad": -good, "same": good * 2}, sentinels)
    by_name = {row.measure: row for row in rows}
    assert by_name["good"].auc.value + by_name["bad"].auc.value == pytest.approx(1)  # type: ignore[operator]
    assert [row.measure for row in rows[:3] if row.is_best] == ["good", "same"]
    assert by_name["bad"].p_beyond_sentinels is None
    said = " ".join(label_verdict(table_of(rows)))
    assert "can't tell which: good" in said and "they disagree: bad" in said


def test_a_sentinel_that_is_turned_round_can_block_a_measure() -> None:
    label, users, sentinels = made_up()
    rng = np.random.default_rng(2)
    weak = label + rng.normal(0, 1.5, len(label))
    assert label_rows(label, users, {"weak": weak}, sentinels)[0].is_best
    blocked = label_rows(
        label, users, {"weak": weak}, {**sentinels, "citations": -label + rng.normal(0, 1, len(label))}
    )
    assert blocked[0].hardest_sentinel == "citations" and not blocked[0].is_best


def test_only_known_labels_and_scored_answers_count() -> None:
    label, users, sentinels = made_up()
    good = label + np.random.default_rng(1).normal(0, 1, len(label))
    [row, *_] = label_rows(np.where(np.arange(len(label)) < 200, label, -1), users, {"good": good}, sentinels)
    alone = label_rows(label[:200], users[:200], {"good": good[:200]}, {k: v[:200] for k, v in sentinels.items()})
    assert row == alone[0] and row.n == 200
    few = np.where(np.arange(len(label)) < 15, good, np.nan)
    [none, *_] = label_rows(label, users, {"few": few}, sentinels)
    assert (none.auc.value, none.hardest_sentinel, none.is_best) == (None, None, False)
    assert "needed" in (none.auc.reason or "")


def test_the_labels_of_the_files_are_those_of_the_log(tmp_path: Path) -> None:
    source = open_source(str(write_jsonl(tmp_path / "data", TABLES)))
    answers = read_labelled_answers(source)
    assert list(answers.labels) == [ENGAGED, *FEEDBACK, NO_RE_SEARCH]
    rows = {str(row["search_idx"]): row for row in TABLES["dqa"]}
    shown = [rows[name] for name in read_feedback(source).ids]
    assert list(answers.texts) == [row["dqa_output"] for row in shown]
    assert [len(notes) for notes in answers.notes] == [len(row["ref_note_idx_list"] or []) for row in shown]
    assert answers.labels[ENGAGED].tolist() == [
        max(int(row[flag]) if row[flag] is not None else -1 for flag in FEEDBACK) for row in shown
    ]
    alone = read_labelled_answers(
        open_source(str(write_jsonl(tmp_path / "few", columns(TABLES, "dqa", ["search_result_details_with_idx"]))))
    )
    assert NO_RE_SEARCH not in alone.labels
    assert any("who searched again" in remark for remark in alone.remarks)


def test_no_re_search_turns_the_label_round() -> None:
    assert no_re_search(np.array([1, 0, -1])).tolist() == [0, 1, -1]


def test_few_answers_are_counted_and_nothing_else(tmp_path: Path, cli: Cli) -> None:
    folder = write_jsonl(tmp_path / "data", TABLES)
    out = cli("agreement", "qilin", "--data", folder, "-q").out
    assert "can't tell which measures users agree with" in out
    assert "notes_overlap" not in out and max(map(len, out.splitlines())) <= 80
    document = json.loads(cli("agreement", "qilin", "--data", folder, "--json").out)
    assert all(label["why_stopped"] and label["rows"] == [] for label in document["labels"])
    assert all(label["verdict"][0].startswith("Not compared") for label in document["labels"])


def test_the_authors_own_rows_give_nothing(shared: Path, cli: Cli) -> None:
    """The toy tables: ten rows, three answers, all of them read and none liked."""
    done = cli("agreement", "qilin", "--data", shared / "data" / "qilin_toy", "-q")
    assert done.code == 0
    assert "3 answers, 3 queries, 3 users" in done.out
    assert "at least 10, 10 and 20 are needed" in " ".join(done.out.split())
    assert "no AUC, no interval" in " ".join(done.out.split())


def test_all_formats_have_the_same_figures(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = world_of("quality=8", seed=5, n=120)
    small = answers._replace(labels={name: answers.labels[name] for name in (ENGAGED, "is_content_clk")})
    monkeypatch.setattr("qilin_rag.agreement.qilin_answers.read_labelled_answers", lambda *_: small)
    told = ["agreement", "qilin", "--data", write_jsonl(tmp_path / "data", TABLES), "-q"]
    [_, label] = json.loads(cli(*told, "--json").out)["labels"]
    best = label["rows"][0]
    assert best["is_best"] and best["kind"] == "measure"
    shown = f"{best['auc']['value']:.3f}"
    table = cli(*told).out
    assert shown in table and max(map(len, table.splitlines())) <= 80
    assert table.index("with it") < table.index(best["measure"])  # counts come first
    for form in ("md", "latex"):
        assert shown in cli(*told, "--format", form).out
    assert str(best["auc"]["value"]) in cli(*told, "--format", "csv").out
    again = qilin_agreement(small)
    assert again == qilin_agreement(small)
    assert again.labels[1].rows[0].auc.value == best["auc"]["value"]
