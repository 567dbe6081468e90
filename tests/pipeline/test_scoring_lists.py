"""Answers and references as lists: the figures of a run, without a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core import extras
from qilin_rag.core.errors import UsageError
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.score_lists import score
from qilin_rag.scorers.rouge import RougeL

ANSWERS = ["冷藏12小时", "不知道[1]", None, "", "**92度**"]
REFERENCES = ["冷藏12小时后过滤", ["六月起遮阴"], "x", "y", ["水温92度", "92度。"]]


def test_the_figures_are_those_of_a_run() -> None:
    metrics = ["rouge_l", "rouge_2", "contains"]
    own = run(resolve_run({"data": "sample", "retriever": "bm25", "metrics": metrics}))
    questions = own.directory.read_questions()
    samples = own.directory.read_samples()[0]
    found = score(
        [samples[question.id].answer for question in questions],
        [question.references for question in questions],
        metrics,
        queries=[question.query for question in questions],
    )
    assert {name: own.summary.metrics[name] for name in metrics} == found.metrics
    values = {(of.metric, of.question_id): of.value for of in own.directory.read_scores()}
    assert found.values["rouge_2"] == [values["rouge_2", question.id] for question in questions]


def test_what_is_missing_is_unscored() -> None:
    found = score(ANSWERS, REFERENCES, "rouge_l, contains")
    assert found.values["contains"] == [0, 0, None, None, 1]
    assert found.reasons["rouge_l"] == [None, None, "failed", "empty", None]
    figure = found.metrics["rouge_l"]
    assert (figure.n, figure.n_unscored, figure.ci95) == (3, 2, None)
    assert figure.signature.startswith("rouge_l|tokens:mixed|")


def test_columns_and_arrays_are_lists() -> None:
    expected = score(ANSWERS, REFERENCES, ["rouge_l"])
    frame = pd.DataFrame(
        {"a": ANSWERS, "r": [np.array(each) if isinstance(each, list) else each for each in REFERENCES]}
    )
    assert score(frame["a"], frame["r"], ["rouge_l"]) == expected
    frame["a"] = frame["a"].astype("string")  # missing is NA there
    assert score(frame["a"], frame["r"], ["rouge_l"]) == expected
    assert score((each for each in ANSWERS), tuple(REFERENCES), ["rouge_l"]) == expected


def test_metrics_are_names_settings_or_scorers() -> None:
    found = [
        score(ANSWERS, REFERENCES, given).metrics["rouge_l"]
        for given in ([RougeL(tokens="word")], {"rouge_l": {"tokens": "word"}})
    ]
    assert found[0] == found[1] and "tokens:word" in found[0].signature
    assert set(score(ANSWERS, REFERENCES).metrics) == {"rouge_l"}  # the model of bertscore is not here


@pytest.mark.parametrize("wrong", [3, [3], {"rouge_l": None}, {"rouge_l": RougeL()}])
def test_metrics_of_another_form_are_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="metrics: expected names"):
        score(ANSWERS, REFERENCES, wrong)


def test_equal_queries_are_one_cluster() -> None:
    answers, references = ["甲乙丙丁"[: 1 + number % 4] for number in range(80)], ["甲乙丙丁"] * 80
    alone = score(answers, references, ["rouge_l"]).metrics["rouge_l"]
    pairs = score(answers, references, ["rouge_l"], queries=[f"q{number % 40}" for number in range(80)])
    assert alone.ci95 and pairs.metrics["rouge_l"].ci95 not in (None, alone.ci95)


def test_a_frame_has_a_row_for_each_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    found = score(ANSWERS, REFERENCES, ["rouge_l", "contains"])
    frame = found.to_frame()
    assert list(frame.columns) == ["rouge_l", "contains"]
    assert frame["contains"].isna().tolist() == [False, False, True, True, False]
    assert frame["rouge_l"].mean() == pytest.approx(found.metrics["rouge_l"].value)
    monkeypatch.setattr(extras, "missing_modules", lambda *names: list(names))
    with pytest.raises(UsageError, match="pip install"):
        found.to_frame()


def test_the_page_of_a_notebook_is_escaped() -> None:
    found = score(ANSWERS, REFERENCES, ["rouge_l"])
    evil = found.metrics["rouge_l"].model_copy(update={"signature": "<script>&"})
    page = found.model_copy(update={"metrics": {"<b>": evil}})._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;&amp;" in page and "&lt;b&gt;" in page
    assert "3/5" in page and len(repr(found)) < 1000


@pytest.mark.parametrize(
    ("answers", "references", "given", "says"),
    [
        (["a"], ["a", "b"], {}, "1 answers and 2 references"),
        (["a"], ["a"], {"queries": []}, "1 answers and 0 queries"),
        ([], [], {}, "no answer"),
        ("a", ["a"], {}, "answers must be a list"),
        (["a"], "a", {}, "references must be a list"),
        ([1], ["a"], {}, r"answers\[0\] must be text"),
        (["a"], [1], {}, r"references\[0\] must be"),
        (["a"], [[]], {}, r"references\[0\] must be"),
        (["a"], [["b", " \u200b"]], {}, r"references\[0\] must hold texts"),
        (["a"], [None], {}, r"references\[0\] must be"),
        (["a"], ["b"], {"metrics": []}, "no metric"),
        (["a"], ["b"], {"metrics": ["rouge"]}, "did you mean"),
        (["a"], ["b"], {"metrics": ["retrieval"]}, "import_answers"),
        (["a"], ["b"], {"metrics": ["citations"]}, "import_answers"),
        (["a"], ["b"], {"metrics": [RougeL(), RougeL(tokens="word")]}, "two of the metrics"),
        (["a"], ["b"], {"metrics": {"rouge_l": {"x": 1}}}, "setting .x. does not exist"),
    ],
)
def test_wrong_use_is_one_line(answers: Any, references: Any, given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as raised:
        score(answers, references, **{"metrics": ["rouge_l"], **given})
    assert len(str(raised.value).splitlines()) == 1


def test_a_metric_that_is_named_twice_is_scored_once() -> None:
    """As in a run; with other settings it is another metric of that name, which is refused."""
    twice: tuple[Any, ...] = (["rouge_l", "rouge_l"], ["rouge_l", RougeL()], "rouge_l,rouge_l")
    for metrics in twice:
        assert list(score(["a"], ["a"], metrics=metrics).metrics) == ["rouge_l"]
        assert set(resolve_run({"metrics": metrics}).metrics) == {"retrieval", "rouge_l"}


def test_answers_without_a_query_are_no_copies_of_one() -> None:
    answers, references = ["冷藏12小时", "不知道"] * 20, ["冷藏12小时后过滤"] * 40
    queries = [*(f"问题{i}" for i in range(20)), *[None, ""] * 10]
    alone = score(answers, references, metrics=RougeL())
    found = score(answers, references, metrics=["rouge_l"], queries=queries)
    assert found.metrics["rouge_l"].ci95 == alone.metrics["rouge_l"].ci95 is not None
