from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qilin_rag.llms.openai_compatible import OpenAICompatible
from qilin_rag.llms.thinking import after_thinking, read_answer
from qilin_rag.prompts import RenderedPrompt
from qilin_rag.types import Completion
from tests.fake_server import MODEL, FakeServer

OPEN = st.sampled_from(["<think>", "<THINK>", "<Think >", "< think>"])
CLOSE = st.sampled_from(["</think>", "</THINK>", "</ think >", "< / Think>"])
SPACE = st.text(" \n\t　", max_size=3)
PROSE = st.text("想abc<>/ \n。think", max_size=30).filter(lambda text: "think" not in text)
ANSWER = PROSE.filter(lambda text: bool(text.strip()))


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("答案。", "答案。"),
        ("", ""),
        ("<think>想</think>答案。", "答案。"),
        ("\n<think>\n想\n</think>\n\n答案。\n", "答案。"),
        ("<think></think>\n答案。", "答案。"),
        ("<think>想</think>", ""),
        ("<think>一</think>\n<think>二</think>答案。", "答案。"),
        ("想\n</think>\n\n答案。", "答案。"),
        ("想</think><think>再想</think>答案。", "答案。"),
        ("<think>想", None),
        ("<think>", None),
        ("<think>一</think><think>二", None),
        ("<think>用<think>标签</think>答案。", "答案。"),
        ("<think>一<think>二</think>三</think>答案。", "答案。"),
        ("模型用<think>标签思考", "模型用<think>标签思考"),
        ("用<think>和</think>标签。", "用<think>和</think>标签。"),
        ("<think>想</think>用<think>和</think>标签。", "用<think>和</think>标签。"),
        ("<thinking>不是</thinking>", "<thinking>不是</thinking>"),
        ("a < think of b", "a < think of b"),
    ],
)
def test_where_the_answer_begins(content: str, answer: str | None) -> None:
    assert after_thinking(content) == answer


@given(st.text())
def test_without_tags_the_answer_is_the_content(content: str) -> None:
    if "think" not in content.lower():
        assert after_thinking(content) == content.strip()


@given(st.lists(st.tuples(SPACE, OPEN, PROSE, CLOSE, SPACE)), ANSWER, OPEN, st.text())
def test_blocks_are_left_out_and_what_the_answer_mentions_stays(
    blocks: list[tuple[str, ...]], answer: str, mention: str, rest: str
) -> None:
    before = "".join(map("".join, blocks))
    assert after_thinking(before + answer) == answer.strip()
    assert after_thinking(before + answer + mention + rest) == (answer + mention + rest).strip()


@given(PROSE, CLOSE, SPACE, ANSWER)
def test_thinking_may_begin_in_the_prompt(thought: str, close: str, space: str, answer: str) -> None:
    assert after_thinking(thought + close + space + answer) == answer.strip()


@given(st.lists(st.tuples(SPACE, OPEN, PROSE, CLOSE, SPACE)), st.tuples(SPACE, OPEN, PROSE))
def test_thinking_that_never_ends_is_no_answer(blocks: list[tuple[str, ...]], unclosed: tuple[str, ...]) -> None:
    content = "".join(map("".join, [*blocks, unclosed]))
    assert after_thinking(content) is None
    assert read_answer(content, None, "stop") == ("", content, "length")
    assert read_answer(content, None, "content_filter").finish_reason == "content_filter"


@given(
    st.one_of(
        st.none(),
        st.text(),
        st.integers(),
        st.lists(st.one_of(st.text(), st.integers(), st.dictionaries(st.text(), st.text()))),
    ),
    st.one_of(st.none(), st.text(), st.integers(), st.dictionaries(st.text(), st.text())),
)
def test_whatever_a_server_sends_can_be_read(content: object, reasoning: object) -> None:
    answer = read_answer(content, reasoning, "stop")
    assert answer.text in answer.raw
    answer.raw.encode("utf-8")


@pytest.mark.parametrize(
    ("content", "text", "raw"),
    [
        (None, "", ""),
        (["答", {"type": "text", "text": "案"}], "答案", "答案"),
        ([{"type": "thinking", "thinking": "想", "signature": "x"}, {"type": "text", "text": "答"}], "答", "想"),
        ([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "想"}]}, "答"], "答", "想"),
        ([{"type": "reasoning_content", "reasoning_content": {"text": "想"}}, "答"], "答", "想"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "想"}]}, "答"], "答", "想"),
        ([{"type": "image_url", "image_url": "x"}, 3, "答"], "答", "答"),
    ],
)
def test_content_in_blocks(content: Any, text: str, raw: str) -> None:
    answer = read_answer(content, None, "stop")
    assert answer.text == text
    assert raw in answer.raw


def ask(server: FakeServer) -> Completion:
    llm = OpenAICompatible(model=MODEL, base_url=server.url)

    async def once() -> Completion:
        try:
            return await llm.generate(RenderedPrompt([{"role": "user", "content": "问"}], "问", [], 0))
        finally:
            await llm.close()

    return asyncio.run(once())


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_the_reasoning_field_of_a_server_is_kept_and_not_scored(server: FakeServer, field: str) -> None:
    server.fault = lambda n, body: f"reasoning {field}"
    completion = ask(server)
    assert completion.text == "关于“问”的回答"
    assert completion.raw == "<think>\n想一想\n</think>\n\n关于“问”的回答"
    assert (completion.finish_reason, completion.usage.completion_tokens) == ("stop", 10)


def test_thinking_in_the_content_is_kept_and_not_scored(server: FakeServer) -> None:
    server.answer = lambda body: "<think>想</think>答"
    completion = ask(server)
    assert (completion.text, completion.raw, completion.finish_reason) == ("答", "<think>想</think>答", "stop")
    server.answer = lambda body: "<think>想"
    completion = ask(server)
    assert (completion.text, completion.raw, completion.finish_reason) == ("", "<think>想", "length")
    assert completion.usage.completion_tokens == 10
