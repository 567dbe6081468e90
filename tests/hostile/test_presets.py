"""Presets, prompts, grids and files of settings that lie in a stranger's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from qilin_rag.config.engine_settings import risky_arguments, risky_variables
from qilin_rag.core.errors import UsageError
from qilin_rag.llms.serving.engines import build_engine
from tests.conftest import Cli
from tests.fake_server import MODEL
from tests.hostile.conftest import Scene, needs_langchain
from tests.hostile.watch import SECRET, shown_in, watched

EVIL = "https://llm.evil.example/v1"
DATA = ("--data", "small", "--retriever", "oracle", "-q")


OTHER_VARIABLES = """
    VLLM_HOST_IP VLLM_ALLOW_INSECURE_SERIALIZATION VLLM_CACHE_ROOT VLLM_CONFIG_ROOT VLLM_RPC_BASE_PATH
    NCCL_NET_PLUGIN NCCL_TOPO_DUMP_FILE OMP_TOOL_LIBRARIES LLAMA_ARG_HOST GGML_BACKEND_PATH HOME HF_ENDPOINT
    HTTPS_PROXY SSLKEYLOGFILE TMPDIR RAY_ADDRESS TRITON_CACHE_DIR vllm_use_v1
"""
OTHER_ARGUMENTS = """
    --host --hos=:: --ho --uds --api_key=x --ssl-keyfile --ssl_certfile --middleware=a.b --trust-remote-code
    --trust_remote --tool-parser-plugin --allowed-local-media-path=/ --config=c --kv-transfer-config={}
    --compilation-config.backend=a.b -O.backend=x -O -cc --worker-cls=a.b --otlp-traces-endpoint=e --no-host
    --allowed-origins=* --logits-processors=a:b --mid -host --distributed-executor-backend=a.B --download-dir=/
    --hf-overrides={} --enable-ssl-refresh
"""
FREE_ARGUMENTS = """
    --gpu-memory-utilization 0.8
    --enforce-eager
    --max-num-seqs=8
    --swap-space -1
    --chat-template t.jinja
    --reasoning-parser qwen3
    --generation-config vllm
    -tp 2
    --kv-cache-dtype fp8
    --no-enable-prefix-caching
    -O3
    --lora-modules a=b
"""


class Attack(NamedTuple):
    name: str
    prepare: Callable[[Scene], Any]
    command: tuple[str, ...]
    says: str


def preset(text: str, name: str = "mine") -> Callable[[Scene], None]:
    return lambda scene: scene.preset(name, text.replace("CANARY", scene.canary.url))


def prompt(template: str) -> Callable[[Scene], None]:
    def prepare(scene: Scene) -> None:
        text = f"language: zh\ndescription: d\nwithout_notes: x\nwith_notes: {template!r}\n"
        (scene.folder / "evil.yaml").write_text(text, encoding="utf-8")

    return prepare


def file(text: str) -> Callable[[Scene], Any]:
    return lambda scene: (scene.folder / "file.yaml").write_text(text.replace("CANARY", scene.canary.url), "utf-8")


ENGINE = "class: openai\nmodel: m\nengine: {name: vllm, "
MINE = ("run", *DATA, "--llm", "mine")
SERVED = ("run", *DATA, "--llm", "mine", "--serve")
SHADOW = ("run", *DATA, "--llm", "gpt-4o-mini")
PROMPT = ("run", *DATA, "--prompt", "evil.yaml")
CONFIG = ("run", *DATA, "--config", "file.yaml")
ATTACKS = [
    Attack("a program as Python", preset(f"{ENGINE}python: ./program}}"), SERVED, "can't name a program"),
    Attack("its own leave", preset(f"{ENGINE}allowed: [--host]}}"), SERVED, "can't allow itself"),
    Attack("LD_PRELOAD", preset(f"{ENGINE}environment: {{LD_PRELOAD: x.so}}}}"), SERVED, "LD_PRELOAD"),
    Attack("OPENSSL_CONF", preset(f"{ENGINE}environment: {{OPENSSL_CONF: x}}}}"), SERVED, "OPENSSL_CONF"),
    Attack("an unknown variable", preset(f"{ENGINE}environment: {{MY_VARIABLE: x}}}}"), SERVED, "[MY_VARIABLE]"),
    Attack("--host", preset(f'{ENGINE}extra_arguments: [--host, "0.0.0.0"]}}'), SERVED, "allowed=[--host]"),
    Attack("--trust-remote-code", preset(f"{ENGINE}extra_arguments: [--trust-remote-code]}}"), SERVED, "--trust"),
    Attack("--api-k", preset(f"{ENGINE}extra_arguments: [--api-k, x]}}"), SERVED, "needs no key"),
    Attack("code as class", preset("class: os:system\n"), MINE, "class must be one of"),
    Attack(
        "code as spec", preset("class: langchain\nspec: 'os:system'\n"), ("run", *DATA, "--llm", "mine"), "name code"
    ),
    Attack(
        "the name of a shipped preset, another address",
        preset("class: openai\nmodel: gpt-4o-mini\nbase_url: CANARY\n", "gpt-4o-mini"),
        SHADOW,
        "https://api.openai.com/v1",
    ),
    Attack(
        "the name of a shipped preset, another key",
        preset(
            "class: openai\nmodel: g\nbase_url: https://api.openai.com/v1\napi_key_env: CLOUD_SECRET_KEY\n",
            "gpt-4o-mini",
        ),
        SHADOW,
        "api_key_env CLOUD_SECRET_KEY",
    ),
    Attack(
        "the name of a shipped preset, another class",
        preset(f"class: langchain\nspec: openai:g\nbase_url: {EVIL}\n", "gpt-4o-mini"),
        SHADOW,
        EVIL,
    ),
    Attack("a file that moves a preset", file("llm: gpt-4o-mini\nbase_url: CANARY\n"), CONFIG, "--base-url http"),
    Attack("a file that moves it within", file("llm: {name: gpt-4o-mini, base_url: CANARY}\n"), CONFIG, "--base-url"),
    Attack("a file that names code", file("retriever: 'os:system'\n"), CONFIG, "must be a registered name"),
    Attack("a grid that names code", file("retrievers: ['os:system']\n"), ("sweep", "file.yaml"), "registered name"),
    Attack(
        "a grid that moves a preset",
        file("data: small\nllms: [{name: gpt-4o-mini, base_url: CANARY}]\n"),
        ("sweep", "file.yaml"),
        "--base-url",
    ),
    Attack("a tag of YAML", file("retriever: !!python/object/apply:os.system [x]\n"), CONFIG, "not valid YAML"),
    Attack("Python's insides", prompt("{{ ''.__class__.__mro__[1].__subclasses__() }}"), PROMPT, "can't be rendered"),
    Attack("a function's globals", prompt("{{ cycler.__init__.__globals__.os.system('x') }}"), PROMPT, "can't be"),
    Attack("another way to them", prompt("{{ query|attr('__class__') }}"), PROMPT, "can't be rendered"),
    Attack("the format of a text", prompt("{{ '{0.__class__.__mro__}'.format(query) }}"), PROMPT, "can't be rendered"),
    Attack("a file's content", prompt("{% include '/etc/passwd' %}"), PROMPT, "can't be"),
    Attack("a long loop", prompt("{% for i in range(10**9) %}x{% endfor %}"), PROMPT, "can't be rendered"),
    Attack("a huge width", prompt("{{ 'x'|center(10**9 + 0) }}"), PROMPT, "can't be rendered"),
    Attack("a huge number in a format", prompt("{{ '%2000000000d'|format(1) }}"), PROMPT, "can't be rendered"),
    Attack("a huge width of a method", prompt("{{ 'x'.ljust(2000000000) }}"), PROMPT, "can't be rendered"),
    Attack("huge blind text", prompt("{{ lipsum(n=2000000) }}"), PROMPT, "can't be rendered"),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_a_file_of_a_stranger_does_no_harm(
    attack: Attack, scene: Scene, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    scene.program()
    attack.prepare(scene)
    with watched() as watch:
        done = cli(*attack.command)
    assert (watch.programs, watch.places) == ([], [])
    assert (scene.canary.calls, scene.canary.authorizations) == ([], [])
    assert (scene.folder / "canary.txt").read_text(encoding="utf-8") == "untouched"
    assert shown_in(scene.folder, done.out, done.err) == []
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert attack.says in done.err or needs_langchain(done.err)


def test_an_address_that_a_flag_names_is_used(scene: Scene, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    scene.canary.models = ["gpt-4o-mini"]
    preset("class: openai\nmodel: gpt-4o-mini\nbase_url: CANARY\n", "gpt-4o-mini")(scene)
    done = cli(*SHADOW, "--base-url", scene.canary.url)
    assert done.code == 0, done.err
    assert set(scene.canary.authorizations) == {f"Bearer {SECRET}"}


def test_without_a_key_another_address_is_said(scene: Scene, cli: Cli) -> None:
    scene.canary.models = ["gpt-4o-mini"]
    preset("class: openai\nmodel: gpt-4o-mini\nbase_url: CANARY\n", "gpt-4o-mini")(scene)
    done = cli(*SHADOW)
    assert done.code == 0, done.err
    assert scene.canary.url in done.err
    assert "https://api.openai.com/v1" in done.err


def test_a_preset_here_for_a_preset_here_needs_no_word(scene: Scene, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    scene.canary.models = [MODEL]
    preset(f"class: openai\nmodel: {MODEL}\nbase_url: CANARY\n", "qwen2.5-72b")(scene)
    done = cli("run", *DATA, "--llm", "qwen2.5-72b")
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("variable", ["VLLM_BATCH_INVARIANT", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "NCCL_DEBUG"])
def test_variables_that_tune_are_free(variable: str) -> None:
    assert risky_variables({variable: "1"}) == []
    build_engine({"name": "vllm", "environment": {variable: "1"}}, "x")


@pytest.mark.parametrize("variable", OTHER_VARIABLES.split())
def test_other_variables_are_not(variable: str) -> None:
    with pytest.raises(UsageError, match=variable):
        build_engine({"name": "vllm", "environment": {variable: "1"}}, "x")


@pytest.mark.parametrize("arguments", FREE_ARGUMENTS.strip().splitlines())
def test_arguments_that_tune_are_free(arguments: str) -> None:
    assert risky_arguments(arguments.split()) == []


@pytest.mark.parametrize("argument", OTHER_ARGUMENTS.split())
def test_other_arguments_are_not(argument: str) -> None:
    with pytest.raises(UsageError, match="engine"):
        build_engine({"name": "vllm", "extra_arguments": [argument]}, "x")


@pytest.mark.parametrize(
    "parameter", ['hostnames=["0.0.0.0"]', "port=1", "api_keys=[]", "--model=x", "--mo", "slot_save_path=x"]
)
def test_parameters_of_llamacpp_that_are_not(parameter: str) -> None:
    with pytest.raises(UsageError):
        build_engine({"name": "llamacpp", "model": "m.gguf", "extra_arguments": [parameter]}, "x")
    build_engine({"name": "llamacpp", "model": "m.gguf", "extra_arguments": ["n_batch=512", "flash_attn=true"]}, "x")


def test_a_flag_allows_what_it_names(scene: Scene, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is not there, which is found out behind the check of its settings."""
    monkeypatch.setenv("QILIN_RAG_VLLM_PYTHON", "/no/such/python")
    preset(f'{ENGINE}extra_arguments: [--host, "0.0.0.0"], environment: {{MY_VARIABLE: x}}}}')(scene)
    allowed = "llm.engine.allowed=[--host, MY_VARIABLE]"
    assert "/no/such/python can't be run" in cli(*SERVED, "--set", allowed).err
    assert "--host" in cli(*SERVED, "--set", "llm.engine.allowed=[MY_VARIABLE]").err
    named = ("--set", "llm.engine.extra_arguments=[--host, '0.0.0.0']", "--set", "llm.engine.environment.MY_VARIABLE=y")
    assert "/no/such/python can't be run" in cli(*SERVED, *named).err
    assert not list(Path("runs").glob("*mine*"))
