"""What `serve embed:` and `serve rerank:` start, and the command that they print."""

from __future__ import annotations

import json
import logging
import shlex
import signal
import socket
import struct
from itertools import pairwise
from pathlib import Path

import pytest

from qilin_rag.config.run import build_llm
from qilin_rag.config.spec import resolve_spec
from qilin_rag.core.errors import UsageError
from qilin_rag.llms.serving.engines import build_engine
from qilin_rag.llms.serving.gguf_header import context_length_of
from qilin_rag.llms.serving.server import Server, engine_of
from qilin_rag.llms.serving.tasks import Task, TaskName, next_command, pooling_model, served_at, task_of, with_pooling
from tests.conftest import Cli, launch
from tests.llms.test_servers import DEADLINE_S, Processes, processes

__all__ = ["processes"]


def flags(command: list[str]) -> dict[str, str]:
    return {flag: value for flag, value in pairwise(command) if flag.startswith("--")}


def write_model(folder: Path, **config: object) -> Path:
    """A folder that looks like a model."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def write_gguf(path: Path, *pairs: bytes) -> Path:
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, len(pairs)) + b"".join(pairs))
    return path


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def number(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", 4, value)


NAME = text("general.name") + struct.pack("<I", 8) + text("模型")
TOKENS = text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
SCORES = text("tokenizer.ggml.scores") + struct.pack("<IIQ2f", 9, 6, 2, 0.5, 1.5)


@pytest.mark.parametrize(
    ("given", "task", "name"),
    [
        ("embed:BAAI/bge-m3", "embed", "BAAI/bge-m3"),
        ("rerank:gguf:m.gguf", "rerank", "gguf:m.gguf"),
        ("gguf:m.gguf", "generate", "gguf:m.gguf"),
        ("qwen2.5-7b", "generate", "qwen2.5-7b"),
        ("package.module:Class", "generate", "package.module:Class"),
    ],
)
def test_the_task_is_in_the_name(given: str, task: str, name: str) -> None:
    assert task_of(given) == (task, name)


@pytest.mark.parametrize(("task", "convert", "port"), [("embed", "embed", "8001"), ("rerank", "classify", "8002")])
def test_vllm_pools(tmp_path: Path, task: TaskName, convert: str, port: str) -> None:
    folder = write_model(tmp_path / "some-model")
    client = build_llm(resolve_spec({"llm": pooling_model(task, str(folder)), "serve": True}))
    assert client.base_url.endswith(f":{port}/v1")
    engine = engine_of(client, "some-model")
    given = flags(engine.command(client.model, None, 8000, Task(task)))
    expected = {"--runner": "pooling", "--convert": convert, "--model": str(folder), "--host": "127.0.0.1"}
    assert given.items() >= (expected | {"--served-model-name": "some-model"}).items()
    assert not {"--max-model-len", "--pooler-config"} & given.keys()  # the model's own
    assert flags(engine.command(client.model, None, 8000)).keys().isdisjoint({"--runner", "--convert"})


def test_a_hub_name_is_served_under_it() -> None:
    llm = build_llm(
        resolve_spec({"llm": pooling_model("embed", "BAAI/bge-m3"), "serve": True}, ["llm.engine.dtype=half"])
    )
    given = flags(engine_of(llm, "x").command(llm.model, None, 8000, Task("embed")))
    assert (given["--model"], given["--served-model-name"], given["--dtype"]) == ("BAAI/bge-m3", "BAAI/bge-m3", "half")


@pytest.mark.parametrize(
    ("folder", "config", "files", "pooling"),
    [
        ("multilingual-e5-small", {}, [], "mean"),
        ("bge-base-zh-v1.5", {}, [], "cls"),
        ("unknown", {}, [], "mean"),
        ("unknown", {"architectures": ["Qwen2ForCausalLM"]}, [], "lasttoken"),
        ("multilingual-e5-small", {}, ["modules.json"], None),
    ],
)
def test_pooling_is_that_of_the_local_folder(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    folder: str,
    config: dict[str, object],
    files: list[str],
    pooling: str | None,
) -> None:
    pytest.importorskip("transformers", reason="needs transformers: qilin-rag[neural]")
    model = write_model(tmp_path / folder, **config)
    for name in files:
        (model / name).write_text("[]")
    with caplog.at_level(logging.INFO):
        task = with_pooling("embed", str(model))
    assert task == Task("embed", pooling)
    assert bool(pooling) == ("does not say how" in caplog.text)
    given = flags(build_engine({"name": "vllm"}, "x").command("m", None, 8000, task))
    in_vllm = {"mean": "MEAN", "cls": "CLS", "lasttoken": "LAST"}
    assert json.loads(given.get("--pooler-config", "{}")) == ({"seq_pooling_type": in_vllm[pooling]} if pooling else {})
    assert with_pooling("rerank", str(model)) == Task("rerank")


@pytest.mark.parametrize("task", ["embed", "rerank"])
def test_llamacpp_reads_a_text_in_one_batch(tmp_path: Path, task: TaskName) -> None:
    path = write_gguf(tmp_path / "bge.gguf", NAME, TOKENS, SCORES, number("bert.context_length", 512))
    llm = build_llm(resolve_spec({"llm": pooling_model(task, f"gguf:{path}"), "serve": True}))
    engine = engine_of(llm, "bge")
    engine_flags = flags(engine.command(llm.model, None, 8000, Task(task)))
    expected = {"--task": task, "--context-length": "512", "--name": "bge", "--model": str(path)}
    assert engine_flags.items() >= expected.items()
    assert "--task" not in engine.command(llm.model, 4096, 8000)
    shorter = build_engine({"name": "llamacpp", "model": str(path), "max_model_len": 128}, "x")
    assert flags(shorter.command("m", None, 8000, Task(task)))["--context-length"] == "128"


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [NAME],
        [number("bert.context_length", 0)],
        [text("bert.context_length") + struct.pack("<I?", 7, True)],
        [text("bert.context_length") + struct.pack("<I", 99)],
        [text("x") + struct.pack("<IIQ", 9, 9, 1 << 60)],
        [text("x") + struct.pack("<IIQ", 9, 10, 1 << 61), number("bert.context_length", 512)],
        [text("x") + struct.pack("<IIQ", 9, 8, 1 << 61)],
        [struct.pack("<Q", 1 << 62)],
    ],
)
def test_a_header_without_a_length_is_refused(tmp_path: Path, pairs: list[bytes]) -> None:
    path = write_gguf(tmp_path / "m.gguf", *pairs)
    with pytest.raises(UsageError, match=r"m\.gguf does not say .*llm\.engine\.max_model_len|can't be read"):
        context_length_of(path)


def test_a_length_that_is_set_needs_none_in_the_header(tmp_path: Path) -> None:
    """The error about the header says to set it."""
    settings = {"name": "llamacpp", "model": str(write_gguf(tmp_path / "m.gguf", NAME)), "max_model_len": 128}
    command = build_engine(settings, "x").command("m", None, 8001, Task("embed"))
    assert flags(command)["--context-length"] == "128"


def test_a_long_context_is_not_taken_whole(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", number("qwen3.context_length", 32768))
    assert context_length_of(path) == 32768
    engine = build_engine({"name": "llamacpp", "model": str(path)}, "x")
    assert flags(engine.command("m", None, 8000, Task("embed")))["--context-length"] == "8192"


@pytest.mark.parametrize(
    ("task", "engine", "settings"),
    [
        ("embed", "llamacpp", {"retriever.base_url": "http://h/v1", "retriever.model": "a b"}),
        (
            "embed",
            "vllm",
            {
                "retriever.base_url": "http://h/v1",
                "retriever.model": "a b",
                "retriever.passage_fields": "{truncate_prompt_tokens: -1}",
            },
        ),
        ("rerank", "llamacpp", {"rerank.model": "a b"}),
        ("rerank", "vllm", {"rerank.model": "a b", "rerank.extra_body": "{truncate_prompt_tokens: -1}"}),
    ],
)
def test_the_next_command(task: TaskName, engine: str, settings: dict[str, str]) -> None:
    address = served_at(task, "http://h/v1")
    words = shlex.split(next_command(task, engine, "a b", address))
    assert words[:2] == ["qilin-rag", "run"]
    assert words[2:4] == (["--retriever", "biencoder"] if task == "embed" else ["--rerank", "http://h/v1/rerank"])
    assert dict(word.split("=", 1) for word in words[4:] if word != "--set") == settings
    spec = resolve_spec({words[2].removeprefix("--"): words[3]}, [word for word in words[4:] if word != "--set"])
    assert spec.rerank_settings or spec.retriever.settings


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["embed:"], "embed: names no model"),
        (["rerank:gguf:"], "missing"),
        (["embed:gguf:none.gguf"], "none.gguf can't be read"),
        (["embed:notes"], "notes holds no model"),
        (["embed:x/y", "--set", "llm.engine.dtpye=x"], "did you mean"),
        (["embed:x/y", "--set", "llm.engine.environment.HF_TOKEN=x"], "hold no keys"),
        (["embed:x/y", "--set", "llm.engine.extra_arguments=[--api-key, x]"], "needs no key"),
        (["rerank:x/y", "--set", "llm.engine=os:system"], "engine 'os' does not exist"),
        (["embedd:x/y"], "embedd"),
    ],
)
def test_wrong_use_is_one_line(processes: Processes, cli: Cli, arguments: list[str], said: str) -> None:
    Path("notes").mkdir()
    done = cli("serve", *arguments)
    assert done.code == 2, done.err
    assert said in done.err
    assert done.err.count("\n") == 1
    assert processes.n_started() == 0


@pytest.mark.parametrize("task", ["embed", "rerank"])
def test_serve_until_ctrl_c(processes: Processes, tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    folder = write_model(tmp_path / "e5-tiny")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stop = "--set=llm.engine.stop_timeout_s=0.3"
    process = launch("serve", f"{task}:{folder}", "--port", port, "--log", "server.log", stop)
    assert process.stdout is not None and process.stderr is not None
    address = process.stdout.readline().strip()
    assert address == f"http://127.0.0.1:{port}/v1" + ("/rerank" if task == "rerank" else "")
    lines = [process.stderr.readline()]
    while not lines[-1].startswith("ready; in another terminal: qilin-rag run "):
        lines.append(process.stderr.readline())
        assert lines[-1], lines
    assert address in lines[-1] and "model=e5-tiny" in lines[-1]
    assert "'--runner', 'pooling'" in "".join(lines)  # the server's log
    assert "key None" in "".join(lines)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 128 + signal.SIGINT
    assert err.splitlines()[-1].endswith("the server is stopped")
    assert processes.alive() == []


def test_a_server_of_a_model_with_its_own_length(tmp_path: Path, processes: Processes) -> None:
    engine = build_engine({"name": "vllm", "stop_timeout_s": 0.3, "max_model_len": 100}, "x")
    with Server(engine, "tiny", None, tmp_path / "server.log", task=Task("embed")) as server:
        assert server.facts()["context_length"] == 4096
    assert "'--max-model-len', '100'" in server.log.read_text()
