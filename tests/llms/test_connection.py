"""How a server is reached: environment, certificates, redirects, Azure, slow lists of models."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.registry import LLMS
from qilin_rag.core.types import Completion, RenderedPrompt
from qilin_rag.llms import LLM, FatalLLMError, LLMError, connection, retry
from qilin_rag.llms.cache import request_key
from qilin_rag.llms.langchain.chat_model import LangChain
from qilin_rag.llms.openai_compatible import OpenAICompatible
from tests.conftest import Cli
from tests.llms.raw_server import MODEL, Answer, RawServer, Request, as_json, certify

PROMPT = RenderedPrompt([{"role": "user", "content": "怎么做"}], "怎么做", [], 0)
REPLY = {"model": MODEL, "choices": [{"message": {"role": "assistant", "content": "答"}, "finish_reason": "stop"}]}
KEY = "sk-secret-1234567890"
OPENAIS = {
    "OPENAI_ORG_ID": "org-example",
    "OPENAI_PROJECT_ID": "proj-example",
    "OPENAI_ADMIN_KEY": "sk-admin-example",
    "OPENAI_WEBHOOK_SECRET": "whsec-example",
    "OPENAI_CUSTOM_HEADERS": "x-example: b\nauthorization: Bearer example",
    "OPENAI_ORGANIZATION": "organisation-example",
}


def good(request: Request) -> Answer | None:
    return None if request.body is None else as_json(REPLY)


def ours(server: RawServer, **settings: Any) -> LLM:
    llm: LLM = LLMS.create("openai", {"model": MODEL, "base_url": server.url, "max_tries": 2, **settings})
    return llm


def langchain(server: RawServer, **settings: Any) -> LLM:
    pytest.importorskip("langchain_openai", reason="needs a provider of LangChain: pip install langchain-openai")
    return LangChain(spec=f"openai:{MODEL}", base_url=server.url, max_tries=2, **settings)


Client = Callable[..., LLM]
both = pytest.mark.parametrize("client", [ours, langchain])


def ask(llm: LLM) -> Completion:
    async def once() -> Completion:
        try:
            return await llm.generate(PROMPT)
        finally:
            await llm.close()

    return asyncio.run(once())


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(retry, "BASE_S", 0.001)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if not shutil.which("openssl"):
        pytest.skip("needs openssl to make a certificate")
    return certify(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def secure(signed: tuple[Path, Path]) -> Iterator[RawServer]:
    with RawServer(good, signed) as server:
        yield server


@both
def test_what_is_meant_for_openai_goes_nowhere_else(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OPENAIS.items():
        monkeypatch.setenv(name, value)
    with RawServer(good) as server:
        llm = client(server)
        llm.check()
        assert ask(llm).text == "答"
    sent = json.dumps([request.headers for request in server.requests])
    assert "example" not in sent and "openai-organization" not in sent and "openai-project" not in sent
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {KEY}"}
    assert {name: os.environ[name] for name in OPENAIS} == OPENAIS
    assert "example" not in repr(llm.request(PROMPT)) + repr(llm.identity())


@pytest.mark.parametrize(
    ("address", "is_theirs"),
    [
        ("https://api.openai.com/v1", True),
        ("https://eu.api.openai.com/v1", True),
        ("https://api.openai.com.example.org/v1", False),
        ("https://notapi.openai.com/v1", False),
        ("http://api.openai.com/v1", False),
        ("https://example.org/api.openai.com/v1", False),
        ("https://res.openai.azure.com/openai/v1", False),
    ],
)
def test_openai_itself_gets_it(address: str, is_theirs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-example")
    client = connection.open_client(address, KEY, {}, 1)
    assert client.organization == ("org-example" if is_theirs else None)
    client.close()


def test_a_run_writes_nothing_of_it_down(
    cli: Cli, data_dir: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in OPENAIS.items():
        monkeypatch.setenv(name, value)
    with RawServer(good) as server:
        done = cli(
            "run", "--data", data_dir, "--llm", "openai", "--set", f"llm.model={MODEL}", "--base-url", server.url
        )
    assert done.code == 0, done.err
    for path in own_folder.rglob("*"):
        assert not path.is_file() or b"org-example" not in path.read_bytes()


@both
def test_a_certificate_of_ones_own_counts_on_this_machine(
    client: Client, secure: RawServer, signed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(signed[0]))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # not for this machine
    llm = client(secure)
    llm.check()
    assert ask(llm).text == "答"


def test_a_folder_of_certificates_counts_as_well(
    secure: RawServer, signed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["openssl", "x509", "-hash", "-noout", "-in", str(signed[0])]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / f"{name}.0").write_bytes(signed[0].read_bytes())
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path / 'absent'}{os.pathsep}{tmp_path}")
    assert ours(secure).check()["models"] == [MODEL]
    assert ask(ours(secure)).text == "答"


def test_a_certificate_that_nobody_vouches_for_is_said_with_what_to_do(secure: RawServer) -> None:
    with pytest.raises(FatalLLMError, match=r"the certificate of https://.* is not trusted .* SSL_CERT_FILE$"):
        ours(secure).check()
    with pytest.raises(FatalLLMError, match="is not trusted"):
        ask(ours(secure))
    assert not secure.requests


def test_a_server_without_tls_is_said_with_what_to_do() -> None:
    with RawServer(good) as server, pytest.raises(FatalLLMError, match=r"does not speak https .* http://"):
        ours(server, base_url=server.url.replace("http://", "https://")).check()


@pytest.mark.parametrize(
    "address", ["http://llm.example.com/v1", "https://llm.example.com/v1", "https://127.0.0.1:1/v1"]
)
@pytest.mark.parametrize(
    ("variable", "place", "reason"),
    [
        ("SSL_CERT_FILE", "absent/ca.pem", "No such file"),
        ("SSL_CERT_FILE", "folder", "Is a directory|it holds no certificate|Operation not permitted"),
        ("SSL_CERT_FILE", "empty.pem", "it holds no certificate"),
        ("SSL_CERT_DIR", "absent", "no such folder"),
        ("SSL_CERT_DIR", "empty.pem", "no such folder"),
    ],
)
def test_a_variable_that_names_no_certificates_is_named(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, address: str, variable: str, place: str, reason: str
) -> None:
    (own_folder / "folder").mkdir()
    (own_folder / "empty.pem").touch()
    monkeypatch.setenv(variable, place)
    llm = OpenAICompatible(model="m", base_url=address)
    for work in (llm.check, lambda: ask(llm)):
        with pytest.raises(UsageError, match=f"environment variable {variable} names {place}, which .*({reason})"):
            work()


def test_langchain_names_it_too(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("langchain_openai", reason="needs a provider of LangChain: pip install langchain-openai")
    monkeypatch.setenv("SSL_CERT_FILE", "absent.pem")
    with pytest.raises(UsageError, match=r"SSL_CERT_FILE names absent\.pem"):
        LangChain(spec="openai:m", base_url="https://llm.example.com/v1").check()


def test_a_server_here_without_tls_needs_no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "absent.pem")
    with RawServer(good) as server:
        assert ask(ours(server)).text == "答"


@both
def test_another_machine_is_reached_through_the_proxy(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer(lambda r: as_json(REPLY) if r.body else None) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.host}")
        if client is ours:
            llm = client(proxy, base_url="http://llm.example.com/v1")
        else:
            pytest.importorskip(
                "langchain_openai", reason="needs a provider of LangChain: pip install langchain-openai"
            )
            llm = LangChain(spec=f"openai:{MODEL}", base_url="http://llm.example.com/v1")
        llm.check()
        assert ask(llm).text == "答"
    assert proxy.requests[-1].path == "http://llm.example.com/v1/chat/completions"


def test_a_proxy_that_does_not_answer_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:password@127.0.0.1:9")
    llm = OpenAICompatible(model="m", base_url="https://llm.example.com/v1")
    with pytest.raises(FatalLLMError, match="through the proxy of the environment variable HTTPS_PROXY") as caught:
        llm.check()
    assert "password" not in str(caught.value)


@pytest.mark.parametrize("variable", ["ALL_PROXY", "all_proxy", "HTTP_PROXY"])
def test_a_proxy_that_can_not_be_used_is_named(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "socks5://user:password@127.0.0.1:9")
    llm = OpenAICompatible(model="m", base_url="http://llm.example.com/v1")
    for work in (llm.check, lambda: ask(llm)):
        with pytest.raises(
            UsageError, match=rf"{variable} names a proxy that does not speak HTTP \(socks5\)"
        ) as caught:
            work()
        assert "password" not in str(caught.value)


def test_a_proxy_that_is_not_used_need_not_be_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer(good) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.host)  # without a scheme, as many write it
        monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
        assert ask(ours(proxy, base_url="http://llm.example.com/v1")).text == "答"
        assert ask(ours(proxy)).text == "答"
        monkeypatch.delenv("HTTP_PROXY")
        monkeypatch.setenv("NO_PROXY", "example.invalid,10.0.0.1")
        assert connection.proxy_for("http://llm.example.invalid/v1") is None
        assert connection.proxy_for("https://10.0.0.1:8000/v1") is None
    assert proxy.requests[0].path == "http://llm.example.com/v1/chat/completions"


def test_no_proxy_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer(good) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.host}")
        monkeypatch.setenv("NO_PROXY", "example.invalid")
        with pytest.raises(FatalLLMError, match=r"no answer from http://llm\.example\.invalid/v1 \("):
            OpenAICompatible(model="m", base_url="http://llm.example.invalid/v1").check()
    assert not proxy.requests


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.8.8", "0.0.0.0", "api.localhost", "[::1]"])
def test_this_machine_is_reached_without(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert connection.is_local(f"http://{host}:1/v1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    if host in ("127.0.0.1", "localhost"):
        with RawServer(good) as server:
            assert ask(ours(server, base_url=server.url.replace("127.0.0.1", host))).text == "答"


def moved(to: str, status: int, only: str = "") -> Callable[[Request], Answer | None]:
    return lambda r: Answer(status=status, headers={"location": to}) if r.path.endswith(only) else good(r)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("azure", [False, True])
def test_a_redirect_takes_no_key_to_another_host(status: int, azure: bool) -> None:
    path = "/openai/deployments/d" if azure else "/v1"
    with RawServer(good) as other, RawServer(lambda r: None) as server:
        server.answer = lambda r: moved(f"http://{other.host}{r.path}?token=x", status)(r)
        llm = ours(server, base_url=f"http://{server.host}{path}")
        for work in (llm.check, lambda: ask(llm)):
            with pytest.raises(FatalLLMError) as caught:
                work()
            said = str(caught.value)
            assert f"redirects to http://{other.host}{path} ({status}), where no key is sent unasked" in said
            assert "token" not in said and KEY not in said
    assert not other.requests


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_would_drop_the_question_is_said(status: int) -> None:
    with RawServer(moved("/v2/chat/completions", status, "/v1/chat/completions")) as server:
        assert ours(server).check()["models"] == [MODEL]
        with pytest.raises(FatalLLMError, match=rf"redirects to http://{server.host}/v2 \({status}\), which drops the"):
            ask(ours(server))
    assert len(server.posted) == 1


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("stream", [False, True])
def test_a_redirect_to_the_same_host_that_keeps_the_question_is_followed(status: int, stream: bool) -> None:
    with RawServer(moved("/v2/chat/completions", status, "/v1/chat/completions")) as server:
        assert ask(ours(server, stream=stream)).text == "答"
    assert [request.path for request in server.requests] == ["/v1/chat/completions", "/v2/chat/completions"]
    assert server.posted[0] == server.posted[1]
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {KEY}"}


def test_the_list_of_models_may_have_moved_on_the_same_host() -> None:
    with RawServer(moved("/v1/models/", 301, "/models")) as server:
        assert ours(server).check()["models"] == [MODEL]


def test_a_list_that_leads_to_a_page_says_nothing_of_the_questions() -> None:
    with RawServer(moved("https://docs.example.com/", 302, "/models")) as server:
        llm = ours(server)
        assert llm.check() == {"base_url": server.url}
        assert ask(llm).text == "答"


@pytest.mark.parametrize("location", ["", "http://[", "/v1/models"])
def test_redirects_that_lead_nowhere_end(location: str) -> None:
    with RawServer(lambda r: Answer(status=307, headers={"location": location or r.path})) as server:
        llm = ours(server)
        with pytest.raises(QilinError):
            ask(llm)


AZURE = "/openai/deployments/gpt-4o"


def test_azure_gets_its_version_and_its_key() -> None:
    with RawServer(good) as server:
        llm = ours(server, base_url=f"http://{server.host}{AZURE}", query={"api-version": "2024-10-21"})
        llm.check()
        assert ask(llm).text == "答"
    assert [request.path for request in server.requests] == [
        f"{AZURE}/models?api-version=2024-10-21",
        f"{AZURE}/chat/completions?api-version=2024-10-21",
    ]
    for request in server.requests:
        assert request.headers["api-key"] == KEY
        assert "authorization" not in request.headers


@pytest.mark.parametrize(
    ("address", "key", "is_header"),
    [
        ("https://res.openai.azure.com/openai/deployments/d", KEY, True),
        ("https://res.cognitiveservices.azure.com/openai/v1", KEY, True),
        ("https://res.services.ai.azure.com/openai/v1", KEY, True),
        ("https://gate.azure-api.net/llm", KEY, True),
        ("https://gateway.example.com/openai/deployments/d", KEY, True),
        ("https://res.openai.azure.com/openai/v1", "eyJhbGciOi.eyJhdWQi.c2lnbmF0dXJl", False),
        ("https://res.openai.azure.com.example.org/v1", KEY, False),
        ("https://m.eastus2.models.ai.azure.com/v1", KEY, False),
        ("https://m.eastus2.inference.ml.azure.com/v1", KEY, False),
        ("https://api.openai.com/v1", KEY, False),
    ],
)
def test_which_addresses_take_their_key_as_azure_does(address: str, key: str, is_header: bool) -> None:
    assert (connection.headers_for(address, key).get("api-key") == key) == is_header


def test_a_query_is_part_of_the_address(cli: Cli, data_dir: Path) -> None:
    plain, other = (OpenAICompatible(model="m", query=query) for query in ({}, {"api-version": "2024-10-21"}))
    assert plain.identity() == other.identity()
    assert request_key(plain.request(PROMPT)) != request_key(other.request(PROMPT))
    with RawServer(good) as server:
        command = ("run", "--data", data_dir, "--llm", "openai", "--set", f"llm.model={MODEL}", "--limit", "1")
        done = cli(*command, "--base-url", server.url, "--set", "llm.query={api-version: 2024-10-21, v: 3}")
    assert done.code == 0, done.err
    assert server.requests[-1].path == "/v1/chat/completions?api-version=2024-10-21&v=3"


@pytest.mark.parametrize(
    "query", [{"key": "x"}, {"api-key": "x"}, {"sig": "x"}, {"token": "x"}, {"v": "sk-x"}, {"v": []}]
)
def test_a_query_holds_no_key(query: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"query"):
        LLMS.create("openai", {"model": "m", "query": query})


def test_an_address_with_a_query_is_told_where_it_goes() -> None:
    with pytest.raises(UsageError, match=r"llm\.query, such as \{api-version"):
        LLMS.create("openai", {"model": "m", "base_url": "https://r.openai.azure.com/openai?api-version=1"})


def slow(seconds: float) -> Callable[[Request], Answer | None]:
    models = as_json({"data": [{"id": MODEL}]})
    return lambda r: models._replace(wait_s=seconds) if r.body is None else good(r)


def test_a_slow_list_of_models_is_waited_for(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(connection, "SILENT_S", 0.1)
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_S", 0.2)
    with RawServer(slow(0.3)) as server, caplog.at_level(logging.WARNING, "qilin_rag"):
        assert ours(server).check()["models"] == [MODEL]
    assert ["waiting for the list of models" in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(hangs=True),
        Answer([b" "] * 1000, wait_s=0.1),
        Answer([b"[]"], wait_s=5),
    ],
)
def test_a_list_that_never_comes_is_said_with_how_to_wait_longer(answer: Answer) -> None:
    with RawServer(lambda r: answer) as server:
        started = time.perf_counter()
        with pytest.raises(FatalLLMError, match=r"not listed its models within 0\.5 s; .* raise llm\.timeout_s"):
            ours(server, timeout_s=0.5).check()
        assert time.perf_counter() - started < 4


def test_a_machine_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_S", 0.3)
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)  # a queue for one; what comes then is left without an answer
        for each in (first, second):
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        started = time.perf_counter()
        llm = OpenAICompatible(model="m", base_url=f"http://127.0.0.1:{full.getsockname()[1]}/v1", timeout_s=4)
        with pytest.raises(FatalLLMError, match="no server answers"):
            llm.check()
        assert time.perf_counter() - started < 5


@pytest.mark.parametrize("listed", [{"data": [{"id": MODEL}]}, [{"id": MODEL}], {"data": [{"id": MODEL}, {"x": 1}, 3]}])
def test_lists_of_models_of_every_form(listed: Any) -> None:
    with RawServer(lambda r: as_json(listed)) as server:
        assert ours(server).check()["models"] == [MODEL]


@pytest.mark.parametrize("answer", [as_json({}), as_json({"data": None}), Answer([b"<html>"]), Answer(status=404)])
def test_a_server_that_lists_no_models_may_answer_all_the_same(answer: Answer) -> None:
    with RawServer(lambda r: answer) as server:
        assert ours(server).check() == {"base_url": server.url}


def test_doctor_asks_as_a_run_does(cli: Cli, own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "absent.pem")
    command = ("doctor", "--llm", "openai", "--set", "llm.model=m", "--base-url", "https://llm.example.com/v1")
    assert "SSL_CERT_FILE names absent.pem" in cli(*command).out


def test_a_key_that_no_key_can_be_is_not_called_set(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-密钥-1234567890")
    [line] = [line for line in cli("doctor").out.splitlines() if "llm gpt-4o-mini" in line]
    assert "OPENAI_API_KEY is not set" in line


def test_no_question_is_answered_by_a_proxy_of_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    """OPENAI_BASE_URL is for clients that are given no address."""
    with RawServer(good) as server, RawServer(good) as other:
        monkeypatch.setenv("OPENAI_BASE_URL", other.url)
        assert ask(ours(server)).text == "答"
    assert not other.requests


def test_an_error_of_the_connection_holds_no_key() -> None:
    cut = Answer([b'{"choi'], is_whole=False)
    with RawServer(lambda r: cut if r.body else None) as server, pytest.raises(LLMError) as caught:
        ask(ours(server))
    assert "connection failed" in str(caught.value) and KEY not in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_langchain_takes_no_key_to_another_host_either(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("langchain_openai", reason="needs a provider of LangChain: pip install langchain-openai")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
    with RawServer(good) as other, RawServer(lambda r: None) as server:
        server.answer = lambda r: moved(f"http://{other.host}{r.path}", status)(r)
        azure = {"azure_endpoint": f"http://{server.host}", "api_version": "2024-10-21"}
        for llm in (langchain(server), LangChain(spec="azure_openai:gpt-4o", settings=azure)):
            with pytest.raises(FatalLLMError, match=r"redirects to http://.* where no key is sent unasked"):
                ask(llm)
    assert len(server.requests) == 2
    assert not other.requests
