from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.plugins import refuse_secrets
from qilin_rag.core.registry import LLMS
from qilin_rag.core.types import Completion, Image, RenderedPrompt
from qilin_rag.llms import LLM, FatalLLMError, LLMError, retry
from qilin_rag.llms.langchain.chat_model import LangChain
from qilin_rag.llms.langchain.replies import completion, ending, meaning
from qilin_rag.llms.retry import TransientError
from qilin_rag.pipeline.identity import llm_label
from tests.conftest import Cli
from tests.fake_server import MODEL, FakeServer

pytest.importorskip("langchain", reason="needs LangChain: pip install 'qilin-rag[langchain]'")

from langchain.chat_models import base
from langchain_core.language_models import BaseChatModel, FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatResult

PROMPT = RenderedPrompt([{"role": "system", "content": "s"}, {"role": "user", "content": "怎么做"}], "怎么做", [], 0)
OPENAI = f"openai:{MODEL}"
FACTORIES = """
from langchain_core.language_models import FakeListChatModel

def make(answer="默认"):
    return FakeListChatModel(responses=[answer])

def warm(temperature=None, max_tokens=None):
    return FakeListChatModel(responses=[f"{temperature} {max_tokens}"])

def broken():
    raise RuntimeError("没有模型\\nsecond line")

def nothing():
    return 3

made = FakeListChatModel(responses=["现成"])
number = 3
"""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BASE_S", 0.001)
    monkeypatch.setattr(retry, "LONGEST_S", 0.01)


@pytest.fixture
def module(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the user's own, imported anew for each test."""
    import sys

    name = f"chats_{own_folder.name.replace('-', '_')}"
    (own_folder / f"{name}.py").write_text(FACTORIES, encoding="utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)


def ask(llm: LLM, prompt: RenderedPrompt = PROMPT) -> Completion:
    async def once() -> Completion:
        try:
            return await llm.generate(prompt)
        finally:
            await llm.close()

    return asyncio.run(once())


@pytest.fixture
def openai_key(monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("langchain_openai", reason="needs a provider of LangChain: pip install langchain-openai")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1234567890")
    return "sk-secret-1234567890"


def test_langchain_has_a_table_of_providers() -> None:
    """Private, so that another version may call it otherwise: `_providers` would have to be changed."""
    assert {"openai", "anthropic", "ollama"} < set(base._BUILTIN_PROVIDERS)


def test_a_provider_that_langchain_knows_is_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for spec, is_code in (("xai:grok", False), ("gpt-5", False), ("mine:make", True), ("a.b:make", True)):
        assert LLMS.names_code(f"langchain:{spec}", {}) is is_code
    monkeypatch.setitem(base._BUILTIN_PROVIDERS, "mine", ("mine", "Chat", lambda cls, **settings: cls(**settings)))
    assert not LLMS.names_code("langchain:mine:make", {})


def test_without_langchain_nothing_is_imported_and_the_line_says_what_to_install(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setattr("qilin_rag.core.extras.find_spec", lambda name: None)
    for spec in ("openai:gpt-5", f"{module}:make"):
        with pytest.raises(UsageError, match=r"needs langchain, .* not installed here: pip install 'qilin-rag"):
            LLMS.create(f"langchain:{spec}", {})
    assert module not in sys.modules


def test_images_go_where_they_belong(server: FakeServer, openai_key: str) -> None:
    images = [Image("a", b"first"), Image("b", b"second")]
    prompt = PROMPT._replace(images=images, image_places=[2, 3], image_notes=[1, 2])
    llm = LLMS.create(f"langchain:{OPENAI}", {"base_url": server.url})
    server.answer = lambda body: "答"
    assert llm.sends_images and not LLMS.create(f"langchain:{OPENAI}", {"images": False}).sends_images
    assert ask(llm, prompt).text == "答"
    [content] = [body["messages"][-1]["content"] for body in server.calls]
    urls = [{"type": "image_url", "image_url": {"url": image.data_url}} for image in images]
    assert content == [{"type": "text", "text": "怎么"}, urls[0], {"type": "text", "text": "做"}, urls[1]]
    assert LLMS.create("langchain:anthropic:claude-sonnet-4-5", {}).image_rule == "anthropic"
    assert LLMS.create(f"langchain:{OPENAI}", {"image_tokens": "gemini"}).image_rule == "gemini"


def test_a_model_by_name_is_asked_with_every_setting(server: FakeServer, openai_key: str) -> None:
    llm = LLMS.create(f"langchain:{OPENAI}", {"base_url": server.url, "settings": {"top_p": 0.5}})
    done = ask(llm)
    assert (done.text, done.raw, done.finish_reason) == ("关于“怎么做”的回答", "关于“怎么做”的回答", "stop")
    assert (done.model, done.usage.prompt_tokens, done.usage.completion_tokens) == (MODEL, 100, 10)
    [body] = server.calls
    assert body["messages"] == PROMPT.messages
    assert (body["temperature"], body["top_p"]) == (0.0, 0.5)
    assert body.get("max_completion_tokens", body.get("max_tokens")) == 1024
    assert server.authorizations == [f"Bearer {openai_key}"]


@pytest.mark.parametrize("fault", ["429", "500", "503", "reset", "ended abort"])
def test_what_may_pass_is_tried_again(server: FakeServer, openai_key: str, fault: str) -> None:
    server.fault = lambda n, body: fault if n < 4 else None
    assert ask(LangChain(spec=OPENAI, base_url=server.url)).text == "关于“怎么做”的回答"
    assert len(server.calls) == 4


def test_a_hanging_call_is_ended_by_the_deadline(server: FakeServer, openai_key: str) -> None:
    server.fault = lambda n, body: "hang" if n == 1 else None
    assert ask(LangChain(spec=OPENAI, base_url=server.url, timeout_s=0.5)).text
    assert len(server.calls) == 2


@pytest.mark.parametrize(
    ("fault", "error", "message", "n_calls"),
    [
        ("500", LLMError, r"3 tries", 3),
        ("overflow", LLMError, "maximum context length", 1),
        ("401", FatalLLMError, "the key was refused", 1),
        ("404", FatalLLMError, "no such model", 1),
    ],
)
def test_what_does_not_pass(
    server: FakeServer, openai_key: str, fault: str, error: type[Exception], message: str, n_calls: int
) -> None:
    server.fault = lambda n, body: fault
    with pytest.raises(error, match=message) as caught:
        ask(LangChain(spec=OPENAI, base_url=server.url, max_tries=3))
    assert len(server.calls) == n_calls
    assert openai_key not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "finish_reason", "text"),
    [
        ("filtered", "content_filter", ""),
        ("filtered 400", "content_filter", ""),
        ("length", "length", "只写到一"),
        ("null content", "stop", ""),
    ],
)
def test_how_an_answer_ended(server: FakeServer, openai_key: str, fault: str, finish_reason: str, text: str) -> None:
    server.fault = lambda n, body: fault
    done = ask(LangChain(spec=OPENAI, base_url=server.url))
    assert (done.finish_reason, done.text) == (finish_reason, text)
    assert len(server.calls) == 1


def test_a_model_may_be_used_in_one_event_loop_after_another(server: FakeServer, openai_key: str) -> None:
    llm = LangChain(spec=OPENAI, base_url=server.url)
    assert [ask(llm).text for _ in range(3)] == ["关于“怎么做”的回答"] * 3


def test_a_run_writes_no_key(server: FakeServer, openai_key: str, cli: Cli, data_dir: Path, own_folder: Path) -> None:
    server.fault = lambda n, body: "400" if n == 1 else None  # an error that repeats the key
    command = ("run", "--data", data_dir, "--llm", f"langchain:{OPENAI}", "--base-url", server.url, "--json")
    done = cli(*command, "--fail-on-error", "1")
    assert done.code == 0, done.err
    run = Path(json.loads(done.out)["run"])
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["labels"]["llm"] == f"langchain:{OPENAI}"
    assert manifest["server"]["class"] == "langchain_openai.chat_models.base:ChatOpenAI"
    assert manifest["packages"]["langchain-core"]
    assert json.loads(done.out)["counts"]["failed"] == 1
    for path in own_folder.rglob("*"):
        assert not path.is_file() or openai_key.encode() not in path.read_bytes()


def test_a_model_without_a_key_stops_before_the_first_question(server: FakeServer, cli: Cli, data_dir: Path) -> None:
    pytest.importorskip("langchain_openai", reason="needs a provider of LangChain: pip install langchain-openai")
    done = cli("run", "--data", data_dir, "--llm", f"langchain:{OPENAI}", "--base-url", server.url)
    assert done.code == 1
    assert "OPENAI_API_KEY" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        ("cohere:command-r", {}, "pip install langchain-cohere"),
        ("nobody-knows-this", {}, "Unable to infer model provider"),
        ("no.such.module:make", {}, "can't be imported: ModuleNotFoundError"),
        ("MODULE:absent", {}, "MODULE has no BaseChatModel, and no function that makes one, called 'absent'"),
        ("MODULE:number", {}, "called 'number'"),
        ("MODULE:nothing", {}, "makes a int, not a BaseChatModel"),
        ("MODULE:broken", {}, "MODULE:broken failed: RuntimeError: 没有模型 second line"),
        ("MODULE:make", {"settings": {"colour": 3}}, "unexpected keyword argument 'colour'"),
        ("MODULE:make", {"temperature": 0.5}, "unexpected keyword argument 'temperature'"),
        ("MODULE:made", {"settings": {"answer": "x"}}, "takes no settings"),
        (OPENAI, {"settings": {"temperature": 1}}, "settings.temperature is llm.temperature"),
        (OPENAI, {"context_length": 10, "max_tokens": 10}, "leaves no room"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(module: str, spec: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        llm = LLMS.create("langchain:" + spec.replace("MODULE", module), settings)
        _ = llm.prompt_budget
        llm.check()
    assert message.replace("MODULE", module) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_langchain_the_pip_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qilin_rag.core.extras.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'qilin-rag\[langchain\]'"):
        LangChain(spec=OPENAI).check()


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": "x"},
        {"openai_api_key": "x"},
        {"default_headers": {"X-Api-Key": "x"}},
        {"headers": [{"Authorization": "x"}]},
        {"password": "x"},
        {"aws_session_token": "x"},
        {"huggingfacehub_api_token": "x"},
        {"extra": "Bearer x"},
        {"proxy": "http://user:secret@host"},
        {"extra": "from-the-environment"},
    ],
)
def test_keys_are_refused_as_settings(settings: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "from-the-environment")
    with pytest.raises(UsageError, match="seems to hold a key") as caught:
        LLMS.create(f"langchain:{OPENAI}", {"settings": settings})
    assert "secret" not in str(caught.value)
    with pytest.raises(UsageError, match="seems to hold a key"):
        LLMS.create(f"langchain:{OPENAI}", {"base_url": "http://user:secret@host/v1"})


def test_other_settings_are_not_taken_for_keys() -> None:
    refuse_secrets(
        {"top_k": 3, "max_tokens": 3, "stop": ["</s>"], "sort_key": "x", "eos_token": "x", "url": "http://h/v1"}, "x"
    )


class Renamed(GenericFakeChatModel):  # type: ignore[misc]
    """A provider with names of its own."""

    messages: Iterator[Any] = Field(default_factory=lambda: iter(["答"]))
    temperature: float | None = None
    num_predict: int | None = None
    limit_s: float | None = Field(default=None, alias="timeout")


def test_max_tokens_goes_by_the_name_that_a_provider_has_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Renamed] = []

    def init(model: str, **given: Any) -> Renamed:
        made.append(Renamed(**given))
        return made[-1]

    monkeypatch.setattr("langchain.chat_models.init_chat_model", init)
    assert ask(LangChain(spec="ollama:qwen2.5:7b", max_tokens=7)).text == "答"
    assert (made[-1].temperature, made[-1].num_predict, made[-1].limit_s) == (0.0, 7, 180.0)
    with pytest.raises(UsageError, match=r"Renamed takes no base_url; leave it out with --set llm.base_url=null"):
        LangChain(spec="ollama:qwen2.5:7b", base_url="http://h/v1").check()
    monkeypatch.setattr(
        "langchain.chat_models.init_chat_model", lambda model, **given: FakeListChatModel(responses=["答"])
    )
    with pytest.raises(UsageError, match="takes no temperature; leave it out"):
        LangChain(spec="ollama:qwen2.5:7b").check()
    assert ask(LangChain(spec="ollama:qwen2.5:7b", temperature=None, max_tokens=None)).text == "答"


def test_factories(module: str) -> None:
    def answer(name: str, **settings: object) -> str:
        return ask(LLMS.create(f"langchain:{name}", settings)).text

    assert answer(f"{module}:make") == "默认"
    assert answer(f"{module}:make", settings={"answer": "别的"}) == "别的"
    assert answer(f"{module}:made") == "现成"
    assert answer(f"{module}:warm") == "None None"
    assert answer(f"{module}:warm", temperature=0.5, max_tokens=7) == "0.5 7"
    classes = "langchain_core.language_models:FakeListChatModel"
    assert answer(classes, settings={"responses": ["类"]}) == "类"


def test_a_factory_is_what_its_file_says(module: str, own_folder: Path) -> None:
    name = f"langchain:{module}:make"
    llm = LLMS.create(name, {})
    before = llm.identity()
    assert before["source_sha256"]
    assert (llm.temperature, llm.max_tokens) == (None, None)
    assert llm.changed(LLMS.implied(name)) == {}
    assert LLMS.create(name, {"settings": {"answer": "x"}}).identity() != before
    path = own_folder / f"{module}.py"
    path.write_text(path.read_text() + "\n# edited\n")
    assert LLMS.create(name, {}).identity() != before
    named = LLMS.create(f"langchain:{OPENAI}", {"base_url": "http://h/v1", "timeout_s": 3})
    assert named.changed(LLMS.implied(f"langchain:{OPENAI}")) == {}
    assert named.identity() == LangChain(spec=OPENAI).identity()
    assert named.identity() != LangChain(spec=OPENAI, temperature=0.5).identity()


def test_files_name_models_but_no_code(own_folder: Path) -> None:
    path = own_folder / "run.yaml"
    path.write_text(f"llm: langchain:{OPENAI}")
    config = resolve_run({}, file=path)
    assert (config.llm.named().name, config.llm_label) == (f"langchain:{OPENAI}", f"langchain:{OPENAI}")
    for text in ("llm: langchain:os:system", "llm: {name: langchain, spec: 'os:system'}"):
        path.write_text(text)
        with pytest.raises(UsageError, match="must be a registered name"):
            resolve_run({}, file=path)
    (own_folder / "configs/llms").mkdir(parents=True)
    (own_folder / "configs/llms/mine.yaml").write_text("{class: langchain, spec: 'os:system'}")
    with pytest.raises(UsageError, match="a preset can't name code"):
        resolve_run({"llm": "mine"})


def test_a_model_has_one_label_whichever_way_it_is_named() -> None:
    ways = [
        resolve_run({"llm": f"langchain:{OPENAI}"}),
        resolve_run({"llm": LangChain(spec=OPENAI)}),
        resolve_run({"llm": {"name": "langchain", "spec": OPENAI}}),
        resolve_run({"llm": "langchain"}, [f"llm.spec={OPENAI}"]),
        resolve_run({"llm": "langchain:openai:another"}, [f"llm.spec={OPENAI}"]),
    ]
    assert {llm_label(config) for config in ways} == {f"langchain:{OPENAI}"}
    assert all(config == ways[0] for config in ways)


class Failing(BaseChatModel):  # type: ignore[misc]
    """Raises what it is given."""

    error: Any

    def _generate(self, messages: list[BaseMessage], *arguments: Any, **given: Any) -> ChatResult:
        raise self.error

    @property
    def _llm_type(self) -> str:
        return "failing"


def an_error(name: str, **attributes: Any) -> Exception:
    """One of a provider's own: known by its name and by what it carries."""
    error: Exception = type(name, (Exception,), attributes)("said")
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (an_error("ClientError", response={"ResponseMetadata": {"HTTPStatusCode": 429}}), TransientError),
        (an_error("ResourceExhausted", code=429), TransientError),
        (an_error("OverloadedError"), TransientError),
        (ConnectionResetError("gone"), TransientError),
        (an_error("Unauthenticated"), FatalLLMError),
        (an_error("Whatever", is_retryable=True), TransientError),
        (an_error("QuotaError", status_code=429, code="insufficient_quota"), FatalLLMError),
        (RuntimeError("Event loop is closed"), TransientError),
        (RuntimeError("something else"), LLMError),
    ],
)
def test_errors_of_any_provider(error: Exception, kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(meaning(error, "llm x")) is kind
    monkeypatch.setattr("langchain.chat_models.init_chat_model", lambda model, **given: Failing(error=error))
    with pytest.raises(LLMError if kind is TransientError else kind):
        ask(LangChain(spec=OPENAI, max_tries=2, temperature=None, max_tokens=None))


def test_an_error_of_ours_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing(error=QilinError("stop"))
    monkeypatch.setattr("langchain.chat_models.init_chat_model", lambda model, **given: failing)
    with pytest.raises(QilinError, match=r"^stop$"):
        ask(LangChain(spec=OPENAI, temperature=None, max_tokens=None))


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({}, "stop"),
        ({"finish_reason": None}, "stop"),
        ({"finish_reason": "stop"}, "stop"),
        ({"finish_reason": "STOP"}, "stop"),
        ({"finish_reason": "FinishReason.MAX_TOKENS"}, "length"),
        ({"finish_reason": "SAFETY"}, "content_filter"),
        ({"stop_reason": "end_turn"}, "stop"),
        ({"stop_reason": "max_tokens"}, "length"),
        ({"stop_reason": "refusal"}, "refusal"),
        ({"stopReason": "guardrail_intervened"}, "content_filter"),
        ({"done_reason": "length"}, "length"),
        ({"status": "completed"}, "stop"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ({"finish_reason": "tool_calls"}, "tool_calls"),
    ],
)
def test_how_providers_say_that_an_answer_ended(about: dict[str, Any], expected: str) -> None:
    assert ending(about) == expected


@pytest.mark.parametrize(
    ("message", "text", "finish_reason"),
    [
        (AIMessage("<think>想</think>答"), "答", "stop"),
        (AIMessage("<think>想"), "", "length"),
        (AIMessage("答", additional_kwargs={"reasoning_content": "想"}), "答", "stop"),
        (AIMessage([{"type": "thinking", "thinking": "想"}, {"type": "text", "text": "答"}]), "答", "stop"),
    ],
)
def test_thinking_is_kept_and_not_scored(message: AIMessage, text: str, finish_reason: str) -> None:
    done = completion(message, "m", 0.0)
    assert (done.text, done.finish_reason, done.model) == (text, finish_reason, "m")
    assert "想" in done.raw
    assert done.usage.prompt_tokens is None
