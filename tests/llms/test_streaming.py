"""Answers that are read as a stream, by both clients."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import LLMS
from qilin_rag.core.types import Completion, RenderedPrompt
from qilin_rag.llms import LLM, FatalLLMError, LLMError, retry
from qilin_rag.llms.cache import request_key
from qilin_rag.llms.langchain.chat_model import LangChain
from qilin_rag.llms.openai_compatible import OpenAICompatible
from tests.conftest import Cli
from tests.llms.raw_server import MODEL, Answer, RawServer, Request, as_json, delta, events, refused, stream
from tests.llms.test_events import REFUSALS

PROMPT = RenderedPrompt([{"role": "user", "content": "怎么做"}], "怎么做", [], 0)
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
ANSWER = [delta(role="assistant", content="水温"), delta(content="92度"), delta("stop")]
WHOLE = {
    "model": MODEL,
    "choices": [{"message": {"role": "assistant", "content": "水温92度"}, "finish_reason": "stop"}],
    "usage": USAGE,
}


def good(request: Request) -> Answer | None:
    """Streamed if it is asked to, as most servers do."""
    if request.body is None:
        return None
    if not request.body.get("stream"):
        return as_json(WHOLE)
    asks_usage = request.body.get("stream_options") == {"include_usage": True}
    return stream(events(*ANSWER, *([{"choices": [], "usage": USAGE}] if asks_usage else [])))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BASE_S", 0.001)
    monkeypatch.setattr(retry, "LONGEST_S", 0.01)


def ours(server: RawServer, **settings: Any) -> LLM:
    llm: LLM = LLMS.create("openai", {"model": MODEL, "base_url": server.url, **settings})
    return llm


def langchain(server: RawServer, **settings: Any) -> LLM:
    pytest.importorskip("langchain_openai", reason="needs a provider of LangChain: pip install langchain-openai")
    return LangChain(spec=f"openai:{MODEL}", base_url=server.url, **settings)


both = pytest.mark.parametrize("client", [ours, langchain])
Client = Callable[..., LLM]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1234567890")


def ask(llm: LLM, n: int = 1, rounds: int = 1) -> list[Completion]:
    """`n` questions at once, and so `rounds` times."""

    async def all_of_them() -> list[Completion]:
        try:
            each = [await asyncio.gather(*(llm.generate(PROMPT) for _ in range(n))) for _ in range(rounds)]
            return [done for completions in each for done in completions]
        finally:
            await llm.close()

    return asyncio.run(all_of_them())


@both
def test_an_answer_is_the_same_with_a_stream_and_without(client: Client) -> None:
    with RawServer(good) as server:
        [plain] = ask(client(server))
    with RawServer(good) as streaming:
        [streamed] = ask(client(streaming, stream=True))
    assert [bool(body.get("stream")) for body in server.posted + streaming.posted] == [False, True]
    assert streaming.posted[0]["stream_options"] == {"include_usage": True}
    assert streamed.model_copy(update={"latency_s": plain.latency_s}) == plain
    assert (plain.text, plain.usage.prompt_tokens, plain.finish_reason) == ("水温92度", 7, "stop")


@both
@pytest.mark.parametrize("words", [REFUSALS[0], REFUSALS[1], REFUSALS[5]])
def test_a_model_that_can_only_be_streamed_is_said_once(
    client: Client, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with RawServer(lambda r: refused(words) if r.body and not r.body.get("stream") else good(r)) as server:
        llm = client(server)
        with caplog.at_level(logging.WARNING, "qilin_rag"):
            texts = [done.text for done in ask(llm, 3, rounds=2)]
    assert texts == ["水温92度"] * 6
    assert ["can only be streamed" in record.message for record in caplog.records] == [True]
    assert [bool(body.get("stream")) for body in server.posted[6:]] == [True] * 3


def test_a_detail_and_a_body_of_200_say_it_as_well() -> None:
    bodies = [as_json({"detail": "Stream must be set to true"}, 400), refused(REFUSALS[0], 200)]
    for body in bodies:
        with RawServer(lambda r, body=body: body if r.body and not r.body.get("stream") else good(r)) as server:  # type: ignore[misc]
            assert ask(ours(server))[0].text == "水温92度"


def test_a_model_that_refuses_either_way_stops_the_run() -> None:
    with (
        RawServer(lambda r: refused(REFUSALS[0]) if r.body else None) as server,
        pytest.raises(FatalLLMError, match=r"with a stream and without one .*only support stream mode"),
    ):
        ask(ours(server))
    assert len(server.posted) == 2


@pytest.mark.parametrize(
    "answer",
    [
        refused("Unknown parameter: 'stream_options'.", param="stream_options"),
        as_json({"message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"]}]}}, 422),
        refused("include_usage is not permitted", 400),
    ],
)
def test_a_server_that_counts_no_tokens_of_streams_is_asked_without(
    answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    with RawServer(lambda r: answer if r.body and "stream_options" in r.body else good(r)) as server:
        done = ask(ours(server, stream=True), 3)
    assert [(each.text, each.usage.prompt_tokens) for each in done] == [("水温92度", None)] * 3
    assert len(caplog.records) == 1


def test_a_field_that_the_user_asked_for_is_not_left_out() -> None:
    with (
        RawServer(lambda r: refused("Unknown parameter: 'stream_options'") if r.body else None) as server,
        pytest.raises(LLMError, match="Unknown parameter"),
    ):
        ask(ours(server, stream=True, extra_body={"stream_options": {"include_usage": False}}))
    assert [body["stream_options"] for body in server.posted] == [{"include_usage": False}]


@pytest.mark.parametrize("answer", [as_json(WHOLE), Answer([b'{"choi', json.dumps(WHOLE).encode()[6:]])])
def test_a_server_that_does_not_stream_is_read_all_the_same(answer: Answer) -> None:
    with RawServer(lambda r: answer) as server:
        assert ask(ours(server, stream=True))[0].text == "水温92度"


def test_a_server_that_streams_unasked_is_read_all_the_same() -> None:
    with RawServer(lambda r: Answer([events(*ANSWER)], headers={"content-type": "text/plain"})) as server:
        assert ask(ours(server))[0].text == "水温92度"


half = events(*ANSWER[:-1], done=False)


@both
@pytest.mark.parametrize(
    "answer",
    [
        stream(half),  # an end without a reason
        stream(half, is_whole=False),  # the connection is lost
        stream(half, b'data: {"choices": [{"delta": {"cont', is_whole=False),
        stream(half, b'data: {"error": {"message": "overloaded", "code": 503, "type": "server_error"}}\n\n'),
        stream(),
    ],
)
def test_half_an_answer_is_asked_for_again(client: Client, answer: Answer) -> None:
    with RawServer(lambda r: answer if len(server.posted) < 3 else good(r)) as server:
        assert ask(client(server, stream=True))[0].text == "水温92度"
    assert len(server.posted) == 3


@both
def test_half_an_answer_is_never_taken_for_one(client: Client) -> None:
    with RawServer(lambda r: stream(half)) as server, pytest.raises(LLMError, match=r"ended before .* \(2 tries\)"):
        ask(client(server, stream=True, max_tries=2))


@pytest.mark.parametrize(
    ("error", "expected", "n_posts"),
    [
        ({"message": "the prompt was refused", "code": "content_filter"}, "content_filter", 1),
        ({"message": "maximum context length is 10 tokens", "code": 400}, "ContextOverflowError", 1),
        ({"message": "engine died", "code": 500}, "LLMError", 2),
        ("overloaded", "LLMError", 2),
        ({"message": "key is wrong", "code": "401"}, "FatalLLMError", 1),
    ],
)
def test_an_error_in_the_middle_means_what_it_means_as_a_status(error: Any, expected: str, n_posts: int) -> None:
    with RawServer(lambda r: stream(half, events({"error": error})) if r.body else None) as server:
        try:
            outcome = ask(ours(server, stream=True, max_tries=2))[0].finish_reason
        except (LLMError, FatalLLMError) as raised:
            outcome = type(raised).__name__
            assert outcome == "FatalLLMError" or str(error if isinstance(error, str) else error["message"]) in str(
                raised
            )
    assert (outcome, len(server.posted)) == (expected, n_posts)


@pytest.mark.parametrize(
    "answer",
    [
        stream(half, hangs=True),
        stream(*[b": keep-alive\n\n"] * 1000, wait_s=0.02),
        stream(*[events(delta(content="长"), done=False)] * 1000, wait_s=0.02),
        Answer(hangs=True),
    ],
)
def test_a_stream_has_the_deadline_of_the_whole_request(answer: Answer) -> None:
    with RawServer(lambda r: answer) as server:
        started = time.perf_counter()
        with pytest.raises(LLMError, match=r"no answer within 0\.4 s \(2 tries\)"):
            ask(ours(server, stream=True, timeout_s=0.4, max_tries=2))
        assert time.perf_counter() - started < 5


def test_a_stream_that_is_done_is_not_waited_for() -> None:
    with RawServer(lambda r: stream(events(*ANSWER), hangs=True)) as server:
        started = time.perf_counter()
        assert ask(ours(server, stream=True))[0].text == "水温92度"
        assert time.perf_counter() - started < 5


def test_a_server_that_never_says_that_it_is_done_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qilin_rag.llms.events.LAST_WORDS_S", 0.1)
    usage = {"choices": [], "usage": USAGE}
    with RawServer(lambda r: stream(events(*ANSWER, usage, done=False), hangs=True)) as server:
        [done] = ask(ours(server, stream=True, timeout_s=10, max_tries=1))
    assert (done.text, done.usage.prompt_tokens) == ("水温92度", 7)


def test_what_is_left_out_is_not_sent() -> None:
    with RawServer(good) as server:
        ask(ours(server, stream=None, n=None))
        ask(ours(server, extra_body={"n": None}))
    assert not {"n", "stream", "stream_options"} & server.posted[0].keys()
    assert (server.posted[1]["n"], server.posted[1]["stream"]) == (None, False)


def test_how_an_answer_comes_back_is_no_part_of_what_was_asked() -> None:
    plain = OpenAICompatible(model="m")
    for settings in ({"stream": True}, {"stream": None}, {"n": None}, {"extra_body": {"stream": True}}):
        other = OpenAICompatible(**{"model": "m", **settings})
        assert other.identity() == plain.identity()
        assert request_key(other.request(PROMPT)) == request_key(plain.request(PROMPT))
    assert OpenAICompatible(model="m", extra_body={"stream": True}).stream is True
    pytest.importorskip("langchain", reason="needs LangChain: pip install 'qilin-rag[langchain]'")
    assert LangChain(spec="openai:m", stream=True).identity() == LangChain(spec="openai:m").identity()


@pytest.mark.parametrize("settings", [{"n": 2}, {"stream": True, "extra_body": {"stream": False}}, {"stream": "some"}])
def test_settings_that_contradict_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"setting 'n'|extra_body\.stream is llm\.stream|setting 'stream'"):
        LLMS.create("openai", {"model": "m", **settings})


@pytest.mark.parametrize(
    "asked", [["--stream"], ["--set", "llm.stream=true"], ["--set", "llm.extra_body={stream: true}"]]
)
def test_a_run_is_the_same_run_however_it_is_streamed(cli: Cli, data_dir: Path, asked: list[str]) -> None:
    with RawServer(good) as server:
        command = ["run", "--data", str(data_dir), "--llm", "openai", "--set", f"llm.model={MODEL}", "--json"]
        command += ["--base-url", server.url, "--metrics", "rouge_l", "--retriever", "none"]
        streamed = cli(*command, *asked)
        assert streamed.code == 0, streamed.err
        assert {body["stream"] for body in server.posted} == {True}
        n_posted = len(server.posted)
        again = cli(*command)
    assert json.loads(again.out)["run"] == json.loads(streamed.out)["run"]
    assert len(server.posted) == n_posted
