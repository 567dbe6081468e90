"""Replies without an answer, endings, and numbers of tokens, the same through both clients."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.cache import cache_dir
from qilin_rag.core.types import NO_TOKENS, Completion, RenderedPrompt, Sample, Usage
from qilin_rag.llms import LLM, retry
from qilin_rag.llms.cache import ResponseCache, request_key
from qilin_rag.llms.langchain.chat_model import LangChain
from qilin_rag.llms.langchain.replies import completion
from qilin_rag.llms.openai_compatible import OpenAICompatible
from qilin_rag.llms.replies import read_ending, read_reply, read_usage
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.run import run
from tests.conftest import NOTES, Cli, write_jsonl
from tests.fake_server import MODEL, FakeServer
from tests.scored import score_run

PROMPT = RenderedPrompt([{"role": "user", "content": "怎么做"}], "怎么做", [], 0)
USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BASE_S", 0.001)
    monkeypatch.setattr(retry, "LONGEST_S", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1234567890")


@pytest.fixture(params=["openai", "langchain"])
def client(request: pytest.FixtureRequest, server: FakeServer) -> LLM:
    if request.param == "openai":
        return OpenAICompatible(model=MODEL, base_url=server.url, max_tries=2)
    pytest.importorskip("langchain_openai", reason="needs a provider of LangChain: pip install langchain-openai")
    return LangChain(spec=f"openai:{MODEL}", base_url=server.url, max_tries=2)


def reply(message: Any, ended: Any = "stop", usage: Any = USAGE) -> dict[str, Any]:
    """What a server sends."""
    if isinstance(message, dict):
        message = {"role": "assistant", **message}
    choice = {"index": 0, "finish_reason": ended, "message": message}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice], "usage": usage}


def generate_all(llm: LLM, server: FakeServer, replies: Sequence[dict[str, Any]]) -> list[Completion]:
    """What a client makes of each of these replies."""
    server.reply = lambda n, body: replies[n - 1]

    async def one_by_one() -> list[Completion]:
        try:
            return [await llm.generate(PROMPT) for _ in replies]
        finally:
            await llm.close()

    read = asyncio.run(one_by_one())
    assert len(server.calls) == len(replies)
    server.calls.clear()
    return read


# A message, how it ended, and what is read of it: how it ended, the text, and why there is none.
MESSAGES: list[tuple[dict[str, Any], str | None, str, str, str | None]] = [
    ({"content": None}, "stop", "stop", "", "empty|null"),
    ({"content": ""}, "stop", "stop", "", "empty"),
    ({"content": " \n\u3000"}, "stop", "stop", "", "nothing to be seen"),
    ({"content": "\u200b\ufeff\u2060\u00ad\U000e0001\ufe0f\u3164"}, "stop", "stop", "", "nothing to be seen"),
    ({"content": "<think>想</think>"}, "stop", "stop", "", "behind the thinking"),
    ({"content": "<think>想"}, "stop", "length", "", "never ends"),
    ({"content": "[THINK]想"}, "length", "length", "", "never ends"),
    ({"content": None, "refusal": "I can't help."}, "stop", "refusal", "", "refused: I can't help."),
    ({"content": "", "refusal": "对不起，我不能。"}, "stop", "refusal", "", "refused: 对不起"),
    ({"content": None, "refusal": ""}, "stop", "stop", "", "empty|null"),
    ({"content": "好", "refusal": "不行。"}, "stop", "refusal", "", "refused: 不行。"),
    ({"content": "正确性：5", "refusal": "I can't help."}, "length", "refusal", "", "refused: I can't help."),
    ({"content": "好", "refusal": " \u200b"}, "stop", "stop", "好", None),
    ({"content": None, "refusal": "不行。"}, "content_filter", "content_filter", "", ""),
    ({"content": ""}, "refusal", "refusal", "", "refused, without a word"),
    ({"content": "不能回答。"}, "refusal", "refusal", "", "refused: 不能回答。"),
    ({"content": None, "refusal": "不行。"}, "refusal", "refusal", "", "refused: 不行。"),
    ({"content": None}, "content_filter", "content_filter", "", ""),
    ({"content": None}, "SAFETY", "content_filter", "", ""),
    ({"content": "答", "refusal": None}, "stop", "stop", "答", None),
    ({"content": "0"}, "stop", "stop", "0", None),
    ({"content": "👍"}, "stop", "stop", "👍", None),
    ({"content": "答"}, "MAX_TOKENS", "length", "答", None),
    ({"content": "答"}, "STOP", "stop", "答", None),
    ({"content": "答"}, "end_turn", "stop", "答", None),
    ({"content": "答"}, "sensitive", "content_filter", "答", None),
    ({"content": "答"}, "FinishReason.RECITATION", "content_filter", "答", None),
    ({"content": "答"}, "strange", "strange", "答", None),
    ({"content": "答"}, None, "stop", "答", None),
]


def test_a_reply_is_an_answer_or_says_why_not(server: FakeServer, client: LLM) -> None:
    read = generate_all(client, server, [reply(message, ended) for message, ended, *_ in MESSAGES])
    for (message, ended, finish_reason, text, why), each in zip(MESSAGES, read, strict=True):
        assert (each.finish_reason, each.text) == (finish_reason, text), (message, ended)
        assert (each.why_empty is None) == (why is None), (message, ended)
        assert why is None or any(part in (each.why_empty or "") for part in why.split("|")), (message, ended)


@pytest.mark.parametrize("ended", ["abort", "insufficient_system_resource"])
def test_endings_that_may_pass_are_tried_again(server: FakeServer, client: LLM, ended: str) -> None:
    server.reply = lambda n, body: reply({"content": "答"}, ended if n == 1 else "stop")
    assert asyncio.run(client.generate(PROMPT)).text == "答"
    assert len(server.calls) == 2


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"content": None, "reasoning_content": "想"}, "everything is in reasoning_content"),
        ({"content": "", "reasoning": "想"}, "everything is in reasoning"),
        ({"content": " ", "reasoning_details": [{"type": "reasoning.text", "text": "想"}]}, "in reasoning_details"),
        ({"content": None, "thinking": "想"}, "everything is in thinking"),
        ({"content": [{"type": "thinking", "thinking": "想"}]}, "blocks of type 'thinking'"),
        ({"content": [{"text": "想", "thought": True}]}, "everything is in blocks of type 'thought'"),
        ({"content": None, "tool_calls": [{"id": "x"}]}, "it only calls tools"),
        ({"content": [{"type": "tool_use", "name": "x"}]}, "it only calls tools"),
        ({"content": [{"type": "audio", "data": "x"}, {"type": "video"}]}, "unknown type (audio, video)"),
        ({"content": [3]}, "unknown type (int)"),
        ({"content": []}, "the content is empty"),
        ({"content": [{"type": "text", "text": None}]}, "the content is empty"),
        ({"content": [{"type": "text", "text": 42}]}, "unknown type (text of int)"),
        ({"content": [{"type": "server_tool_result", "text": "x"}]}, "unknown type (server_tool_result)"),
        ({"content": [{"type": "web_search_tool_result", "text": "x"}]}, "unknown type (web_search_tool_result)"),
        ({"content": [{"type": "tool_use", "text": "x"}]}, "it only calls tools (tool_use)"),
        (
            {"content": [{"type": kind, "text": "x"} for kind in ("search_results", "error", "summary_text")]},
            "unknown type (search_results, error, summary_text)",
        ),
        ({"content": [{"type": "citation", "text": "x"}]}, "unknown type (citation)"),
        ({"content": "", "refusal": True}, "refused, without a word"),
        ({"content": "不能回答。", "refusal": True}, "refused: 不能回答。"),
        ({"content": [{"type": "refusal", "refusal": ""}]}, "refused, without a word"),
        *(
            ({"content": token}, "nothing to be seen")
            for token in ("</s>", "<s> </s>", "<pad><pad>", "<｜end▁of▁sentence｜>")
        ),
        ({"content": '<tool_call>{"name": "search"}</tool_call>'}, "it only calls tools"),
        ({"content": '<tool_call>\n{"name": "search"'}, "it only calls tools"),
        ({"content": "<tool_call>f</tool_call>\n<tool_call>g</tool_call><|im_end|>"}, "it only calls tools"),
        ({"content": "<think>想</think><function_calls><invoke>x</invoke></function_calls>"}, "it only calls tools"),
        ({"content": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁calls▁end｜>"}, "it only calls tools"),
        ({"content": '[TOOL_CALLS][{"name": "f"}]'}, "it only calls tools"),
        *(({"content": text}, "only markup") for text in ("[1]", "**", "**[1]**【第2篇】", "``` ```")),
        ({"content": 42}, "the content is of an unknown form (int)"),
        ({"content": True}, "the content is of an unknown form (bool)"),
        ({}, "the content is null"),
        (None, "the message is of an unknown form (NoneType)"),
        ([], "the message is of an unknown form (list)"),
        (42, "the message is of an unknown form (int)"),
    ],
)
def test_what_there_is_instead_of_an_answer(message: Any, why: str) -> None:
    read = read_reply(message, "stop", Usage())
    assert read.text == ""
    assert why in (read.why_empty or "")


@pytest.mark.parametrize(
    ("message", "text", "thought"),
    [
        ("答", "答", ""),
        ({"content": "答", "reasoning_content": "想"}, "答", "想"),
        ({"content": ["答", {"type": "text", "text": "案"}]}, "答案", ""),
        ({"content": {"type": "text", "text": "答"}}, "答", ""),
        ({"content": [{"type": "text", "text": {"value": "答", "annotations": []}}]}, "答", ""),
        (
            {"content": [{"type": "thinking", "thinking": "想", "signature": "x"}, {"type": "text", "text": "答"}]},
            "答",
            "想",
        ),
        ({"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "想"}]}, "答"]}, "答", "想"),
        ({"content": [{"type": "reasoning_content", "reasoning_content": {"text": "想"}}, "答"]}, "答", "想"),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "想"}]}, "答"]}, "答", "想"),
        ({"content": [{"text": "想", "thought": True}, {"text": "答"}]}, "答", "想"),
        ({"content": [{"type": "image_url", "image_url": "x"}, 3, "答"]}, "答", ""),
        ({"content": "答", "reasoning": {"text": "想"}}, "答", "想"),
        ({"content": [{"type": "search_results", "text": "网"}, {"type": "output_text", "text": "答"}]}, "答", ""),
        ({"content": "答", "refusal": False}, "答", ""),
        ({"content": "答</s>"}, "答", ""),
        ({"content": "<s> 答 [/INST]\n<pad><pad>"}, "答", ""),
        ({"content": "查一下<tool_call>f</tool_call>"}, "查一下<tool_call>f</tool_call>", ""),
        ({"content": "<tool_call>是标签"}, "<tool_call>是标签", ""),
        ({"content": "<tool_call>f</tool_call>答"}, "<tool_call>f</tool_call>答", ""),
        ({"content": "答", "refusal": "", "tool_calls": []}, "答", ""),
    ],
)
def test_texts_of_a_message(message: Any, text: str, thought: str) -> None:
    read = read_reply(message, "stop", Usage())
    assert (read.text, read.why_empty, read.marks) == (text, None, [])
    assert thought in read.raw


def test_a_refusal_in_blocks_is_one(server: FakeServer) -> None:
    read = read_reply({"content": [{"type": "refusal", "refusal": "不行。"}]}, "stop", Usage())
    assert (read.finish_reason, read.text, read.raw) == ("refusal", "", "不行。")


def test_a_message_that_is_a_text_or_stands_beside_its_choice_is_read(server: FakeServer) -> None:
    llm = OpenAICompatible(model=MODEL, base_url=server.url)
    legacy = {"choices": [{"text": "答", "finish_reason": "length"}], "usage": "unknown"}
    plain, read = generate_all(llm, server, [reply("答"), legacy])
    assert plain.text == "答"
    assert (read.text, read.finish_reason, read.model, read.usage) == ("答", "length", MODEL, Usage())


def test_a_refusal_is_read_through_langchain() -> None:
    pytest.importorskip("langchain_core", reason="needs LangChain: pip install 'qilin-rag[langchain]'")
    from langchain_core.messages import AIMessage

    refused = completion(AIMessage("不能", response_metadata={"stop_reason": "refusal"}), "m", 0.0)
    assert (refused.finish_reason, refused.text, refused.raw) == ("refusal", "", "不能")
    said = AIMessage("", additional_kwargs={"refusal": "不行。"}, response_metadata={"finish_reason": "stop"})
    assert completion(said, "m", 0.0).finish_reason == "refusal"
    deepseek = AIMessage("", additional_kwargs={"reasoning_content": "想"})
    assert completion(deepseek, "m", 0.0).why_empty == "everything is in reasoning_content"


@pytest.mark.parametrize("field", ["token_usage", "usage"])
def test_tokens_of_langchain_are_the_first_that_count_anything(field: str) -> None:
    pytest.importorskip("langchain_core", reason="needs LangChain: pip install 'qilin-rag[langchain]'")
    from langchain_core.messages import AIMessage

    def usage(first: dict[str, int]) -> Usage:
        about = {field: {"prompt_tokens": 100, "completion_tokens": 5}}
        message = AIMessage("答", usage_metadata={**first, "total_tokens": 0}, response_metadata=about)
        return completion(message, "m", 0.0).usage

    assert usage({"input_tokens": 0, "output_tokens": 0}) == Usage(prompt_tokens=100, completion_tokens=5)
    assert usage({"input_tokens": 7, "output_tokens": 3}) == Usage(prompt_tokens=7, completion_tokens=3)


@pytest.mark.parametrize(
    ("words", "ending"),
    [
        (("stop", "STOP", "Stop", "FinishReason.STOP", "FINISH_REASON_STOP", "eos", "eos_token", "EOS_TOKEN"), "stop"),
        (("end_turn", "endTurn", "stop_sequence", "COMPLETE", "completed", "normal", None, "", "null", 1), "stop"),
        (("length", "LENGTH", "max_tokens", "MAX_TOKENS", "maxTokens", "max-tokens", "model_length"), "length"),
        (("max_output_tokens", "model_context_window_exceeded", "ERROR_LIMIT", "TOKEN_LIMIT", "incomplete"), "length"),
        (("max_new_tokens", "length_limit", "repetition_truncation", "MaxNewTokens"), "length"),
        (("refusal", "REFUSAL", "refused"), "refusal"),
        (
            ("content_filter", "contentFilter", "CONTENT_FILTERED", "SAFETY", "RECITATION", "sensitive"),
            "content_filter",
        ),
        (
            ("PROHIBITED_CONTENT", "BLOCKLIST", "sensitive", "guardrail_intervened", "ERROR_TOXIC", "BLOCKED"),
            "content_filter",
        ),
        (("tool_calls",), "tool_calls"),
        (("LANGUAGE",), "LANGUAGE"),
        (("想不到",), "想不到"),
    ],
)
def test_endings_in_every_dialect(words: tuple[Any, ...], ending: str) -> None:
    assert {word: read_ending(word) for word in words} == dict.fromkeys(words, ending)


@pytest.mark.parametrize(
    ("usage", "prompt", "completion"),
    [
        ({"prompt_tokens": 100, "completion_tokens": 10}, 100, 10),
        ({"prompt_tokens": 100.0, "completion_tokens": "10"}, 100, 10),
        ({"prompt_tokens": "100.0", "completion_tokens": " 10 "}, 100, 10),
        ({"prompt_tokens": -1, "completion_tokens": 20, "total_tokens": 19}, None, 20),
        ({"prompt_tokens": 100, "completion_tokens": -1}, 100, None),
        ({"prompt_tokens": 99.5, "completion_tokens": 10}, None, 10),
        ({"prompt_tokens": "many", "completion_tokens": "1_0"}, None, None),
        ({"prompt_tokens": "-1", "completion_tokens": "٣"}, None, None),
        ({"prompt_tokens": True, "completion_tokens": False}, None, None),
        ({"prompt_tokens": None, "completion_tokens": []}, None, None),
        ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, None, None),
        ({"prompt_tokens": 2**64 - 1, "completion_tokens": 2**31 - 1}, None, None),
        ({"prompt_tokens": 10**400, "completion_tokens": 1e300}, None, None),
        ({"input_tokens": 100, "output_tokens": 10}, 100, 10),
        ({}, None, None),
        (None, None, None),
        ([100, 10], None, None),
        ("100", None, None),
    ],
)
def test_a_count_that_can_not_be_one_is_unknown(usage: Any, prompt: int | None, completion: int | None) -> None:
    read = read_usage(usage)
    assert (read.prompt_tokens, read.completion_tokens) == (prompt, completion)


def counted(
    prompt: int, written: int, total: int | None = None, cached: int | None = None, thought: int | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A usage in OpenAI's names and in LangChain's."""
    of_openai: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": total}
    of_langchain: dict[str, Any] = {"input_tokens": prompt, "output_tokens": written, "total_tokens": total}
    if cached is not None:
        of_openai["prompt_tokens_details"] = {"cached_tokens": cached}
        of_langchain["input_token_details"] = {"cache_read": cached}
    if thought is not None:
        of_openai["completion_tokens_details"] = {"reasoning_tokens": thought}
        of_langchain["output_token_details"] = {"reasoning": thought}
    return of_openai, of_langchain


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"prompt": 100, "written": 50, "total": 150, "cached": 64, "thought": 30}, (100, 50)),  # OpenAI
        ({"prompt": 100, "written": 50, "cached": 64, "thought": 30}, (100, 50)),
        ({"prompt": 100, "written": 20, "total": 150, "thought": 30}, (100, 50)),  # xAI
        ({"prompt": 100, "written": 20, "thought": 30}, (100, 50)),  # more than all is a part of it
        ({"prompt": 28, "written": 50, "cached": 72}, (100, 50)),
        ({"prompt": 28, "written": 50, "total": 150, "cached": 72}, (100, 50)),
        ({"prompt": 60, "written": 50, "total": 150, "cached": 40}, (100, 50)),
        ({"prompt": 60, "written": 20, "total": 150, "cached": 40, "thought": 30}, (100, 50)),
        ({"prompt": 60, "written": 20, "total": 110, "cached": 40, "thought": 30}, (60, 50)),
        ({"prompt": 60, "written": 50, "total": 110, "cached": 40, "thought": 30}, (60, 50)),
        ({"prompt": 100, "written": 20, "total": 150}, (100, None)),  # Gemini, which does not say what the rest is
        ({"prompt": 100, "written": 20, "total": 130, "cached": 10, "thought": 10}, (100, None)),  # either of them
        ({"prompt": 100, "written": 50, "total": 50}, (100, 50)),  # a sum that is none
        ({"prompt": 28, "written": 50, "total": 78, "cached": 72}, (None, 50)),  # more in the cache than there is
        ({"prompt": 1000, "written": 10, "total": 1010, "cached": 1500}, (None, 10)),
        ({"prompt": 100, "written": 20, "total": 120, "thought": 30}, (100, None)),
        ({"prompt": 1000, "written": 10, "total": 1010, "cached": 500}, (1000, 10)),
        ({"prompt": 100, "written": 0, "total": 130, "thought": 30}, (100, 30)),
    ],
)
def test_what_was_counted_apart_is_added(parts: dict[str, int], expected: tuple[int | None, int | None]) -> None:
    for usage in counted(**parts):
        read = read_usage(usage)
        assert (read.prompt_tokens, read.completion_tokens) == expected
        assert read.cached_tokens == parts.get("cached")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 1, "cached_tokens": 5}, (9, 5, None)),  # Moonshot
        ({"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 5}, (9, 5, None)),  # DeepSeek
        ({"prompt_tokens": 9, "completion_tokens": 1, "cache_read_input_tokens": 5}, (9, 5, None)),  # LiteLLM
        ({"input_tokens": 9, "output_tokens": 1, "cache_read_input_tokens": 5}, (14, 5, None)),  # Anthropic
        ({"input_tokens": 9, "output_tokens": 1, "cache_creation_input_tokens": 4}, (13, None, 4)),
        ({"input_tokens": 9, "output_tokens": 1, "total_tokens": 10, "cached_tokens": 5}, (9, 5, None)),
        ({"input_tokens": 9, "output_tokens": 1, "total_tokens": 10, "cache_read_input_tokens": 5}, (9, 5, None)),
        ({"input_tokens": 9, "output_tokens": 1, "total_tokens": 15, "cache_read_input_tokens": 5}, (14, 5, None)),
        ({"input_tokens": 9, "output_tokens": 1, "total_tokens": 3, "cache_read_input_tokens": 5}, (14, 5, None)),
        ({"input_tokens": 9, "output_tokens": 1, "input_token_details": {"cache_creation": 4}}, (9, None, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": None}, (9, None, None)),
        ({"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": -1}}, (9, None, None)),
    ],
)
def test_where_servers_say_what_was_cached(usage: Any, expected: tuple[int, int | None, int | None]) -> None:
    read = read_usage(usage)
    assert (read.prompt_tokens, read.cached_tokens, read.cache_write_tokens) == expected
    assert read.completion_tokens == 1


def test_zeros_of_what_reached_a_model_are_unknown(server: FakeServer, client: LLM) -> None:
    known = Usage(prompt_tokens=100)
    cases: list[tuple[dict[str, Any], int, Usage]] = [
        ({"content": "答"}, 0, Usage()),
        ({"content": "答"}, 100, known),
        ({"content": ""}, 100, Usage(prompt_tokens=100, completion_tokens=0)),
        ({"content": ""}, 0, Usage(completion_tokens=0)),
        ({"content": None, "refusal": "不行。"}, 100, known),
    ]
    usages = [{"prompt_tokens": n, "completion_tokens": 0, "total_tokens": n} for _, n, _ in cases]
    replies = [reply(message, usage=usage) for (message, *_), usage in zip(cases, usages, strict=True)]
    read = [each.usage for each in generate_all(client, server, replies)]
    assert read == [expected for *_, expected in cases]


def test_an_answer_of_exactly_the_most_tokens_is_marked(server: FakeServer, client: LLM) -> None:
    cases = [
        (1024, "stop", "答", ["maybe_cut"]),
        (1024, "EOS", "答", ["maybe_cut"]),
        (1024, "stop", "<cot>想</cot>答", ["maybe_cut", "maybe_thinking"]),
        *((n, "stop", "答", ["maybe_cut"]) for n in (1025, 2000)),
        *((n, "stop", "答", []) for n in (10, 1023)),
        (10, "stop", "思考以</think>结尾，之后是答案。", ["maybe_thinking"]),
        (10, "stop", "想\n</think>\n答", []),
        (1024, "length", "答", []),
        (1024, "stop", "", []),
    ]
    replies = [
        reply({"content": text}, ended, {"prompt_tokens": 100, "completion_tokens": n, "total_tokens": 100 + n})
        for n, ended, text, _ in cases
    ]
    read = [each.marks for each in generate_all(client, server, replies)]
    assert read == [marks for *_, marks in cases]


def test_markers_of_ones_own_are_a_setting_of_both_clients(server: FakeServer, client: LLM) -> None:
    marked = type(client)(**{**client.model_dump(), "thinking_markers": [["<cot>", "</cot>"]]})
    [read] = generate_all(marked, server, [reply({"content": "<cot>想</cot>答"})])
    assert (read.text, read.raw, read.marks) == ("答", "<cot>想</cot>答", [])
    assert marked.identity() != client.identity()


def ask(data: Path, server: FakeServer, runs: str = "runs", *overrides: str, **flags: Any) -> Run:
    given = {"data": str(data), "llm": "openai", "base_url": server.url, "runs_dir": Path(runs), "metrics": "rouge_l"}
    return run(resolve_run({**given, "concurrency": 1, **flags}, [f"llm.model={MODEL}", *overrides]))


EMPTY = [
    {"content": None},
    {"content": ""},
    {"content": "\u200b \n"},
    {"content": None, "reasoning_content": "想"},
    {"content": [{"type": "audio"}]},
    {"content": None, "tool_calls": [{"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
    {"content": "<seed:think>想</seed:think>"},
    {"content": "<|channel|>analysis<|message|>想<|end|>"},
    {"content": None, "refusal": "不行。"},
]


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    """A question for each reply without an answer, and one more."""
    folder = tmp_path / "ten"
    folder.mkdir()
    write_jsonl(folder / "notes.jsonl", NOTES)
    rows = [
        {"search_idx": i, "query": f"<{i}>冷萃", "answers": ["冷藏"], "ref_note_idx_list": [10]}
        for i in range(len(EMPTY) + 1)
    ]
    write_jsonl(folder / "dqa.jsonl", rows)
    return folder


def test_a_reply_without_an_answer_is_unscored_asked_again_and_not_kept(ten: Path, server: FakeServer) -> None:
    n_all, n_empty = len(EMPTY) + 1, len(EMPTY)
    server.reply = lambda n, body: reply(EMPTY[n - 1]) if n <= n_empty else None
    first = ask(ten, server)
    counts = {status: n for status, n in first.summary.counts.items() if n and status != "questions"}
    assert counts == {"ok": 1, "filtered": 1, "truncated": 1, "empty": n_empty - 2}
    metric = first.summary.metrics["rouge_l"]
    assert (metric.n, metric.n_unscored) == (1, n_empty)
    assert metric.reasons == {"empty": n_empty - 2, "filtered": 1, "truncated before an answer": 1}
    assert first.summary.lost == n_empty - 1  # a refusal is an outcome
    unanswered = [sample for sample in first.directory.read_samples()[1] if not sample.is_answered]
    assert len(unanswered) == n_empty
    assert all(sample.error and sample.usage.completion_tokens == 10 for sample in unanswered)
    other = ask(ten, server, "elsewhere").summary
    assert (len(server.calls), other.cached, other.counts["ok"]) == (n_all + n_empty, 1, n_all)
    again = ask(ten, server).summary  # by the cache, which has the answers now
    assert (len(server.calls), again.counts["ok"], again.metrics["rouge_l"].n) == (n_all + n_empty, n_all, n_all)
    assert again.usage.completion_tokens == 10 * n_all  # what the first tries took is still counted


def test_such_a_reply_is_asked_again_for_ever(data_dir: Path, server: FakeServer) -> None:
    server.reply = lambda n, body: reply({"content": None, "reasoning_content": "想"})
    assert ask(data_dir, server, cache=False).summary.counts["empty"] == 3
    assert ask(data_dir, server).summary.counts["empty"] == 3
    assert len(server.calls) == 6
    server.reply = lambda n, body: None
    done = ask(data_dir, server).summary
    assert (done.counts["ok"], done.usage.completion_tokens, done.why_empty) == (3, 90, {})
    assert ask(data_dir, server).summary == done
    assert len(server.calls) == 9


@pytest.mark.parametrize(
    ("message", "ended"),
    [({"content": "不能回答。"}, "refusal"), ({"content": "好", "refusal": "不能回答。"}, "stop")],
)
def test_what_a_model_refused_is_asked_again_and_not_kept(
    data_dir: Path, server: FakeServer, message: dict[str, Any], ended: str
) -> None:
    server.reply = lambda n, body: reply(message, ended)
    first = ask(data_dir, server)
    assert (first.summary.counts["filtered"], first.summary.lost, first.summary.metrics["rouge_l"].n) == (3, 0, 0)
    assert {sample.error for sample in first.directory.read_samples()[1]} == {"refused: 不能回答。"}
    server.reply = lambda n, body: None
    assert (ask(data_dir, server).summary.counts["ok"], len(server.calls)) == (3, 6)


def test_what_a_filter_held_back_is_not_asked_again(data_dir: Path, server: FakeServer) -> None:
    server.reply = lambda n, body: reply({"content": None}, "SAFETY")
    assert ask(data_dir, server).summary.counts["filtered"] == 3
    assert ask(data_dir, server).summary.lost == 0
    assert len(server.calls) == 3


def test_an_older_cache_gives_no_empty_answers_and_no_thinking(data_dir: Path, server: FakeServer) -> None:
    def kept(body: dict[str, Any], text: str, raw: str) -> None:
        llm = OpenAICompatible(model=MODEL, base_url=server.url)
        llm.check()
        prompt = RenderedPrompt(body["messages"], "", [], 0)
        old = {"text": text, "raw": raw, "model": MODEL, "finish_reason": "stop", "usage": {"prompt_tokens": -1}}
        path = cache_dir() / "responses.sqlite"
        cache = ResponseCache(path)
        cache.put(key := request_key(llm.request(prompt)), Completion(text="", raw="", model="", finish_reason=""))
        cache.close()
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            changed = connection.execute("UPDATE responses SET completion = ? WHERE key = ?", (json.dumps(old), key))
            assert changed.rowcount == 1

    ask(data_dir, server, "first", cache=False)
    empty, thought, plain = server.calls
    kept(empty, "", "<think>\n想\n</think>\n\n")
    kept(thought, "[THINK]想[/THINK]答", "[THINK]想[/THINK]答")
    kept(plain, "答", "<think>\n想\n</think>\n\n答")
    done = ask(data_dir, server, "second")
    assert (len(server.calls), done.summary.cached, done.summary.counts["ok"]) == (4, 2, 3)
    assert [sample.answer for sample in done.directory.read_samples()[1]].count("答") == 2


def test_every_outcome_stands_beside_the_figures(data_dir: Path, server: FakeServer, cli: Cli) -> None:
    full = {"prompt_tokens": 100, "completion_tokens": 1024}
    replies = {
        1: reply({"content": None, "reasoning_content": "想"}),
        2: reply({"content": "答"}, "stop", full),
        3: reply({"content": "<cot>想</cot>答"}, "strange"),
    }
    server.reply = lambda n, body: replies.get(n)
    flags = ["--data", data_dir, "--llm", "openai", "--set", f"llm.model={MODEL}", "--base-url", server.url]
    done = cli("run", *flags, "--metrics", "rouge_l", "--concurrency", 1)
    assert done.code == 3
    assert "1 of 3 questions have no answer (1 empty)" in done.err
    said = " ".join(done.out.split())
    for part in (
        "3 questions: 2 ok, 1 empty",
        "empty: everything is in reasoning_content (1)",
        "1 answered, but maybe cut off",
        "1 answered, but ended for a reason that is neither a stop nor a limit: strange (1)",
        "1 answered, but may hold thinking",
    ):
        assert part in said
    [folder] = Path("runs").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["counts"]["empty"], summary["lost"]) == (1, 1)
    assert summary["why_empty"] == {"everything is in reasoning_content": 1}
    assert summary["marks"] == {"maybe_cut": 1, "maybe_thinking": 1, "odd_ending": 1}
    shown = " ".join(cli("show", folder).out.split())
    assert "ok, maybe cut" in shown and "ok, maybe thinking, odd ending" in shown
    assert "everything is in reasoning_content" in shown
    board = " ".join(cli("leaderboard").out.split())
    assert "1 empty of 3" in board and "maybe cut off" in board and "everything is in reasoning_content (1)" in board
    rows = csv.DictReader(io.StringIO(cli("leaderboard", "--format", "csv").out))
    [row] = [row for row in rows if row["metric"] == "rouge_l"]
    assert (row["n_ok"], row["n_empty"], row["n_maybe_cut"]) == ("2", "1", "1")
    for output_format in ("html", "md", "latex"):
        assert "1 empty of 3" in cli("leaderboard", "--format", output_format).out
    assert cli("run", *flags, "--metrics", "rouge_l", "--fail-on-error", 1).code == 0


def test_a_user_llm_that_says_nothing_is_empty_and_a_reader_without_tokens_is_not(data_dir: Path) -> None:
    silent = run(resolve_run({"data": str(data_dir), "llm": f"{__name__}:Silent", "metrics": "rouge_l"})).summary
    assert (silent.counts["empty"], silent.metrics["rouge_l"].n) == (3, 0)
    reader = run(resolve_run({"data": str(data_dir), "retriever": "none", "metrics": "rouge_l"})).summary
    assert (reader.counts["ok"], reader.metrics["rouge_l"].n, reader.metrics["rouge_l"].value) == (3, 3, 0.0)


class Silent(LLM):
    """Answers with white space."""

    async def generate(self, prompt: RenderedPrompt) -> Completion:
        return Completion(text=" \u200b", raw="", model="silent", finish_reason="STOP")


def test_older_runs_are_read_and_made_right(data_dir: Path, server: FakeServer, cli: Cli) -> None:
    server.reply = lambda n, body: reply({"content": "<think>想"}, "length") if n == 2 else None
    done = ask(data_dir, server, cache=False)
    path = done.directory.path / "samples.jsonl"
    old = []
    for line in path.read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        for field in ("marks", "short_count"):
            del sample[field]
        sample["usage"] = {"prompt_tokens": -1, "completion_tokens": 10}
        old.append(sample | {"prompt_cut": True, "error": None})
    old[0] |= {"status": "ok", "answer": "", "raw": ""}
    path.write_text("".join(f"{json.dumps(sample)}\n" for sample in old), encoding="utf-8")
    summary = json.loads((done.directory.path / "summary.json").read_text())
    for field in ("lost", "why_empty", "marks", "odd_endings"):
        del summary[field]
    del summary["counts"]["empty"]
    (done.directory.path / "summary.json").write_text(json.dumps(summary))
    assert done.directory.read_summary().counts["empty"] == 0
    assert cli("show", done.directory.path).code == 0
    assert cli("leaderboard").code == 0
    scored = score_run(done.directory.path, {"rouge_l": {}}).summary
    assert scored.metrics["rouge_l"].reasons == {"empty": 1, "truncated before an answer": 1}
    assert (scored.left_out.cut_by_server, scored.usage.prompt_tokens) == (0, None)
    n_before = len(server.calls)
    healed = ask(data_dir, server)
    assert (healed.summary.counts["ok"], len(server.calls) - n_before) == (3, 2)


def test_which_samples_are_answered_settled_and_lost() -> None:
    about = {"question_id": "1", "query": "q", "messages": [], "hits": [], "notes_given": 0, "notes_used": 0}

    def kinds(status: str, answer: str = "", **more: Any) -> tuple[bool, bool, bool]:
        sample = Sample.model_validate({**about, "status": status, "answer": answer, "raw": answer, **more})
        return sample.is_answered, sample.is_settled, sample.is_lost

    assert kinds("ok", "答") == kinds("truncated", "答") == (True, True, False)
    assert kinds("ok", "", usage=NO_TOKENS) == (True, True, False)
    assert kinds("filtered", finish_reason="content_filter") == (False, True, False)
    assert kinds("filtered", finish_reason="refusal") == (False, False, False)
    for status in ("ok", "truncated", "empty", "failed"):
        assert kinds(status) == kinds(status, "\u200b") == (False, False, True)
