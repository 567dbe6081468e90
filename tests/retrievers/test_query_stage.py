"""What a query stage reads in a reply, what it searches for, and how its rankings are fused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from qilin_rag import BM25, Hybrid
from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import Hit, Question
from qilin_rag.data import NoteStore
from qilin_rag.pipeline.shared import Shared
from qilin_rag.retrievers import Retriever
from qilin_rag.retrievers.fusion import fuse_by_rank
from qilin_rag.retrievers.query_stage import HyDE, MultiQuery, Rewrite


def ranking(*note_idxs: int) -> list[Hit]:
    return [Hit(note_idx=n, score=-rank, rank=rank) for rank, n in enumerate(note_idxs, 1)]


@pytest.mark.parametrize(
    ("reply", "texts"),
    [
        ("冷萃咖啡 做法", ["冷萃咖啡 做法"]),
        ("搜索词：“冷萃咖啡 做法”", ["冷萃咖啡 做法"]),
        ("**Query:** cold brew", ["cold brew"]),
        ("```\n冷萃咖啡\n```", ["冷萃咖啡"]),
        ("\u200b\n冷萃咖啡\n", ["冷萃咖啡"]),
        ("《红楼梦》和《西游记》的作者", ["《红楼梦》和《西游记》的作者"]),
        ("“冷萃”和“手冲”", ["“冷萃”和“手冲”"]),
        ("冷萃咖啡\n这样改写是因为更短", []),
        ("<think>冷萃", []),
        ("搜索词：", []),
        ("。？！**", []),
        ("", []),
    ],
)
def test_a_rewritten_query_is_one_line(reply: str, texts: list[str]) -> None:
    assert Rewrite().read(reply) == texts
    assert Rewrite().read(reply, is_cut=True) == []  # half a query


def test_a_hypothetical_passage_is_all_that_came_also_if_a_limit_ended_it() -> None:
    assert HyDE().read("段落：冷水泡。\n\n**放一夜**，再", is_cut=True) == ["冷水泡。 放一夜，再"]
    assert HyDE().read("<think>冷水") == HyDE().read(" \n") == []


@pytest.mark.parametrize(
    ("reply", "is_cut", "texts"),
    [
        ("1. 甲\n2. 乙\n3. 丙", False, ["甲", "乙", "丙"]),
        ("1、甲\n2、乙\n3、丙", False, ["甲", "乙", "丙"]),
        ("（1）甲\n（2）乙", False, ["甲", "乙"]),
        ("1) “甲”\n\n2) 乙", False, ["甲", "乙"]),
        ("以下是改写：\n1. 甲\n2. 乙", False, ["甲", "乙"]),
        ("1. 甲\n2. 乙\n3. 丙\n4. 丁\n5. 戊", False, ["甲", "乙", "丙"]),  # no more than asked for
        ("1. 甲\n2. 乙\n3. 半", True, ["甲", "乙"]),
        ("1. 半", True, []),
        ("1. 甲\n3. 丙", False, []),
        ("2. 乙", False, []),
        ("1. 甲\n希望有帮助", False, []),
        ("甲\n乙\n丙", False, []),
        ("- 甲\n- 乙", False, []),
        ("1.5升水怎么煮", False, []),
        ("", False, []),
    ],
)
def test_other_wordings_are_a_list_numbered_from_1(reply: str, is_cut: bool, texts: list[str]) -> None:
    assert MultiQuery().read(reply, is_cut) == texts


def test_a_text_is_searched_once_and_the_question_is_none_of_them() -> None:
    question = Question(id="7", query="冷萃 咖啡", references=["答"], reference_notes=[1], meta={"user_idx": 3})
    wordings = MultiQuery().wordings(question, ["冷萃咖啡", "ＣＯＬＤ brew", "cold brew", "手冲"])
    assert [each.query for each in wordings] == ["ＣＯＬＤ brew", "手冲"]
    assert {(each.id, *each.reference_notes, each.meta["user_idx"], each.is_passage) for each in wordings} == {
        ("7", 1, 3, False)
    }
    assert HyDE().wordings(question, ["放一夜。"])[0].is_passage


def test_prompts_are_in_the_language_of_the_question_or_as_set() -> None:
    assert "搜索词" in Rewrite().render("冷萃").messages[-1]["content"]
    assert "Search query" in Rewrite().render("how to make cold brew").messages[-1]["content"]
    assert "Search query" in Rewrite(language="en").render("冷萃").messages[-1]["content"]
    assert "5种" in MultiQuery(n=5).render("冷萃").messages[-1]["content"]
    identities = [each.identity()["prompt"] for each in (Rewrite(), Rewrite(language="zh"), Rewrite(language="en"))]
    assert identities[0] == "+".join(identities[1:])


def test_rankings_are_fused_by_reciprocal_rank() -> None:
    """By hand, k = 60: note 2 has 1/62 + 1/61 + 1/63, note 1 1/61 + 1/62, note 4 1/61, note 3 1/63 + 1/62."""
    fused = fuse_by_rank([ranking(1, 2, 3), ranking(2, 1), ranking(4, 3, 2)], "手冲", 10)
    by_hand = {2: 1 / 62 + 1 / 61 + 1 / 63, 1: 1 / 61 + 1 / 62, 3: 1 / 63 + 1 / 62, 4: 1 / 61}
    assert [(hit.note_idx, hit.rank) for hit in fused] == [(2, 1), (1, 2), (3, 3), (4, 4)]
    assert [hit.score for hit in fused] == pytest.approx(list(by_hand.values()), abs=1e-15)
    assert fuse_by_rank([ranking(1, 2, 3), ranking(2, 1), ranking(4, 3, 2)], "手冲", 2) == fused[:2]
    assert fuse_by_rank([ranking(5, 6, 7)], "手冲", 2) == ranking(5, 6)  # a question alone keeps its scores


def test_a_hybrid_of_one_retriever_at_two_settings_fuses_the_same_way(data_dir: Any) -> None:
    from qilin_rag.data import load_dataset

    data = load_dataset(str(data_dir))
    one, other = BM25(), BM25(k1=0.3)
    question = data.questions[1]
    rankings = [each.search([question], data.notes, 100)[0] for each in (one, other)]
    assert Hybrid(of=[one, other]).search([question], data.notes, 5)[0] == fuse_by_rank(rankings, question.query, 5)


class Recorder(Retriever):
    """Finds the notes whose ids are in the text that it is asked for, and keeps the texts."""

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        asked.append([question.query for question in questions])
        return [ranking(*map(int, question.query.split()))[:k] for question in questions]


asked: list[list[str]] = []


@pytest.mark.parametrize("with_question", [True, False])
def test_a_retriever_is_asked_for_each_text_once_whatever_the_number_of_notes(
    data_dir: Any, with_question: bool
) -> None:
    asked.clear()
    settings = ["llm.model=m", f"query.with_question={with_question}"]
    flags = {"data": str(data_dir), "retriever": f"{__name__}:Recorder", "query": "multi", "llm": "openai"}
    few, many = (resolve_run({**flags, "top_k": k}, settings) for k in (1, 3))
    shared = Shared()
    questions = [Question(id="1", query="10 11", references=[]), Question(id="2", query="12", references=[])]
    shared.prepare_search(many, questions)
    texts = {"1": ["11 12", "11"]}
    [first, alone] = shared.retrieve(many, questions, texts)
    order = [11, 10, 12] if with_question else [11, 12]
    assert [hit.note_idx for hit in first.hits] == order
    assert [hit.note_idx for hit in alone.hits] == [12]  # nothing was written for it
    assert [hit.note_idx for hit in shared.retrieve(few, questions, texts)[0].hits] == order[:1]
    assert asked[:2] == [["10 11", "12"], ["11 12", "11"]]


@pytest.mark.parametrize("name", ["none", "oracle", "oracle_top_k", "random", "recorded:bm25", "mixed", "trec:a.trec"])
def test_a_retriever_that_does_not_read_the_text_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"query hyde: the retriever {name.partition(':')[0]}"):
        resolve_run({"retriever": name, "query": "hyde", "llm": "openai"}, ["llm.model=m"])


def test_a_hybrid_searches_by_the_text_if_a_part_does() -> None:
    of = {"name": "hybrid", "of": ["bm25", "recorded:dpr"]}
    assert resolve_run({"retriever": of, "query": "hyde", "llm": "openai"}, ["llm.model=m"]).retriever.reads_query
    looked_up = {"name": "hybrid", "of": ["recorded:bm25", "recorded:dpr"]}
    with pytest.raises(UsageError, match="retriever hybrid"):
        resolve_run({"retriever": looked_up, "query": "hyde", "llm": "openai"}, ["llm.model=m"])
