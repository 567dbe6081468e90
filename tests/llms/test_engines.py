"""Command lines and identities of the engines."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.resources import resource_names
from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import UsageError
from qilin_rag.llms.openai_compatible import OpenAICompatible
from qilin_rag.llms.serving.engines import build_engine


def flags(command: list[str]) -> dict[str, str]:
    return {flag: value for flag, value in pairwise(command) if flag.startswith("--")}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"--model": "org/m", "--served-model-name": "org/m", "--host": "127.0.0.1", "--port": "8000"}),
        ({}, {"--max-model-len": "4096", "--tensor-parallel-size": "1"}),
        ({"model": "/models/m"}, {"--model": "/models/m", "--served-model-name": "org/m"}),
        ({"max_model_len": 9000}, {"--max-model-len": "9000"}),
        (
            {"tensor_parallel_size": 4, "pipeline_parallel_size": 2, "data_parallel_size": 3},
            {"--tensor-parallel-size": "4"},
        ),
        ({"pipeline_parallel_size": 2}, {"--pipeline-parallel-size": "2"}),
        ({"data_parallel_size": 3}, {"--data-parallel-size": "3"}),
        ({"dtype": "bfloat16", "quantization": "awq"}, {"--dtype": "bfloat16", "--quantization": "awq"}),
        ({"distributed_executor_backend": "ray"}, {"--distributed-executor-backend": "ray"}),
        ({"extra_arguments": ["--gpu-memory-utilization", 0.8]}, {"--gpu-memory-utilization": "0.8"}),
    ],
)
def test_the_command_line_of_vllm(settings: dict[str, Any], expected: dict[str, str]) -> None:
    command = build_engine({"name": "vllm", "python": "py", **settings}, "x").command("org/m", 4096, 8000)
    assert command[:3] == ["py", "-m", "vllm.entrypoints.openai.api_server"]
    assert flags(command).items() >= expected.items()


def test_what_is_not_set_is_left_to_vllm() -> None:
    command = build_engine({"name": "vllm"}, "x").command("m", 4096, 8000)
    assert not {"--dtype", "--quantization", "--distributed-executor-backend"} & set(command)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"--model": "m.gguf", "--name": "m", "--port": "8000", "--context-length": "4096", "--parallel": "4"}),
        (
            {"parallel": 1, "n_threads": 2, "n_gpu_layers": 0},
            {"--parallel": "1", "--threads": "2", "--gpu-layers": "0"},
        ),
    ],
)
def test_the_command_line_of_llamacpp(settings: dict[str, Any], expected: dict[str, str]) -> None:
    engine = build_engine({"name": "llamacpp", "model": "m.gguf", "python": "py", **settings}, "x")
    command = engine.command("m", 4096, 8000)
    assert command[0] == "py"
    assert Path(command[1]).is_file()
    assert flags(command).items() >= expected.items()


def test_which_python_runs_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QILIN_RAG_VLLM_PYTHON", "~/vllm/bin/python")
    assert build_engine({"name": "vllm"}, "x").interpreter == str(Path("~/vllm/bin/python").expanduser())
    assert build_engine({"name": "vllm", "python": "here"}, "x").interpreter == "here"


@pytest.mark.parametrize("name", ["qwen2.5-72b", "llama3.3-70b"])
def test_presets_name_an_engine(name: str) -> None:
    assert name in resource_names("configs/llms")
    llm = resolve_run({"llm": name}).llm
    assert isinstance(llm, OpenAICompatible)
    assert flags(build_engine(llm.engine, name).command(llm.model, 32768, 8000))["--tensor-parallel-size"] == "4"
    assert "engine" not in llm.identity()  # unknown who serves it, as long as we don't


def test_a_model_counts_by_what_it_holds(tmp_path: Path) -> None:
    def identity(path: Path) -> dict[str, Any]:
        return build_engine({"name": "llamacpp", "model": str(path)}, "x").identity()

    one, other = tmp_path / "one.gguf", tmp_path / "other.gguf"
    one.write_bytes(b"GGUF" + bytes(10_000_000))
    other.write_bytes(b"GGUF" + bytes(10_000_000))
    assert identity(one) == identity(other)
    other.write_bytes(b"GGUF" + bytes(9_999_999) + b"x")
    assert identity(one) != identity(other)
    other.write_bytes(b"GGUF" + bytes(1_234_567) + b"x" + bytes(8_765_432))  # one byte, anywhere
    assert identity(one) != identity(other)


def test_every_part_of_a_model_counts(tmp_path: Path) -> None:
    """The parts of a split GGUF file, of which the first is named; a folder in the format of another maker."""
    parts = [tmp_path / f"model-0000{i}-of-00002.gguf" for i in (1, 2)]
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in (*parts, folder / "params.json", folder / "consolidated.safetensors"):
        path.write_bytes(b"GGUF")
    for engine, model, changed in (
        ("llamacpp", parts[0], parts[1]),
        ("vllm", folder, folder / "consolidated.safetensors"),
        ("vllm", folder, folder / "chat_template.jinja"),
    ):
        before = build_engine({"name": engine, "model": str(model)}, "x").identity()
        changed.write_bytes(b"other")
        assert build_engine({"name": engine, "model": str(model)}, "x").identity() != before
        assert str(tmp_path) not in json.dumps(before)


@pytest.mark.parametrize("form", [["--chat-template", "{}"], ["--chat-template={}"], ["--lora-modules", "mine={}"]])
def test_files_that_arguments_name_count_by_content(tmp_path: Path, form: list[str]) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    arguments = [part.format(path) for part in form]
    engine = build_engine({"name": "vllm", "model": "someone/model", "extra_arguments": arguments}, "x")
    before = engine.identity()
    path.write_text("two")
    assert engine.identity() != before
    assert build_engine({"name": "vllm", "extra_arguments": ["--enforce-eager"]}, "x").identity().get("files") is None


@pytest.mark.parametrize("variable", ["HF_TOKEN", "VLLM_API_KEY", "AWS_SECRET_ACCESS_KEY", "LD_PRELOAD", "PYTHONPATH"])
def test_variables_that_are_refused(variable: str) -> None:
    with pytest.raises(UsageError, match=variable):
        build_engine({"name": "vllm", "environment": {variable: "x"}}, "x")


def test_variables_that_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    monkeypatch.setenv("OTHER", "x")
    engine = build_engine({"name": "vllm", "environment": {"VLLM_CPU_KVCACHE_SPACE": 2, "OMP_NUM_THREADS": 4}}, "x")
    expected = {"VLLM_BATCH_INVARIANT": "1", "VLLM_CPU_KVCACHE_SPACE": "2", "OMP_NUM_THREADS": "4"}
    assert engine.recorded_variables() == expected
    assert "VLLM_API_KEY" not in engine.variables()


def test_a_projector_of_llamacpp_is_checked_served_and_a_part_of_the_identity(tmp_path: Path) -> None:
    model, projector = tmp_path / "m.gguf", tmp_path / "mmproj.gguf"
    for path in (model, projector):
        path.write_bytes(b"GGUF" + path.name.encode())
    plain = build_engine({"name": "llamacpp", "model": str(model)}, "x")
    seeing = build_engine({"name": "llamacpp", "model": str(model), "mmproj": str(projector)}, "x")
    assert "--mmproj" not in plain.command("m", 4096, 8000) and "mmproj" not in plain.identity()
    assert flags(seeing.command("m", 4096, 8000))["--mmproj"] == str(projector)
    before = seeing.identity()["mmproj"]
    projector.rename(projector := tmp_path / "other.gguf")
    moved = seeing.model_copy(update={"mmproj": str(projector)})
    assert before.startswith("sha256:") and moved.identity()["mmproj"] == before
    projector.write_bytes(b"GGUF, another")
    assert moved.identity()["mmproj"] != before
    projector.write_bytes(b"PK")
    with pytest.raises(UsageError, match=r"other\.gguf is not a GGUF file.*llm\.engine\.mmproj"):
        moved.check()
    projector.unlink()
    with pytest.raises(UsageError, match=r"other\.gguf can't be read"):
        moved.check()
