from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from typing import Any

import pytest

from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.registry import LLMS
from qilin_rag.core.types import Completion, RenderedPrompt
from qilin_rag.llms import FatalLLMError, LLMError, retry
from qilin_rag.llms.openai_compatible import OpenAICompatible
from tests.fake_server import MODEL, FakeServer

PROMPT = RenderedPrompt([{"role": "system", "content": "s"}, {"role": "user", "content": "怎么做"}], "怎么做", [], 0)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BASE_S", 0.001)
    monkeypatch.setattr(retry, "LONGEST_S", 0.01)


def generate(server: FakeServer, **settings: Any) -> Completion:
    llm = OpenAICompatible(**{"model": MODEL, "base_url": server.url, **settings})

    async def once() -> Completion:
        try:
            return await llm.generate(PROMPT)
        finally:
            await llm.close()

    return asyncio.run(once())


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_completion_is_read_and_every_sampling_field_is_sent(server: FakeServer) -> None:
    completion = generate(server, extra_body={"top_k": -1})
    assert completion.text == "关于“怎么做”的回答"
    assert completion.usage.prompt_tokens == 100
    assert completion.finish_reason == "stop"
    [body] = server.calls
    assert body == {
        "model": MODEL,
        "messages": PROMPT.messages,
        "temperature": 0.0,
        "top_p": 1.0,
        "max_tokens": 1024,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": 0,
        "n": 1,
        "stream": False,
        "top_k": -1,
    }


def test_a_field_that_is_null_is_not_sent_and_one_may_have_another_name(server: FakeServer) -> None:
    refused = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed")
    generate(server, max_tokens=7, max_tokens_field="max_completion_tokens", **dict.fromkeys(refused))
    [body] = server.calls
    assert body == {
        "model": MODEL,
        "messages": PROMPT.messages,
        "max_completion_tokens": 7,
        "n": 1,
        "stream": False,
    }


@pytest.mark.parametrize("fault", ["429", "500", "503", "reset", "broken json", "not json", "empty choices", "408"])
def test_what_may_pass_is_tried_again(server: FakeServer, fault: str) -> None:
    server.fault = lambda n, body: fault if n < 4 else None
    assert generate(server).text == "关于“怎么做”的回答"
    assert len(server.calls) == 4


def test_a_hanging_call_is_ended_by_the_deadline(server: FakeServer) -> None:
    server.fault = lambda n, body: "hang" if n == 1 else None
    started = time.perf_counter()
    assert generate(server, timeout_s=1).text
    assert time.perf_counter() - started < 10
    assert len(server.calls) == 2


def test_retry_after_is_honoured(server: FakeServer) -> None:
    server.fault = lambda n, body: "429 1" if n == 1 else None
    started = time.perf_counter()
    generate(server)
    assert time.perf_counter() - started >= 1


def test_an_answer_that_trickles_is_ended_by_the_deadline(server: FakeServer) -> None:
    """Each byte comes in time, the whole never does."""
    server.fault = lambda n, body: "trickle" if n == 1 else None
    assert generate(server, timeout_s=1).text == "关于“怎么做”的回答"
    assert len(server.calls) == 2
    server.fault = lambda n, body: "trickle"
    with pytest.raises(LLMError, match=r"no answer within 0\.3 s \(2 tries\)"):
        generate(server, timeout_s=0.3, max_tries=2)


@pytest.mark.parametrize(
    ("asked", "answered", "is_said"),
    [
        ("gpt-4o-mini", "gpt-4o-mini-2024-07-18", False),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini", False),
        ("gpt-3.5-turbo", "gpt-3.5-turbo-0125", False),
        ("qwen-plus-latest", "qwen-plus", False),
        ("Qwen/Qwen2.5-72B-Instruct", "qwen2.5-72b-instruct", False),
        ("gpt-4o-mini", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-mini", True),
        ("gpt-4o-2024-08-06", "gpt-4o-2024-11-20", True),
        ("qwen2.5-72b", "qwen2.5-7b", True),
    ],
)
def test_an_answer_of_another_model_is_said_once(
    server: FakeServer, caplog: pytest.LogCaptureFixture, asked: str, answered: str, is_said: bool
) -> None:
    server.fault = lambda n, body: f"other model {answered}"
    llm = OpenAICompatible(model=asked, base_url=server.url)

    async def twice() -> list[Completion]:
        try:
            return [await llm.generate(PROMPT), await llm.generate(PROMPT)]
        finally:
            await llm.close()

    with caplog.at_level(logging.WARNING, "qilin_rag"):
        assert [completion.model for completion in asyncio.run(twice())] == [answered, answered]
    said = [f"answers as '{answered}', but '{asked}' was requested" in each.message for each in caplog.records]
    assert said == [True] * is_said


@pytest.mark.parametrize("fault", ["500", "empty choices", "broken json"])
def test_what_never_passes_fails_this_question(server: FakeServer, fault: str) -> None:
    server.fault = lambda n, body: fault
    with pytest.raises(LLMError, match="3 tries"):
        generate(server, max_tries=3)
    assert len(server.calls) == 3


def test_a_prompt_that_is_refused_fails_this_question_at_once(server: FakeServer) -> None:
    server.fault = lambda n, body: "overflow"
    with pytest.raises(LLMError, match="maximum context length"):
        generate(server)
    assert len(server.calls) == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("401", "refused the key"),
        ("404", "knows no model"),
        ("no model", "knows no model"),
        ("no model 400", "no model"),
    ],
)
def test_what_can_never_work_stops_the_run(server: FakeServer, fault: str, reason: str) -> None:
    server.fault = lambda n, body: fault
    with pytest.raises(FatalLLMError, match=reason):
        generate(server)
    assert len(server.calls) == 1


@pytest.mark.parametrize(
    ("fault", "finish_reason", "text"),
    [
        ("filtered", "content_filter", ""),
        ("filtered 400", "content_filter", ""),
        ("length", "length", "只写到一"),
        ("null content", "stop", ""),
    ],
)
def test_how_an_answer_ended(server: FakeServer, fault: str, finish_reason: str, text: str) -> None:
    server.fault = lambda n, body: fault
    completion = generate(server)
    assert (completion.finish_reason, completion.text) == (finish_reason, text)
    assert len(server.calls) == 1


def test_check_finds_the_model(server: FakeServer) -> None:
    llm = OpenAICompatible(model=MODEL, base_url=server.url)
    assert llm.check() == {"base_url": server.url, "models": [MODEL]}
    with pytest.raises(UsageError, match="serves 'fake-model', not 'other'"):
        OpenAICompatible(model="other", base_url=server.url).check()


def test_without_a_server_the_error_names_the_address_and_how_to_start_one() -> None:
    port = unused_port()
    llm = LLMS.create("openai", {"model": "Qwen/Qwen2.5-72B-Instruct", "base_url": f"http://127.0.0.1:{port}/v1"})
    started = time.perf_counter()
    with pytest.raises(FatalLLMError) as caught:
        llm.check()
    assert time.perf_counter() - started < 10
    assert f"http://127.0.0.1:{port}/v1" in str(caught.value)
    assert f"vllm serve Qwen/Qwen2.5-72B-Instruct --port {port}" in str(caught.value)


def test_a_server_that_goes_away_stops_the_run() -> None:
    with FakeServer() as gone:
        pass
    with pytest.raises(FatalLLMError, match="no server answers"):
        generate(gone, max_tries=2)


def test_one_question_that_breaks_the_connection_costs_only_itself(server: FakeServer) -> None:
    server.fault = lambda n, body: "reset"
    with pytest.raises(LLMError, match="connection failed"):
        generate(server, max_tries=2)


@pytest.mark.parametrize("key", ["sk-secret\x7f1234", "sk-secret\n1234", "sk-密钥-1234567890"])
def test_a_key_no_key_can_be_is_refused_unseen(server: FakeServer, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UsageError, match="has characters that are invalid in a key") as caught:
        OpenAICompatible(model=MODEL, base_url=server.url).check()
    assert "sk-" not in str(caught.value)


def test_a_key_from_a_file_may_end_with_a_line_break(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1234567890\n")
    assert generate(server).text
    assert server.authorizations == ["Bearer sk-secret-1234567890"]


def test_loopback_bypasses_a_proxy(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_port()}")
    assert OpenAICompatible(model=MODEL, base_url=server.url).check()["models"] == [MODEL]
    assert generate(server).text


def test_the_key_comes_from_the_environment_and_into_no_message(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret-1234567890")
    server.fault = lambda n, body: "400" if n == 1 else None
    with pytest.raises(LLMError) as caught:
        generate(server, api_key_env="MY_KEY")
    assert server.authorizations == ["Bearer sk-secret-1234567890"]
    assert "for key ***" in str(caught.value)
    llm = OpenAICompatible(model=MODEL, base_url=server.url, api_key_env="MY_KEY")
    assert "sk-secret" not in repr(llm) + llm.model_dump_json()


def test_a_public_address_needs_a_key() -> None:
    with pytest.raises(UsageError, match="set the environment variable OPENAI_API_KEY"):
        OpenAICompatible(model="m", base_url="https://api.example.com/v1").check()


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8000", "ftp://x/v1", "http://", "http://user:secret@host/v1", "http://h/v1?key=secret"]
)
def test_wrong_addresses_are_refused(address: str) -> None:
    with pytest.raises(QilinError, match="setting 'base_url'") as caught:
        LLMS.create("openai", {"model": "m", "base_url": address})
    assert "secret" not in str(caught.value)


def test_the_answer_must_leave_room_for_a_prompt() -> None:
    assert OpenAICompatible(model="m", context_length=100, max_tokens=30).prompt_budget == 70
    with pytest.raises(UsageError, match="leaves no room"):
        _ = OpenAICompatible(model="m", context_length=100, max_tokens=100).prompt_budget


def test_as_many_calls_as_are_made_are_under_way_at_once(server: FakeServer) -> None:
    n_calls = 150  # more than any client's usual pool
    all_are_here = threading.Barrier(n_calls)

    def answer(body: dict[str, Any]) -> str:
        all_are_here.wait(60)  # breaks, and with it the answer, where one is held back
        return "答"

    server.answer = answer
    llm = OpenAICompatible(model=MODEL, base_url=server.url, max_tries=1)

    async def main() -> list[Completion]:
        try:
            return await asyncio.gather(*(llm.generate(PROMPT) for _ in range(n_calls)))
        finally:
            await llm.close()

    assert [completion.text for completion in asyncio.run(main())] == ["答"] * n_calls
    assert server.most_at_once == n_calls
