"""`agreement pairs`: the README's figures on real labels, none named the best without reason, errors with the line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.agreement.correlations import pearson, spearman
from qilin_rag.agreement.pair_scores import SENTINELS, measure_scores, sentinel_scores
from qilin_rag.agreement.pair_sections import pair_records, pair_sections
from qilin_rag.agreement.pair_table import PairAgreement, pair_agreement
from qilin_rag.agreement.pairs import JudgedPairs, read_pairs
from qilin_rag.agreement.verdict import verdict
from qilin_rag.core.spreadsheet import csv_of_records
from qilin_rag.reports.sections import as_latex, as_markdown
from tests.conftest import Cli, write_jsonl

KNOWN = {  # of the data's README: Pearson, Spearman
    "overall": ((0.6193, 0.6090), (0.7009, 0.6889)),
    "correctness": ((0.4966, 0.4694), (0.6367, 0.5919)),
    "completeness": ((0.6067, 0.5809), (0.7191, 0.6836)),
}
WORDS = ["apple", "bread", "cloud", "dream", "earth", "flame", "grape", "house"]


def pair(rng: np.random.Generator, number: int, noise: float = 0.7, is_informative: bool = True) -> dict[str, Any]:
    """Return a pair of which people prefer the answer that holds more of the reference, and a measure that sees it."""
    words = rng.permutation(WORDS).tolist()
    shares = [int(rng.integers(1, 6)) for _ in "ab"]
    gain = (shares[1] - shares[0]) / 2 if is_informative else float(rng.normal())
    people = [{"overall": int(np.clip(round(gain + rng.normal(0, noise)), -2, 2))} for _ in range(2)]
    sides = {
        side: {"system": f"s{rng.integers(3)}", "answer": " ".join([*words[:n], *["filler"] * int(rng.integers(0, 9))])}
        for side, n in zip("ab", shares, strict=True)
    }
    scores = {side: {"seen": n + float(rng.normal(0, 0.5))} for side, n in zip("ab", shares, strict=True)}
    return {"query": f"query {number}", "reference": " ".join(words[:5]), **sides, "people": people, "ours": scores}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """Make a file of 60 pairs, whose labels follow the answers or nothing."""
    rng = np.random.default_rng(1)
    files = {
        is_informative: write_jsonl(
            tmp_path_factory.mktemp("pairs") / "pairs.jsonl",
            [pair(rng, number, is_informative=is_informative) for number in range(60)],
        )
        for is_informative in (True, False)
    }
    return files.__getitem__


@pytest.fixture(scope="module")
def informed(world: Callable[[bool], Path]) -> PairAgreement:
    return table_of(read_pairs(world(True)))


def table_of(judged: JudgedPairs) -> PairAgreement:
    return pair_agreement(judged, measure_scores(judged), sentinel_scores(judged))


def test_the_readmes_figures_on_real_labels(shared: Path) -> None:
    judged = read_pairs(shared / "data" / "human_pairs" / "pairs.jsonl")
    for aspect, (of_measure, of_judges) in KNOWN.items():
        said = judged.judgements(aspect)
        gains = np.subtract(*judged.measures[f"ragchecker.{aspect}"].T[::-1])
        repeated = np.repeat(gains, 2), said.reshape(-1)
        assert len(repeated[1]) == 560
        for figures, expected in ((repeated, of_measure), ((said[:, 0], said[:, 1]), of_judges)):
            assert (pearson(*figures), spearman(*figures)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_measure_of_some_pairs_must_beat_the_sentinels_on_these(world: Callable[[bool], Path], sign: float) -> None:
    """Length tells little over all pairs, and more than the measure on the pairs that the measure scores."""
    judged = read_pairs(world(True))
    labels = np.nan_to_num(judged.judgements("overall")).mean(axis=1)
    rng = np.random.default_rng(0)
    n = len(labels)
    is_first = np.arange(n) < n / 2
    own = np.where(is_first, labels + rng.normal(0, 1.2, n), np.nan)
    length = np.where(is_first, sign * labels, -sign * labels) + rng.normal(0, 0.3, n)
    as_pairs = {name: np.stack([np.zeros(n), each], axis=1) for name, each in (("own", own), ("length", length))}
    for by in ("pearson", "spearman"):
        table = pair_agreement(judged, {"own": as_pairs["own"]}, {"length": as_pairs["length"]}, by)
        measure, sentinel = table.aspects[0].rows
        assert abs(getattr(sentinel, by).value) < 0.3 < 0.4 < getattr(measure, by).value
        assert not measure.is_beyond_sentinels


@pytest.mark.slow
def test_the_table_on_real_labels(shared: Path) -> None:
    table = table_of(read_pairs(shared / "data" / "human_pairs" / "pairs.jsonl"))
    for aspect in table.aspects:
        of_measure, of_judges = KNOWN[aspect.aspect]
        rows = {row.measure: row for row in aspect.rows}
        ragchecker = rows[f"ragchecker.{aspect.aspect}"]
        assert aspect.ceiling and (aspect.n_judgements, ragchecker.n) == (560, 560)
        for found, expected in ((ragchecker, of_measure), (aspect.ceiling, of_judges)):
            assert (found.pearson.value, found.spearman.value) == pytest.approx(expected, abs=1e-4)
        assert ragchecker.is_beyond_sentinels
        assert not any(rows[name].is_beyond_sentinels for name in SENTINELS)
        assert "ragchecker.overall" in verdict(aspect, table.by)[0]


def test_a_measure_that_people_agree_with_is_named(world: Callable[[bool], Path], informed: PairAgreement) -> None:
    [aspect] = informed.aspects
    rows = {row.measure: row for row in aspect.rows}
    assert rows["ours.seen"].is_beyond_sentinels and rows["ours.seen"].rank == 1
    assert rows["ours.seen"].pearson.ci95 is not None
    assert all(rows[name].rank is None and rows[name].p_beyond_sentinels is None for name in SENTINELS)
    assert "ours.seen" in verdict(aspect, "pearson")[0]
    constant = rows["constant"]
    assert (constant.pearson.value, constant.kendall.value) == (None, None) and constant.pearson.reason
    said = [judge["overall"] for line in world(True).read_text().splitlines() for judge in json.loads(line)["people"]]
    assert constant.accuracy.value == pytest.approx(said.count(0) / len(said))


def test_a_measure_below_another_is_not_what_people_agree_with_most(informed: PairAgreement) -> None:
    """The highest figure may not be shown to be beyond the sentinels, such as that of few answers."""
    [aspect] = informed.aspects
    first, second, *others = aspect.rows
    rows = [first.model_copy(update={"p_beyond_sentinels": 0.2}), second, *others]
    assert second.is_beyond_sentinels and "agree most" in verdict(aspect, "pearson")[0]
    said = verdict(aspect.model_copy(update={"rows": rows}), "pearson")[0]
    assert "agree most" not in said and second.measure in said and "A higher figure is not shown" in said


def test_labels_that_follow_nothing_name_no_measure(world: Callable[[bool], Path]) -> None:
    table = table_of(read_pairs(world(False)))
    [aspect] = table.aspects
    assert not any(row.is_beyond_sentinels for row in aspect.rows)
    said = " ".join(verdict(aspect, table.by))
    assert "none is named the best" in said and "agree most" not in said


def test_a_sentinel_that_people_disagree_with_counts_without_its_sign(tmp_path: Path) -> None:
    """People like short answers; a measure that likes them a little is no better than turning length round."""
    rng = np.random.default_rng(2)
    rows = []
    for number in range(60):
        lengths = rng.integers(1, 30, 2)
        label = int(np.sign(lengths[0] - lengths[1]))
        scores = {side: -float(n) + float(rng.normal(0, 9)) for side, n in zip("ab", lengths, strict=True)}
        sides = {side: {"answer": "word " * int(n)} for side, n in zip("ab", lengths, strict=True)}
        rows.append({"query": str(number), "reference": "other", **sides, "people": [{"x": label}], "brief": scores})
    judged = read_pairs(write_jsonl(tmp_path / "pairs.jsonl", rows))
    [aspect] = pair_agreement(judged, {"brief": judged.measures["brief"]}, sentinel_scores(judged)).aspects
    found = {row.measure: row for row in aspect.rows}
    assert found["length"].pearson.value is not None and found["length"].pearson.value < -0.5
    assert found["brief"].pearson.value is not None and found["brief"].pearson.value > 0.3
    assert aspect.strongest_sentinel == "length" and not found["brief"].is_beyond_sentinels


def test_permuted_answers_are_the_systems_own_to_another_query(tmp_path: Path) -> None:
    rows = [
        {
            "query": f"q{number}",
            "reference": f"r{number}",
            "a": {"system": "one", "answer": "same"},
            "b": {"system": "two" if number else "alone", "answer": f"r{number}"},
            "people": [{"x": 1}],
        }
        for number in range(4)
    ]
    found = sentinel_scores(read_pairs(write_jsonl(tmp_path / "pairs.jsonl", rows)))["permuted"]
    assert np.isnan(found[0, 1])
    assert found[1:, 1].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"people": []}, "people"),
        ({"people": [{"overall": "better"}]}, "people.0.overall"),
        ({"a": {"system": "x"}}, "a.answer"),
        ({"query": None}, "query"),
        ({"reference": []}, "reference"),
        ({"mine": {"a": {"f1": 0.5}, "b": {"f2": 0.5}}}, "mine"),
        ({"mine": {"a": 0.5, "b": "high"}}, "mine"),
        ({"mine": {"a": True, "b": 1}}, "mine"),
    ],
)
def test_an_error_names_file_line_and_field(change: dict[str, Any], named: str, tmp_path: Path, cli: Cli) -> None:
    rng = np.random.default_rng(0)
    path = write_jsonl(tmp_path / "pairs.jsonl", [pair(rng, 0), {**pair(rng, 1), **change}])
    done = cli("agreement", "pairs", path)
    assert (done.code, done.out) == (2, "")
    assert f"{path}, line 2" in done.err and named in done.err and len(done.err.splitlines()) == 1


def test_files_that_hold_no_pairs(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    for name, problem in (("none.jsonl", "not a file"), ("empty.jsonl", "no pair")):
        done = cli("agreement", "pairs", tmp_path / name)
        assert (done.code, problem in done.err) == (2, True)
    (tmp_path / "broken.jsonl").write_text("{")
    assert "line 1" in cli("agreement", "pairs", tmp_path / "broken.jsonl").err
    assert "--encoder" in cli("agreement", "pairs", tmp_path / "empty.jsonl", "--layer", 3).err


def test_ten_pairs_say_what_they_cannot_give(tmp_path: Path, cli: Cli) -> None:
    rng = np.random.default_rng(3)
    path = write_jsonl(tmp_path / "pairs.jsonl", [pair(rng, number) for number in range(10)])
    done = cli("agreement", "pairs", path)
    assert done.code == 0 and "too few: 10 independent values, 20 needed" in " ".join(done.out.split())
    assert "four times in five" not in done.out
    one = cli("agreement", "pairs", write_jsonl(tmp_path / "one.jsonl", [pair(rng, 0)]))
    assert one.code == 0 and "nan" not in one.out.lower()


def test_unscored_and_missing_values_are_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    rows = [pair(rng, number) for number in range(30)]
    rows[0]["ours"] = {"a": {"seen": None}, "b": {"seen": 1}}
    del rows[1]["ours"]
    rows[2]["people"] = [{"overall": None}, {"overall": 1}]
    rows[3]["a"]["answer"] = " "
    [aspect] = table_of(read_pairs(write_jsonl(tmp_path / "pairs.jsonl", rows))).aspects
    found = {row.measure: row.n for row in aspect.rows}
    assert aspect.n_judgements == 59
    assert (found["ours.seen"], found["rouge_l"], found["length"]) == (55, 57, 59)
    assert any(re.match("ours.seen.*: 55 of 59 judgements", line) for line in verdict(aspect, "pearson"))


def test_every_format_has_the_same_figures(informed: PairAgreement) -> None:
    [row] = [row for row in informed.aspects[0].rows if row.measure == "ours.seen"]
    value = row.pearson.value
    for text in (as_markdown(pair_sections(informed)), as_latex(pair_sections(informed))):
        assert f"{value:.4f}" in text and "sentinels" in text
    assert r"\bottomrule" in text and r"rouge\_l" in text
    records = list(csv.DictReader(io.StringIO(csv_of_records(pair_records(informed)))))
    [record] = [each for each in records if each["measure"] == "ours.seen"]
    assert (float(record["pearson"]), record["kind"]) == (value, "measure")


def test_the_table_fits_a_terminal(world: Callable[[bool], Path], cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = cli("agreement", "pairs", world(True), "--by", "spearman")
    assert (done.code, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) <= 80
    assert "ours.seen" in done.out and "People agree most with" in done.out


def test_json_is_the_table_with_its_verdict(world: Callable[[bool], Path], cli: Cli, informed: PairAgreement) -> None:
    document = json.loads(cli("agreement", "pairs", world(True), "--json").out)
    said = [each.pop("verdict") for each in document["aspects"]]
    assert document == informed.model_dump(mode="json")
    assert said == [verdict(informed.aspects[0], "pearson")]
