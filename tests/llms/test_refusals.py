from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from qilin_rag.core.types import Completion, RenderedPrompt
from qilin_rag.llms import LLM, ContextOverflowError, FatalLLMError, LLMError, retry
from qilin_rag.llms.base import FilteredError
from qilin_rag.llms.events import must_stream
from qilin_rag.llms.langchain.chat_model import LangChain
from qilin_rag.llms.langchain.replies import meaning, read_error
from qilin_rag.llms.openai_compatible import OpenAICompatible
from qilin_rag.llms.refusal_bodies import read_refusal, refusal_in_answer, without_echo
from qilin_rag.llms.refusals import Caller, meaning_of, refusal_error
from qilin_rag.llms.retry import TransientError
from tests.fake_server import MODEL, FakeServer

PROMPT = RenderedPrompt([{"role": "user", "content": "怎么做"}], "怎么做", [], 0)
PAGE = '<!doctype html><html lang="zh"><head><title>New API</title></head><body><div id="root"></div></body></html>'
KEY = "sk-secret-1234567890"
KINDS: dict[str, type[Exception]] = {
    "context overflow": ContextOverflowError,
    "content filter": FilteredError,
    "field refused": LLMError,
    "forbidden for this prompt": LLMError,
    "refused": LLMError,
    "overloaded": TransientError,
    "passing": TransientError,
}  # all others stop the run
CALLER = Caller("http://h/v1", " knows no model 'm'", " refused the key", "check it", lambda text: text, {})


class Reply(NamedTuple):
    """What a provider sends in place of an answer, in a form of its documentation or of public reports."""

    meaning: str
    provider: str
    status: int
    body: Any
    seen_by_langchain: bool = True


REPLIES = [
    Reply(**json.loads(line))
    for line in Path(__file__).with_name("provider_replies.jsonl").read_text(encoding="utf-8").splitlines()
]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BASE_S", 0.001)
    monkeypatch.setattr(retry, "LONGEST_S", 0.01)


def as_sent(reply: Reply) -> bytes:
    text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body, ensure_ascii=False)
    return str(text).encode()


def _always(refusal: tuple[int, Any, dict[str, str]], n: int, body: Any) -> tuple[int, Any, dict[str, str]]:
    return refusal


async def ask_all(llm: LLM, server: FakeServer, replies: list[Reply]) -> list[Completion | Exception]:
    """What comes of a question where the server answers each of these."""
    found: list[Completion | Exception] = []
    for reply in replies:
        refusal: tuple[int, Any, dict[str, str]] = (reply.status, reply.body, {})
        server.refuse = partial(_always, refusal)
        try:
            found.append(await llm.generate(PROMPT))
        except Exception as raised:
            found.append(raised)
    await llm.close()
    return found


def outcome(found: Completion | Exception) -> str:
    """What happens to the question, or to the run."""
    if isinstance(found, Completion):
        return found.finish_reason
    if isinstance(found, LLMError) and "(1 tries)" in str(found):
        return "tried again"
    return type(found).__name__


def expected(meant: str) -> str:
    kind = KINDS.get(meant, FatalLLMError)
    return {FilteredError: "content_filter", TransientError: "tried again"}.get(kind, kind.__name__)


@pytest.fixture(params=["openai", "langchain"])
def client(request: pytest.FixtureRequest, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> LLM:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    if request.param == "openai":
        return OpenAICompatible(model=MODEL, base_url=server.url, max_tries=1)
    pytest.importorskip("langchain_openai", reason="needs a provider of LangChain: pip install langchain-openai")
    return LangChain(spec=f"openai:{MODEL}", base_url=server.url, max_tries=1)


def test_replies_of_all_providers_mean_the_same_through_both_clients(server: FakeServer, client: LLM) -> None:
    assert len(REPLIES) >= 60
    """But those that ask for a stream, which is tried: test_streaming.py."""
    replies = [reply for reply in REPLIES if reply.seen_by_langchain or isinstance(client, OpenAICompatible)]
    replies = [reply for reply in replies if not must_stream(json.dumps(reply.body))]
    found = asyncio.run(ask_all(client, server, replies))
    wrong = [
        (reply.provider, reply.status, reply.body, outcome(each), str(each))
        for reply, each in zip(replies, found, strict=True)
        if outcome(each) != expected(reply.meaning)
    ]
    assert wrong == []


def test_what_langchain_itself_says_of_an_error_agrees(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("langchain_openai", reason="needs a provider of LangChain: pip install langchain-openai")
    exceptions = pytest.importorskip("langchain_core.exceptions")
    from langchain.chat_models import init_chat_model

    overflow = getattr(exceptions, "ContextOverflowError", None)
    if overflow is None:
        pytest.skip("this version of langchain-core names no overflow")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    model = init_chat_model(f"openai:{MODEL}", base_url=server.url, max_retries=0)

    async def raised_for(replies: list[Reply]) -> list[Exception]:
        found = []
        for reply in replies:
            server.refuse = partial(_always, (reply.status, reply.body, {}))
            try:
                await model.ainvoke(PROMPT.messages)
            except Exception as error:
                found.append(error)
        return found

    replies = [reply for reply in REPLIES if reply.status >= 400]
    named = [
        reply
        for reply, each in zip(replies, asyncio.run(raised_for(replies)), strict=True)
        if isinstance(each, overflow)
    ]
    assert len(named) > 1
    assert {reply.meaning for reply in named} == {"context overflow"}


def test_a_list_of_models_that_is_refused(server: FakeServer) -> None:
    llm = OpenAICompatible(model=MODEL, base_url=server.url)
    for server.models_status in (401, 403):
        with pytest.raises(FatalLLMError, match=str(server.models_status)):
            llm.check()
    server.models_words = "Missing scopes: api.model.read"
    assert llm.check() == {"base_url": server.url}  # such a key may chat all the same


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: f"{reply.provider} {reply.status}")
def test_what_a_reply_means_and_that_its_words_are_kept(reply: Reply) -> None:
    refusal = read_refusal(reply.status, {}, as_sent(reply))
    assert meaning_of(refusal).value == reply.meaning
    raised = refusal_error(reply.status, {}, as_sent(reply), CALLER)
    assert type(raised) is KINDS.get(reply.meaning, FatalLLMError)
    for words in spoken(reply.body):
        assert " ".join(words.split())[:300] in str(raised)


@pytest.mark.parametrize(
    ("status", "words", "meant"),
    [
        (400, "Invalid model parameter: seed", "refused"),
        (400, "The model `x` returned an error: image 3 not found", "refused"),
        (400, "invalid token id in the prompt", "refused"),
        (400, "max_tokens is too large: 5000", "refused"),
        (400, "messages are too short", "refused"),
        (400, "the length of the seed is odd", "refused"),
        (429, "Too many tokens per day, please wait", "overloaded"),
        (429, "Request exceeds the limit of input tokens a minute", "overloaded"),
        (503, "no worker for this context length is ready", "overloaded"),
        (500, "content filter service failed", "passing"),
        (500, "insufficient memory", "passing"),
        (500, "no key of the cache was found", "passing"),
        (200, "<html><body><form>login</form></body></html>", "wrong path"),
        (200, "<html>hello</html>", "passing"),
        (200, "OK", "passing"),
    ],
)
def test_what_only_looks_like_something_else(status: int, words: str, meant: str) -> None:
    assert meaning_of(read_refusal(status, {}, words)).value == meant
    if status != 200:
        assert meaning_of(read_refusal(status, {}, {"error": {"message": words}})).value == meant


def spoken(body: Any) -> list[str]:
    """The words of a body, where it is of one of the plainest forms."""
    told = body.get("error", body) if isinstance(body, dict) else None
    message = told.get("message") or told.get("detail") if isinstance(told, dict) else told
    return [message] if isinstance(message, str) else []


def test_a_body_is_read_whatever_its_form() -> None:
    forms: list[tuple[Any, str]] = [
        ({"error": {"message": "odd"}}, "odd"),
        ({"error": "odd"}, "odd"),
        ({"detail": "odd"}, "odd"),
        ({"detail": [{"loc": ["body", "n"], "msg": "odd", "input": {"messages": ["secret"]}}]}, "body.n: odd"),
        ({"detail": {"error": {"message": "odd"}}}, "odd"),
        ({"message": "odd"}, "odd"),
        ({"object": "error", "message": "odd"}, "odd"),
        ([{"error": {"message": "odd"}}], "odd"),
        ({"errors": ["odd", "and wrong"]}, "odd; and wrong"),
        ({"ErrorMsg": "odd"}, "odd"),
        ({"error": {"message": '{"error": {"message": "odd", "code": 7}}'}}, "odd"),
        (json.dumps(json.dumps({"error": "odd"})), "odd"),
        ("odd\x1b[31m\u202e \r\n thing\u200b", "odd[31m thing"),
        ("\ufeff  odd  ", "odd"),
        (PAGE, "New API"),
        (
            "<html><head><title>502 Bad &amp; Gateway</title></head><body><h1>nginx</h1></body></html>",
            "502 Bad & Gateway; nginx",
        ),
        ("<Error><Code>Odd</Code><Message>thing</Message></Error>", "Odd thing"),
        ('event: error\ndata: {"error": {"message": "odd"}}\n\n', "odd"),
        (b"\xff\xfe odd", "\ufffd\ufffd odd"),
        ({"error": None}, ""),
        ({"error": {"error": {"error": {"error": "odd"}}}}, "odd"),
        (12, ""),
        (None, ""),
        ("", ""),
    ]
    for body, words in forms:
        assert " ".join(read_refusal(400, {}, body).words.split()) == words, body


def test_a_body_without_end_is_read_in_time() -> None:
    for body in (
        "[" * 100_000,
        '{"error":' * 100_000,
        "<" * 100_000,
        "a" * 10_000_000,
        {"errors": ["x" * 99] * 100_000},
    ):
        assert len(read_refusal(400, {}, body).words) < 300_000
        assert len(str(refusal_error(400, {}, body, CALLER))) < 400


@pytest.mark.parametrize(
    ("value", "is_answer"),
    [
        ({"choices": [{"message": {"content": "答"}}]}, True),
        ({"choices": [{"text": "答"}], "error": None}, True),
        ({"choices": [{"message": {"content": "答"}}], "error": {"message": "a warning"}}, True),
        ({"choices": [{"message": {"content": "答"}}], "base_resp": {"status_code": 0, "status_msg": "success"}}, True),
        ({"choices": [{"message": None}], "error": {"message": "odd"}}, False),
        ({"choices": [{"message": {"role": "assistant", "content": ""}}], "error": {"message": "odd"}}, False),
        ({"choices": [{"error": {"code": 502}, "message": {"content": ""}}]}, False),
        ({"choices": []}, False),
        ({"error": "odd"}, False),
        ([], False),
        ("odd", False),
        (None, False),
    ],
)
def test_a_200_may_hold_an_error(value: Any, is_answer: bool) -> None:
    assert (refusal_in_answer(value) is None) == is_answer


class ProviderError(Exception):
    """An exception of a provider's package, by the attributes that it has."""

    def __init__(self, text: str, **attributes: Any) -> None:
        super().__init__(text)
        self.__dict__.update(attributes)


def raised_as(name: str, text: str, **attributes: Any) -> Exception:
    made: Exception = type(name, (ProviderError,), {})(text, **attributes)
    return made


def anthropic(status: int, kind: str, text: str) -> Exception:
    body = {"type": "error", "error": {"type": kind, "message": text}}
    return raised_as("APIStatusError", f"Error code: {status} - {body}", status_code=status, body=body)


def bedrock(status: int, code: str, text: str) -> Exception:
    response = {
        "Error": {"Code": code, "Message": text},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}},
    }
    return raised_as(code, f"An error occurred ({code}) when calling the Converse operation: {text}", response=response)


def google(code: int, status: str, text: str) -> Exception:
    inner = raised_as(
        "ClientError",
        f"{code} {status}. {text}",
        code=code,
        status=status,
        message=text,
        details={"error": {"code": code, "message": text, "status": status}},
    )
    outer = raised_as("ChatGoogleGenerativeAIError", f"Error calling model: {text}")
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("raised", "meant"),
    [
        (
            anthropic(400, "invalid_request_error", "prompt is too long: 204857 tokens > 200000 maximum"),
            "context overflow",
        ),
        (
            anthropic(
                400,
                "invalid_request_error",
                "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
            ),
            "context overflow",
        ),
        (anthropic(413, "request_too_large", "Request exceeds the maximum size"), "context overflow"),
        (anthropic(400, "invalid_request_error", "Output blocked by content filtering policy"), "content filter"),
        (
            anthropic(400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
            "account empty",
        ),
        (anthropic(402, "billing_error", "Payment required"), "account empty"),
        (anthropic(401, "authentication_error", "invalid x-api-key"), "wrong key"),
        (anthropic(403, "permission_error", "Your API key does not have permission to use the resource"), "forbidden"),
        (anthropic(404, "not_found_error", "model: claude-9"), "model unknown"),
        (anthropic(400, "invalid_request_error", "temperature: must be between 0 and 1"), "field refused"),
        (
            anthropic(429, "rate_limit_error", "Number of request tokens has exceeded your per-minute rate limit"),
            "overloaded",
        ),
        (anthropic(529, "overloaded_error", "Overloaded"), "overloaded"),
        (anthropic(500, "api_error", "Internal server error"), "passing"),
        (bedrock(400, "ValidationException", "Input is too long for requested model."), "context overflow"),
        (
            bedrock(
                400,
                "ValidationException",
                "The model returned the following errors: prompt is too long: 9 tokens > 8 maximum",
            ),
            "context overflow",
        ),
        (bedrock(400, "ValidationException", "The provided model identifier is invalid."), "model unknown"),
        (
            bedrock(403, "AccessDeniedException", "You don't have access to the model with the specified model ID."),
            "forbidden",
        ),
        (
            bedrock(403, "UnrecognizedClientException", "The security token included in the request is invalid."),
            "wrong key",
        ),
        (bedrock(403, "ExpiredTokenException", "The security token included in the request is expired"), "wrong key"),
        (bedrock(404, "ResourceNotFoundException", "Could not resolve the foundation model"), "model unknown"),
        (bedrock(429, "ThrottlingException", "Too many tokens, please wait before trying again."), "overloaded"),
        (bedrock(408, "ModelTimeoutException", "The request took too long to process."), "passing"),
        (
            bedrock(424, "ModelErrorException", "The request failed due to an error while processing the model."),
            "passing",
        ),
        (bedrock(503, "ServiceUnavailableException", "Bedrock is unable to process your request."), "overloaded"),
        (
            google(
                400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum number of tokens allowed (8)."
            ),
            "context overflow",
        ),
        (google(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."), "wrong key"),
        (google(403, "PERMISSION_DENIED", "Your project has been denied access."), "forbidden"),
        (google(404, "NOT_FOUND", "models/gemini-9 is not found for API version v1beta"), "model unknown"),
        (google(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."), "overloaded"),
        (google(503, "UNAVAILABLE", "The model is overloaded. Please try again later."), "overloaded"),
        (raised_as("ContextOverflowError", "it is too much"), "context overflow"),
        (raised_as("ContextWindowExceededError", "litellm: too much", status_code=400), "context overflow"),
        (
            raised_as(
                "ResponseError", "model 'x' not found (status code: 404)", error="model 'x' not found", status_code=404
            ),
            "model unknown",
        ),
        (
            raised_as(
                "ClientResponseError", "429, message='Too Many Requests'", status=429, message="Too Many Requests"
            ),
            "overloaded",
        ),
        (raised_as("RateLimitError", "slow down"), "overloaded"),
        (raised_as("APIConnectionError", "Connection error."), "passing"),
        (raised_as("PermissionDenied", "no"), "forbidden"),
        (ValueError({"message": "Content Exists Risk", "code": 400}), "content filter"),
        (ValueError({"message": "odd", "code": 500}), "passing"),
        (ValueError("an image is broken"), "refused"),
        (raised_as("OddError", "odd", code="odd", errors=["odd"]), "refused"),
    ],
    ids=str,
)
def test_exceptions_of_other_providers(raised: Exception, meant: str) -> None:
    assert meaning_of(read_error(raised)).value == meant
    assert type(meaning(raised, "llm x")) is KINDS.get(meant, FatalLLMError)


@pytest.mark.parametrize(
    ("query", "status", "said", "meant"),
    [
        ("支付宝余额不足怎么办", 400, "invalid input: '支付宝余额不足怎么办'", "refused"),
        ("支付宝余额不足怎么办", 402, "invalid input: '支付宝余额不足怎么办'", "account empty"),
        ("支付宝余额不足怎么办", 400, "账户余额不足，请充值", "account empty"),
        ("What is the maximum context length?", 422, "bad: What is the maximum context length?", "refused"),
        ("What is the context?", 400, "This model's maximum context length is 4096 tokens", "context overflow"),
        ("为什么内容审核总是不通过", 500, "failed on 为什么内容审核总是不通过", "passing"),
    ],
)  # fmt: skip
def test_what_a_server_repeats_of_a_prompt_says_nothing(query: str, status: int, said: str, meant: str) -> None:
    refusal = read_refusal(status, {}, {"error": {"message": said}})
    assert meaning_of(without_echo(refusal, [query])).value == meant


def test_a_wait_that_is_only_repeated_is_not_waited_for() -> None:
    said = "failed on 'Instagram says try again in 24 hours'"
    refusal = without_echo(read_refusal(500, {}, {"error": said}), ["Instagram says try again in 24 hours"])
    assert (refusal.wait_s, refusal.words) == (None, "failed on '…'")
