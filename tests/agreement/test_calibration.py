"""The agreement of a chosen judge is that with labels it did not see, and folds never share a query."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qilin_rag.agreement.calibration import calibrate, fold_of
from qilin_rag.agreement.pairs import ComparedPair, JudgedPairs, read_pairs
from qilin_rag.agreement.tie_calibration import tie_calibrated
from qilin_rag.core.errors import UsageError
from qilin_rag.core.stats import Values
from tests.conftest import Cli


def judged_of(said: Values, n_queries: int) -> JudgedPairs:
    """Return pairs of which one person says this."""
    answer = {"answer": "水温92度"}
    return JudgedPairs(
        [
            ComparedPair.model_validate(
                {
                    "query": f"问{row % n_queries}",
                    "reference": "92度",
                    "a": answer,
                    "b": answer,
                    "people": [{"liked": value}],
                }
            )
            for row, value in enumerate(said.tolist())
        ],
        {},
    )


def gains(values: Values) -> Values:
    """Return the scores of a and b with these differences."""
    return np.stack([np.zeros(len(values)), values], axis=1)


def test_folds_share_no_query_and_are_about_equal() -> None:
    queries = np.random.default_rng(0).integers(0, 43, 300)
    folds = fold_of(queries, 5)
    assert all(len(set(folds[queries == query].tolist())) == 1 for query in np.unique(queries))
    n_queries = [len(np.unique(queries[folds == fold])) for fold in range(5)]
    assert max(n_queries) - min(n_queries) <= 1
    assert not np.array_equal(folds, fold_of(queries, 5, seed=1))
    with pytest.raises(UsageError, match="3 queries can't make 5 folds"):
        fold_of(np.array([1, 2, 2, 3]), 5)


def test_judges_without_worth_agree_by_chance_though_the_best_fits() -> None:
    """Of 40 judges that toss a coin, the best gets two thirds of the labels that it was chosen by."""
    fitted, held_out, n_shown = [], [], 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        said = rng.choice([-1.0, 1.0], 80)
        judges = {f"judge {i}": gains(rng.normal(size=80)) for i in range(40)}
        of_choice = calibrate(judged_of(said, 60), judges, "liked", seed=seed)
        held_out.append(of_choice.held_out.value)
        n_shown += of_choice.is_shown
        found = [tie_calibrated(each[:, 1], said) for each in judges.values()]
        fitted.append(max(each.accuracy for each in found if each))
    assert np.mean(fitted) > 0.6
    assert np.mean(np.array(held_out, float)) == pytest.approx(0.5, abs=0.06)
    assert n_shown <= 1


def test_the_good_judge_is_chosen_with_its_threshold() -> None:
    rng = np.random.default_rng(0)
    said = rng.choice([-1.0, 0.0, 1.0], 200)
    good = said + rng.uniform(-0.4, 0.4, 200)  # a tie is below 0.4, the rest above 0.6
    found = calibrate(judged_of(said, 100), {"bad": gains(-good), "good": gains(good)}, "liked")
    assert found.is_shown and found.judge == "good" and 0.35 < found.epsilon < 0.6
    assert (found.held_out.value or 0) > 0.97
    assert [(each.judge, each.n_chosen) for each in found.judges] == [("good", 5), ("bad", 0)]
    assert (found.most_frequent.value or 1) < 0.5


def test_an_unscored_pair_is_wrong() -> None:
    said = np.ones(60)
    half = np.where(np.arange(60) % 2 == 0, 1.0, np.nan)
    found = calibrate(
        judged_of(said, 60), {"half": gains(half), "most": gains(np.where(said.cumsum() > 10, 1.0, -1.0))}, "liked"
    )
    assert found.judge == "most" and not found.is_shown  # people always say the same
    assert {each.judge: each.held_out.value for each in found.judges} == {"half": 0.5, "most": 50 / 60}


def test_no_judge_is_an_error() -> None:
    with pytest.raises(UsageError, match="no judge has scores"):
        calibrate(judged_of(np.ones(10), 10), {}, "liked")


def test_of_real_labels_less_is_promised_than_was_fitted(shared: Path) -> None:
    judged = read_pairs(shared / "data" / "human_pairs" / "pairs.jsonl")
    for aspect in judged.aspects:
        found = calibrate(judged, judged.measures, aspect)
        said = judged.judgements(aspect)
        pairs, people = np.nonzero(~np.isnan(said))
        scores = np.diff(judged.measures[found.judge][pairs], axis=1)[:, 0]
        fitted = tie_calibrated(scores, said[pairs, people])
        assert found.is_shown and found.judge.startswith("ragchecker.")
        assert fitted and found.held_out.value is not None and found.held_out.value < fitted.accuracy


def test_the_command_prints_what_was_held_out(tmp_path: Path, cli: Cli) -> None:
    rng = np.random.default_rng(0)
    lines = [
        {
            "query": f"问{row}",
            "reference": "92度",
            "a": {"answer": "水温"},
            "b": {"answer": "92度"},
            "people": [{"liked": said}],
            "strict": {"a": 0, "b": said + rng.normal(0, 0.5)},
            "kind": {"a": {"overall": 0}, "b": {"overall": rng.normal()}},
        }
        for row, said in enumerate(rng.choice([-1, 1], 60).tolist())
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    out = cli("agreement", "calibrate", path).out
    [found] = json.loads(cli("agreement", "calibrate", path, "--json").out)
    assert found["judge"] == "strict" and f"{found['held_out']['value']:.3f}" in out
    assert max(map(len, out.splitlines())) <= 80
    [one] = json.loads(cli("agreement", "calibrate", path, "--judges", "kind.overall", "--json").out)
    assert [each["judge"] for each in one["judges"]] == ["kind.overall"]
    wrong = cli("agreement", "calibrate", path, "--judges", "strikt")
    assert wrong.code == 2 and "strikt" in wrong.err and "strict, kind.overall" in wrong.err
    assert cli("agreement", "calibrate", path, "--folds", "99").code == 2
