"""Batches of providers that differ from OpenAI's: the same run, and no batch that is lost or made twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.presets import known_preset
from qilin_rag.core.errors import UsageError
from qilin_rag.llms.batch.dialects import DIALECTS, DashScopeBatches, MoonshotBatches, ZhipuBatches
from qilin_rag.llms.batch.openai_service import OpenAIBatches
from qilin_rag.llms.batch.service import BatchService
from qilin_rag.llms.batch.services import service_of
from qilin_rag.llms.endpoint import Endpoint
from tests.conftest import Cli
from tests.fake_server import MODEL
from tests.llms.batch.dialect_server import DASHSCOPE, MOONSHOT, ZHIPU, Dialect, DialectServer

SPOKEN: list[tuple[Dialect, type[OpenAIBatches], str]] = [
    (DASHSCOPE, DashScopeBatches, "qwen-plus"),
    (ZHIPU, ZhipuBatches, "glm-4"),
    (MOONSHOT, MoonshotBatches, "kimi-k2.6"),
]
NAMES = [service.name for _, service, _ in SPOKEN]


def endpoint(address: str) -> Endpoint:
    return Endpoint(address, "m", api_key_env="NO_KEY", timeout_s=5)


@pytest.fixture
def speaks(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[OpenAIBatches]], None]:
    """Have this machine's servers asked in a dialect."""
    return lambda service: monkeypatch.setitem(DIALECTS, "127.0.0.1", service)


def run_of(server: DialectServer, preset: str, runs_dir: str, *more: str) -> list[str]:
    named = [f"--llm={preset}", f"--set=llm.model={MODEL}", f"--base-url={server.url}", "--metrics=rouge_l"]
    return ["run", *named, "--limit=7", f"--runs-dir={runs_dir}", "--no-cache", "--json", *more]


def answers(done: dict[str, Any]) -> dict[str, str]:
    lines = (Path(done["run"]) / "samples.jsonl").read_text().splitlines()
    return {sample["question_id"]: sample["answer"] for sample in map(json.loads, lines)}


@pytest.mark.parametrize(("dialect", "service", "preset"), SPOKEN, ids=NAMES)
def test_a_batch_gives_the_answers_of_calls(
    cli: Cli, speaks: Any, dialect: Dialect, service: type[OpenAIBatches], preset: str
) -> None:
    speaks(service)
    with DialectServer(dialect) as server:
        by_batch = cli(*run_of(server, preset, "batch", "--batch"))
        assert by_batch.code == 0, by_batch.err
        assert len(server.batches) == 1
        [batch] = server.batches.values()
        assert [line["url"] for line in server.lines_of(batch)] == [dialect.url] * 7
        server.dialect = dialect._replace(prefix="/v1")
        server.url = f"{server.root}/v1"
        by_call = cli(*run_of(server, preset, "calls"))
    assert answers(json.loads(by_batch.out)) == answers(json.loads(by_call.out))
    assert Path(json.loads(by_batch.out)["run"]).name == Path(json.loads(by_call.out)["run"]).name
    [record] = Path("batch").glob("*/batches/*/record.json")
    assert json.loads(record.read_text())["service"] == service.name


@pytest.mark.parametrize(("dialect", "service", "preset"), SPOKEN, ids=NAMES)
def test_a_batch_that_was_created_without_a_word_is_found(
    cli: Cli, speaks: Any, dialect: Dialect, service: type[OpenAIBatches], preset: str
) -> None:
    speaks(service)
    with DialectServer(dialect) as server:
        server.after = lambda n, method, path: (
            "reset" if method == "POST" and path.endswith("/batches") and len(server.batches) == 1 else None
        )
        done = cli(*run_of(server, preset, "runs", "--batch"))
        assert done.code == 0, done.err
        assert len(server.batches) == 1
        assert max(server.asked.values()) == 1


@pytest.mark.parametrize("status", [400, 200])
def test_a_model_that_zhipu_has_no_batches_for_is_named(cli: Cli, speaks: Any, status: int) -> None:
    speaks(ZhipuBatches)
    with DialectServer(ZHIPU) as server:
        server.models = ["glm-5.3"]
        server.refusal_status = status
        done = cli(*run_of(server, "glm-5.2", "runs", "--batch", "--set=llm.model=glm-5.3"))
        assert done.code == 1
        assert server.requests.count("POST /api/paas/v4/files") == 1
        assert "模型名称错误, 支持: glm-4" in done.err
        assert not server.batches


def test_sampling_that_moonshot_fixes_fails_the_batch(cli: Cli, speaks: Any) -> None:
    speaks(MoonshotBatches)
    with DialectServer(MOONSHOT) as server:
        done = cli(*run_of(server, "openai", "runs", "--batch"))
    assert done.code == 1
    assert "is fixed" in done.err


@pytest.mark.parametrize(
    ("address", "service"),
    [
        ("https://dashscope.aliyuncs.com/compatible-mode/v1", DashScopeBatches),
        ("https://w1.ap-southeast-1.maas.aliyuncs.com/compatible-mode/v1", DashScopeBatches),
        ("https://open.bigmodel.cn/api/paas/v4", ZhipuBatches),
        ("https://api.moonshot.cn/v1", MoonshotBatches),
        ("https://api.moonshot.ai/v1", MoonshotBatches),
        ("https://api.openai.com/v1", OpenAIBatches),
        ("https://notmoonshot.cn/v1", OpenAIBatches),
    ],
)
def test_the_address_chooses(address: str, service: type[BatchService]) -> None:
    assert type(service_of(endpoint(address))) is service


@pytest.mark.parametrize(
    ("preset", "service"),
    [("qwen-plus", "dashscope"), ("glm-4", "zhipu"), ("kimi-k2.6", "moonshot"), ("gpt-4o-mini", "openai")],
)
def test_presets_have_a_service(preset: str, service: str) -> None:
    address = known_preset(preset).get("base_url", "https://api.openai.com/v1")
    assert service_of(endpoint(address)).name == service


@pytest.mark.parametrize(
    ("address", "why"), [("https://api.deepseek.com/v1", "peak hours"), ("https://api.anthropic.com/v1", "found again")]
)
def test_a_provider_without_batches_is_refused(address: str, why: str) -> None:
    with pytest.raises(UsageError, match=rf"{address}.*{why}.*--batch"):
        service_of(endpoint(address))


def test_it_is_refused_before_anything_is_done(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-none")
    run = json.loads(cli("run", "--limit=1", "--json").out)["run"]
    for command in (("run", "--limit=1"), ("run", "--limit=1", "--dry-run"), ("judge", run)):
        done = cli(*command, "--llm=deepseek-flash", "--batch")
        assert (done.code, "peak hours" in done.err) == (2, True)


def test_limits() -> None:
    limits = {service.name: service.limits for _, service, _ in SPOKEN}
    assert {name: limit.bytes // 10**6 for name, limit in limits.items()} == {
        "dashscope": 500,
        "zhipu": 100,
        "moonshot": 100,
    }
    assert {limit.requests for limit in limits.values()} == {50_000}
