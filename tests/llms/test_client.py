"""Requests as OpenAI's own client sends them, over connections that are kept."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest

from qilin_rag.llms import connection
from qilin_rag.llms.client import Client, RefusedError
from tests.llms.raw_server import MODEL, Answer, RawServer, Request, as_json

KEY = "sk-secret-1234567890"
BODY = {
    "model": MODEL,
    "messages": [{"role": "user", "content": '冷萃\u2028 "怎么做"\n'}],
    "temperature": 0.0,
    "stop": ["\x00", "</s>"],
    "seed": 2**53 + 1,
    "extra": {"a": None, "b": [True, 1e-07]},
}


def answered(request: Request) -> Answer | None:
    return None if request.body is None else as_json({"choices": [{"message": {"content": "答"}}]})


def send(address: str, query: dict[str, str]) -> None:
    async def once() -> None:
        client = Client(address, KEY, query)
        try:
            await client.post("/chat/completions", BODY)
        finally:
            await client.close()

    asyncio.run(once())


@pytest.mark.parametrize("path", ["/v1", "", "/openai/deployments/我的 模型"])
@pytest.mark.parametrize("query", [{}, {"api-version": "2024-10-21", "标": "a b&c=d/é"}])
def test_the_server_gets_what_openais_client_would_send(path: str, query: dict[str, str]) -> None:
    with RawServer(answered) as server:
        base_url = f"http://{server.host}{path}"
        theirs = openai.OpenAI(base_url=base_url, api_key=KEY, default_query=query, max_retries=0)
        theirs.post("/chat/completions", cast_to=object, body=BODY)
        send(base_url, query)
    expected, sent = server.requests
    assert (sent.path, sent.body) == (expected.path, expected.body)
    names = {"accept", "content-type", "content-length"} | ({"authorization"} if "deployments" not in path else set())
    assert {name: sent.headers[name] for name in names} == {name: expected.headers[name] for name in names}
    assert not any("stainless" in name for name in sent.headers)


def test_what_openai_is_told_overrides_nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-example")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-example")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Team: rag: one\nnot a header\nACCEPT: text/plain")
    theirs = openai.OpenAI(base_url="https://api.openai.com/v1", api_key=KEY).default_headers
    told = connection.request_headers("https://api.openai.com/v1", KEY)
    wanted = {str(name).lower(): value for name, value in theirs.items() if "stainless" not in str(name).lower()}
    wanted |= {"accept": "text/plain", "authorization": f"Bearer {KEY}"}  # each header once, the last of two
    assert {name: value for name, value in told.items() if name != "user-agent"} == {
        name: value for name, value in wanted.items() if name != "user-agent"
    }
    elsewhere = connection.request_headers("https://llm.example.com/v1", KEY)
    assert set(elsewhere) == {"accept", "content-type", "user-agent", "authorization"}
    assert "authorization" not in connection.request_headers("https://llm.example.com/v1", "")


def test_connections_are_kept_for_the_next_requests() -> None:
    async def main() -> tuple[int, int]:
        n_connections = n_requests = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal n_connections, n_requests
            n_connections += 1
            try:
                while head := await reader.readuntil(b"\r\n\r\n"):
                    n_bytes = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                    json.loads(await reader.readexactly(n_bytes))
                    n_requests += 1
                    await asyncio.sleep(0.01)
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: node=a\r\n\r\n{}")
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", KEY, {})
        for _ in range(5):
            await asyncio.gather(*(client.post("/chat/completions", BODY) for _ in range(8)))
        await client.close()
        server.close()
        return n_connections, n_requests

    assert asyncio.run(main()) == (8, 40)


def test_a_refusal_keeps_status_headers_and_body() -> None:
    busy = Answer([b"slow down"], status=429, headers={"Retry-After": "7"})
    with RawServer(lambda r: busy) as server, pytest.raises(RefusedError) as caught:
        send(server.url, {})
    refusal = caught.value.read([])
    assert (refusal.status, refusal.words, refusal.wait_s) == (429, "slow down", 7.0)
