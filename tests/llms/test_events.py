from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from qilin_rag.llms.events import must_stream, read_body, refuses_usage
from qilin_rag.llms.replies import read_ending, read_reply, read_usage
from qilin_rag.llms.retry import TransientError
from tests.llms.raw_server import MODEL, delta, events

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
ANSWER = events(
    delta(role="assistant", content=""),
    delta(reasoning_content="先想"),
    delta(reasoning_content="一想"),
    delta(content="水温92度，"),
    delta(content="闷蒸30秒☕🫖。"),
    delta("stop"),
    {"model": MODEL, "choices": [], "usage": USAGE},
)
REPLY = {
    "choices": [
        {
            "message": {"content": "水温92度，闷蒸30秒☕🫖。", "role": "assistant", "reasoning_content": "先想一想"},
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
    "model": MODEL,
}


def read(*parts: bytes) -> Any:
    async def chunks() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    return asyncio.run(read_body(chunks()))


def message(*parts: bytes) -> Any:
    return read(*parts)["choices"][0]["message"]


def cut(content: bytes, size: int) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


def test_events_add_up_to_the_reply_of_a_server_that_does_not_stream() -> None:
    assert read(ANSWER) == REPLY


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 16, 61, 1000])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_it_does_not_matter_where_a_stream_is_cut_and_how_its_lines_end(size: int, line_end: bytes) -> None:
    assert read(*cut(ANSWER.replace(b"\n", line_end), size)) == REPLY


def test_every_place_of_one_cut() -> None:
    for place in range(len(ANSWER) + 1):
        assert read(ANSWER[:place], ANSWER[place:]) == REPLY, place


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + ANSWER,
        b"\r\n\r\n" + ANSWER,
        b": OPENROUTER PROCESSING\n\n" + ANSWER.replace(b"\n\ndata", b"\n\n: keep-alive\n\ndata"),
        ANSWER.replace(b"data: ", b"data:"),
        ANSWER.replace(b"data: ", b"event: message\nid: 7\nretry: 10\nunknown: x\ndata: "),
        ANSWER.replace(b"data: [DONE]\n\n", b""),  # it has said how it ended
        ANSWER.removesuffix(b"\n\n"),
        ANSWER + b"data: what comes after the end\n\n",
        b'event: ping\ndata: {"type": "ping"}\n\n' + ANSWER,
        b"data:\n\n" + ANSWER,
    ],
)
def test_what_servers_put_around_events_changes_nothing(content: bytes) -> None:
    assert read(content) == REPLY


@pytest.mark.parametrize(
    ("content", "expected"),
    [  # of the specification (HTML, 9.2.6), with a reply in place of its texts
        (b'data: {"choices": [{"delta":\ndata: {"content": "a"},\ndata: "finish_reason": "stop"}]}\n\n', "a"),
        (b': test stream\n\ndata: {"choices": [{"text": "first event"}]}\nid: 1\n\ndata:[DONE]\nid\n\n', "first event"),
        (b'data\n\ndata\ndata\n\ndata: {"choices": [{"text": "b"}]}\n\ndata: [DONE]', "b"),
        (b'data:{"choices": [{"text": "c"}]}\n\ndata: [DONE]\n\n', "c"),
    ],
)
def test_the_examples_of_the_specification(content: bytes, expected: str) -> None:
    [choice] = read(content)["choices"]
    assert (choice.get("text") or choice["message"]["content"]) == expected


@pytest.mark.parametrize("length", range(40, ANSWER.index(b'"stop"'), 67))
def test_what_is_cut_off_before_its_end_is_no_answer(length: int) -> None:
    with pytest.raises((TransientError, ValueError)):
        read(ANSWER[:length])


def test_a_stream_that_is_done_without_a_reason_has_stopped() -> None:
    reply = read(events(delta(content="好")))
    assert reply["choices"] == [{"message": {"content": "好"}}]
    assert read_ending(reply["choices"][0].get("finish_reason")) == "stop"


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_thinking_is_read_from_each_field(field: str) -> None:
    thoughts: list[dict[str, Any]] = [{field: "想", "content": None}, {field: "完"}]
    chunks = [*(delta(**thought) for thought in thoughts), delta("stop", content="答")]
    done = read_reply(message(events(*chunks)), "stop", read_usage(None))
    assert (done.text, done.raw) == ("答", "<think>\n想完\n</think>\n\n答")


def test_thinking_in_blocks_goes_on_in_the_next_chunk() -> None:
    """As Magistral's."""
    thought = [{"type": "thinking", "thinking": [{"type": "text", "text": each}]} for each in ("想", "一", "想")]
    chunks = [*(delta(content=[each]) for each in thought), delta(content="答"), delta("stop", content="案")]
    done = read_reply(message(events(*chunks)), "stop", read_usage(None))
    assert (done.text, done.raw) == ("答案", "<think>\n想一想\n</think>\n\n答案")


def test_a_refusal_is_put_together() -> None:
    done = read_reply(
        message(events(delta(refusal="我不能"), delta("stop", refusal="回答。"))), "stop", read_usage(None)
    )
    assert (done.text, done.finish_reason, done.why_empty) == ("", "refusal", "refused: 我不能回答。")


def test_calls_of_tools_are_seen() -> None:
    parts = [{"index": 0, "id": "1", "function": {"name": "f", "arguments": ""}}, {"index": 0, "function": {}}]
    done = read_reply(
        message(events(*(delta(tool_calls=[part]) for part in parts), delta("tool_calls"))), "stop", read_usage(None)
    )
    assert done.why_empty == "it only calls tools"


def test_the_first_choice_is_the_one_of_index_0_whichever_comes_first() -> None:
    reply = read(events(delta(index=1, content="乙"), delta(content="甲"), delta("stop", index=1), delta("length")))
    assert [each["message"]["content"] for each in reply["choices"]] == ["甲", "乙"]
    assert [each["finish_reason"] for each in reply["choices"]] == ["length", "stop"]


def test_half_a_first_choice_is_no_answer_though_another_has_ended() -> None:
    with pytest.raises(TransientError, match="ended before the answer did"):
        read(events(delta(content="甲"), delta("stop", index=1, content="乙"), done=False))


def test_a_whole_message_takes_the_place_of_its_parts() -> None:
    """As MiniMax ends its streams."""
    last = {"choices": [{"index": 0, "message": {"content": "甲乙"}, "finish_reason": "stop"}]}
    assert message(events(delta(content="甲"), delta(content="乙"), last)) == {"content": "甲乙"}


def test_half_characters_of_escapes_meet() -> None:
    halves = [r'{"choices": [{"delta": {"content": "\ud83d"}}]}', r'{"choices": [{"delta": {"content": "\ude00"}}]}']
    assert read_reply(message(events(*halves, delta("stop"))), "stop", read_usage(None)).text == "\U0001f600"


@pytest.mark.parametrize(
    "chunk",
    [
        {"choices": [], "usage": USAGE},
        {"choices": [{"index": 0, "delta": {}, "usage": USAGE}]},  # Moonshot
        {"choices": [], "x_groq": {"usage": USAGE}},
        {"usage": USAGE},
    ],
)
def test_tokens_are_found_wherever_a_server_puts_them(chunk: dict[str, Any]) -> None:
    early = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 1}}
    assert read(events(early, delta("stop", content="答") | {"usage": None}, chunk))["usage"] == USAGE


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (events({"error": {"message": "no", "code": 500}}), {"message": "no", "code": 500}),
        (events({"error": "overloaded"}), "overloaded"),
        (b'event: error\ndata: {"code": "InvalidParameter", "message": "m"}\n\n', None),
        (events({"object": "error", "message": "too long", "code": 400}), None),
    ],
)
def test_an_error_in_the_middle_is_the_reply(content: bytes, error: Any) -> None:
    start = events(delta(content="半"), done=False)
    reply = read(start + content)
    assert reply == {"error": error or json.loads(content.split(b"data: ")[1].split(b"\n")[0])}


@pytest.mark.parametrize(
    "content", [b'{"choices": []}', b"  [1]", b"<html>error</html>", b"", b"no", b"error: overloaded", b'"data:"']
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_body_that_is_no_stream_is_left_as_it_is(content: bytes, size: int) -> None:
    assert read(*cut(content, size)) == content


@pytest.mark.parametrize("event", ["{", "what?", "[1, 2]", '"text"'])
def test_an_event_that_is_no_object_is_said(event: str) -> None:
    with pytest.raises(ValueError, match=r"Expecting|not an object"):
        read(events(delta(content="甲"), event))


@pytest.mark.parametrize("content", [ANSWER, b'{"choices": []}'])
def test_a_reply_without_an_end_is_not_read_for_ever(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qilin_rag.llms.events.MOST_BYTES", 2**20)
    with pytest.raises(ValueError, match="more than 1 MB"):
        read(content.replace(b"data: [DONE]", b""), *[b": " + b"x" * 2**15 + b"\n\n"] * 64)


def test_a_megabyte_in_small_chunks_and_in_one() -> None:
    word = "长" * 12
    [whole] = [message(events(delta("stop", content=word * 30_000)))["content"]]
    assert message(events(*[delta(content=word)] * 30_000, delta("stop")))["content"] == whole


REFUSALS: Sequence[str] = (
    "This model only support stream mode, please enable the stream parameter to access the model. ",  # DashScope
    "parameter.enable_thinking must be set to false for non-streaming calls",
    "parameter.enable_thinking必须设置为false才能进行非流式调用",
    "parameter.enable_thinking only support stream call",
    "Requests with max_tokens > 4096 must have stream=true",  # Fireworks
    "Stream must be set to true",  # gateways
    "This model requires streaming; set 'stream': true",
    "Non-streaming requests are not supported for this model",
    "non-stream is not supported",
    "The model does not support non-streaming output",
    "当前模型仅支持流式输出",
    "该模型只支持流式调用，请设置 stream=true",
    "该模型不支持非流式调用",
    "This is a streaming-only model",
    "enable thinking can not be support when `stream=False`.",  # ModelScope
    "Please set stream to true",
    "`stream` should be True for this model",
    "Non-streaming mode is disabled",
)
OTHERS: Sequence[str] = (
    "Unsupported value: 'stream' does not support true with this model. Only the default (false) value is supported.",
    "Your organization must be verified to stream this model.",
    "stream is not supported for this model",
    "stream=true is not supported for this model",
    "'stream': true is unsupported",
    "Streaming is disabled",
    "This model only supports non-streaming calls",
    "Unknown parameter: 'stream_options'.",
    "The model only supports text inputs",
    "maximum context length is 4096 tokens",
    "该模型不支持流式输出",
)


@pytest.mark.parametrize("words", REFUSALS)
def test_a_model_that_can_only_be_streamed_is_known_by_its_words(words: str) -> None:
    assert must_stream(f"Error code: 400 - {{'error': {{'message': {words!r}}}}}")


@pytest.mark.parametrize("words", OTHERS)
def test_other_refusals_are_not_taken_for_it(words: str) -> None:
    assert not must_stream(words)


def test_a_field_of_streams_that_is_refused_is_known() -> None:
    mistral = "[{'type': 'extra_forbidden', 'loc': ['body', 'stream_options', 'include_usage']}]"
    assert all(map(refuses_usage, ("Unknown parameter: 'stream_options'.", mistral)))
    assert not refuses_usage("Unknown parameter: 'stream'.")


ENDED = '{"choices": [{"delta": {"content": "b"}, "finish_reason": "stop"}]}'


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (['{"choices": [{"delta": {"content": "a"}, "finish_reason": "null"}]}', ENDED], "ab"),
        ([ENDED, '{"error": {"message": "usage failed", "code": 500}}'], "b"),
        (["Rate limit exceeded"], {"error": "Rate limit exceeded"}),
        (['"insufficient balance"'], {"error": "insufficient balance"}),
        (['{"code": "Filtered", "message": "no"}'], {"error": {"code": "Filtered", "message": "no"}}),
        (['{"choices": null, "base_resp": {"a": 8}}'], {"error": {"choices": None, "base_resp": {"a": 8}}}),
    ],
)  # fmt: skip
def test_refusals_of_any_form_in_a_stream_and_after_it(events: list[str], expected: Any) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for event in [*events, "[DONE]"]:
            yield f"data: {event}\n\n".encode()

    read = asyncio.run(read_body(chunks()))
    assert isinstance(read, dict)
    assert read == expected if isinstance(expected, dict) else read["choices"][0]["message"]["content"] == expected
