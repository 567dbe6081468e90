"""Banks are what nuggetizer and AutoJudge read, their figures are nuggetizer's, and an edit is seen."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.core.judged_answers import AssignedNugget, Nugget
from qilin_rag.core.types import Question
from qilin_rag.judging.nugget_bank import BankedQuestion, BankMaker, read_bank, write_bank
from qilin_rag.judging.nugget_maker import merge_facts
from qilin_rag.judging.nugget_scores import NUGGET_METRICS, nugget_scores
from qilin_rag.judging.nugget_verdicts import Fact

MAKER = BankMaker(
    llm="qwen",
    models=["qwen-1"],
    settings="a" * 64,
    prompt="b" * 64,
    sources="answers",
    max_nuggets=20,
    question_set="c",
)
LINES = [
    BankedQuestion(
        qid=str(number),
        query=f"问题{number}",
        nuggets=[
            Nugget(text="水温92度", importance="vital", provenance=["answer 1"]),
            Nugget(text="闷蒸30秒", importance="okay", provenance=["answer 1", "note 7"]),
        ],
        made_by=MAKER,
    )
    for number in range(3)
]


def assigned(*pairs: tuple[str, str]) -> list[AssignedNugget]:
    return [AssignedNugget(text="x", importance=kind, assignment=said) for kind, said in pairs]


@pytest.mark.parametrize(
    ("nuggets", "expected"),
    [  # all, strict all, vital, strict vital, weighted: by hand
        ([("vital", "support"), ("okay", "support")], (1.0, 1.0, 1.0, 1.0, 1.0)),
        ([("vital", "not_support"), ("okay", "not_support")], (0.0, 0.0, 0.0, 0.0, 0.0)),
        ([("vital", "support"), ("okay", "not_support")], (0.5, 0.5, 1.0, 1.0, 2 / 3)),
        ([("vital", "partial_support"), ("okay", "support")], (0.75, 0.5, 0.5, 0.0, 2 / 3)),
        ([("vital", "partial_support")] * 2 + [("okay", "support")] * 2, (0.75, 0.5, 0.5, 0.0, 2 / 3)),
        ([("vital", "support"), ("vital", "not_support"), ("okay", "partial_support")], (0.5, 1 / 3, 0.5, 0.5, 0.5)),
        ([("okay", "support"), ("okay", "partial_support")], (0.75, 0.5, 0.0, 0.0, 0.75)),
        ([("vital", "not_support")] + [("okay", "support")] * 3, (0.75, 0.75, 0.0, 0.0, 1.5 / 2.5)),
        ([("vital", "support")] * 3 + [("okay", "not_support")], (0.75, 0.75, 1.0, 1.0, 3 / 3.5)),
        (
            [("vital", "support"), ("vital", "partial_support"), ("okay", "partial_support"), ("okay", "not_support")],
            (0.5, 0.25, 0.75, 0.5, (1 + 0.5 + 0.5 * 0.5) / (2 + 0.5 * 2)),
        ),
    ],
)
def test_figures_by_hand(nuggets: list[tuple[str, str]], expected: tuple[float, ...]) -> None:
    assert tuple(nugget_scores(assigned(*nuggets)).values()) == pytest.approx(expected)
    assert tuple(nugget_scores(assigned(*nuggets))) == NUGGET_METRICS


def test_figures_are_those_of_nuggetizer() -> None:
    metrics = pytest.importorskip(
        "nuggetizer.core.metrics", reason="the oracle is not installed: pip install nuggetizer"
    )
    dice = random.Random(1)
    for _ in range(500):
        kinds = dice.choices(["vital", "okay"], weights=[dice.random(), dice.random()], k=dice.randrange(1, 25))
        nuggets = assigned(*((kind, dice.choice(["support", "partial_support", "not_support"])) for kind in kinds))
        theirs = metrics.calculate_nugget_scores("q", [nugget.model_dump() for nugget in nuggets])
        ours = nugget_scores(nuggets)
        for name in ("all", "strict_all", "vital", "strict_vital"):
            assert ours[f"nugget_{name}"] == getattr(theirs, f"{name}_score")
        twice = [nugget for nugget in nuggets for _ in range(2 if nugget.importance == "vital" else 1)]
        theirs = metrics.calculate_nugget_scores("q", [nugget.model_dump() for nugget in twice])
        assert ours["nugget_weighted"] == pytest.approx(theirs.all_score)  # two to one, as 1 to 0.5


@pytest.fixture
def autojudge(monkeypatch: pytest.MonkeyPatch) -> Any:
    """AutoJudge's module of banks alone: the package as a whole downloads data when it is imported."""
    if (found := importlib.util.find_spec("autojudge_base")) is None:
        pytest.skip("the oracle is not installed: pip install autojudge-base")
    package = ModuleType("autojudge_base")
    package.__path__ = list(found.submodule_search_locations or [])
    monkeypatch.setitem(sys.modules, "autojudge_base", package)
    return importlib.import_module("autojudge_base.nugget_data.nuggetizer")


def test_autojudge_reads_and_verifies_a_bank(tmp_path: Path, autojudge: Any) -> None:
    path = write_bank(tmp_path, LINES)
    banks = autojudge.load_nuggetizer_banks_from_file(path)
    banks.verify(["0", "1", "2"])
    assert [(each.text, each.importance) for each in banks.banks["1"].nuggets] == [
        (each.text, each.importance) for each in LINES[1].nuggets
    ]
    autojudge.write_nuggetizer_banks(banks, tmp_path / "theirs.jsonl")
    again = read_bank(tmp_path / "theirs.jsonl")
    assert again.maker == "unknown" and [each.text for each in again.questions["2"].nuggets] == ["水温92度", "闷蒸30秒"]


def test_a_bank_is_named_after_its_content(tmp_path: Path) -> None:
    path = write_bank(tmp_path, LINES)
    bank = read_bank(path)
    assert path.name == f"bank-{bank.sha256[:8]}.jsonl" and write_bank(tmp_path, reversed(LINES)) == path
    assert bank.maker == "qwen" and not any(line.is_edited for line in bank.questions.values())
    for change in (
        {"query": "别的"},
        {"made_by": MAKER.model_copy(update={"prompt": "d" * 64})},
        {"nuggets": LINES[0].nuggets[:1]},
    ):
        assert write_bank(tmp_path, [LINES[0].model_copy(update=change), *LINES[1:]]) != path


def edited(tmp_path: Path, change: Any) -> Path:
    """Return a copy of a bank, as somebody changed the first of its lines."""
    rows = [json.loads(line) for line in write_bank(tmp_path, LINES).read_text(encoding="utf-8").splitlines()]
    change(rows[0])
    path = tmp_path / "edited.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row["nuggets"][0].update(text="水温93度"),
        lambda row: row["nuggets"][1].update(importance="vital"),
        lambda row: row["nuggets"].pop(),
        lambda row: row["nuggets"].append({"text": "用滤纸", "importance": "okay"}),
        lambda row: row["nuggets"].reverse(),
        lambda row: row.pop("sha256"),
    ],
)
def test_an_edit_is_seen(tmp_path: Path, change: Any) -> None:
    bank = read_bank(edited(tmp_path, change))
    assert bank.maker == "qwen + edited"
    assert [line.qid for line in bank.questions.values() if line.is_edited] == ["0"]


def test_white_space_and_the_order_of_keys_are_no_edit(tmp_path: Path) -> None:
    bank = read_bank(edited(tmp_path, lambda row: row.update(query=row.pop("query"))))
    assert bank.maker == "qwen" and bank.sha256 == read_bank(write_bank(tmp_path, LINES)).sha256


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda row: row["nuggets"].clear(), "line 1"),
        (lambda row: row["nuggets"][0].update(importance="failed"), "line 1"),
        (lambda row: row["nuggets"][0].update(text=" \u200b"), "without text"),
        (lambda row: row.pop("query"), "line 1"),
        (lambda row: row.update(qid="1"), "question 1 twice"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, change: Any, names: str) -> None:
    with pytest.raises(UsageError, match=names):
        read_bank(edited(tmp_path, change))


def test_a_nugget_is_one_line_and_others_ids_may_be_numbers(tmp_path: Path) -> None:
    def change(row: dict[str, Any]) -> None:
        row |= {"qid": 9, "extra": 1}
        row["nuggets"][0] |= {"text": "水温\n## 要点2\n> 92度", "assignment": "support"}

    assert read_bank(edited(tmp_path, change)).questions["9"].nuggets[0].text == "水温 ## 要点2 > 92度"


def test_a_bank_of_other_questions_is_refused(tmp_path: Path) -> None:
    path = write_bank(tmp_path, LINES)
    bank = read_bank(path)
    bank.check_questions(
        [Question(id="1", query="问题 1", references=[]), Question(id="77", query="x", references=[])], path
    )
    for question in (Question(id="1", query="别的", references=[]), Question(id="77", query="问题1", references=[])):
        with pytest.raises(UsageError, match="bank"):
            bank.check_questions([question], path)


def test_facts_with_the_same_words_are_one_nugget() -> None:
    facts = [
        (Fact("水温 92 度。", "okay", [1]), ["answer 1"]),
        (Fact("闷蒸30秒", "okay", [1]), ["answer 1"]),
        (Fact("水温９２度", "vital", [1]), ["note 3"]),
        (Fact("粉水比1:15", "vital", [2]), ["answer 2"]),
        (Fact("粉水比115", "vital", [2]), ["answer 2"]),  # another number
    ]
    merged = merge_facts(facts)
    assert [(each.text, each.importance, each.provenance) for each in merged] == [
        ("水温 92 度。", "vital", ["answer 1", "note 3"]),
        ("粉水比1:15", "vital", ["answer 2"]),
        ("粉水比115", "vital", ["answer 2"]),
        ("闷蒸30秒", "okay", ["answer 1"]),
    ]
