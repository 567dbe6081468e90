"""The order of systems from pairs: least squares and permutation tests, as a direct reading gives them."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from qilin_rag.agreement.pair_table import pair_agreement
from qilin_rag.agreement.pairs import ComparedPair, JudgedPairs, read_pairs
from qilin_rag.agreement.system_order import SystemAspect, system_orders
from qilin_rag.agreement.systems import soft_pairwise_accuracy
from qilin_rag.core.stats import Values
from tests.agreement.labelled import BM25, NONE, ORACLE, document_of, preferring, rating, rouge_of_examples
from tests.conftest import Cli, write_jsonl


def pair_of(query: str, a: str | None, b: str | None, *said: float) -> ComparedPair:
    answers = {side: {"answer": "x", "system": system} for side, system in (("a", a), ("b", b))}
    people = [{"liked": value} for value in said]
    return ComparedPair.model_validate({"query": query, "reference": "r", **answers, "people": people})


def complete(people: Values, scores: Values, seed: int = 0) -> tuple[JudgedPairs, Values]:
    """Return all pairs of systems for each query, of (systems, queries) values, on sides that are drawn."""
    rng = np.random.default_rng(seed)
    pairs, found = [], []
    for query in range(people.shape[1]):
        for both in combinations(range(len(people)), 2):
            a, b = both if rng.random() < 0.5 else both[::-1]
            pairs.append(pair_of(f"q{query}", f"s{a}", f"s{b}", people[b, query] - people[a, query]))
            found.append([scores[a, query], scores[b, query]])
    return JudgedPairs(pairs, {}), np.array(found)


def order_of(judged: JudgedPairs, **measures: Values) -> SystemAspect:
    [order] = system_orders(judged, measures, {})
    return order


@pytest.mark.parametrize("seed", range(4))
def test_complete_pairs_give_the_order_of_means(seed: int) -> None:
    """All pairs of each query say as much as the values that they are the differences of."""
    rng = np.random.default_rng(seed)
    people, scores = rng.integers(0, 4, (5, 9)).astype(float), rng.integers(0, 4, (5, 9)).astype(float)
    judged, of_pairs = complete(people, scores, seed)
    order = order_of(judged, ours=of_pairs)
    means = people.mean(axis=1) - people.mean()
    assert dict(zip(order.systems, order.standings or [], strict=True)) == pytest.approx(
        {f"s{place}": value for place, value in enumerate(means)}, abs=1e-6
    )
    [row] = order.rows
    assert row.soft_accuracy == pytest.approx(soft_pairwise_accuracy(people, scores), abs=1e-12)
    assert row.kendall == pytest.approx(scipy_stats.kendalltau(means, scores.mean(axis=1).round(9)).statistic)


@pytest.mark.parametrize("seed", range(4))
def test_few_pairs_are_a_direct_reading_of_the_formulas(seed: int) -> None:
    """Some pairs only, several a query and of one system twice, two judges, and scores that lack."""
    rng = np.random.default_rng(seed)
    drawn = [(int(rng.integers(5)), *rng.choice(4, 2, replace=False).tolist()) for _ in range(24)]
    said = rng.integers(-2, 3, (24, 2))
    scores = rng.integers(0, 3, (24, 2)).astype(float)
    scores[3, 0] = np.nan
    judged = JudgedPairs(
        [pair_of(f"q{q}", f"s{a}", f"s{b}", *map(float, row)) for (q, a, b), row in zip(drawn, said, strict=True)],
        {},
    )
    [row] = order_of(judged, ours=scores).rows
    used = [place for place in range(24) if place != 3]

    def p_of(gains: dict[int, Fraction], i: int, j: int) -> float | None:
        by_query: dict[int, Fraction] = {}
        for place in used:
            query, a, b = drawn[place]
            if {a, b} == {i, j}:
                ahead = gains[place] if b == i else -gains[place]
                by_query[query] = by_query.get(query, Fraction(0)) + ahead
        if not by_query:
            return None
        exchanged = [
            sum(s * value for s, value in zip(signs, by_query.values(), strict=True))
            for signs in product([1, -1], repeat=len(by_query))
        ]
        return sum(value >= sum(by_query.values()) for value in exchanged) / len(exchanged)

    people = {place: Fraction(int(said[place].sum()), 2) for place in used}
    ours = {place: Fraction(int(scores[place, 1] - scores[place, 0])) for place in used}
    both = [(p_of(people, i, j), p_of(ours, i, j)) for i, j in combinations(range(4), 2)]
    assert row.n_pairs == 23
    assert row.soft_accuracy == pytest.approx(
        1 - np.mean([abs(a - b) for a, b in both if a is not None and b is not None])
    )
    design = np.zeros((23, 4))
    for line, place in enumerate(used):
        _, a, b = drawn[place]
        design[line, [a, b]] = -1, 1
    fits = [np.linalg.lstsq(design, np.array([float(of[p]) for p in used]))[0].round(9) for of in (people, ours)]
    assert row.kendall == pytest.approx(scipy_stats.kendalltau(*fits).statistic)


def test_a_chain_of_pairs_orders_systems_that_never_met() -> None:
    """s0 beats s1, s1 beats s2; two thirds of its own pairs lost, s1 is still not the last one."""
    chain = [("s0", "s1"), ("s0", "s1"), ("s1", "s2")]
    judged = JudgedPairs([pair_of(f"q{n}", a, b, -1) for n, (a, b) in enumerate(chain)], {})
    order = order_of(judged, ours=np.array([[2.0, 1.0], [2.0, 1.0], [1.0, 0.0]]))
    assert order.systems == ["s0", "s1", "s2"] and order.standings == pytest.approx([1, 0, -1])
    assert order.rows[0].soft_accuracy == 1.0 and order.rows[0].kendall == pytest.approx(1.0)


def test_systems_that_no_pair_connects_have_no_order() -> None:
    both = [("s0", "s1"), ("s2", "s3")]
    judged = JudgedPairs([pair_of(f"q{n}", a, b, -1) for n, (a, b) in enumerate(both)], {})
    order = order_of(judged, ours=np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert (order.systems, order.standings, order.rows[0].kendall) == (["s0", "s1", "s2", "s3"], None, None)
    assert order.rows[0].soft_accuracy == 1.0


def test_pairs_without_three_named_systems_have_no_order() -> None:
    rng = np.random.default_rng(0)
    for both in ([("one", "two")] * 6, [(None, "two"), ("one", None), ("three", "three")] * 2):
        judged = JudgedPairs([pair_of(f"q{n}", a, b, 1) for n, (a, b) in enumerate(both)], {})
        assert system_orders(judged, {"ours": rng.normal(size=(6, 2))}, {}) == []


def test_a_measure_that_scores_nothing_has_no_figure() -> None:
    judged, scores = complete(np.arange(12.0).reshape(3, 4), np.zeros((3, 4)))
    none, constant = order_of(judged, none=np.full_like(scores, np.nan), constant=scores).rows
    assert (none.n_pairs, none.soft_accuracy, none.kendall) == (0, None, None)
    assert (constant.n_pairs, constant.soft_accuracy, constant.kendall) == (12, None, None)


def test_choices_between_three_runs_order_the_runs(tmp_path: Path, cli: Cli) -> None:
    rouge, paths = rouge_of_examples(), (BM25, ORACLE, NONE)
    labels = write_jsonl(tmp_path / "labels.jsonl", preferring(rouge, *paths))
    [order] = document_of(cli, labels, *paths)["pairs"]["orders"]
    rows: dict[str, Any] = {row["measure"]: row for row in order["rows"]}
    assert (order["aspect"], order["systems"][0], len(order["systems"])) == ("choice", ORACLE.name, 3)
    assert rows["rouge_l"]["kendall"] == 1.0 and rows["rouge_l"]["soft_accuracy"] > 0.9
    assert (rows["constant"]["kind"], rows["constant"]["kendall"]) == ("sentinel", None)
    shown = cli("agreement", *paths, "--labels", labels, "--format", "md").out
    assert "choice, order of 3 systems" in shown and "The order of 3 systems rests on as many points" in shown


def test_the_order_by_ratings_is_not_shown_twice(tmp_path: Path, cli: Cli) -> None:
    rouge, paths = rouge_of_examples(), (BM25, ORACLE, NONE)
    rows = rating(rouge, *paths) + preferring(rouge, *paths)
    document = document_of(cli, write_jsonl(tmp_path / "labels.jsonl", rows), *paths)
    assert [order["aspect"] for order in document["pairs"]["orders"]] == ["choice"]
    assert [order["aspect"] for order in document["orders"]] == ["quality"]


def test_real_labels_order_eight_systems(shared: Path) -> None:
    judged = read_pairs(shared / "data" / "human_pairs" / "pairs.jsonl")
    measures = {name: judged.measures[name] for name in ("ragchecker.overall",)}
    table = pair_agreement(judged, measures, {})
    for order in table.orders:
        assert (order.n_pairs, len(order.systems)) == (280, 8)
        means = dict.fromkeys(order.systems, 0.0)
        for pair, said in zip(judged.pairs, np.nanmean(judged.judgements(order.aspect), axis=1), strict=True):
            means[str(pair.b.system)] += said / 80  # 70 pairs a system; the other 10 are with itself
            means[str(pair.a.system)] -= said / 80
        assert dict(zip(order.systems, order.standings or [], strict=True)) == pytest.approx(means, abs=1e-6)


def test_thousands_of_systems_take_no_longer(tmp_path: Path) -> None:
    """An answer's own id as its system: nothing connects them, and no figure is made up."""
    judged = JudgedPairs([pair_of(f"q{n}", f"a{n}", f"b{n}", n % 3 - 1) for n in range(3_000)], {})
    order = order_of(judged, ours=np.random.default_rng(0).normal(size=(3_000, 2)))
    assert (len(order.systems), order.standings, order.rows[0].kendall) == (6_000, None, None)
