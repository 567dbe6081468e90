"""Real vLLM and real llama.cpp, where this machine has them, with random models made on the spot."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import qilin_rag
from qilin_rag.llms.image_tokens import count_tokens
from tests.conftest import is_alive, launch, wait_until

TINY_MODELS = Path(__file__).with_name("tiny_models.py")
CHECKOUT = Path(__file__).parents[2]
SAMPLE_IMAGES = Path(qilin_rag.__file__).parent / "data/sample_images"
DEADLINE_S = 400
N_QUESTIONS = 20
PICTURED = ["run", "--data=sample-images", "--retriever=oracle", "--limit=3", "--concurrency=2", "--metrics=rouge_l"]
RUN = ["run", "--data=sample", f"--limit={N_QUESTIONS}", "--concurrency=2", "--metrics=rouge_l", "--json"]


def python_with(variable: str, folder: str, *modules: str) -> str:
    """A Python that has these modules: the one the variable names, that of an environment in the checkout, or ours."""
    named = os.environ.get(variable)
    for python in [named] if named else [str(CHECKOUT / folder / "bin" / "python"), sys.executable]:
        code = f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {modules})))"
        if Path(python).exists() and subprocess.run([python, "-c", code], check=False).returncode == 0:
            return python
    pytest.skip(f"no Python with {' and '.join(modules)}: `make {folder[1:]}-env` makes {folder}, or set {variable}")


def options_of(python: str, model: Path, extra_arguments: str) -> list[str]:
    """The options that name a model in a folder and the vLLM that serves it."""
    settings = {
        "model": model.name,
        "context_length": 8192,
        "max_tokens": 64,
        "engine": "vllm",
        "engine.model": model,
        "engine.python": python,
        "engine.dtype": "bfloat16",
        "engine.environment.VLLM_CPU_KVCACHE_SPACE": 1,
        "engine.extra_arguments": extra_arguments,
    }
    return [f"--set=llm.{name}={value}" for name, value in settings.items()]


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options that name a tiny random Qwen2 and the vLLM that serves it."""
    python = python_with("QILIN_RAG_VLLM_PYTHON", ".vllm", "vllm", "transformers")
    model = tmp_path_factory.mktemp("models") / "tiny-qwen2"
    subprocess.run([python, TINY_MODELS, "qwen2", model], check=True, capture_output=True)
    return options_of(python, model, "[--enforce-eager]")  # starts in half the time


@pytest.fixture(scope="module")
def seeing_vllm(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options that name a tiny random Qwen2-VL and the vLLM that serves it."""
    python = python_with("QILIN_RAG_VLLM_PYTHON", ".vllm", "vllm", "transformers", "torchvision")
    model = tmp_path_factory.mktemp("models") / "tiny-qwen2-vl"
    command = [python, "-m", "tests.rankers.random_vlm", str(model)]
    subprocess.run(command, check=True, capture_output=True, cwd=CHECKOUT)
    only_images = '--limit-mm-per-prompt={"image": 9, "video": 0}'
    return options_of(python, model, f"[--enforce-eager, --skip-mm-profiling, '{only_images}']")


def descendants(pid: int) -> list[int]:
    """All processes below one, by id."""
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if parent == pid:
            child = int(stat.parent.name)
            found += [child, *descendants(child)]
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def finished() -> list[dict[str, Any]]:
    lines = [line for path in Path("runs").glob("*/samples.jsonl") for line in path.read_text().splitlines(True)]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def check_run(done: dict[str, Any], engine: str) -> dict[str, Any]:
    """All questions answered, with usage; the manifest's server."""
    counts = done["counts"]
    assert counts["ok"] + counts["truncated"] == counts["questions"] == N_QUESTIONS
    assert len(finished()) == N_QUESTIONS
    for sample in finished():
        assert sample["usage"]["prompt_tokens"] > 100
        assert sample["usage"]["completion_tokens"] > 0
    server: dict[str, Any] = json.loads((Path(done["run"]) / "manifest.json").read_text())["server"]
    if engine:
        assert server["engine"] == engine
        assert server["version"][0].isdigit()
    return server


@pytest.mark.vllm
def test_vllm_by_serve(vllm: list[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve = launch("serve", "openai", *vllm, "--port", port, "--log", "server.log", "--quiet")
    assert serve.stdout is not None
    address = serve.stdout.readline().strip()
    assert address == f"http://127.0.0.1:{port}/v1", serve.communicate()[1]
    started = descendants(serve.pid)
    assert len(started) >= 3  # the keeper, the server, its engine
    run = launch(*RUN, "--llm=openai", *vllm, f"--base-url={address}")
    out, err = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 0, err
    assert check_run(json.loads(out), "")["models"] == ["tiny-qwen2"]
    serve.send_signal(signal.SIGINT)
    _, err = serve.communicate(timeout=60)
    assert serve.returncode == 130
    assert err == "interrupted; the server is stopped\n"
    assert not list(filter(is_alive, started))
    check_run_batch(vllm, Path(json.loads(out)["run"]))


def check_run_batch(vllm: list[str], served: Path) -> None:
    """`vllm run-batch` makes the same run without a server as a server made."""
    command = [*RUN, "--llm=openai", *vllm, "--serve", "--runs-dir=offline"]
    planned, _ = launch(*command, "--dry-run").communicate(timeout=60)
    run = launch(*command, "--batch")
    out, err = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 0, err
    offline = Path(json.loads(out)["run"])
    assert offline.name == Path(json.loads(planned)["run"]).name
    assert {path.name for path in offline.iterdir()} == {path.name for path in served.iterdir()} | {
        "batches",
        "server.log",
    }
    by_call, by_batch = (
        {line["question_id"]: line for line in map(json.loads, (path / "samples.jsonl").read_text().splitlines())}
        for path in (served, offline)
    )
    assert by_batch == {id: line | {"latency_s": None, "batch": True} for id, line in by_call.items()}
    assert (offline / "scores.jsonl").read_bytes() == (served / "scores.jsonl").read_bytes()
    server = json.loads((offline / "manifest.json").read_text())["server"]
    assert (server["engine"], server["version"][0].isdigit(), server["context_length"]) == ("vLLM", True, 8192)
    assert "Uvicorn" not in (offline / "server.log").read_text()


@pytest.mark.vllm
def test_vllm_around_a_run_killed_half_way_and_one_interrupted(vllm: list[str]) -> None:
    command = [*RUN, "--llm=openai", *vllm, "--serve"]
    run = launch(*command)
    wait_until(finished, run, DEADLINE_S)
    started = descendants(run.pid)
    [engine] = [pid for pid in started if "EngineCore" in command_of(pid)]
    os.kill(engine, signal.SIGKILL)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 1
    assert "in the middle of the run (every finished answer is kept)" in err
    assert not list(filter(is_alive, started))
    n_kept = len(finished())
    assert 0 < n_kept < N_QUESTIONS
    assert {sample["status"] for sample in finished()} <= {"ok", "truncated"}

    again = launch(*command)  # goes on where that one was killed
    wait_until(lambda: len(finished()) > n_kept, again, DEADLINE_S)
    started = descendants(again.pid)
    again.send_signal(signal.SIGINT)
    _, err = again.communicate(timeout=120)
    assert again.returncode == 130
    assert "every finished answer is kept" in err
    assert not list(filter(is_alive, started))
    assert len({sample["question_id"] for sample in finished()}) == len(finished())
    [manifest] = Path("runs").glob("*/manifest.json")
    server = json.loads(manifest.read_text())["server"]
    assert (server["engine"], server["version"][0].isdigit(), server["context_length"]) == ("vLLM", True, 8192)
    assert server["settings"]["dtype"] == "bfloat16"
    assert server["environment"]["VLLM_CPU_KVCACHE_SPACE"] == "1"


def answered(*options: object) -> list[dict[str, Any]]:
    """The answers of a run over notes with images, in the order of their questions."""
    out, err = launch(*PICTURED, "--json", *options).communicate(timeout=DEADLINE_S)
    assert out, err
    text = (Path(json.loads(out)["run"]) / "samples.jsonl").read_text(encoding="utf-8")
    lines = sorted(map(json.loads, text.splitlines()), key=lambda line: str(line["question_id"]))
    assert {line["status"] for line in lines} <= {"ok", "truncated"}
    return lines


@pytest.mark.vllm
def test_vllm_sees_the_images_of_notes(seeing_vllm: list[str]) -> None:
    """One server answers with and without images, and each image takes the tokens that our rule says."""
    pillow = pytest.importorskip("PIL.Image", reason="needs pillow: pip install 'qilin-rag[images]'")
    serve = launch("serve", "openai", *seeing_vllm, "--log", "server.log", "--quiet")
    assert serve.stdout is not None
    address = serve.stdout.readline().strip()
    assert address.startswith("http"), serve.communicate()[1]
    options = ["--llm=openai", *seeing_vllm, f"--base-url={address}"]
    blind, seeing = (answered(*options, f"--note-images={n}") for n in (0, 1))
    serve.send_signal(signal.SIGINT)
    serve.communicate(timeout=60)
    assert serve.returncode == 130
    for without, line in zip(blind, seeing, strict=True):
        [image] = line["images"]
        with pillow.open(SAMPLE_IMAGES / image["path"]) as picture:
            n_tokens = count_tokens("qwen2-vl", *picture.size)
        assert line["usage"]["prompt_tokens"] - without["usage"]["prompt_tokens"] == n_tokens
    assert [line["raw"] for line in blind] != [line["raw"] for line in seeing]


@pytest.mark.slow
def test_a_gguf_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = python_with("QILIN_RAG_LLAMACPP_PYTHON", ".llamacpp", "xllamacpp", "gguf")
    subprocess.run([python, TINY_MODELS, "gguf", tmp_path / "tiny.gguf"], check=True, capture_output=True)
    monkeypatch.setenv("QILIN_RAG_LLAMACPP_PYTHON", python)
    run = launch(*RUN, "--llm=gguf:tiny.gguf", "--set=llm.max_tokens=32")
    wait_until(finished, run, DEADLINE_S)
    started = descendants(run.pid)
    out, err = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 0, err
    server = check_run(json.loads(out), "xllamacpp")
    assert server["model"] == "tiny"
    assert server["settings"]["model"] == "tiny.gguf"
    assert not list(filter(is_alive, started))


@pytest.mark.slow
def test_a_gguf_file_with_a_projector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL.Image", reason="needs pillow: pip install 'qilin-rag[images]'")
    python = python_with("QILIN_RAG_LLAMACPP_PYTHON", ".llamacpp", "xllamacpp", "gguf")
    for kind in ("gguf", "mmproj"):
        subprocess.run([python, TINY_MODELS, kind, tmp_path / f"{kind}.gguf"], check=True, capture_output=True)
    monkeypatch.setenv("QILIN_RAG_LLAMACPP_PYTHON", python)
    options = ["--llm=gguf:gguf.gguf", "--set=llm.engine.mmproj=mmproj.gguf", "--set=llm.max_tokens=8"]
    for without, line in zip(*(answered(*options, f"--note-images={n}") for n in (0, 1)), strict=True):
        assert len(line["images"]) == 1
        assert line["usage"]["prompt_tokens"] - without["usage"]["prompt_tokens"] == 16  # 56 / 14 pixels, squared
